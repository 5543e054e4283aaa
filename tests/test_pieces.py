"""Gradients that are added up from pieces of a batch are those of the whole batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyprl_jax import pieces


class Steps(NamedTuple):
    x: jax.Array
    valid: jax.Array


def _loss(params: jax.Array, batch: Steps) -> tuple[jax.Array, jax.Array]:
    errors = jnp.where(batch.valid, jnp.sin(params[0] * batch.x) + params[1] * batch.x**2, 0.0)
    loss = jnp.sum(errors**2) / jnp.maximum(batch.valid.sum(), 1)
    return loss, jnp.abs(errors).sum(1)


@pytest.mark.parametrize(("episodes", "most"), [(12, 1000), (12, 20), (12, 5), (7, 20), (7, 1)])
def test_pieces_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch, episodes: int, most: int) -> None:
    monkeypatch.setattr(pieces, "_STEPS_AT_ONCE", most)
    random = np.random.default_rng(episodes + most)
    valid = random.random((episodes, 5)) < 0.6
    valid[0] = False  # a piece may have no step at all
    batch = Steps(jnp.asarray(random.normal(size=(episodes, 5)), jnp.float32), jnp.asarray(valid))
    params = jnp.asarray([0.7, -0.3])
    (loss, errors), gradients = jax.jit(lambda p, b: pieces.gradients_of(_loss, p, b))(params, batch)
    (whole, each), expected = jax.value_and_grad(_loss, has_aux=True)(params, batch)
    np.testing.assert_allclose(loss, whole, rtol=1e-5)
    np.testing.assert_allclose(errors, each, rtol=1e-5)
    np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-6)


def test_pieces_are_equal_and_no_longer_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_STEPS_AT_ONCE", 40)
    for episodes in range(1, 40):
        number = pieces.number_of_pieces(episodes, 10)
        assert episodes % number == 0
        assert episodes // number <= 4
        fewer = [n for n in range(1, number) if episodes % n == 0 and episodes // n <= 4]
        assert not fewer


def test_accelerators_take_a_batch_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert pieces.number_of_pieces(4096, 100) == 1
