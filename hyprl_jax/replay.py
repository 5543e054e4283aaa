"""Whole-episode replay on the device: a ring buffer of pytrees, sampled uniformly or by priority.

An episode is any pytree of arrays; the buffer holds `capacity` of them along a new leading axis. Everything
is a pure function of fixed shapes for `jit`, `scan` and `vmap` (one buffer a seed), and the buffer may be
donated. Slots that were never filled are never sampled: filled ones are always the first `size`. Sampling
from a buffer to which nothing has been added yet gives slot 0, which then holds no episode.

Priorities follow proportional prioritisation (Schaul, Quan, Antonoglou and Silver 2016, "Prioritized
experience replay"): an episode is drawn with probability `p_i^alpha / sum_k p_k^alpha`, `p_i = |error_i| +
1e-6`, in equal strata of the total; a new episode gets the largest priority of those present, so that it is
soon seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hyprl_jax.errors import InputError

__all__ = [
    "ReplayBuffer",
    "add",
    "init",
    "sample_prioritised",
    "sample_uniform",
    "take",
    "update_priorities",
]

PyTree = Any

_LEAST_PRIORITY = 1e-6


class ReplayBuffer(NamedTuple):
    """Episodes with what is needed to overwrite the oldest and to sample; capacity C."""

    episodes: PyTree
    """Leaves `[C, ...]`."""
    priorities: jax.Array
    """`[C]` float32, 0 where no episode is."""
    position: jax.Array
    """int32 scalar: the slot that is written next."""
    size: jax.Array
    """int32 scalar: how many slots are filled."""


def init(example: PyTree, capacity: int) -> ReplayBuffer:
    """An empty buffer for `capacity` episodes shaped like `example`, which may be abstract.

    Raises InputError if `capacity` is less than 1.
    """
    if capacity < 1:
        raise InputError(f"the replay buffer has room for {capacity} episodes: give it room for 1 or more")

    def room(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.zeros((capacity, *leaf.shape), leaf.dtype)
        leaf = jnp.asarray(leaf)
        # Repeating the example also makes room for PRNG keys, which have no zero.
        return jnp.repeat(leaf[None], capacity, axis=0)

    return ReplayBuffer(
        episodes=jax.tree.map(room, example),
        priorities=jnp.zeros(capacity, jnp.float32),
        position=jnp.int32(0),
        size=jnp.int32(0),
    )


def add(buffer: ReplayBuffer, episodes: PyTree) -> ReplayBuffer:
    """The buffer with E more episodes, leaves `[E, ...]`, in the place of the oldest once it is full.

    E and the capacity need not divide each other; of more episodes than there is room for, the last are kept.
    """
    capacity = buffer.priorities.shape[0]
    chex.assert_trees_all_equal_structs(buffer.episodes, episodes)
    chex.assert_trees_all_equal_dtypes(buffer.episodes, episodes)
    chex.assert_tree_shape_prefix(episodes, (jax.tree.leaves(episodes)[0].shape[0],))
    episodes = jax.tree.map(lambda leaf: leaf[-capacity:], episodes)
    number = jax.tree.leaves(episodes)[0].shape[0]
    places = (buffer.position + jnp.arange(number, dtype=jnp.int32)) % capacity
    largest = jnp.max(buffer.priorities)

    def put(stored: jax.Array, new: jax.Array) -> jax.Array:
        chex.assert_equal_shape([stored, new], dims=range(1, stored.ndim))
        return stored.at[places].set(new, unique_indices=True)

    return ReplayBuffer(
        episodes=jax.tree.map(put, buffer.episodes, episodes),
        priorities=buffer.priorities.at[places].set(jnp.where(largest > 0.0, largest, 1.0)),
        position=(buffer.position + number) % capacity,
        size=jnp.minimum(buffer.size + number, capacity),
    )


def take(buffer: ReplayBuffer, places: jax.Array) -> PyTree:
    """The episodes in slots `places [n]`, leaves `[n, ...]`."""
    chex.assert_rank(places, 1)
    return jax.tree.map(lambda leaf: leaf[places], buffer.episodes)


def sample_uniform(buffer: ReplayBuffer, key: chex.PRNGKey, number: int) -> jax.Array:
    """Filled slots `[number]` int32, each equally probable, drawn with replacement."""
    return jax.random.randint(key, (number,), 0, jnp.maximum(buffer.size, 1), dtype=jnp.int32)


def sample_prioritised(
    buffer: ReplayBuffer, key: chex.PRNGKey, number: int, alpha: chex.Numeric, beta: chex.Numeric
) -> tuple[jax.Array, jax.Array]:
    """Filled slots `[number]` int32 drawn by priority, and their importance weights `[number]` float32.

    The weight of slot i is `(P_min / P_i)^beta`, which is Schaul et al.'s `(N P_i)^-beta` divided by the
    largest that any episode in the buffer has, so that weights only ever scale updates down. `alpha` and
    `beta` may be traced.
    """
    chex.assert_rank([alpha, beta], 0)
    filled = jnp.arange(buffer.priorities.shape[0]) < buffer.size
    scaled = jnp.where(filled, buffer.priorities, 1.0) ** alpha
    up_to = jnp.cumsum(jnp.where(filled, scaled, 0.0))
    last = jnp.maximum(buffer.size - 1, 0)
    strata = (jnp.arange(number) + jax.random.uniform(key, (number,))) / number
    places = jnp.searchsorted(up_to, strata * up_to[last], side="right").astype(jnp.int32)
    # Rounding may carry a place past the end of what is filled.
    places = jnp.clip(places, 0, last)
    least = jnp.min(jnp.where(filled, scaled, jnp.inf))
    weights = (least / scaled[places]) ** beta
    return places, jnp.where(buffer.size > 0, weights, 0.0).astype(jnp.float32)


def update_priorities(buffer: ReplayBuffer, places: jax.Array, errors: jax.Array) -> ReplayBuffer:
    """The buffer with the priorities of slots `places [n]` set from their temporal-difference errors `[n]`.

    A slot that occurs more than once gets the largest of its errors; an error that is not finite changes
    nothing.
    """
    chex.assert_rank([places, errors], 1)
    chex.assert_equal_shape([places, errors])
    before = buffer.priorities[places]
    new = jnp.where(jnp.isfinite(errors), jnp.abs(errors) + _LEAST_PRIORITY, before)
    # Zeroed and then raised to the maximum, which is the same in whatever order repeated slots are written.
    cleared = buffer.priorities.at[places].set(0.0)
    return buffer._replace(priorities=cleared.at[places].max(new.astype(jnp.float32)))
