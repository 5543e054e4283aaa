"""A model of what an environment step costs: floating-point operations and bytes of each part as formulas.

The leading terms are read off the code: the constants of the smaller ones are what XLA counts for the
elementwise operations around them. Operations are counted as XLA counts them, transcendental functions apart.
Bytes are those of arrays that one operation writes and another one reads, with one pass over the rows of the
Cholesky factor and one over the accumulators of the expected gains for every few known tasks; what a block of
episodes shares is shared out among them. `docs/performance.md` explains the terms.
"""

from __future__ import annotations

from typing import NamedTuple

from hyprl_jax import players, surrogate
from hyprl_jax.bench.problem import Problem
from hyprl_jax.learner import candidate_width
from hyprl_jax.rollout import CONTEXT_FEATURES

_FLOAT = 4  # bytes
_RETRIEVALS = 2  # gentle and sharp


class Sizes(NamedTuple):
    """What the cost of a step depends on."""

    candidates: int
    trials: int
    known: int
    """Known tasks."""
    processes: int
    """2 with the guard."""
    shortlist: int
    context: int
    """Width of the recurrent cell."""
    hidden: int
    """Width of the head."""
    features: int
    """Inputs of the head for each candidate."""
    encoding: int
    """Features of a configuration's encoding."""
    epochs: int


class Prediction(NamedTuple):
    """Of one part, for each environment step."""

    flops: float
    bytes: float


def sizes_of(problem: Problem) -> Sizes:
    """The sizes of a problem with all candidates offered."""
    config = problem.config
    candidates, encoding = problem.bank.encodings.shape[1:]
    return Sizes(
        candidates=candidates,
        trials=config.env.trials,
        known=problem.fold.known.shape[0],
        processes=2 if surrogate.guarded(config.surrogate) else 1,
        shortlist=players.shortlist_width(config.network, candidates),
        context=config.network.context,
        hidden=config.network.hidden,
        features=candidate_width(problem.bank, config),
        encoding=encoding,
        epochs=config.learner.epochs,
    )


def predict(sizes: Sizes) -> dict[str, Prediction]:
    """Operations and bytes of each part."""
    return {
        "environment": _environment(sizes),
        "update": _update(sizes),
        "reading": _reading(sizes),
        "network": _network(sizes),
        "targets": Prediction(70.0, 80.0 * _FLOAT),
        "fit": _fit(sizes),
    }


def microseconds(prediction: Prediction, gflops: float, gigabytes_per_second: float) -> float:
    """The least time of an environment step: the larger of what computing and what moving bytes takes."""
    return max(prediction.flops / gflops, prediction.bytes / gigabytes_per_second) / 1e3


def overcounted(sizes: Sizes) -> float:
    """Bytes by which XLA's count of an update exceeds what is moved: it takes the column of the Cholesky
    factor that is gathered for a pass over all rows, and the row that is written for two."""
    return float(_FLOAT * 3 * sizes.processes * sizes.trials * sizes.candidates)


def _environment(s: Sizes) -> Prediction:
    # The count of legal candidates passes over them as int32.
    return Prediction(5.0 * s.candidates + 30.0, 24.0 * s.candidates + 300.0)


def _update(s: Sizes) -> Prediction:
    learned = 2 * s.known + 9
    kernel = 2 * s.encoding + 9
    condition = s.processes * (2 * s.trials + 11)
    flops = s.candidates * (learned + kernel + condition) + 9 * s.known * s.trials
    floats = s.candidates * (s.processes * (s.trials + 16) + 6) + 6 * s.known * s.trials
    return Prediction(float(flops), float(_FLOAT * floats))


def _reading(s: Sizes) -> Prediction:
    gains, retrieved = 3 * _RETRIEVALS * s.known, 2 * _RETRIEVALS * s.known
    flops = s.candidates * (gains + retrieved + 20 * s.processes + 132) + 7500
    accumulated = 2 * _RETRIEVALS * s.known / surrogate.TASKS_AT_ONCE
    floats = s.candidates * (accumulated + 13 * s.processes + 96) + 80 * s.known + 2300
    return Prediction(float(flops), float(_FLOAT * floats))


def _network(s: Sizes) -> Prediction:
    flops = _advance(s) + s.shortlist * _head(s)
    floats = 40 * s.context + s.shortlist * (s.features + 10 * s.hidden)
    return Prediction(float(flops), float(_FLOAT * floats))


def _fit(s: Sizes) -> Prediction:
    """Forwards and backwards: gradients of inputs and of weights cost as much as the way forwards each."""
    flops = 3 * s.epochs * (_advance(s) + (s.shortlist + 1) * _head(s))
    floats = s.epochs * (200 * s.context + (s.shortlist + 1) * (2 * s.features + 30 * s.hidden))
    return Prediction(float(flops), float(_FLOAT * floats))


def _advance(s: Sizes) -> int:
    """The recurrent cell and what stands before and after it."""
    return (
        2 * len(CONTEXT_FEATURES) * s.context + 12 * s.context**2 + 30 * s.context + 2 * s.context * s.hidden
    )


def _head(s: Sizes) -> int:
    """The head for one candidate, with one hidden layer."""
    return 2 * s.features * s.hidden + 14 * s.hidden + 10
