"""What is believed about the candidates, in NumPy: the same posterior and features as `hyprl_jax.surrogate`.

The formulas are told there. What differs: arithmetic is in float64, arrays grow with the trials, and the
candidates may change between trials (`replace`, `append`), since outside of a table they are drawn and drawn
again. K earlier tasks may be known by their surfaces over the N candidates; with K = 0 the start is cold.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime.likeness import MIDDLE, task_weights

SMALL = 1e-5
_SCALES = 15
_PRIOR_PAIRS = 10.0
_LEAST_FREEDOM = 1e-6  # of those above 0
_MOST_FEATURES = 100_000
_LEAST = 1e-12  # of what is divided by

_ERFC = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
    1.00002368, -1.26551223,
)  # fmt: skip


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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Beliefs:
        """Checked; InputError, beginning with `where`, if it is malformed. Exports of the first versions do
        not have the last five numbers: their defaults are what was done then."""
        if not isinstance(data, Mapping) or set(data) not in (set(cls._fields), set(cls._fields[:-5])):
            raise InputError(f"{where}: the numbers of the surrogate are not {', '.join(cls._fields)}")
        data = {**cls._field_defaults, **data}
        if data["prior"] not in ("learned", "mean", "constant", "cold"):
            raise InputError(f"{where}: the surrogate's prior is {str(data['prior'])[:50]!r}")
        scales = data["lengthscale"]
        several = list(scales) if isinstance(scales, list | tuple) else [scales]
        numbers = [*several, *(data[name] for name in cls._fields if name not in ("prior", "lengthscale"))]
        sound = all(type(number) in (int, float) and 0 <= number < 1e6 for number in numbers)
        positive = [*several, data["encoding_variance"], data["noise"], data["similarity_width"]]
        if (
            not sound
            or not 0 < len(several) <= _MOST_FEATURES
            or not all(number > _LEAST for number in positive)
            or max(data["similarity_floor"], data["additive"]) > 1
        ):
            raise InputError(f"{where}: the surrogate has numbers that are not finite or not in their range")
        lengthscale = tuple(several) if isinstance(scales, list | tuple) else scales
        return cls(**{**data, "lengthscale": lengthscale})


WARM = Beliefs("learned", 0.1, 1.0, 1.2, 0.003, 8.0, 32.0, 0.4, 4.0, 0.2, 0.3, 0.5)
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
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, list | np.ndarray):
                setattr(twin, name, value.copy())
        return twin


class Posterior(History):
    """The belief over N candidates after some trials.

    Args:
        encodings: `[N, F]` features of the candidates.
        surfaces: `[K, N]` values of earlier tasks in units of their own range, 0 to 1.
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
        self._deviations: list[float] = []
        self._whitened: list[np.ndarray] = []
        self._moments = np.zeros((3, 3))
        count = encodings.shape[0]
        self.surfaces = np.zeros((tasks, count))
        self._places: np.ndarray = np.zeros(encodings.shape)
        self._squares = np.zeros(count)
        self.mean, self.spread, self.variance = np.zeros(count), np.zeros(count), np.zeros(count)
        self._rows = np.zeros((0, count))
        self._projections = np.zeros((3, count))
        self.replace(np.arange(count), encodings, surfaces)

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self.mean.shape[0]

    @property
    def informed(self) -> bool:
        """Whether earlier tasks are known."""
        return bool(self._weights.any())

    def replace(self, columns: np.ndarray, encodings: np.ndarray, surfaces: np.ndarray) -> None:
        """Puts other candidates `[M, F]`, with the earlier tasks' values `[K, M]`, in the place of `columns
        [M]`, none of which may have been tested."""
        weights, beliefs = self._weights, self.beliefs
        places = encodings / np.asarray(beliefs.lengthscale)
        self.surfaces[:, columns] = surfaces
        self._places[columns] = places
        self._squares[columns] = np.einsum("nf,nf->n", places, places)
        mean = weights @ surfaces
        learned = np.maximum(weights @ (surfaces * surfaces) - mean * mean, 0.0)
        spread = np.sqrt(learned) if beliefs.prior == "learned" else np.zeros(len(columns))
        self.mean[columns], self.spread[columns] = mean, spread
        variance = beliefs.learned_variance * spread**2 + beliefs.encoding_variance
        variance = variance + beliefs.mean_variance * self._contrast(columns) ** 2
        if self.trial:
            tested = self.columns
            factor = np.tril(self._rows[: self.trial, tested].T)
            np.fill_diagonal(factor, self._deviations)
            rows = np.linalg.solve(factor, self._covariance(tested, columns))
            self._rows[: self.trial, columns] = rows
            variance = np.maximum(variance - np.einsum("tm,tm->m", rows, rows), 0.0)
            self._projections[:, columns] = np.stack(self._whitened, axis=1) @ rows
        self.variance[columns] = variance

    def append(self, encodings: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
        """Adds candidates `[M, F]`; returns their columns `[M]`."""
        before, more = self.size, encodings.shape[0]
        for name in ("surfaces", "_rows", "_projections"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((array.shape[0], more))], axis=1))
        for name in ("mean", "spread", "variance", "_squares"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more)]))
        self._places = np.concatenate([self._places, np.zeros((more, self._places.shape[1]))])
        columns = np.arange(before, before + more)
        self.replace(columns, encodings, surfaces)
        return columns

    def update(self, column: int, objective: float) -> None:
        """The belief after testing candidate `column` with the raw result `objective` (higher is better)."""
        if self.trial >= self._rows.shape[0]:
            more = np.zeros((max(16, self._rows.shape[0]), self.size))
            self._rows = np.concatenate([self._rows, more])
        done = self._rows[: self.trial]
        row = self._covariance([column], np.arange(self.size))[0]
        deviation = math.sqrt(max(self.variance[column], 0.0) + self.beliefs.noise)
        new_row = (row - done[:, column] @ done) / deviation
        first = self.objectives[0] if self.trial else objective
        facts = np.asarray([objective - self._reference(first), 1.0, self.mean[column]])
        whitened = (facts - self._projections[:, column]) / deviation
        if self.trial:
            ours = objective - np.asarray(self.objectives)
            theirs = self.surfaces[:, column][:, None] - self.surfaces[:, self.columns]
            half = (ours == 0) != (theirs == 0)
            self._discordant += np.where(ours * theirs < 0, 1.0, np.where(half, 0.5, 0.0)).sum(1)
        self._rows[self.trial] = new_row
        self.variance = np.maximum(self.variance - new_row**2, 0.0)
        self._projections += whitened[:, None] * new_row
        self._moments += whitened[:, None] * whitened
        self._reached = np.maximum(self._reached, self.surfaces[:, column])
        self._deviations.append(deviation)
        self._whitened.append(whitened)
        self.objectives.append(objective)
        self.columns.append(column)

    def believe(self, legal: np.ndarray) -> Belief:
        """The belief about all candidates; `legal [N]` bool are those that may still be tested."""
        beliefs = self.beliefs
        factor, shift, inflation = self._scale() if self.informed else (*self._cold_scale(), 1.0)
        objective, one, mean = self._projections
        reference = self._reference(self.objectives[0] if self.trial else 0.0)
        moved = shift + factor * reference
        posterior = self.mean - mean + factor * objective + moved * one
        deviation = inflation * np.sqrt(np.maximum(self.variance, 1e-8))
        prior_top = float(np.max(np.where(legal, self.mean, -np.inf), initial=0.0))
        incumbent = factor * (self.incumbent - reference) + moved if self.trial else prior_top
        improvement = expected_improvement(posterior, deviation, incumbent)
        if self.informed:
            weights = self._retrieval_weights()
            gains = weights @ np.maximum(self.surfaces - self._reached[:, None], 0.0)
            retrieved, reached = weights @ self.surfaces, weights @ self._reached
            concentration = (weights**2).sum(1)
        else:
            gains = retrieved = np.zeros((2, self.size))
            reached = concentration = np.zeros(2)
        acquisition = np.where(legal, improvement + beliefs.gain_weight * (gains[0] + gains[1]), 0.0)
        return Belief(
            posterior, deviation, incumbent, improvement, gains, retrieved, reached, concentration,
            factor, shift, acquisition, max(float(acquisition.max(initial=0.0)), 1e-12), prior_top,
        )  # fmt: skip

    def features(self, belief: Belief, columns: np.ndarray) -> np.ndarray:
        """`[C, 13]` features of the candidates `columns [C]`; see `surrogate.features`."""
        return candidate_features(belief, columns, self.mean[columns], self.spread[columns])

    def _covariance(self, ones: list[int], others: np.ndarray) -> np.ndarray:
        """Prior covariance `[A, B]` between candidates."""
        beliefs, x = self.beliefs, self._places[ones]
        distance = self._squares[ones][:, None] + self._squares[others] - 2.0 * (x @ self._places[others].T)
        rough = beliefs.encoding_variance / (1.0 + np.maximum(distance, 0.0) / 4.0) ** 2
        if beliefs.prior != "learned" or not self.informed:
            return rough
        weighted = self._weights[:, None] * self.surfaces[:, ones]
        learned = weighted.T @ self.surfaces[:, others] - self.mean[ones][:, None] * self.mean[others]
        opposed = self._contrast(ones)[:, None] * self._contrast(others)
        return beliefs.learned_variance * learned + beliefs.mean_variance * opposed + rough

    def _contrast(self, columns: np.ndarray | list[int]) -> np.ndarray:
        """Of candidates `[M]`; see `knowledge.Knowledge`."""
        informed = self.informed and self.beliefs.prior == "learned"
        return self.mean[columns] - MIDDLE if informed else np.zeros(len(columns))

    def _reference(self, first: float) -> float:
        return float(self._weights @ self._lower) if self.informed else first

    def _scale(self) -> tuple[float, float, float]:
        """Scale and shift of the objective by evidence, and the factor on posterior deviations; see
        `surrogate.scale`."""
        weights = self._weights
        centre = weights @ self._log_scale
        width = math.sqrt(weights @ (self._log_scale - centre) ** 2 + 0.01)
        offsets = np.linspace(-2.5, 2.5, _SCALES)
        grid = np.exp(centre + width * offsets)
        lower = weights @ self._lower
        lower_variance = weights @ (self._lower - lower) ** 2 + (0.01 / math.exp(centre)) ** 2 + 1e-12
        before = 1.0 / (grid**2 * lower_variance)
        reference = self._reference(0.0)
        guess = -grid * (lower - reference)
        (yy, y1, ym), (_, oo, om), (_, _, mm) = self._moments.tolist()
        precision = before + oo
        shift = (before * guess - (grid * y1 - om)) / precision
        misfit = grid**2 * yy + shift**2 * oo + mm + 2.0 * (grid * shift * y1 - grid * ym - shift * om)
        misfit = np.maximum(misfit + before * (shift - guess) ** 2, 0.0)
        freedom, explained = self.beliefs.freedom, misfit
        if freedom > 0:
            freedom = max(freedom, _LEAST_FREEDOM)
            explained = (freedom + self.trial) * np.log1p(misfit / freedom)
        evidence = self.trial * np.log(grid) - 0.5 * explained - 0.5 * np.log(precision / before)
        posterior = np.exp(evidence - 0.5 * offsets**2 - np.max(evidence - 0.5 * offsets**2))
        posterior /= posterior.sum()
        factor, inflation = float(posterior @ grid), 1.0
        if freedom > 0:
            inflation = math.sqrt((freedom + float(posterior @ misfit)) / (freedom + self.trial))
        return factor, float(posterior @ shift) - factor * reference, inflation

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
        share = self._discordant / (self.trial * (self.trial - 1.0) / 2.0 + _PRIOR_PAIRS)
        sharpness = np.asarray([self.beliefs.sharpness_low, self.beliefs.sharpness_high])
        logits = np.log(np.maximum(self._weights, 1e-12)) - sharpness[:, None] * share
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)


def expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, incumbent: float | np.ndarray
) -> np.ndarray:
    """`E max(z - incumbent, 0)` for `z ~ N(mean, deviation^2)` (Jones, Schonlau and Welch 1998, eq. 15)."""
    ratio = (mean - incumbent) / deviation
    density = np.exp(-0.5 * ratio**2) * 0.3989422804014327
    return deviation * (ratio * normal_below(ratio) + density)


def normal_below(x: np.ndarray) -> np.ndarray:
    """The standard normal distribution function, any shape, to a relative error of 1.2e-7 also where it is
    small (Press et al. 1992, Numerical Recipes, 6.2, `erfcc`)."""
    z = np.abs(x) * math.sqrt(0.5)
    t = 1.0 / (1.0 + 0.5 * z)
    exponent = np.full_like(t, _ERFC[0])
    for coefficient in _ERFC[1:]:
        exponent *= t
        exponent += coefficient
    exponent -= z * z
    half = 0.5 * t * np.exp(exponent)
    return np.where(x < 0, half, 1.0 - half)


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
