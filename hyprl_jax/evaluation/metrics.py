"""Figures of merit over tuning runs, as pure NumPy functions on dense arrays.

Letters in shapes: `M` methods, `D` tasks, `S` seeds, `T` trials, `C` configurations. Every function accepts
any number of leading axes where it says `...`. An objective is in its own unit and has a direction,
`"minimize"` or `"maximize"`; a normalized regret is in [0, 1], and lower is better whatever the direction.
"""

from __future__ import annotations

import numpy as np

from hyprl_jax.errors import InputError

DIRECTIONS = ("minimize", "maximize")


def table_bounds(objective: np.ndarray, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Best and worst known value of every task.

    `objective` is `[D, C]` float64 with NaN where a configuration was never evaluated; the answer is two
    `[D]` float64 arrays, NaN for a task without any value.
    """
    _check_direction(direction)
    lowest = np.fmin.reduce(objective, axis=-1, initial=np.nan)
    highest = np.fmax.reduce(objective, axis=-1, initial=np.nan)
    return (lowest, highest) if direction == "minimize" else (highest, lowest)


def incumbent_curve(objective: np.ndarray, direction: str) -> np.ndarray:
    """Best value seen up to and including every trial.

    `objective` is `[..., T]` in order of the trials, NaN where nothing was tried (the incumbent then stays).
    The answer has the same shape and is NaN until the first value.
    """
    _check_direction(direction)
    accumulate = np.fmin.accumulate if direction == "minimize" else np.fmax.accumulate
    return accumulate(np.asarray(objective, dtype=np.float64), axis=-1)


def normalized_regret(incumbent: np.ndarray, best: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """`(best - incumbent) / (best - worst)`, the distance to the best of a task's own table, in [0, 1].

    Known as ADTM (average distance to the minimum) once averaged over tasks: Wistuba, Schilling and
    Schmidt-Thieme, "Scalable Gaussian process-based transfer surrogates for hyperparameter optimization",
    Machine Learning 2018. `incumbent` is `[D, ...]`, `best` and `worst` are `[D]`. The formula holds for both
    directions, because `best` and `worst` swap with them. A constant task (`best == worst`) has regret 0; a
    NaN incumbent has regret NaN.
    """
    incumbent = np.asarray(incumbent, dtype=np.float64)
    shape = (-1,) + (1,) * (incumbent.ndim - 1)
    # Values beyond 1e300 would overflow in the difference; a power of two changes nothing else.
    factor = np.where(np.maximum(np.abs(best), np.abs(worst)) > 1e300, 0.25, 1.0)
    best, worst = (np.asarray(bound, dtype=np.float64) * factor for bound in (best, worst))
    span = (best - worst).reshape(shape)
    gap = best.reshape(shape) - incumbent * factor.reshape(shape)
    constant = span == 0.0
    regret = gap / np.where(constant, 1.0, span)
    regret = np.where(constant & ~np.isnan(incumbent), 0.0, regret)
    return np.clip(regret, 0.0, 1.0) + 0.0  # the addition turns -0.0 into 0.0


def average_ranks(losses: np.ndarray) -> np.ndarray:
    """Rank of every method among the methods: 1 is the lowest loss, ties share the average of their places.

    `losses` is `[M, ...]`, lower is better; the answer is `[M, ...]` float64 and sums to `M (M + 1) / 2` over
    the first axis. One pass per method keeps the memory at one comparison of the input's size.
    """
    losses = np.asarray(losses, dtype=np.float64)
    ranks = np.empty(losses.shape, dtype=np.float64)
    for index, own in enumerate(losses):
        below = (losses < own).sum(axis=0)
        equal = (losses == own).sum(axis=0)  # counts the method itself
        ranks[index] = below + (equal + 1) / 2
    return ranks


def wins_ties_losses(losses: np.ndarray, other: np.ndarray, tolerance: float = 1e-12) -> tuple[int, int, int]:
    """How often `losses` is better than, equal to and worse than `other`, entry by entry.

    Both are of one shape and lower is better. Differences up to `tolerance` are ties: averages of equal
    numbers may differ in the last bits.
    """
    difference = np.asarray(losses, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    wins = int((difference < -tolerance).sum())
    defeats = int((difference > tolerance).sum())
    return wins, difference.size - wins - defeats, defeats


def time_to_target(regret: np.ndarray, target: float) -> np.ndarray:
    """First trial (1-based) at which the regret is at most `target`.

    `regret` is `[..., T]`; the answer is `[...]` float64, infinity where the target is never reached.
    """
    reached = np.asarray(regret) <= target
    first = reached.argmax(axis=-1) + 1.0
    return np.where(reached.any(axis=-1), first, np.inf)


def trials_to_target(regret: np.ndarray, target: float) -> tuple[float, int | None]:
    """Share of the runs that reach the target, and the trial by which half of all runs have reached it.

    `regret` is `[..., T]`, every leading place one run. The trial is the lower median over all runs, those
    that never get there counted as infinitely late: None where fewer than half get there.
    """
    first = np.sort(time_to_target(regret, target), axis=None)
    middle = first[(first.size - 1) // 2]
    return float(np.isfinite(first).mean()), int(middle) if np.isfinite(middle) else None


def probability_of_improvement(own: np.ndarray, other: np.ndarray, tolerance: float = 1e-12) -> np.ndarray:
    """How probably a run of one method has a lower loss than a run of another on the same task, ties half.

    `own` is `[..., S]` and `other` `[..., R]`, every pair of runs counts (the Mann-Whitney statistic over
    `S R`; Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS
    2021); the answer is `[...]`, and exchanging the methods gives exactly its complement.
    Differences up to `tolerance` are ties.
    """
    difference = np.asarray(own, dtype=np.float64)[..., :, None] - np.asarray(other)[..., None, :]
    wins = (difference < -tolerance).sum(axis=(-2, -1))
    defeats = (difference > tolerance).sum(axis=(-2, -1))
    return 0.5 + (wins - defeats) / (2.0 * difference.shape[-2] * difference.shape[-1])


def _check_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        raise InputError(f"direction {direction!r} is unknown: write 'minimize' or 'maximize'")
