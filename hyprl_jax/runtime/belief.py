"""What is believed about the candidates, in NumPy: the same posterior and features as `hyprl_jax.surrogate`.

The formulas are told there. What differs: arithmetic is in float64, arrays grow with the trials, and the
candidates may change between trials (`replace`, `append`), since outside of a table they are drawn and drawn
again. K earlier tasks may be known by their surfaces over the N candidates; with K = 0 the start is cold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime.guard import CHANCE, MOST, TRUSTED
from hyprl_jax.runtime.improvement import expected_improvement
from hyprl_jax.runtime.likeness import MIDDLE, task_weights
from hyprl_jax.runtime.process import Process, Ranges, independent, widen

SMALL = 1e-5
_PRIOR_PAIRS = 10.0
_MOST_FEATURES = 100_000
_LEAST = 1e-12  # of what is divided by


class Beliefs(NamedTuple):
    """What the surrogate assumes; the names are those of `hyprl_jax.config.SurrogateConfig`."""

    prior: str
    encoding_variance: float
    learned_variance: float
    lengthscale: float | tuple[float, ...]
    """One for all features of the encodings, or one each."""
    noise: float
    sharpness_low: float
    sharpness_high: float
    gain_weight: float
    freedom: float = 0.0
    similarity_width: float = 1.0
    similarity_floor: float = 1.0
    """1: all earlier tasks count the same."""
    mean_variance: float = 0.0
    additive: float = 0.0
    guard_share: float = 0.0
    """0: no guard."""
    guard_variance: float = 0.1
    denoise: float = 0.0
    """1: earlier tasks' surfaces count without their noise."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Beliefs:
        """Checked; InputError, beginning with `where`, if it is malformed. Exports of earlier versions do not
        have the last number, the last three or the last eight: their defaults are what was done then."""
        editions = [set(cls._fields[:count]) for count in (len(cls._fields), -1, -3, -8)]
        if not isinstance(data, Mapping) or set(data) not in editions:
            raise InputError(f"{where}: the numbers of the surrogate are not {', '.join(cls._fields)}")
        data = {**cls._field_defaults, **data}
        if data["prior"] not in ("learned", "mean", "constant", "cold"):
            raise InputError(f"{where}: the surrogate's prior is {str(data['prior'])[:50]!r}")
        scales = data["lengthscale"]
        several = list(scales) if isinstance(scales, list | tuple) else [scales]
        numbers = [*several, *(data[name] for name in cls._fields if name not in ("prior", "lengthscale"))]
        sound = all(type(number) in (int, float) and 0 <= number < 1e6 for number in numbers)
        names = ("encoding_variance", "noise", "similarity_width", "guard_variance")
        positive = [*several, *(data[name] for name in names)]
        if (
            not sound
            or not 0 < len(several) <= _MOST_FEATURES
            or not all(number > _LEAST for number in positive)
            or max(data["similarity_floor"], data["additive"], data["guard_share"], data["denoise"]) > 1
        ):
            raise InputError(f"{where}: the surrogate has numbers that are not finite or not in their range")
        lengthscale = tuple(several) if isinstance(scales, list | tuple) else scales
        return cls(**{**data, "lengthscale": lengthscale})


WARM = Beliefs("learned", 0.1, 1.0, 1.2, 0.003, 8.0, 32.0, 0.4, 4.0, 0.2, 0.3, 0.5, 0.0, 0.2)
"""What is assumed where earlier tasks are given to a policy that was trained for cold starts: the defaults of
`SurrogateConfig`."""


class Belief(NamedTuple):
    """The belief read out for all candidates, in units of the task's estimated range; see
    `surrogate.Belief`."""

    mean: np.ndarray
    deviation: np.ndarray
    incumbent: float
    expected_improvement: np.ndarray
    gains: np.ndarray
    retrieved: np.ndarray
    reached: np.ndarray
    concentration: np.ndarray
    factor: float
    shift: float
    acquisition: np.ndarray
    """`[N]`, 0 where a candidate is not legal."""
    top: float
    """The largest acquisition."""
    prior_top: float
    """The largest prior mean of a legal candidate."""


class History:
    """What was tested so far, for the posteriors that remember it."""

    def __init__(self) -> None:
        self.objectives: list[float] = []
        self.columns: list[int] = []

    @property
    def trial(self) -> int:
        """Number of trials done."""
        return len(self.columns)

    @property
    def incumbent(self) -> float:
        """Best raw objective, minus infinity before the first trial."""
        return max(self.objectives, default=-math.inf)

    def copy(self) -> Self:
        """An independent copy (of what `update` changes)."""
        return independent(self)


class Posterior(History):
    """The belief over N candidates after some trials.

    Args:
        encodings: `[N, F]` features of the candidates.
        surfaces: `[K, N]` values of earlier tasks in units of their own range, 0 to 1; or `[2, K, N]`, as the
            process reads them and as retrieval does.
        lower, span: `[K]` worst objective and range of the earlier tasks (raw, higher is better).
        unlikeness: `[K]` how unlike the datasets of the earlier tasks are to this one, as
            `likeness.unlikeness` answers; None: all earlier tasks count the same.
    """

    def __init__(
        self,
        encodings: np.ndarray,
        surfaces: np.ndarray,
        lower: np.ndarray,
        span: np.ndarray,
        beliefs: Beliefs,
        unlikeness: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.beliefs = beliefs
        tasks = len(lower)
        self._weights = np.zeros(tasks)
        if beliefs.prior in ("learned", "mean"):
            width, floor = beliefs.similarity_width, beliefs.similarity_floor
            self._weights = task_weights(tasks, unlikeness, width, floor)
        self._lower, self._log_scale = lower, -np.log(np.maximum(span, 1e-12))
        self._discordant, self._reached = np.zeros(tasks), np.zeros(tasks)
        self._guarded = self.informed and beliefs.guard_share > 0
        count = encodings.shape[0]
        self.surfaces, self.examples = np.zeros((tasks, count)), np.zeros((tasks, count))
        self._places: np.ndarray = np.zeros(encodings.shape)
        self._squares, self.spread = np.zeros(count), np.zeros(count)
        self._processes = [Process(count, beliefs.noise) for _ in range(1 + self._guarded)]
        self.replace(np.arange(count), encodings, surfaces)

    def copy(self) -> Self:
        """An independent copy (of what `update` changes)."""
        twin = super().copy()
        twin._processes = [process.copy() for process in self._processes]
        return twin

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self.mean.shape[0]

    @property
    def mean(self) -> np.ndarray:
        """Prior mean `[N]`."""
        return self._processes[0].mean

    @property
    def informed(self) -> bool:
        """Whether earlier tasks are known."""
        return bool(self._weights.any())

    def replace(self, columns: np.ndarray, encodings: np.ndarray, surfaces: np.ndarray) -> None:
        """Puts other candidates `[M, F]`, with the earlier tasks' values `[K, M]` or `[2, K, M]`, in the
        place of `columns [M]`, none of which may have been tested."""
        weights, beliefs = self._weights, self.beliefs
        places = encodings / np.asarray(beliefs.lengthscale)
        surfaces, examples = surfaces if surfaces.ndim == 3 else (surfaces, surfaces)
        self.surfaces[:, columns], self.examples[:, columns] = surfaces, examples
        self._places[columns] = places
        self._squares[columns] = np.einsum("nf,nf->n", places, places)
        mean = weights @ surfaces
        learned = np.maximum(weights @ (surfaces * surfaces) - mean * mean, 0.0)
        spread = np.sqrt(learned) if beliefs.prior == "learned" else np.zeros(len(columns))
        self.mean[columns], self.spread[columns] = mean, spread
        variance = beliefs.learned_variance * spread**2 + beliefs.encoding_variance
        variance = variance + beliefs.mean_variance * self._contrast(columns) ** 2
        means = [mean, np.full(len(columns), MIDDLE)]
        variances = [variance, np.full(len(columns), beliefs.guard_variance)]
        with_tested = self._covariances(self.columns, columns) if self.trial else [None, None]
        for own, process in enumerate(self._processes):
            process.place(columns, means[own], variances[own], with_tested[own], self.columns)

    def append(self, encodings: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
        """Adds candidates `[M, F]`; returns their columns `[M]`."""
        before, more = self.size, encodings.shape[0]
        for process in self._processes:
            process.append(more)
        widen(self, ("surfaces", "examples", "spread", "_squares"), more)
        self._places = np.concatenate([self._places, np.zeros((more, self._places.shape[1]))])
        columns = np.arange(before, before + more)
        self.replace(columns, encodings, surfaces)
        return columns

    def update(self, column: int, objective: float) -> None:
        """The belief after testing candidate `column` with the raw result `objective` (higher is better)."""
        first = self.objectives[0] if self.trial else objective
        relative = objective - self._reference(first)
        rows = self._covariances([column], np.arange(self.size))
        for process, row in zip(self._processes, rows, strict=True):
            process.condition(column, row[0], relative)
        if self.trial:
            ours = objective - np.asarray(self.objectives)
            theirs = self.examples[:, column][:, None] - self.examples[:, self.columns]
            half = (ours == 0) != (theirs == 0)
            self._discordant += np.where(ours * theirs < 0, 1.0, np.where(half, 0.5, 0.0)).sum(1)
        self._reached = np.maximum(self._reached, self.examples[:, column])
        self.objectives.append(objective)
        self.columns.append(column)

    def believe(self, legal: np.ndarray) -> Belief:
        """The belief about all candidates; `legal [N]` bool are those that may still be tested."""
        beliefs = self.beliefs
        prior_top = float(np.max(np.where(legal, self.mean, -np.inf), initial=0.0))
        weights, readings = self._read(prior_top)
        scales, shifts, means, deviations, incumbents = map(np.stack, zip(*readings, strict=True))
        improvement = weights @ expected_improvement(means, deviations, incumbents[:, None])
        mean = weights @ means
        deviation = np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))
        gains = retrieved = np.zeros((2, self.size))
        reached = concentration = np.zeros(2)
        if self.informed:
            retrieval = self._retrieval_weights()
            gains = retrieval @ np.maximum(self.examples - self._reached[:, None], 0.0)
            if self._guarded:
                misled = retrieval @ self._discordance()
                gains *= np.clip((CHANCE - misled) / (CHANCE - TRUSTED), 0.0, 1.0)[:, None]
            retrieved, reached = retrieval @ self.examples, retrieval @ self._reached
            concentration = (retrieval**2).sum(1)
        acquisition = np.where(legal, improvement + beliefs.gain_weight * (gains[0] + gains[1]), 0.0)
        return Belief(
            mean, deviation, float(weights @ incumbents), improvement, gains, retrieved, reached,
            concentration, float(weights @ scales), float(weights @ shifts), acquisition,
            max(float(acquisition.max(initial=0.0)), 1e-12), prior_top,
        )  # fmt: skip

    def _read(self, prior_top: float) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        """Weights `[P]` of the processes, and of each a, b, mean and deviation `[N]`, and the incumbent; see
        `surrogate.read`."""
        reference = self._reference(self.objectives[0] if self.trial else 0.0)
        freedom, readings, evidence = self.beliefs.freedom, [], []
        prior = Ranges.of(self._weights, self._lower, self._log_scale) if self.informed else None
        for process in self._processes:
            if prior is not None:
                scale, shift, inflation, found = process.infer(prior, reference, freedom, self._guarded)
            else:
                scale, shift = self._cold_scale()
                shift, inflation, found = shift + scale * reference, 1.0, 0.0
            mean, deviation = process.read(scale, shift, inflation)
            incumbent = scale * (self.incumbent - reference) + shift if self.trial else prior_top
            readings.append((scale, shift - scale * reference, mean, deviation, incumbent))
            evidence.append(found)
        if not self._guarded:
            return np.ones(1), readings
        share = self.beliefs.guard_share
        with np.errstate(divide="ignore"):  # one of them may have no share
            logits = np.log([1.0 - share, share]) + np.asarray(evidence)
        weights = np.exp(logits - logits.max())
        cold = min(float(weights[1] / weights.sum()), MOST)
        return np.asarray([1.0 - cold, cold]), readings

    def features(self, belief: Belief, columns: np.ndarray) -> np.ndarray:
        """`[C, 13]` features of the candidates `columns [C]`; see `surrogate.features`."""
        return candidate_features(belief, columns, self.mean[columns], self.spread[columns])

    def _covariances(self, ones: list[int], others: np.ndarray) -> list[np.ndarray]:
        """Prior covariance `[A, B]` between candidates in each of the processes."""
        beliefs, x = self.beliefs, self._places[ones]
        distance = self._squares[ones][:, None] + self._squares[others] - 2.0 * (x @ self._places[others].T)
        kernel = 1.0 / (1.0 + np.maximum(distance, 0.0) / 4.0) ** 2
        covariance = beliefs.encoding_variance * kernel
        if beliefs.prior == "learned" and self.informed:
            weighted = self._weights[:, None] * self.surfaces[:, ones]
            learned = weighted.T @ self.surfaces[:, others] - self.mean[ones][:, None] * self.mean[others]
            opposed = self._contrast(ones)[:, None] * self._contrast(others)
            covariance = beliefs.learned_variance * learned + beliefs.mean_variance * opposed + covariance
        return [covariance, beliefs.guard_variance * kernel] if self._guarded else [covariance]

    def _contrast(self, columns: np.ndarray | list[int]) -> np.ndarray:
        """Of candidates `[M]`; see `knowledge.Knowledge`."""
        informed = self.informed and self.beliefs.prior == "learned"
        return self.mean[columns] - MIDDLE if informed else np.zeros(len(columns))

    def _reference(self, first: float) -> float:
        return float(self._weights @ self._lower) if self.informed else first

    def _cold_scale(self) -> tuple[float, float]:
        """Scale and shift by the history alone; see `surrogate.cold_scale`."""
        if not self.trial:
            return 1.0, 0.0
        seen = np.asarray(self.objectives)
        deviation = float(seen.std())
        factor = 1.0 / deviation if deviation > 0 else 1.0
        return factor, -float(seen.mean()) * factor

    def _retrieval_weights(self) -> np.ndarray:
        """`[2, K]` weights of the earlier tasks; see `surrogate.retrieval_weights`."""
        share = self._discordance()
        sharpness = np.asarray([self.beliefs.sharpness_low, self.beliefs.sharpness_high])
        logits = np.log(np.maximum(self._weights, 1e-12)) - sharpness[:, None] * share
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def _discordance(self) -> np.ndarray:
        """`[K]`; see `surrogate.discordance`."""
        return self._discordant / (self.trial * (self.trial - 1.0) / 2.0 + _PRIOR_PAIRS)


def candidate_features(
    belief: Belief, columns: np.ndarray, prior_mean: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """`[C, 13]` features of the candidates `columns [C]` with this prior; see `surrogate.features`."""
    total = np.log(belief.acquisition[columns] + SMALL)
    improvement = np.log(belief.expected_improvement[columns] + SMALL)
    gains = np.log(belief.gains[:, columns] + SMALL)
    gap = belief.mean[columns] - belief.incumbent
    deviation = belief.deviation[columns]
    retrieved = (belief.retrieved[:, columns] - belief.reached[:, None]) * 2.0
    variance = deviation**2
    explored = 1.0 - np.sqrt(variance / np.maximum(spread**2 + 1e-3, variance))
    parts = [
        total / 5.0 + 1.0,
        np.maximum(total - math.log(belief.top + SMALL), -8.0) / 2.0,
        improvement / 5.0 + 1.0,
        gains[0] / 5.0 + 1.0,
        gains[1] / 5.0 + 1.0,
        np.clip(gap, -2.0, 2.0) * 2.0,
        deviation * 4.0,
        np.clip(gap / deviation, -6.0, 6.0) / 2.0,
        retrieved[0],
        retrieved[1],
        np.maximum(prior_mean - belief.prior_top, -1.0) * 2.0,
        spread * 4.0,
        explored,
    ]
    return np.stack(parts, axis=-1)
