"""Where to begin on a task that nobody has seen: configurations that served the known tasks well."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hyprl_jax.baselines.learned.meta import KnownTasks


def best_on_average(known: KnownTasks) -> jax.Array:
    """The configuration (int32 scalar) with the highest mean value over the usable known tasks."""
    usable = known.usable.astype(jnp.float32)
    return jnp.argmax(usable @ known.values).astype(jnp.int32)


def warm_start(known: KnownTasks, size: int) -> jax.Array:
    """`size` configurations `[size]` int32 of which the best, on average over the usable known tasks, is as
    good as possible (the warm start of Wistuba and Grabocka 2021, section 6, eq. 12).

    They search by an evolutionary algorithm. Over a finite set of candidates the same objective is increasing
    and submodular, so that greedy choice is near the best that can be (Nemhauser, Wolsey and Fisher 1978),
    without chance: next is always the configuration that helps most.
    """
    usable = known.usable.astype(jnp.float32)
    mean = usable @ known.values / jnp.maximum(usable.sum(), 1.0)

    def add(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        reached, taken = carry
        gain = usable @ jnp.maximum(known.values - reached[:, None], 0.0) + 1e-6 * mean
        chosen = jnp.argmax(jnp.where(taken, -1.0, gain)).astype(jnp.int32)
        reached = jnp.maximum(reached, known.values[:, chosen])
        return (reached, taken.at[chosen].set(True)), chosen

    nothing = (jnp.zeros(known.values.shape[0]), jnp.zeros(known.values.shape[1], bool))
    return jax.lax.scan(add, nothing, None, length=size)[1]
