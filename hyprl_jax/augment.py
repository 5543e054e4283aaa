"""Tasks to train on, made on the device from the surfaces of the training tasks.

Some dozens of surfaces are few to learn from. So an episode plays a surface that nobody measured but that
could have been: a convex mixture of two training tasks of one collection, bent by a monotone warp, roughened
by noise, with its range stretched, over a random subset of the configurations. All constituents of a
mixture, and every task of their groups, are left out of what the player knows beforehand.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hyprl_jax.bank import Fold, SurfaceBank, peers
from hyprl_jax.config import AugmentConfig
from hyprl_jax.env import Task


def real_task(
    bank: SurfaceBank, fold: Fold, metafeatures: jax.Array, row: jax.Array, leave_out: bool = True
) -> Task:
    """Task `row` (int32 scalar) of the bank as it is; `metafeatures [D, M]` standardised."""
    return Task(
        objective=bank.objective[row],
        legal=bank.legal[row],
        best=bank.best[row],
        worst=bank.worst[row],
        peers=peers(bank, fold, row, leave_out),
        metafeatures=metafeatures[row],
        collection=bank.collection[row],
    )


def numbered_variant(task: Task, number: jax.Array) -> Task:
    """Variant `number` (int32 scalar) of a task: 0 is the task as it is, any other has about half of its
    candidates, the same half whenever it is asked for, with their best and worst objective."""
    key = jax.random.fold_in(jax.random.key(0), number)
    kept = jax.random.bernoulli(key, 0.5, task.legal.shape) | (number == 0)
    legal = jnp.where(jnp.any(task.legal & kept), task.legal & kept, task.legal)
    return _bounded(task._replace(legal=legal))


def _bounded(task: Task) -> Task:
    """The task with best and worst of the candidates that it offers."""
    best = jnp.max(jnp.where(task.legal, task.objective, -jnp.inf))
    worst = jnp.min(jnp.where(task.legal, task.objective, jnp.inf))
    return task._replace(best=best, worst=worst)


def draw_columns(key: jax.Array, total: int, number: int) -> jax.Array:
    """`number` different columns out of `total`, int32, in rising order; all of them if `number` is 0 or too
    large."""
    if not 0 < number < total:
        return jnp.arange(total, dtype=jnp.int32)
    return jnp.sort(jax.random.permutation(key, total)[:number]).astype(jnp.int32)


def synthetic_task(
    key: jax.Array,
    bank: SurfaceBank,
    fold: Fold,
    metafeatures: jax.Array,
    config: AugmentConfig,
    leave_out: bool = True,
) -> Task:
    """A synthetic task for one episode, over the columns of `bank` (see `take_candidates`).

    With u the surface in units of its range: `u = c u_1 + (1 - c) u_2` with probability `mixture` (c
    uniform, else 1), rescaled to [0, 1] over the legal candidates, `u ** exp(warp n)`, plus `noise U` times
    a standard normal a candidate, and back to raw units `l + r exp(rescale n) u` with the lower end l and
    the range r of the first constituent (n standard normal and U uniform, one an episode). Its best and
    worst are those of what is offered.
    """
    draw, mix, bend, rough, amount, stretch, forget = jax.random.split(key, 7)
    first_key, second_key = jax.random.split(draw)
    first = fold.known[jax.random.randint(first_key, (), 0, fold.trained)]
    second = _partner(second_key, bank, fold, first)
    whether, share = jax.random.uniform(mix, (2,))
    mixed = whether < config.mixture
    share = jnp.where(mixed, share, 1.0)
    legal = bank.legal[first] & (bank.legal[second] | ~mixed)
    unit = share * bank.unit[first] + (1.0 - share) * bank.unit[second]
    unit = jnp.clip(unit, 0.0, 1.0) ** jnp.exp(config.warp * jax.random.normal(bend))
    deviation = config.noise * jax.random.uniform(amount)
    unit = unit + deviation * jax.random.normal(rough, unit.shape)
    span = (bank.best[first] - bank.worst[first]) * jnp.exp(config.rescale * jax.random.normal(stretch))
    objective = bank.worst[first] + span * unit
    allowed = peers(bank, fold, first, leave_out) & _remembered(forget, bank, fold, config)
    task = Task(
        objective=objective,
        legal=legal,
        best=bank.best[first],
        worst=bank.worst[first],
        peers=jnp.where(mixed, allowed & peers(bank, fold, second, leave_out), allowed),
        metafeatures=share * metafeatures[first] + (1.0 - share) * metafeatures[second],
        collection=bank.collection[first],
    )
    return _bounded(task)


def _remembered(key: jax.Array, bank: SurfaceBank, fold: Fold, config: AugmentConfig) -> jax.Array:
    """`[K]` bool: known tasks that this episode's player has not forgotten; whole groups are forgotten."""
    amount, which = jax.random.split(key)
    share = config.forget * jax.random.uniform(amount)
    groups = jax.random.uniform(which, bank.group.shape)  # there are at most as many groups as tasks
    return groups[bank.group[fold.known]] >= share


def _partner(key: jax.Array, bank: SurfaceBank, fold: Fold, first: jax.Array) -> jax.Array:
    """A training task of the same collection as task `first`, int32 row (it may be `first` itself)."""
    places = jnp.arange(fold.known.shape[0])
    same = (places < fold.trained) & (bank.collection[fold.known] == bank.collection[first])
    return fold.known[jnp.argmax(jnp.where(same, jax.random.uniform(key, places.shape), -1.0))]
