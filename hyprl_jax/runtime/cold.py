"""A cold start in NumPy: the same many processes as `hyprl_jax.cold`, with the interface of `Posterior`.

The formulas are told there. Arithmetic is in float64, arrays grow with the trials, and candidates may be
replaced between trials.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from hyprl_jax.runtime.belief import Belief, Beliefs, History, candidate_features
from hyprl_jax.runtime.improvement import expected_improvement
from hyprl_jax.runtime.lengthscales import FREQUENCIES, PROCESSES, factors, importances

_OFFSET = 0.3
_FREEDOM = 4.0
_FLAT = 1e-12
_CENTRAL = 0.4
_UNIT = 0.25
_ROWS = 16
_BLOCK = 2**16  # cosines computed at once


class ColdPosterior(History):
    """The belief over N candidates after some trials, with no earlier task.

    Args:
        encodings: `[N, F]` features of the candidates.
        beliefs: `lengthscale` is that of `hyprl_jax.cold` for a known space (one for each feature), or a
            scalar that is multiplied by the square root of the number of features that differ.
        feature_scales: `[F]` factors on the features in distances (`Space.feature_scales`), where the space
            is known; then all features have a share in the additive part, whatever candidates are drawn.
            Otherwise those have in which the candidates differ now.
    """

    informed = False

    def __init__(
        self, encodings: np.ndarray, beliefs: Beliefs, feature_scales: np.ndarray | float = 1.0
    ) -> None:
        super().__init__()
        self.beliefs = beliefs
        count, features = encodings.shape
        differ = np.ptp(encodings, axis=0) > 0
        varying = math.sqrt(max(1, int(differ.sum())))
        lengthscale = np.asarray(beliefs.lengthscale, np.float64)
        if lengthscale.ndim == 0:
            lengthscale = lengthscale * varying
        self._widths = np.broadcast_to(np.asarray(feature_scales, np.float64), (features,))
        self._scales = feature_scales / (lengthscale * factors(features))
        shared = differ if np.ndim(feature_scales) == 0 else np.ones(features, bool)
        self._spectrum = beliefs.additive * spectrum(lengthscale / varying * factors(features), shared)
        self._rest = 1.0 - self._spectrum.sum(1)
        self._encodings = np.asarray(encodings, np.float64).copy()
        self._waves = self._waves_of(self._encodings)
        self._rows = np.zeros((PROCESSES, 0, count))
        self._inverse = np.zeros((PROCESSES, 0, 0))
        self._log_determinant = np.zeros(PROCESSES)
        self.variance = np.full((PROCESSES, count), beliefs.encoding_variance)

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self.variance.shape[1]

    def replace(self, columns: np.ndarray, encodings: np.ndarray, surfaces: np.ndarray) -> None:
        """Puts other candidates `[M, F]` in the place of `columns [M]`, none of which may have been
        tested."""
        del surfaces
        self._encodings[columns] = encodings
        self._waves[:, :, columns] = self._waves_of(encodings)
        variance = np.full((PROCESSES, len(columns)), self.beliefs.encoding_variance)
        if self.trial:
            rows = self._inverse @ self._covariance(self.columns, columns)
            self._rows[:, : self.trial, columns] = rows
            variance = np.maximum(variance - np.einsum("gtm,gtm->gm", rows, rows), 0.0)
        self.variance[:, columns] = variance

    def append(self, encodings: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
        """Adds candidates `[M, F]`; returns their columns `[M]`."""
        before, more = self.size, encodings.shape[0]
        self._encodings = np.concatenate([self._encodings, np.zeros((more, encodings.shape[1]))])
        self._waves = np.concatenate([self._waves, np.zeros((*self._waves.shape[:2], more))], axis=2)
        self._rows = np.concatenate([self._rows, np.zeros((*self._rows.shape[:2], more))], axis=2)
        self.variance = np.concatenate([self.variance, np.zeros((PROCESSES, more))], axis=1)
        columns = np.arange(before, before + more)
        self.replace(columns, encodings, surfaces)
        return columns

    def update(self, column: int, objective: float) -> None:
        """The belief after testing candidate `column` with the raw result `objective` (higher is better)."""
        done = self.trial
        if done >= self._rows.shape[1]:
            more = np.zeros((PROCESSES, max(_ROWS, done), self.size))
            self._rows = np.concatenate([self._rows, more], axis=1)
        row = self._covariance([column], slice(None))[:, 0]
        rows = self._rows[:, :done]
        past = rows[:, :, column]
        deviation = np.sqrt(np.maximum(self.variance[:, column], 0.0) + self.beliefs.noise)
        new_row = (row - np.matmul(past[:, None], rows)[:, 0]) / deviation[:, None]
        inverse = np.zeros((PROCESSES, done + 1, done + 1))
        inverse[:, :done, :done] = self._inverse
        inverse[:, done, :done] = -np.matmul(past[:, None], self._inverse)[:, 0] / deviation[:, None]
        inverse[:, done, done] = 1.0 / deviation
        self._inverse = inverse
        self._rows[:, done] = new_row
        self._log_determinant = self._log_determinant + np.log(deviation)
        self.variance = np.maximum(self.variance - new_row**2, 0.0)
        self.objectives.append(objective)
        self.columns.append(column)

    def believe(self, legal: np.ndarray) -> Belief:
        """The belief about all candidates; `legal [N]` bool are those that may still be tested."""
        targets, factor, shift = standings(np.asarray(self.objectives))
        white = self._inverse @ targets
        misfit = (white**2).sum(1)
        evidence = -0.5 * (_FREEDOM + self.trial) * np.log1p(misfit / _FREEDOM) - self._log_determinant
        weights = np.exp(evidence - evidence.max())
        weights /= weights.sum()
        means = np.matmul(white[:, None], self._rows[:, : self.trial])[:, 0]
        spread = (_FREEDOM + misfit) / (_FREEDOM + self.trial)
        variances = np.maximum(self.variance, 1e-8) * spread[:, None]
        mean = weights @ means
        variance = np.maximum(weights @ (variances + means**2) - mean**2, 1e-8)
        reached = means[:, self.columns].max(1) if self.trial else np.zeros(PROCESSES)
        each = expected_improvement(means, np.sqrt(variances), reached[:, None])
        incumbent = float(weights @ reached)
        likeliest = int(np.argmax(weights))
        improvement = _UNIT * (weights @ each if self.trial else self._centrality(legal))
        gains = _UNIT * np.stack([each[likeliest], each.max(0)])
        total = improvement + self.beliefs.gain_weight * (gains[0] + gains[1])
        acquisition = np.where(legal, total, 0.0)
        incumbent *= _UNIT
        return Belief(
            _UNIT * mean, _UNIT * np.sqrt(variance), incumbent, improvement, gains,
            _UNIT * np.stack([means[likeliest], means.max(0)]), np.asarray([incumbent, incumbent]),
            np.asarray([(weights**2).sum(), weights.max()]), _UNIT * factor, _UNIT * shift,
            acquisition, max(float(acquisition.max(initial=0.0)), 1e-12), 0.0,
        )  # fmt: skip

    def features(self, belief: Belief, columns: np.ndarray) -> np.ndarray:
        """`[C, 13]` features of the candidates `columns [C]`; see `surrogate.features`."""
        nothing = np.zeros(len(columns))
        return candidate_features(belief, columns, nothing, nothing)

    def _covariance(self, ones: list[int], others: np.ndarray | slice) -> np.ndarray:
        """Prior covariance `[G, A, B]` between the candidates in two sets of columns."""
        x = self._encodings[ones] * self._scales[:, None, :]
        y = self._encodings[others] * self._scales[:, None, :]
        distance = (x * x).sum(2)[:, :, None] + (y * y).sum(2)[:, None, :] - 2.0 * x @ y.transpose(0, 2, 1)
        product = self._rest[:, None, None] / (1.0 + np.maximum(distance, 0.0) / 4.0) ** 2
        if self.beliefs.additive:
            product += self._additive(ones, others)
        return self.beliefs.encoding_variance * product

    def _additive(self, ones: list[int], others: np.ndarray | slice) -> np.ndarray:
        """The additive part `[G, A, B]` of it, before `encoding_variance`."""
        cosine, sine = np.ascontiguousarray(self._waves[:, :, ones])[..., None]
        cosines, sines = np.ascontiguousarray(self._waves[:, :, others])[:, :, None]
        features, _, count = cosines.shape
        found = np.empty((PROCESSES, len(ones), count))
        step = max(1, _BLOCK // max(1, self._spectrum.shape[1] * count))
        for begin in range(0, len(ones), step):
            some = slice(begin, begin + step)
            waves = np.empty((len(FREQUENCIES), features, *found[0, some].shape))
            np.multiply(cosine[:, some], cosines, out=waves[0])
            waves[0] += sine[:, some] * sines
            for once, twice in itertools.pairwise(waves):
                np.multiply(once, once, out=twice)
                twice *= 2.0
                twice -= 1.0
            flat = waves.reshape(self._spectrum.shape[1], found[0, some].size)
            found[:, some] = (self._spectrum @ flat).reshape(PROCESSES, -1, count)
        return found

    def _waves_of(self, encodings: np.ndarray) -> np.ndarray:
        """`[2, F, N]` cosine and sine of features `[N, F]` at the first frequency."""
        if not self.beliefs.additive:  # nobody asks for them
            return np.zeros((2, 0, len(encodings)))
        angles = FREQUENCIES[0] * (encodings * self._widths).T
        return np.stack([np.cos(angles), np.sin(angles)])

    def _centrality(self, legal: np.ndarray) -> np.ndarray:
        centre = self._encodings[legal].mean(0) if legal.any() else 0.0
        return _CENTRAL * np.exp(-((self._encodings - centre) ** 2).sum(1))


def spectrum(lengths: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """`[G, J F]` share of each cosine in the prior covariance, for the `lengths [G, F]` of the features and
    those that have a share, `shared [F]` bool; see `hyprl_jax.cold.spectrum`."""
    density = (1.0 + (lengths[:, None] * np.asarray(FREQUENCIES)[:, None]) ** 2) ** -1.5
    density /= density.sum(1, keepdims=True)
    drawn = importances(len(shared)) * shared
    shares = drawn / np.maximum(drawn.sum(1, keepdims=True), 1e-12)
    return (density * shares[:, None]).reshape(PROCESSES, -1)


def standings(objectives: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Targets `[T]` of raw objectives `[T]` and the linear scale `a`, `b`; see `hyprl_jax.cold.standings`."""
    if not len(objectives):
        return objectives, 1.0, 0.0
    best, worst, median = objectives.max(), objectives.min(), float(np.median(objectives))
    span = best - median if best - median > _FLAT else best - worst
    span = span if span > _FLAT else 1.0
    below = (best - objectives) / span
    targets = -np.log(below + _OFFSET)
    clipped = np.maximum(-below, -3.0)
    middle, width = clipped.mean(), _width(clipped)
    factor = 1.0 / (width * span)
    return (targets - targets.mean()) / _width(targets), factor, -middle / width - factor * best


def _width(values: np.ndarray) -> float:
    variance = float(values.var())
    return math.sqrt(variance) if variance > 1e-10 else 1.0
