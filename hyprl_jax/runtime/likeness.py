"""How alike datasets are by their metafeatures, and how much each earlier task counts for it, in NumPy.

The formulas are those of `hyprl_jax.knowledge`, on the metafeatures as `hyprl_jax.bank` standardises them:
unknown ones stand at the mean of the known tasks. Values are taken at single precision, as training takes
them, so that the same datasets tie.
"""

from __future__ import annotations

import numpy as np

LEAST_FLOOR = 0.3
"""The share that all earlier tasks have alike is never less, however much a likelihood over some forty tasks
may like a few of them."""
MIDDLE = 0.7
"""A typical place in the range of a task: what the contrast of the prior mean is counted from."""
_LEAST_VARIANCE = 1e-6
_MOST_DEVIATIONS = 3.0


def scales(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, `[M]` each, of the metafeatures `known [K, M]` (NaN where unknown)."""
    present = np.isfinite(known)
    values = np.where(present, known, 0.0).astype(np.float32).astype(np.float64)
    count = np.maximum(present.sum(0), 1)
    mean = values.sum(0) / count
    variance = (np.where(present, values - mean, 0.0) ** 2).sum(0) / count
    return mean, np.sqrt(variance + _LEAST_VARIANCE)


def scaled(values: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """`values [..., M]` in deviations from the mean, within 3; 0 where unknown (NaN)."""
    single = np.where(np.isfinite(values), values, 0.0).astype(np.float32).astype(np.float64)
    found = np.clip((single - mean) / deviation, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
    return np.where(np.isfinite(values), found, 0.0)


def unlikeness(metafeatures: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`[K]` mean squared difference, from 0 to 1, between the ranks that a task with `metafeatures [M]` and
    the `known [K, M]` tasks take among the known ones (NaN where unknown, nothing scaled); see
    `hyprl_jax.knowledge.unlikeness`."""
    mean, deviation = scales(known)
    ours, theirs = scaled(metafeatures, mean, deviation), scaled(known, mean, deviation)
    differ = theirs.max(0) > theirs.min(0)
    ranks = np.stack([_ranks(row, theirs) for row in theirs])
    squares = (ranks - _ranks(ours, theirs)) ** 2
    apart: np.ndarray = np.where(differ, squares, 0.0).sum(1) / max(int(differ.sum()), 1)
    return apart


def task_weights(tasks: int, apart: np.ndarray | None, width: float, floor: float) -> np.ndarray:
    """`[K]` weights of earlier tasks that are `apart [K]` from the one played (None: all the same), summing
    to 1; see `hyprl_jax.knowledge.task_weights`."""
    even = np.full(tasks, 1.0 / max(tasks, 1))
    if apart is None or not tasks:
        return even
    logits = -0.5 * apart / width**2
    near = np.exp(logits - logits.max())
    shared = min(max(floor, LEAST_FLOOR), 1.0)
    return (1.0 - shared) * near / near.sum() + shared * even


def _ranks(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`[M]` places, from 0 to 1, of `values [M]` in `known [K, M]`; ties in the middle."""
    places: np.ndarray = ((known < values).sum(0) + 0.5 * (known == values).sum(0)) / len(known)
    return places
