"""The figures of an evaluation: mean regret, mean rank and intervals at every trial, and tests, for JSON.

    {"collection", "split", "fold", "tasks": [D names], "trials": T,
     "methods": {name: {"normalized_regret": [T], "rank": [T], "ci95": [[low, high] * T],
                        "suggest_ms": median or null}},
     "tests": {"interval": {...}, "last_trial": {...}, "trial_mean": {...}}}

Regret is averaged over tasks and seeds; ranks are tie-averaged among the methods of one (task, seed, trial)
and then averaged the same way; `ci95` is the bootstrap interval of the regret over tasks. `combine_folds`
pools the tasks of several folds of one study into one such summary, as if they had been one test side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.comparison import Comparison, compare
from hyprl_jax.evaluation.metrics import average_ranks
from hyprl_jax.evaluation.protocol import check_method_name
from hyprl_jax.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_interval, rank_tests

MAX_TRIALS = 1_000_000


def summarize(
    frames: pd.DataFrame | Sequence[pd.DataFrame],
    split: str = "",
    fold: int | list[int] = 0,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Summary of one or several frames of trajectories that share tasks and trials, one or more methods each.

    `groups` (task name, or `collection/task` -> group) makes groups instead of tasks the unit of intervals
    and tests: use it where tasks are derived from each other. `seed` and `resamples` belong to the bootstrap.
    Raises `InputError` for frames that do not fit together.
    """
    comparison = compare(frames)
    regret = comparison.stacked()  # [M, D, S, T]
    means = comparison.task_means()  # [M, D, T]
    names = _group_names(comparison, groups)
    intervals = bootstrap_interval(np.moveaxis(means, 1, 0), names, resamples=resamples, seed=seed)
    ranks = average_ranks(regret).mean(axis=(1, 2))
    methods = {
        name: {
            "normalized_regret": means[index].mean(axis=0).tolist(),
            "rank": ranks[index].tolist(),
            "ci95": intervals[index].tolist(),
            "suggest_ms": comparison.suggest_ms[index],
        }
        for index, name in enumerate(comparison.methods)
    }
    interval = {
        "kind": "percentile bootstrap of the mean",
        "over": "tasks" if groups is None else "groups",
        "level": LEVEL,
        "resamples": resamples,
        "seed": seed,
    }
    return {
        "collection": comparison.collection(),
        "split": split,
        "fold": fold,
        "tasks": comparison.task_names(),
        "trials": comparison.trials,
        "methods": methods,
        "tests": {
            "interval": interval,
            "last_trial": rank_tests(comparison.methods, means[:, :, -1], names),
            "trial_mean": rank_tests(comparison.methods, means.mean(axis=2), names),
        },
    }


def combine_folds(
    frames: Sequence[pd.DataFrame],
    split: str = "",
    folds: Sequence[int] | None = None,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Summary over the pooled tasks of several folds, one frame (all methods) a fold; `fold` is their list.

    Every task counts once and equally, so folds of different sizes need no weights. Raises `InputError` if a
    task stands in two folds or the folds hold different methods.
    """
    parts = list(frames)
    numbers = list(range(len(parts))) if folds is None else [int(fold) for fold in folds]
    if not parts or len(numbers) != len(parts):
        raise InputError(
            f"{len(parts)} folds of trajectories, {len(numbers)} fold numbers: give one number a fold"
        )
    home: dict[tuple[str, str], int] = {}
    methods: set[str] | None = None
    for number, part in zip(numbers, parts, strict=True):
        comparison = compare(part)
        found = set(comparison.methods)
        if methods is not None and found != methods:
            differing = sorted(found ^ methods)[0]
            raise InputError(
                f"method {differing!r} is not in every fold: evaluate the same methods on all folds"
            )
        methods = found
        for pair in comparison.tasks:
            if pair in home:
                raise InputError(
                    f"task {pair[1]!r} stands in fold {home[pair]} and {number}: folds must be disjoint"
                )
            home[pair] = number
    return summarize(parts, split, numbers, groups, resamples, seed)


def check_summary(summary: object) -> dict[str, Any]:
    """The summary itself if it has the shape of this module's docstring, else `InputError` naming the key."""
    top = _mapping(summary, "summary")
    _require(top, ("collection", "split", "fold", "tasks", "trials", "methods", "tests"), "summary")
    for key in ("collection", "split"):
        if not isinstance(top[key], str) or not top[key].isprintable():
            raise InputError(f"summary: {key!r} must be printable text")
    folds = top["fold"] if isinstance(top["fold"], list) else [top["fold"]]
    if not all(isinstance(fold, int) and not isinstance(fold, bool) for fold in folds):
        raise InputError("summary: 'fold' must be a whole number or a list of them")
    tasks, trials = top["tasks"], top["trials"]
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise InputError("summary: 'tasks' must be a list of at least one name")
    if not isinstance(trials, int) or isinstance(trials, bool) or not 1 <= trials <= MAX_TRIALS:
        raise InputError("summary: 'trials' must be a whole number of at least 1")
    methods = _mapping(top["methods"], "summary: 'methods'")
    if not methods:
        raise InputError("summary: 'methods' is empty")
    for name, figures in methods.items():
        check_method_name(name)
        _check_figures(
            _mapping(figures, f"summary, method {name!r}"), f"summary, method {name!r}", trials, len(methods)
        )
    tests = _mapping(top["tests"], "summary: 'tests'")
    _require(tests, ("interval", "last_trial", "trial_mean"), "summary: 'tests'")
    if _mapping(tests["interval"], "summary: 'interval'").get("over") not in ("tasks", "groups"):
        raise InputError("summary: 'interval' must say whether it is over 'tasks' or 'groups'")
    for key in ("last_trial", "trial_mean"):
        _check_tests(
            _mapping(tests[key], f"summary, tests {key!r}"), f"summary, tests {key!r}", list(methods)
        )
    return top


def _check_figures(figures: dict[str, Any], where: str, trials: int, methods: int) -> None:
    _require(figures, ("normalized_regret", "rank", "ci95", "suggest_ms"), where)
    regret = _numbers(figures["normalized_regret"], trials, 0.0, 1.0, f"{where}: 'normalized_regret'")
    _numbers(figures["rank"], trials, 1.0, float(methods), f"{where}: 'rank'")
    pairs = figures["ci95"]
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{where}: 'ci95' must be a list of [low, high]")
    low = _numbers([pair[0] for pair in pairs], trials, 0.0, 1.0, f"{where}: 'ci95'")
    high = _numbers([pair[1] for pair in pairs], trials, 0.0, 1.0, f"{where}: 'ci95'")
    if any(not a <= mean <= b for a, mean, b in zip(low, regret, high, strict=True)):
        raise InputError(f"{where}: 'ci95' does not enclose 'normalized_regret'")
    if figures["suggest_ms"] is not None:
        _numbers([figures["suggest_ms"]], 1, 0.0, 1e15, f"{where}: 'suggest_ms'")


def _check_tests(tests: dict[str, Any], where: str, methods: list[str]) -> None:
    _require(tests, ("blocks", "over", "friedman", "nemenyi", "wilcoxon_holm", "wins_ties_losses"), where)
    if tests["over"] not in ("tasks", "groups"):
        raise InputError(f"{where}: 'over' must be 'tasks' or 'groups'")
    _numbers([tests["blocks"]], 1, 1.0, 1e15, f"{where}: 'blocks'")
    friedman = _mapping(tests["friedman"], f"{where}: 'friedman'")
    _require(friedman, ("statistic", "p_value", "reason"), f"{where}: 'friedman'")
    if friedman["p_value"] is not None:
        _numbers([friedman["p_value"]], 1, 0.0, 1.0, f"{where}: 'friedman'")
    pairs = [(a, b) for a in methods for b in methods if a != b]
    for key in ("nemenyi", "wilcoxon_holm"):
        result = _mapping(tests[key], f"{where}: {key!r}")
        _require(result, ("p_values", "reason"), f"{where}: {key!r}")
        if result["p_values"] is not None:
            values = [_entry(result["p_values"], a, b, f"{where}: {key!r}") for a, b in pairs]
            _numbers(values, len(pairs), 0.0, 1.0, f"{where}: {key!r}")
    for a, b in pairs:
        counts = _entry(tests["wins_ties_losses"], a, b, f"{where}: 'wins_ties_losses'")
        _numbers(counts, 3, 0.0, 1e15, f"{where}: 'wins_ties_losses'")


def _entry(table: object, first: str, second: str, where: str) -> Any:
    """`table[first][second]` of a nested mapping over pairs of methods."""
    row = _mapping(table, where).get(first)
    if not isinstance(row, dict) or second not in row:
        raise InputError(f"{where}: the pair {first!r}, {second!r} is missing")
    return row[second]


def _numbers(values: object, length: int, low: float, high: float, where: str) -> list[float]:
    """`values` if it is a list of `length` numbers within the bounds (to 1e-9, rounding)."""
    if not isinstance(values, list) or len(values) != length:
        raise InputError(f"{where} must be a list of {length} numbers")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low - 1e-9 <= value <= high + 1e-9:
            raise InputError(f"{where} holds {str(value)[:40]}, expected numbers from {low:g} to {high:g}")
    return values


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a JSON object")
    return value


def _require(mapping: dict[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in mapping:
            raise InputError(f"{where}: the key {key!r} is missing")


def _group_names(comparison: Comparison, groups: Mapping[str, str] | None) -> list[str] | None:
    """Group of every task of the comparison; groups of different collections stay apart."""
    if groups is None:
        return None
    names = []
    for collection, task in comparison.tasks:
        group = groups.get(f"{collection}/{task}", groups.get(task))
        if group is None:
            raise InputError(f"task {task!r} has no group: give a group for every task or none at all")
        names.append(f"{collection}/{group}")
    return names
