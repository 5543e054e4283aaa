"""Meta-training: what is known of a fold's known tasks, batches of it, and the loop that learns from them.

All of it happens before the first trial and is the same for every episode of a fold. Keys are fixed, so that
the same known tasks always teach the same. Only known tasks of the collection that are no padding are ever
drawn; of each of them only values that were measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyprl_jax.bank import Fold, SurfaceBank


class KnownTasks(NamedTuple):
    """The K known tasks of a fold as one collection's models are trained on them."""

    values: jax.Array
    """`[K, N]` float32 objective in units of the task's own range, best 1 and worst 0."""
    present: jax.Array
    """`[K, N]` bool: measured."""
    usable: jax.Array
    """`[K]` bool: of this collection and no padding."""
    encodings: jax.Array
    """`[N, F]` float32 of this collection."""


class Batch(NamedTuple):
    """Some values of each of B tasks drawn from the known ones."""

    tasks: jax.Array
    """`[B]` int32 places among the known tasks."""
    weights: jax.Array
    """`[B]` float32, summing to 1; 0 where there were fewer tasks than asked for."""
    columns: jax.Array
    """`[B, M]` int32 configurations."""
    values: jax.Array
    """`[B, M]` float32, 0 where absent."""
    present: jax.Array
    """`[B, M]` float32: 1 for a measured value, 0 where the task had fewer than asked for."""


class Ranges(NamedTuple):
    """Where and how wide the raw objectives of the known tasks are; float32 scalars."""

    log_scale: jax.Array
    """Mean of minus the logarithm of the range."""
    log_scale_deviation: jax.Array
    lower: jax.Array
    """Mean of the worst objective."""
    lower_deviation: jax.Array


def known_tasks(bank: SurfaceBank, fold: Fold, collection: jax.Array) -> KnownTasks:
    """The known tasks of `collection` (int32 scalar)."""
    return KnownTasks(
        bank.unit[fold.known],
        bank.legal[fold.known],
        fold.usable & (bank.collection[fold.known] == collection),
        bank.encodings[collection],
    )


def known_ranges(bank: SurfaceBank, fold: Fold, collection: jax.Array) -> Ranges:
    """Ranges of the usable known tasks of `collection`; their spread counts one more task that differs from
    the mean by half a unit of the log-range and a quarter of a range, so that a few tasks promise little."""
    usable = fold.usable & (bank.collection[fold.known] == collection)
    span = bank.best[fold.known] - bank.worst[fold.known]
    usable = usable & (span > 0)
    count = jnp.maximum(usable.sum(), 1)
    log_scale = jnp.where(usable, -jnp.log(jnp.where(span > 0, span, 1.0)), 0.0)
    centre = log_scale.sum() / count
    lower = jnp.where(usable, bank.worst[fold.known], 0.0).sum() / count
    off_scale = jnp.where(usable, (log_scale - centre) ** 2, 0.0).sum()
    off_lower = jnp.where(usable, (bank.worst[fold.known] - lower) ** 2, 0.0).sum()
    width = jnp.exp(-centre)
    return Ranges(
        centre,
        jnp.sqrt((off_scale + 0.25) / (count + 1)),
        lower,
        jnp.sqrt((off_lower + (0.25 * width) ** 2) / (count + 1)),
    )


def each_collection(prepare: Callable[[KnownTasks, Ranges], Any], bank: SurfaceBank, fold: Fold) -> Any:
    """What `prepare` makes of each of the L collections of a bank, stacked `[L, ...]`."""
    numbers = jnp.arange(bank.encodings.shape[0], dtype=jnp.int32)

    def one(number: jax.Array) -> Any:
        return prepare(known_tasks(bank, fold, number), known_ranges(bank, fold, number))

    return jax.lax.map(one, numbers)


def of_collection(prepared: Any, collection: jax.Array) -> Any:
    """The leaves of `prepared` `[L, ...]` for one collection, shared by all episodes if there is only one."""
    first = jax.tree.leaves(prepared)[0]
    place = 0 if first.shape[0] == 1 else collection
    return jax.tree.map(lambda leaf: leaf[place], prepared)


def draw_batch(key: jax.Array, known: KnownTasks, tasks: int, size: int, greed: float = 0.0) -> Batch:
    """Up to `tasks` different usable tasks with up to `size` different measured values each.

    With `greed` a task's configurations are drawn in proportion to `exp(g value)` with `g` uniform between 0
    and `greed`: histories lean to good configurations.
    """
    task_key, greed_key, column_key = jax.random.split(key, 3)
    total, columns = known.values.shape
    lot = jnp.where(known.usable, jax.random.uniform(task_key, (total,)), -1.0)
    drawn, places = jax.lax.top_k(lot, min(tasks, total))
    good = (drawn >= 0).astype(jnp.float32)
    bias = greed * jax.random.uniform(greed_key, (places.shape[0], 1))
    order = bias * known.values[places] + jax.random.gumbel(column_key, (places.shape[0], columns))
    order = jnp.where(known.present[places], order, -jnp.inf)
    chosen = jax.lax.top_k(order, min(size, columns))[1]
    present = jnp.take_along_axis(known.present[places], chosen, axis=1).astype(jnp.float32)
    values = jnp.take_along_axis(known.values[places], chosen, axis=1) * present
    weights = good / jnp.maximum(good.sum(), 1.0)
    return Batch(places.astype(jnp.int32), weights, chosen.astype(jnp.int32), values, present)


def train(loss: Callable[[Any, jax.Array], jax.Array], start: Any, steps: int, rate: float) -> Any:
    """Parameters after `steps` steps of Adam (Kingma and Ba 2015) from `start` on `loss(parameters, key)`,
    the rate falling to 0 by a cosine and gradients clipped to norm 10; a step whose gradient is not finite is
    left out."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(rate, steps))
    )

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        parameters, state = carry
        gradients = jax.grad(loss)(parameters, key)
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)]).all()
        gradients = jax.tree.map(lambda leaf: jnp.where(sound, leaf, 0.0), gradients)
        changes, state = optimizer.update(gradients, state, parameters)
        return (optax.apply_updates(parameters, changes), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    (parameters, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    return parameters
