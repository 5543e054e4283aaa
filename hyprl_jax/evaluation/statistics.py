"""How sure one can be: bootstrap intervals over tasks, and rank tests between methods.

The unit of replication is the task (or, where tasks are derived from each other, their group): seeds are
averaged first, since more seeds say nothing about further tasks. Intervals are percentile bootstraps (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Tests follow Demsar, "Statistical
comparisons of classifiers over multiple data sets", JMLR 2006: Friedman over all methods, then Nemenyi, and
pairwise Wilcoxon signed-rank tests with Holm's correction. A test that cannot be made is null with the
reason, never a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import average_ranks, wins_ties_losses

RESAMPLES = 10_000
LEVEL = 0.95
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
    methods: Sequence[str], losses: np.ndarray, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """Friedman, Nemenyi, Wilcoxon-Holm and win/tie/loss counts of `M` methods on `D` tasks.

    `losses` is `[M, D]`, lower is better. With `groups` (`D` names) the mean of a group is one observation.
    The answer is ready for JSON; p-values of pairs are nested dictionaries, `p_values[a][b] ==
    p_values[b][a]`.
    """
    losses = np.asarray(losses, dtype=np.float64)
    member = _membership(losses.shape[1], groups)
    means = losses @ (member / member.sum(axis=1, keepdims=True)).T  # [M, blocks]
    blocks = np.round(means, DECIMALS) + 0.0
    ranks = average_ranks(blocks)
    return {
        "blocks": blocks.shape[1],
        "over": "tasks" if groups is None else "groups",
        "friedman": friedman(ranks),
        "nemenyi": _by_name(methods, *nemenyi(ranks)),
        "wilcoxon_holm": _by_name(methods, *wilcoxon_holm(blocks)),
        "wins_ties_losses": _pairs(methods, lambda i, j: list(wins_ties_losses(blocks[i], blocks[j]))),
    }


def friedman(ranks: np.ndarray) -> dict[str, Any]:
    """Friedman's chi-square of `[M, D]` ranks, corrected for ties: `{"statistic", "p_value", "reason"}`."""
    methods, blocks = ranks.shape
    reason = _too_few(methods, blocks)
    if reason:
        return {"statistic": None, "p_value": None, "reason": reason}
    from scipy.stats import chi2

    # With ties: (M - 1) sum_m (R_m - D (M + 1) / 2)^2 over the squared deviations of all ranks (Conover 1999,
    # "Practical Nonparametric Statistics", 5.8).
    centred = ranks - (methods + 1) / 2
    spread = float((centred**2).sum())
    if spread == 0.0:
        return {"statistic": 0.0, "p_value": 1.0, "reason": "all methods are equal on every task"}
    statistic = (methods - 1) * float((centred.sum(axis=1) ** 2).sum()) / spread
    return {"statistic": statistic, "p_value": float(chi2.sf(statistic, methods - 1)), "reason": None}


def nemenyi(ranks: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Nemenyi's p-values of all pairs, `[M, M]`, from `[M, D]` ranks; or None and the reason.

    Demsar 2006, section 3.2.2: the difference of mean ranks over `sqrt(M (M + 1) / (6 D))` follows the
    studentized range over `sqrt(2)`. Meaningful where Friedman's test rejects.
    """
    methods, blocks = ranks.shape
    reason = _too_few(methods, blocks)
    if reason:
        return None, reason
    from scipy.stats import studentized_range

    mean = ranks.mean(axis=1)
    scale = np.sqrt(methods * (methods + 1) / (6.0 * blocks))
    distance = np.abs(mean[:, None] - mean[None, :]) / scale * np.sqrt(2.0)
    p_values = np.ones((methods, methods))
    upper = np.triu_indices(methods, 1)
    p_values[upper] = np.clip(studentized_range.sf(distance[upper], methods, np.inf), 0.0, 1.0)
    return np.minimum(p_values, p_values.T), None


def wilcoxon_holm(losses: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Two-sided Wilcoxon signed-rank tests of all pairs, Holm-corrected: `[M, M]` from `[M, D]`.

    Zero differences are left out (Wilcoxon's own treatment); two methods that never differ have p = 1. None
    and the reason where there is nothing to test.
    """
    methods, blocks = losses.shape
    if methods < 2 or blocks < 2:
        return None, "one method only" if methods < 2 else ONE_BLOCK
    from scipy.stats import wilcoxon

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
