"""How sure one can be: bootstrap intervals over tasks, and rank tests between methods.

The unit of replication is the task (or, where tasks are derived from each other, their group): seeds are
averaged first, since more seeds say nothing about further tasks. Intervals are percentile bootstraps (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Tests follow Demsar, "Statistical
comparisons of classifiers over multiple data sets", JMLR 2006: Friedman over all methods, then Nemenyi with
its critical difference, and pairwise Wilcoxon signed-rank tests with Holm's correction. The probability of
improvement follows Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
NeurIPS 2021. A test that cannot be made is null with the reason, never a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import average_ranks, probability_of_improvement, wins_ties_losses

RESAMPLES = 10_000
LEVEL = 0.95
SIGNIFICANCE = 0.05
ONE_BLOCK = "one task (or group of tasks) only"
DECIMALS = 12  # differences below are equal numbers averaged in another order
_COLUMNS_AT_ONCE = 256  # keeps the resampled means below about 20 MB


def bootstrap_interval(
    values: np.ndarray,
    groups: Sequence[str] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Percentile interval of the mean over tasks, for every column of `values`.

    `values` is `[D, ...]`, one row a task (seeds already averaged); the answer is `[..., 2]`, lower and upper
    end. Tasks are drawn with replacement, whole groups at a time if `groups` (`D` names) is given, and the
    same draws serve all columns, so intervals of several methods belong together. The mean itself always lies
    inside. With one task (or group) both ends are the mean: nothing is known about its spread.
    """
    values = np.asarray(values, dtype=np.float64)
    tasks = values.shape[0]
    if tasks == 0 or not np.isfinite(values).all():
        raise InputError("bootstrap over tasks: give at least one task and finite values only")
    if resamples < 1 or not 0.0 < level < 1.0:
        raise InputError("bootstrap over tasks: resamples must be at least 1 and the level between 0 and 1")
    member = _membership(tasks, groups)  # [G, D]
    count = len(member)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    weights = draws @ member
    weights /= weights.sum(axis=1, keepdims=True)  # [B, D]
    columns = values.reshape(tasks, -1)
    tail = (1.0 - level) / 2.0
    ends = np.empty((columns.shape[1], 2))
    for start in range(0, columns.shape[1], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        means = np.ascontiguousarray((weights @ columns[:, part]).T)  # [columns, B]: quantiles along memory
        ends[part] = np.quantile(means, [tail, 1.0 - tail], axis=1, overwrite_input=True).T
    mean = columns.mean(axis=0)
    ends[:, 0] = np.minimum(ends[:, 0], mean)
    ends[:, 1] = np.maximum(ends[:, 1], mean)
    return ends.reshape(*values.shape[1:], 2)


def rank_tests(
    methods: Sequence[str],
    losses: np.ndarray,
    groups: Sequence[str] | None = None,
    runs: Sequence[np.ndarray] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All tests between `M` methods on `D` tasks at one moment, ready for JSON.

    `losses` is `[M, D]`, seeds averaged, lower is better. With `groups` (`D` names) the mean of a group is
    one observation of the tests. `runs` holds one `[D, S]` array a method with the losses of single runs, for
    the probability of improvement (without it, the averages count as one run). Figures of pairs are nested
    dictionaries; `p_values[a][b] == p_values[b][a]`. `resamples` and `seed` belong to the intervals.
    """
    losses = np.asarray(losses, dtype=np.float64)
    member = _membership(losses.shape[1], groups)
    means = losses @ (member / member.sum(axis=1, keepdims=True)).T  # [M, blocks]
    blocks = np.round(means, DECIMALS) + 0.0
    ranks = average_ranks(blocks)
    bootstrap = lambda values: bootstrap_interval(values, groups, resamples=resamples, seed=seed)
    probability, ends = improvement(losses[:, :, None] if runs is None else runs, bootstrap)
    return {
        "blocks": blocks.shape[1],
        "over": "tasks" if groups is None else "groups",
        "friedman": friedman(ranks),
        "nemenyi": _by_name(methods, *nemenyi(ranks)),
        "critical_difference": critical_difference(methods, ranks),
        "wilcoxon_holm": _by_name(methods, *wilcoxon_holm(blocks)),
        "wins_ties_losses": _pairs(methods, lambda i, j: list(wins_ties_losses(blocks[i], blocks[j]))),
        "probability_of_improvement": _pairs(methods, lambda i, j: float(probability[i, j])),
        "probability_of_improvement_ci95": _pairs(methods, lambda i, j: ends[i, j].tolist()),
        "difference_to_best": difference_to_best(methods, losses, bootstrap),
    }


def friedman(ranks: np.ndarray) -> dict[str, Any]:
    """Friedman's chi-square of `[M, D]` ranks, corrected for ties: `{"statistic", "p_value", "reason"}`."""
    methods, blocks = ranks.shape
    reason = _too_few(methods, blocks)
    if reason:
        return {"statistic": None, "p_value": None, "reason": reason}
    if (ranks == ranks[:1]).all():  # SciPy divides zero by zero here
        return {"statistic": 0.0, "p_value": 1.0, "reason": "all methods are equal on every task"}
    from scipy.stats import friedmanchisquare

    result = friedmanchisquare(*ranks)
    statistic = max(float(result.statistic), 0.0)  # equal rank sums may come out as -1e-16
    return {"statistic": statistic, "p_value": min(float(result.pvalue), 1.0), "reason": None}


def nemenyi(ranks: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Nemenyi's p-values of all pairs, `[M, M]`, from `[M, D]` ranks; or None and the reason.

    Demsar 2006, section 3.2.2: the difference of mean ranks over `sqrt(M (M + 1) / (6 D))` follows the
    studentized range over `sqrt(2)`. Meaningful where Friedman's test rejects.
    """
    reason = _too_few(*ranks.shape)
    if reason:
        return None, reason
    from scikit_posthocs import posthoc_nemenyi_friedman

    p_values = posthoc_nemenyi_friedman(ranks.T).to_numpy()  # [M, M]
    return np.clip(p_values, 0.0, 1.0), None  # its integral ends a few 1e-16 outside


def critical_difference(
    methods: Sequence[str], ranks: np.ndarray, significance: float = SIGNIFICANCE
) -> dict[str, Any]:
    """Nemenyi's critical difference `q sqrt(M (M + 1) / (6 D))` of mean ranks, and what it tells apart.

    `ranks` is `[M, D]`; `q` is the `1 - significance` quantile of the studentized range of `M` groups over
    `sqrt(2)` (Demsar 2006, section 3.2.2 and table 5). `cliques` are the maximal sets of methods whose mean
    ranks all lie within less than the difference, best set first and best method first; a method that
    differs from all others is a set of its own. `difference` is None and `cliques` empty where there is no
    test, for the `reason` given.
    """
    count, blocks = ranks.shape
    mean = ranks.mean(axis=1)
    answer: dict[str, Any] = {
        "level": significance,
        "difference": None,
        "mean_ranks": {name: float(rank) for name, rank in zip(methods, mean, strict=True)},
        "cliques": [],
        "reason": _too_few(count, blocks),
    }
    if answer["reason"]:
        return answer
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1.0 - significance, count, np.inf)) / np.sqrt(2.0)
    answer["difference"] = float(quantile * np.sqrt(count * (count + 1) / (6.0 * blocks)))
    sets = cliques(mean, answer["difference"])
    answer["cliques"] = [[methods[index] for index in members] for members in sets]
    return answer


def cliques(mean_ranks: np.ndarray, difference: float) -> list[list[int]]:
    """Maximal sets of indices whose `[M]` mean ranks differ by less than `difference`, in order of rank."""
    order = np.argsort(mean_ranks, kind="stable")
    ranks = mean_ranks[order]
    stops = [int(np.sum(ranks - rank < difference)) for rank in ranks]
    sets, covered = [], 0
    for start, stop in enumerate(stops):
        if stop > covered:  # else inside the set before
            sets.append([int(index) for index in order[start:stop]])
            covered = stop
    return sets


def wilcoxon_holm(losses: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Two-sided Wilcoxon signed-rank tests of all pairs, Holm-corrected: `[M, M]` from `[M, D]`.

    Zero differences are left out (Wilcoxon's own treatment); two methods that never differ have p = 1. None
    and the reason where there is nothing to test.
    """
    methods, blocks = losses.shape
    if methods < 2 or blocks < 2:
        return None, "one method only" if methods < 2 else ONE_BLOCK
    from scipy.stats import wilcoxon

    # Not `scikit_posthocs.posthoc_wilcoxon`: it hands zero differences on to SciPy, which then warns of 0 / 0
    # if a pair never differs and gives up the exact distribution for the normal one if it ever ties. Without
    # the zeros the exact one stays in use.
    rows, columns = np.triu_indices(methods, 1)
    raw = np.ones(len(rows))
    for pair, (first, second) in enumerate(zip(rows, columns, strict=True)):
        difference = np.round(losses[first] - losses[second], DECIMALS)
        difference = difference[difference != 0.0]
        if difference.size:
            raw[pair] = wilcoxon(difference).pvalue
    p_values = np.ones((methods, methods))
    p_values[rows, columns] = holm(raw)
    return np.minimum(p_values, p_values.T), None


def holm(p_values: np.ndarray) -> np.ndarray:
    """Step-down corrected p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return corrected


def improvement(
    runs: Sequence[np.ndarray] | np.ndarray, bootstrap: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Probability that method i beats method j on a random task, `[M, M]`, and its intervals `[M, M, 2]`.

    `runs` holds one `[D, S]` array a method; `bootstrap` makes `[columns, 2]` out of `[D, columns]`. Entries
    of a pair add up to one, in the intervals with the ends exchanged; the diagonal is one half.
    """
    methods = len(runs)
    probability, ends = np.full((methods, methods), 0.5), np.full((methods, methods, 2), 0.5)
    rows, columns = np.triu_indices(methods, 1)
    if rows.size:
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        by_task = np.stack([probability_of_improvement(runs[i], runs[j]) for i, j in pairs], axis=1)
        mean, interval = by_task.mean(axis=0), bootstrap(by_task)  # [pairs], [pairs, 2]
        probability[rows, columns], probability[columns, rows] = mean, 1.0 - mean
        ends[rows, columns], ends[columns, rows] = interval, 1.0 - interval[:, ::-1]
    return probability, ends


def difference_to_best(
    methods: Sequence[str], losses: np.ndarray, bootstrap: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """Paired differences of mean loss to the method with the lowest one: `{"best", "mean", "ci95"}`.

    `losses` is `[M, D]`; the intervals resample tasks, on each of which both methods were measured, and so
    are narrower than two intervals put side by side. The first of several equal methods is the best.
    """
    best = int(np.argmin(np.round(losses.mean(axis=1), DECIMALS)))
    differences = (losses - losses[best]).T  # [D, M]
    mean, ends = differences.mean(axis=0), bootstrap(differences)
    return {
        "best": methods[best],
        "mean": {name: float(mean[index]) for index, name in enumerate(methods)},
        "ci95": {name: ends[index].tolist() for index, name in enumerate(methods)},
    }


def _too_few(methods: int, blocks: int) -> str | None:
    if blocks < 2:
        return ONE_BLOCK
    return "fewer than three methods" if methods < 3 else None


def _membership(tasks: int, groups: Sequence[str] | None) -> np.ndarray:
    """One row a group, one column a task, 1 where the task belongs to the group: `[G, D]` float64."""
    if groups is None:
        return np.eye(tasks)
    if len(groups) != tasks:
        raise InputError(f"{len(groups)} groups for {tasks} tasks: give one group name a task")
    names = sorted(set(groups))
    return np.asarray([[float(group == name) for group in groups] for name in names])


def _by_name(methods: Sequence[str], p_values: np.ndarray | None, reason: str | None) -> dict[str, Any]:
    if p_values is None:
        return {"p_values": None, "reason": reason}
    return {"p_values": _pairs(methods, lambda i, j: float(p_values[i, j])), "reason": None}


def _pairs(methods: Sequence[str], value: Callable[[int, int], Any]) -> dict[str, Any]:
    """`{a: {b: value}}` over all ordered pairs of different methods."""
    indices = range(len(methods))
    return {methods[i]: {methods[j]: value(i, j) for j in indices if j != i} for i in indices}
