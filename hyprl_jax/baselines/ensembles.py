"""The ranking-weighted Gaussian process ensemble (RGPE) of Feurer, Letham, Hutter and Bakshy ("Practical
transfer learning for Bayesian optimization", arXiv 1802.02219).

The processes of the known tasks and that of the task being played form one process, `mean sum_i w_i mean_i`
and variance `sum_i w_i^2 variance_i`. The weight of a process is how often it ranks the results best: in each
of `SAMPLES` draws from all posteriors at the tested candidates, the pairs that a process misranks are
counted, and the one with the fewest wins. The played task's own process would always win where it has seen
the result, so each of its draws leaves out the result it is compared for. A process of a known task is
dropped with a probability that rises with the trials and with how rarely it beats the played task's own: many
bad models would else win together by chance ("weight dilution"). Draws of known tasks are kept and prolonged
by one candidate a trial, instead of drawn anew.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import explore
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines import gaussian
from hyprl_jax.baselines.own_process import first_whiteners, longer_whitener, look_back, prolonged
from hyprl_jax.baselines.source_models import learn_processes
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background, Choice, View

SAMPLES = 128
FEWEST = 3
"""Results before which all processes weigh the same."""
_AT_ONCE = 16


class EnsembleSources(NamedTuple):
    """The processes of the K known tasks, in standardised units of each task."""

    mean: jax.Array
    """`[K, N]` posterior mean at the candidates."""
    deviation: jax.Array
    """`[K, N]` posterior standard deviation there."""
    white: jax.Array
    """`[K, N, M]`: the posterior covariance of two candidates is their prior one less the inner product of
    these times the variance."""
    lengthscale: jax.Array
    """`[K, F]`"""
    variance: jax.Array
    """`[K]`"""


class Draws(NamedTuple):
    """S draws from each known task's posterior at the tested candidates, of at most T."""

    whitener: jax.Array
    """`[K, T, T]` inverse Cholesky factor of the posterior covariance; identity for trials to come."""
    normals: jax.Array
    """`[K, S, T]` standard normals behind the draws."""
    values: jax.Array
    """`[K, S, T]` the draws; 0 for trials to come."""
    losses: jax.Array
    """`[K, S]` ordered pairs of tested candidates that a draw ranks otherwise than the results."""


class EnsembleMemory(NamedTuple):
    """What is known beforehand, and the draws so far."""

    sources: EnsembleSources
    draws: Draws
    whiteners: jax.Array
    """`[G, T, T]`, see `own_process`."""


def learn_ensemble(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> EnsembleSources:
    """The source models of a fold with all that drawing from them needs."""
    del config
    processes = learn_processes(bank, fold)
    encodings = bank.encodings[bank.collection[fold.known]]

    def look(given: tuple[gaussian.Process, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        process, places = given
        return *gaussian.predict(process, places), gaussian.whitened(process, places)[1]

    mean, deviation, white = jax.lax.map(look, (processes, encodings), batch_size=_AT_ONCE)
    return EnsembleSources(mean, deviation, white, processes.hyper.lengthscale, processes.hyper.variance)


def ensemble_memory(
    shared: Background, task: Task, config: EnvConfig, sources: EnsembleSources
) -> EnsembleMemory:
    """The memory of `rgpe_player` before the first trial."""
    del shared, task
    tasks, trials = sources.mean.shape[0], config.trials
    empty = jnp.zeros((tasks, SAMPLES, trials), jnp.float32)
    whitener = jnp.broadcast_to(jnp.eye(trials, dtype=jnp.float32), (tasks, trials, trials))
    draws = Draws(whitener, empty, empty, jnp.zeros((tasks, SAMPLES), jnp.float32))
    return EnsembleMemory(sources, draws, first_whiteners(trials))


def rgpe_player(memory: EnsembleMemory, view: View, key: jax.Array) -> tuple[EnsembleMemory, Choice]:
    """Expected improvement under the ensemble."""
    prolong_key, own_key, drop_key = jax.random.split(key, 3)
    state, encodings, sources = view.state, view.known.encodings, memory.sources
    whiteners = prolonged(memory.whiteners, view)
    evidence = look_back(whiteners, view)
    normals = jax.random.normal(prolong_key, memory.draws.losses.shape)
    longer = prolong(sources, memory.draws, view, normals)
    draws = jax.tree.map(lambda new, old: jnp.where(state.trial > 0, new, old), longer, memory.draws)
    own, own_deviation = gaussian.predict(evidence.process, encodings)
    centre, spread = gaussian.leave_one_out(evidence.process, evidence.values)
    left_out = centre + spread * jax.random.normal(own_key, (SAMPLES, centre.shape[0]))
    losses = own_losses(left_out, evidence.values, evidence.present)
    usable = view.known.weights > 0
    chance = jax.random.uniform(drop_key, usable.shape)
    kept = usable & ~dropped(draws.losses, losses, state.trial / state.objectives.shape[0], chance)
    ranked = rank_weights(draws.losses, losses, kept)
    equal = jnp.append(usable, True) / (usable.sum() + 1.0)
    weights = jnp.where(state.trial < FEWEST, equal, ranked)
    mean = weights[:-1] @ sources.mean + weights[-1] * own
    variance = weights[:-1] ** 2 @ sources.deviation**2 + (weights[-1] * own_deviation) ** 2
    improvement = gaussian.log_expected_improvement(mean, jnp.sqrt(variance), evidence.incumbent)
    score = jnp.where(state.trial > 0, improvement, mean)
    choice = explore.masked_argmax(score, view.observation.legal)
    return EnsembleMemory(sources, draws, whiteners), Choice(choice, None)


def prolong(sources: EnsembleSources, draws: Draws, view: View, normals: jax.Array) -> Draws:
    """The draws at the latest tested candidate, too, given what they are at the others; `normals [K, S]`."""
    state, encodings = view.state, view.known.encodings
    place = jnp.maximum(state.trial - 1, 0)
    action, result = state.actions[place], state.objectives[place]
    earlier = jnp.arange(state.objectives.shape[0]) < place
    tested = jnp.where(earlier, state.actions, 0)

    def one(source: EnsembleSources, draw: Draws, normal: jax.Array) -> Draws:
        prior = gaussian.correlation(encodings[tested], encodings[action][None], source.lengthscale)[:, 0]
        covariance = source.variance * (prior - source.white[tested] @ source.white[action])
        covariance = jnp.where(earlier, covariance, 0.0)
        own = source.deviation[action] ** 2
        whitener, row, rest = longer_whitener(draw.whitener, covariance, own, place)
        value = source.mean[action] + draw.normals @ row + rest * normal
        ahead = (value[:, None] < draw.values) ^ (result < state.objectives)
        behind = (draw.values < value[:, None]) ^ (state.objectives < result)
        wrong = jnp.sum(jnp.where(earlier, ahead.astype(jnp.float32) + behind, 0.0), axis=1)
        return Draws(
            whitener,
            draw.normals.at[:, place].set(normal),
            draw.values.at[:, place].set(value),
            draw.losses + wrong,
        )

    return jax.vmap(one)(sources, draws, normals)


def own_losses(left_out: jax.Array, values: jax.Array, present: jax.Array) -> jax.Array:
    """`[S]` ordered pairs that the played task's own process misranks: draws `left_out [S, T]` at each
    candidate by the process that has not seen its result, against the results of the others (which that
    process has seen: its draws there are the results, but for the noise)."""
    others = jnp.where(present, values, -jnp.inf)
    differ = (left_out[:, :, None] < others) ^ (values[:, None] < others)
    same = jnp.eye(values.shape[0], dtype=bool)
    return jnp.sum(differ & present[:, None] & ~same, axis=(1, 2)).astype(jnp.float32)


def dropped(losses: jax.Array, own: jax.Array, progress: jax.Array, chance: jax.Array) -> jax.Array:
    """`[K]` bool: known tasks left out of this trial's ensemble, with the probability `1 - (1 - progress) B /
    S`, where B of the S draws have smaller `losses [K, S]` than the played task's `own [S]`; `chance [K]`
    uniform."""
    beaten = jnp.mean(losses < own, axis=1)
    return chance < 1.0 - beaten * (1.0 - progress)


def rank_weights(losses: jax.Array, own: jax.Array, kept: jax.Array) -> jax.Array:
    """`[K + 1]` share of draws in which each process has the smallest loss, ties shared; the played task's
    own comes last, and known tasks not `kept [K]` have none."""
    everyone = jnp.concatenate([jnp.where(kept[:, None], losses, jnp.inf), own[None]])
    winners = everyone == jnp.min(everyone, axis=0)
    return jnp.mean(winners / jnp.sum(winners, axis=0), axis=1)
