"""Runs that diverged, as results: the named rule by which importers give them a worst value.

A run that ends in NaN, in infinity or at 1e34 is no missing evaluation: whoever tried its configuration got
a result, a bad one. It is kept as the worst value that a run of the same task at the same fidelity had
without diverging, so that a single number of 1e34 does not decide what all the others look like. The rule
is recorded on the card of the collection, for each task with counts and the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hyprl_jax.surfaces.importers.arrays import LARGEST

DIVERGED_RULE = "diverged-becomes-worst"

__all__ = ["DIVERGED_RULE", "Mended", "diverged_become_worst", "is_finite"]


def is_finite(values: np.ndarray) -> np.ndarray:
    """Which values are finite numbers of a size that can be calculated with, below `LARGEST`."""
    return np.abs(values) < LARGEST


@dataclass(frozen=True)
class Mended:
    """Values without diverged ones, how many were not finite, and how many were worse than the bound."""

    values: np.ndarray
    not_finite: int
    beyond: int

    def record(self, file: str, task: str, bound_words: str) -> list[dict[str, Any]]:
        """What the card says about it: nothing where no run diverged, one entry else."""
        if not self.not_finite + self.beyond:
            return []
        detail = (
            f"{self.not_finite} of {self.values.size} evaluations are not finite and {self.beyond} are "
            f"{bound_words}; each becomes the worst other value of the task at its fidelity"
        )
        return [{"rule": DIVERGED_RULE, "file": file, "task": task, "row": None, "detail": detail}]


def diverged_become_worst(values: np.ndarray, direction: str, bound: float | None) -> Mended:
    """Replace each diverged value of one task by the worst one at its fidelity that is not diverged.

    Args:
        values: `[..., L]`, the last axis being the fidelity. Where a fidelity has diverged values alone,
            there is no worst one and they become missing (NaN).
        direction: "minimize" or "maximize".
        bound: a value worse than this has diverged as well; None if only values that are not finite have.
    """
    not_finite = ~is_finite(values)
    worse = np.zeros(values.shape, dtype=bool)
    if bound is not None:
        worse = ((values > bound) if direction == "minimize" else (values < bound)) & ~not_finite
    diverged = not_finite | worse
    sign = 1.0 if direction == "minimize" else -1.0
    kept = np.where(diverged, -np.inf, sign * np.where(diverged, 0.0, values))
    worst = kept.reshape(-1, values.shape[-1]).max(axis=0)  # [L]
    worst = sign * np.where(np.isfinite(worst), worst, np.nan)
    mended = np.where(diverged, worst, values)
    return Mended(mended, int(not_finite.sum()), int(worse.sum()))
