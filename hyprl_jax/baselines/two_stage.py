"""Two-stage transfer surrogates (TST) and transfer acquisition functions (TAF) of Wistuba, Schilling and
Schmidt-Thieme.

Both weight the processes of known tasks by how similar these are to the task being played, with the
Epanechnikov kernel of a distance: for `-R` the share of tested pairs that a known task ranks the other way
("Two-stage transfer surrogate model for automatic hyperparameter optimization", ECML PKDD 2016), for `-M` the
Euclidean distance of metafeatures. TST takes the weighted mean of all processes (Nadaraya and Watson), that
of the played task included at distance 0, with the deviation of the latter; TAF ("Scalable Gaussian
process-based transfer surrogates for hyperparameter optimization", Machine Learning 2018) the weighted mean
of the played task's expected improvement and the improvements that the known tasks predict. Bandwidths and
what happens at first are those of the authors' public code and experiments: with less than two results `-R`
weighs all known tasks the same, and without any the weighted mean of the known tasks decides. Here all values
are standardised, by task and by history: results need not lie between 0 and 1, as theirs do.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import explore
from hyprl_jax.baselines import gaussian
from hyprl_jax.baselines.own_process import Evidence, first_whiteners, look_back, prolonged
from hyprl_jax.baselines.source_models import SourceModels
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background, Choice, View

RANK_BANDWIDTH = 0.1
"""Share of discordant pairs from which on a known task has no weight."""
METAFEATURE_BANDWIDTH = 3.25 / 22**0.5
"""Distance of metafeatures from which on a known task has no weight, in units of the diagonal of their cube:
the authors' 3.25 for 22 metafeatures between 0 and 1."""

_PEAK = 0.75  # the Epanechnikov kernel at distance 0


class TwoStageMemory(NamedTuple):
    """What is known beforehand, and the processes of the played task."""

    sources: SourceModels
    similarity: jax.Array
    """`[K]` weights of the known tasks by metafeatures; 0 for those that may not be used."""
    whiteners: jax.Array
    """`[G, T, T]`, see `own_process`."""


def epanechnikov(distance: jax.Array) -> jax.Array:
    """`3/4 (1 - d^2)` within 1 and 0 beyond, any shape."""
    return jnp.where(distance < 1.0, _PEAK * (1.0 - distance**2), 0.0)


def two_stage_memory(
    shared: Background, task: Task, config: EnvConfig, sources: SourceModels
) -> TwoStageMemory:
    """The memory of the players of this module before the first trial of `task`."""
    del shared
    peers = task.peers[:, None]
    known = sources.metafeatures
    low = jnp.min(jnp.where(peers, known, jnp.inf), axis=0)
    span = jnp.max(jnp.where(peers, known, -jnp.inf), axis=0) - low
    varies = span > 1e-6  # False where no task may be used, too
    apart = jnp.where(varies, (task.metafeatures - known) / jnp.where(varies, span, 1.0), 0.0)
    diagonal = jnp.sqrt(jnp.maximum(varies.sum(), 1))
    distance = jnp.sqrt(jnp.sum(apart**2, axis=1)) / diagonal
    similarity = epanechnikov(distance / METAFEATURE_BANDWIDTH)
    similarity = jnp.where(task.peers, similarity, 0.0)
    return TwoStageMemory(sources, similarity, first_whiteners(config.trials))


def tst_r_player(memory: TwoStageMemory, view: View, key: jax.Array) -> tuple[TwoStageMemory, Choice]:
    """TST-R."""
    del key
    return _two_stage(memory, view, by_rank=True)


def tst_m_player(memory: TwoStageMemory, view: View, key: jax.Array) -> tuple[TwoStageMemory, Choice]:
    """TST-M."""
    del key
    return _two_stage(memory, view, by_rank=False)


def taf_r_player(memory: TwoStageMemory, view: View, key: jax.Array) -> tuple[TwoStageMemory, Choice]:
    """TAF-R."""
    del key
    return _transfer_acquisition(memory, view, by_rank=True)


def taf_m_player(memory: TwoStageMemory, view: View, key: jax.Array) -> tuple[TwoStageMemory, Choice]:
    """TAF-M."""
    del key
    return _transfer_acquisition(memory, view, by_rank=False)


def rank_distance(mean: jax.Array, tested: jax.Array, values: jax.Array, present: jax.Array) -> jax.Array:
    """`[K]` share of pairs of tested candidates that are ordered one way by `mean [K, N]` and another by the
    results; 0 with less than two."""
    theirs = mean[:, tested]
    differ = (theirs[:, :, None] < theirs[:, None, :]) ^ (values[:, None] < values)
    earlier = jnp.arange(values.shape[0])[:, None] < jnp.arange(values.shape[0])
    pairs = earlier & present[:, None] & present
    return jnp.sum(differ & pairs, axis=(1, 2)) / jnp.maximum(pairs.sum(), 1)


def weigh(memory: TwoStageMemory, view: View, evidence: Evidence, by_rank: bool) -> jax.Array:
    """`[K]` kernel weights of the known tasks; that of the played task would be 3/4."""
    if not by_rank:
        return memory.similarity
    distance = rank_distance(memory.sources.mean, evidence.tested, evidence.values, evidence.present)
    return jnp.where(view.known.weights > 0, epanechnikov(distance / RANK_BANDWIDTH), 0.0)


def _two_stage(memory: TwoStageMemory, view: View, by_rank: bool) -> tuple[TwoStageMemory, Choice]:
    memory = memory._replace(whiteners=prolonged(memory.whiteners, view))
    evidence = look_back(memory.whiteners, view)
    weights = weigh(memory, view, evidence, by_rank)
    own, deviation = gaussian.predict(evidence.process, view.known.encodings)
    mean = (_PEAK * own + weights @ memory.sources.mean) / (_PEAK + weights.sum())
    improvement = gaussian.log_expected_improvement(mean, deviation, evidence.incumbent)
    # Without a result everything is as uncertain as everything else.
    score = jnp.where(view.state.trial > 0, improvement, mean)
    return memory, Choice(explore.masked_argmax(score, view.observation.legal), None)


def _transfer_acquisition(memory: TwoStageMemory, view: View, by_rank: bool) -> tuple[TwoStageMemory, Choice]:
    memory = memory._replace(whiteners=prolonged(memory.whiteners, view))
    evidence = look_back(memory.whiteners, view)
    weights = weigh(memory, view, evidence, by_rank)
    own, deviation = gaussian.predict(evidence.process, view.known.encodings)
    improvement = jnp.exp(gaussian.log_expected_improvement(own, deviation, evidence.incumbent))
    mean = memory.sources.mean
    reached = jnp.max(jnp.where(evidence.present, mean[:, evidence.tested], -jnp.inf), axis=1, keepdims=True)
    total = _PEAK * improvement + weights @ jnp.maximum(mean - reached, 0.0)
    # Without a result every candidate improves on the worst by what it is predicted to be.
    score = jnp.where(view.state.trial > 0, total, weights @ mean)
    return memory, Choice(explore.masked_argmax(score, view.observation.legal), None)
