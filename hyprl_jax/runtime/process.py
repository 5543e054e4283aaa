"""One Gaussian process over the candidates of a task, in NumPy: the same posterior as `hyprl_jax.process`.

The formulas are told there. Here arrays grow with the trials, and candidates may be replaced and added.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple, Self, TypeVar

import numpy as np

from hyprl_jax.runtime.guard import FAR_SHARE, FARTHER

SCALES = 15
"""Grid points for the scale of the objective."""
_LEAST_FREEDOM = 1e-6  # of those above 0
_ROWS = 16  # trials that room is made for at a time

_T = TypeVar("_T")


def independent(thing: _T) -> _T:
    """A copy with lists and arrays of its own."""
    twin = copy.copy(thing)
    for name, value in vars(thing).items():
        if isinstance(value, list | np.ndarray):
            setattr(twin, name, value.copy())
    return twin


def widen(thing: object, names: Sequence[str], more: int) -> None:
    """Makes room for `more` candidates on the last axis of the arrays called `names`."""
    for name in names:
        array = getattr(thing, name)
        setattr(thing, name, np.concatenate([array, np.zeros((*array.shape[:-1], more))], axis=-1))


class Ranges(NamedTuple):
    """Where the objective of a task may lie, judged by the earlier tasks; see `process.Ranges`."""

    log_scale: float
    width: float
    lower: float
    lower_variance: float

    @classmethod
    def of(cls, weights: np.ndarray, lower: np.ndarray, log_scale: np.ndarray) -> Ranges:
        """Of earlier tasks with `weights`, worst objectives and scales `[K]`."""
        centre, middle = float(weights @ log_scale), float(weights @ lower)
        width = math.sqrt(weights @ (log_scale - centre) ** 2 + 0.01)
        variance = float(weights @ (lower - middle) ** 2) + (0.01 / math.exp(centre)) ** 2 + 1e-12
        return cls(centre, width, middle, variance)


class Units(NamedTuple):
    """See `process.Units`."""

    scale: float
    shift: float
    inflation: float
    evidence: float


class Process:
    """A process over `count` candidates; the caller says what mean and covariances they have."""

    def __init__(self, count: int, noise: float) -> None:
        self._noise = noise
        self.mean, self.variance = np.zeros(count), np.zeros(count)
        self._rows, self._projections = np.zeros((0, count)), np.zeros((3, count))
        self._moments = np.zeros((3, 3))
        self._deviations: list[float] = []
        self._whitened: list[np.ndarray] = []

    @property
    def trial(self) -> int:
        """Number of trials done."""
        return len(self._deviations)

    def copy(self) -> Self:
        """An independent copy."""
        return independent(self)

    def append(self, more: int) -> None:
        """Makes room for `more` candidates, to be placed."""
        widen(self, ("mean", "variance", "_rows", "_projections"), more)

    def place(
        self, columns: np.ndarray, mean: np.ndarray, variance: np.ndarray, covariance: np.ndarray | None,
        tested: Sequence[int],
    ) -> None:  # fmt: skip
        """Puts candidates with prior `mean` and `variance [M]` and the prior `covariance [T, M]` with those
        that were `tested [T]` (None if none was) in the place of `columns [M]`."""
        self.mean[columns] = mean
        if covariance is not None:
            factor = np.tril(self._rows[: self.trial, tested].T)
            np.fill_diagonal(factor, self._deviations)
            rows = np.linalg.solve(factor, covariance)
            self._rows[: self.trial, columns] = rows
            variance = np.maximum(variance - np.einsum("tm,tm->m", rows, rows), 0.0)
            self._projections[:, columns] = np.stack(self._whitened, axis=1) @ rows
        self.variance[columns] = variance

    def condition(self, column: int, row: np.ndarray, relative: float) -> None:
        """The process after testing candidate `column`, whose prior covariance with all is `row [N]`, with an
        objective `relative` to the reference."""
        if self.trial >= self._rows.shape[0]:
            more = np.zeros((max(_ROWS, self._rows.shape[0]), len(row)))
            self._rows = np.concatenate([self._rows, more])
        done = self._rows[: self.trial]
        deviation = math.sqrt(max(self.variance[column], 0.0) + self._noise)
        new_row = (row - done[:, column] @ done) / deviation
        facts = np.asarray([relative, 1.0, self.mean[column]])
        whitened = (facts - self._projections[:, column]) / deviation
        self._rows[self.trial] = new_row
        self.variance = np.maximum(self.variance - new_row**2, 0.0)
        self._projections += whitened[:, None] * new_row
        self._moments += whitened[:, None] * whitened
        self._deviations.append(deviation)
        self._whitened.append(whitened)

    def read(self, scale: float, shift: float, inflation: float) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and deviation `[N]` of `scale * objective + shift`, objectives being counted from
        the reference."""
        objective, one, projected = self._projections
        mean = self.mean - projected + scale * objective + shift * one
        return mean, inflation * np.sqrt(np.maximum(self.variance, 1e-8))

    def infer(self, prior: Ranges, reference: float, freedom: float, anywhere: bool) -> Units:
        """Scale and shift by evidence; see `process.infer`."""
        farther = np.asarray([1.0, FARTHER**2] if anywhere else [1.0])[:, None]
        likely = np.log(np.asarray([1.0 - FAR_SHARE, FAR_SHARE] if anywhere else [1.0]))[:, None]
        offsets = np.linspace(-2.5, 2.5, SCALES)
        grid = np.exp(prior.log_scale + prior.width * offsets)
        before = 1.0 / (farther * grid**2 * prior.lower_variance)
        guess = -grid * (prior.lower - reference)
        (yy, y1, ym), (_, oo, om), (_, _, mm) = self._moments.tolist()
        precision = before + oo
        shift = (before * guess - (grid * y1 - om)) / precision
        misfit = grid**2 * yy + shift**2 * oo + mm + 2.0 * (grid * shift * y1 - grid * ym - shift * om)
        misfit = np.maximum(misfit + before * (shift - guess) ** 2, 0.0)
        explained = misfit
        if freedom > 0:
            freedom = max(freedom, _LEAST_FREEDOM)
            explained = (freedom + self.trial) * np.log1p(misfit / freedom)
        evidence = self.trial * np.log(grid) - 0.5 * explained - 0.5 * np.log(precision / before)
        evidence = evidence + likely - 0.5 * offsets**2
        highest = float(evidence.max())
        posterior = np.exp(evidence - highest)
        total = float(posterior.sum())
        posterior /= total
        inflation = 1.0
        if freedom > 0:
            inflation = math.sqrt((freedom + float(np.sum(posterior * misfit))) / (freedom + self.trial))
        determinant = float(np.log(self._deviations).sum())
        return Units(
            float(np.sum(posterior * grid)),
            float(np.sum(posterior * shift)),
            inflation,
            highest + math.log(total) - determinant,
        )
