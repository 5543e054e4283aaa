"""Members dealt out over threads: the same bits as in one call, one compilation, and what becomes of them."""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyprl_jax.threads import Threads

FOLDS, SEEDS = 2, 6


def members(seed: int = 0) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), FOLDS * SEEDS).reshape(FOLDS, SEEDS)
    return {"key": keys, "number": jnp.arange(FOLDS * SEEDS, dtype=jnp.float32).reshape(FOLDS, SEEDS)}


def train(shared: jax.Array, folds: jax.Array, given: dict[str, Any]) -> tuple[dict[str, Any], jax.Array]:
    """Every member on its own, in turn."""

    def one(member: dict[str, Any], fold: jax.Array) -> tuple[dict[str, Any], jax.Array]:
        draw = jax.random.normal(member["key"], (5,)) * shared + fold
        return {"key": member["key"], "number": member["number"] + 1.0}, jnp.tanh(draw).sum()

    return jax.lax.map(lambda pair: jax.lax.map(lambda m: one(m, pair[1]), pair[0]), (given, folds))


@pytest.mark.parametrize("parts", [(1, 1), (1, 2), (2, 1), (1, 6), (2, 3)])
def test_parts_are_bitwise_the_whole_in_its_order(parts: tuple[int, int]) -> None:
    shared, folds = jnp.linspace(0.0, 1.0, 5), jnp.asarray([0.25, -1.5])
    after, sums = Threads(train, parts)(shared, folds, members())
    expected, all_sums = jax.jit(train)(shared, folds, members())
    np.testing.assert_array_equal(sums, all_sums)
    np.testing.assert_array_equal(after["number"], expected["number"])
    np.testing.assert_array_equal(jax.random.key_data(after["key"]), jax.random.key_data(expected["key"]))


def test_parts_run_at_the_same_time() -> None:
    """Each waits for the other: in turn they would wait for ever."""
    meeting = threading.Barrier(2, timeout=60)

    def meet(number: np.ndarray) -> np.ndarray:
        meeting.wait()
        return number

    def function(shared: jax.Array, folds: jax.Array, given: jax.Array) -> jax.Array:
        return jax.pure_callback(meet, jax.ShapeDtypeStruct(given.shape, given.dtype), given)

    found = Threads(function, (1, 2))(jnp.zeros(1), jnp.zeros(1), jnp.arange(4.0)[None])
    np.testing.assert_array_equal(found, [[0.0, 1.0, 2.0, 3.0]])


def test_one_program_serves_all_parts_and_what_was_prepared_is_used() -> None:
    traced = []

    def function(shared: jax.Array, folds: jax.Array, given: jax.Array) -> jax.Array:
        traced.append(given.shape)
        return given * shared

    threads = Threads(function, (2, 3))
    given = jnp.ones((2, 6, 4))
    shapes = jax.eval_shape(lambda: (jnp.float32(2.0), jnp.zeros(2), given))
    threads.prepare(*shapes)
    assert traced == [(1, 2, 4)]
    for _ in range(2):
        np.testing.assert_array_equal(threads(jnp.float32(2.0), jnp.zeros(2), given), 2.0 * given)
    assert traced == [(1, 2, 4)]


def test_shapes_are_those_of_the_function() -> None:
    found = jax.eval_shape(Threads(train, (2, 3)), jnp.zeros(5), jnp.zeros(2), members())
    assert (found[0]["number"].shape, found[1].shape) == ((FOLDS, SEEDS), (FOLDS, SEEDS))


@pytest.mark.parametrize("donate", [True, False])
@pytest.mark.parametrize("parts", [(1, 1), (1, 2)])
def test_members_are_used_up_only_if_donated(donate: bool, parts: tuple[int, int]) -> None:
    given, numbers = members(), np.array(members()["number"])
    after, _ = Threads(train, parts, donate)(jnp.zeros(5), jnp.zeros(2), given)
    np.testing.assert_array_equal(after["number"], numbers + 1.0)
    assert given["number"].is_deleted() == donate
    assert given["key"].is_deleted() == donate


def test_a_fault_in_one_part_is_raised() -> None:
    def fail(number: np.ndarray) -> np.ndarray:
        raise ValueError("out of luck")

    def function(shared: jax.Array, folds: jax.Array, given: jax.Array) -> jax.Array:
        return jax.pure_callback(fail, jax.ShapeDtypeStruct(given.shape, given.dtype), given)

    with pytest.raises(Exception, match="out of luck"):
        Threads(function, (1, 2))(jnp.zeros(1), jnp.zeros(1), jnp.zeros((1, 2)))
