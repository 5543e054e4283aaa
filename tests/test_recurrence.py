"""The gated recurrent unit over whole sequences: the states of Flax's cell, and the gradients of its loop."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyprl_jax.recurrence import gru

SIZES = [(1, 1, 1, 1), (1, 3, 2, 4), (5, 1, 4, 2), (7, 6, 3, 5)]  # T, E, X, H


def example(sizes: tuple[int, int, int, int]) -> tuple[Any, jax.Array, jax.Array]:
    trials, episodes, width, hidden = sizes
    random = np.random.default_rng(sum(sizes))
    weights = nn.GRUCell(hidden).init(jax.random.key(0), jnp.zeros(hidden), jnp.zeros(width))["params"]
    weights = jax.tree.map(lambda leaf: leaf + jnp.float32(random.normal(size=leaf.shape)), weights)
    first = jnp.float32(random.normal(size=(episodes, hidden)))
    return weights, first, jnp.float32(random.normal(size=(trials, episodes, width)))


def of_flax(weights: Any, first: jax.Array, inputs: jax.Array) -> jax.Array:
    cell = nn.GRUCell(first.shape[-1])
    return jax.lax.scan(lambda state, x: cell.apply({"params": weights}, state, x), first, inputs)[1]


@pytest.mark.parametrize("sizes", SIZES)
def test_states_are_those_of_flax(sizes: tuple[int, int, int, int]) -> None:
    given = example(sizes)
    np.testing.assert_allclose(gru(*given), of_flax(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_those_of_the_loop(sizes: tuple[int, int, int, int]) -> None:
    given = example(sizes)
    # Every state counts by another number, so that no two gradients can be mistaken for one another.
    counts = jnp.float32(np.random.default_rng(0).normal(size=gru(*given).shape))
    own, expected = (
        jax.grad(lambda *arguments, of=function: jnp.sum(counts * of(*arguments) ** 2), (0, 1, 2))(*given)
        for function in (gru, of_flax)
    )
    assert jax.tree.structure(own) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), own, expected)


def test_a_state_without_consequence_has_no_gradient() -> None:
    weights, first, inputs = example((4, 2, 3, 3))
    of_inputs = jax.grad(lambda x: jnp.sum(gru(weights, first, x)[1]))(inputs)
    assert bool(jnp.all(of_inputs[2:] == 0.0)) and bool(jnp.all(of_inputs[:2] != 0.0))
