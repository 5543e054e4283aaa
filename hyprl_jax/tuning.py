"""Choosing the surrogate's two decisive numbers by playing the known tasks, each without its own group.

How much of a new surface the known ones explain differs from collection to collection, and an acquisition
function is only as good as that guess. So before a policy is trained, the acquisition function it starts
from is played on the known tasks over a small grid of `encoding_variance` (what the known tasks leave
unexplained) and `gain_weight` (trust in retrieval); the pair with the lowest regret is kept, a mean over its
neighbours in the grid included, because a lowest point beside high ones is luck. Test tasks take no part.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import augment, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import EnvConfig, SurrogateConfig

ENCODING_VARIANCES = (0.01, 0.03, 0.1, 0.3)
GAIN_WEIGHTS = (0.2, 0.5, 1.2)
_PLAYS = 4  # of each known task: once as it is, then over halves of its candidates


class Tuned(NamedTuple):
    """The chosen numbers, float32 scalars."""

    encoding_variance: jax.Array
    gain_weight: jax.Array


def untuned(config: SurrogateConfig) -> Tuned:
    """The numbers of the configuration as they are."""
    return Tuned(jnp.float32(config.encoding_variance), jnp.float32(config.gain_weight))


def with_tuned(config: SurrogateConfig, tuned: Tuned) -> SurrogateConfig:
    """The configuration with the tuned numbers in it (they may be traced)."""
    return dataclasses.replace(
        config,
        encoding_variance=tuned.encoding_variance,  # type: ignore[arg-type]
        gain_weight=tuned.gain_weight,  # type: ignore[arg-type]
    )


def tune(
    bank: SurfaceBank, fold: Fold, env: EnvConfig, config: SurrogateConfig, retrieval: bool = True
) -> Tuned:
    """The best pair of the grid on the known tasks of a fold; without `retrieval`, for expected improvement
    alone (`gain_weight` 0)."""
    weights = GAIN_WEIGHTS if retrieval else (0.0,)
    pairs = jnp.asarray([(e, g) for e in ENCODING_VARIANCES for g in weights], jnp.float32)

    def regret(pair: jax.Array) -> jax.Array:
        return start_regret(bank, fold, env, with_tuned(config, Tuned(pair[0], pair[1])))

    grid = jax.lax.map(regret, pairs).reshape(len(ENCODING_VARIANCES), len(weights))
    best = jnp.argmin(smoothed(grid))
    return Tuned(pairs[best, 0], pairs[best, 1])


def smoothed(grid: jax.Array) -> jax.Array:
    """`grid [A, B]`, each value averaged with its neighbours in the four directions at a quarter of its own
    weight."""
    edge = jnp.pad(grid, 1, mode="edge")
    beside = edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]
    return (4.0 * grid + beside) / 8.0


def start_regret(bank: SurfaceBank, fold: Fold, env: EnvConfig, config: SurrogateConfig) -> jax.Array:
    """Mean normalised regret, over trials and known tasks, of the acquisition function that policies start
    from."""
    shared = rollout.background(bank, fold)
    metafeatures = banks.standardised_metafeatures(bank, fold)
    act = rollout.score_player(lambda view, key: view.start)

    def one(row: jax.Array, number: jax.Array) -> jax.Array:
        task = augment.real_task(bank, fold, metafeatures, row, config.leave_out)
        task = augment.numbered_variant(task, number)
        return rollout.play(act, None, shared, task, jax.random.key(0), env, config).regret.mean()

    numbers = jnp.arange(_PLAYS)
    regrets = jax.vmap(lambda row: jax.vmap(lambda number: one(row, number))(numbers).mean())(fold.known)
    return jnp.sum(jnp.where(fold.usable, regrets, 0.0)) / jnp.sum(fold.usable)
