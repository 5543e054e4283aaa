"""The figures of an evaluation, for JSON: regret and rank at every trial, targets, cost, intervals, tests.

    {"collection", "split", "fold", "tasks": [D names], "trials": T,
     "methods": {name: {"normalized_regret": [T], "rank": [T], "ci95": [[low, high] * T],
                        "rank_ci95": [[low, high] * T],
                        "targets": {"0.1": {"reached": share, "trials": number or null}, "0.05", "0.01"},
                        "suggest": {"median_ms", "p95_ms", "total_seconds"} or null,
                        "suggest_ms": median or null}},
     "tests": {"interval": {...}, "last_trial": {...}, "trial_mean": {...}},
     "collections": {name: {"tasks": number, "methods": {name: {"normalized_regret", "rank"}}}},
     "macro": {name: {"normalized_regret", "rank"}},
     "failures": [{"method", "task", "seed", "trial", "reason"}],
     "provenance": {"command", "versions", "collections", "seeds", "starts", "machine"}}

Regret is averaged over tasks and seeds; ranks are tie-averaged among the methods of one (task, seed, trial)
and then averaged the same way; intervals are bootstraps over tasks. `statistics.rank_tests` makes the two
tests. With several collections every task counts once; `collections` has the figures of each and `macro`
their mean, every collection counting once; with one, both are left out. `failures` and `provenance` are there
where they were given. `combine_folds` pools the tasks of several folds of one study into one such summary, as
if they had been one test side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.comparison import Comparison, compare
from hyprl_jax.evaluation.metrics import average_ranks, trials_to_target
from hyprl_jax.evaluation.schema import FAILURE_KEYS, MAX_TEXT_LENGTH, check_summary
from hyprl_jax.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_interval, rank_tests

__all__ = ["TARGETS", "check_summary", "combine_folds", "failure_records", "summarize"]

TARGETS = (0.1, 0.05, 0.01)
MAX_REASON_LENGTH = 300


def summarize(
    frames: pd.DataFrame | Sequence[pd.DataFrame],
    split: str = "",
    fold: int | list[int] = 0,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    failures: Sequence[Mapping[str, Any]] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Summary of one or several frames of trajectories that share tasks and trials, one or more methods each.

    `groups` (task name, or `collection/task` -> group) makes groups instead of tasks the unit of intervals
    and tests: use it where tasks are derived from each other. `seed` and `resamples` belong to the bootstrap.
    `failures` (see `failure_records`) and `provenance` are written down as they are. Raises `InputError` for
    frames that do not fit together, and for failures or a provenance of another shape.
    """
    comparison = compare(frames)
    means = comparison.task_means()  # [M, D, T]
    ranks = average_ranks(comparison.stacked()).mean(axis=2)  # [M, D, T]
    names = _group_names(comparison, groups)
    summary: dict[str, Any] = {
        "collection": comparison.collection(),
        "split": split,
        "fold": fold,
        "tasks": comparison.task_names(),
        "trials": comparison.trials,
        "methods": _method_figures(comparison, means, ranks, names, resamples, seed),
        "tests": _tests(comparison, means, names, resamples, seed),
        **_by_collection(comparison, means, ranks),
    }
    if failures is not None:
        summary["failures"] = _checked_failures(failures, comparison)
    if provenance is not None:
        summary["provenance"] = _plain(dict(provenance))
    return check_summary(summary)


def combine_folds(
    frames: Sequence[pd.DataFrame],
    split: str = "",
    folds: Sequence[int] | None = None,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    failures: Sequence[Mapping[str, Any]] | None = None,
    provenance: Mapping[str, Any] | None = None,
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
    return summarize(parts, split, numbers, groups, resamples, seed, failures, provenance)


def failure_records(played: Iterable[Any]) -> list[dict[str, Any]]:
    """The failures of everything `Played`, as `summarize` takes them: one dictionary each."""
    return [
        {
            "method": one.method,
            "task": failure.task,
            "seed": int(failure.seed),
            "trial": int(failure.trial),
            "reason": failure.reason,
        }
        for one in played
        for failure in one.failures
    ]


def _method_figures(
    comparison: Comparison,
    means: np.ndarray,
    ranks: np.ndarray,
    groups: list[str] | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Curves with intervals, targets and cost of every method; `means` and `ranks` are `[M, D, T]`."""
    both = np.moveaxis(np.stack([means, ranks]), 2, 0)  # [D, 2, M, T]
    centre = both.mean(axis=0)
    intervals = bootstrap_interval(both, groups, resamples=resamples, seed=seed)  # [2, M, T, 2]
    figures = {}
    for index, name in enumerate(comparison.methods):
        targets = {}
        for target in TARGETS:
            reached, trials = trials_to_target(comparison.regret[index], target)
            targets[f"{target:g}"] = {"reached": reached, "trials": trials}
        cost = comparison.suggest[index]
        figures[name] = {
            "normalized_regret": centre[0, index].tolist(),
            "rank": centre[1, index].tolist(),
            "ci95": intervals[0, index].tolist(),
            "rank_ci95": intervals[1, index].tolist(),
            "targets": targets,
            "suggest": cost,
            "suggest_ms": None if cost is None else cost["median_ms"],
        }
    return figures


def _tests(
    comparison: Comparison, means: np.ndarray, groups: list[str] | None, resamples: int, seed: int
) -> dict[str, Any]:
    """What the intervals are, and all tests at the last trial and on the mean over trials."""
    answer: dict[str, Any] = {
        "interval": {
            "kind": "percentile bootstrap of the mean",
            "over": "tasks" if groups is None else "groups",
            "level": LEVEL,
            "resamples": resamples,
            "seed": seed,
        }
    }
    last = (means[:, :, -1], [regret[:, :, -1] for regret in comparison.regret])
    average = (means.mean(axis=2), [regret.mean(axis=2) for regret in comparison.regret])
    for key, (losses, runs) in (("last_trial", last), ("trial_mean", average)):
        answer[key] = rank_tests(comparison.methods, losses, groups, runs, resamples, seed)
    return answer


def _by_collection(comparison: Comparison, means: np.ndarray, ranks: np.ndarray) -> dict[str, Any]:
    """Figures of each of several collections, and their mean; nothing for one collection."""
    homes = [collection for collection, _ in comparison.tasks]
    collections = sorted(set(homes))
    if len(collections) < 2:
        return {}
    rows = [[row for row, home in enumerate(homes) if home == name] for name in collections]
    curves = np.stack([[values[:, part].mean(axis=1) for values in (means, ranks)] for part in rows])

    def by_method(pair: np.ndarray) -> dict[str, Any]:  # [2, M, T]
        return {
            name: {"normalized_regret": pair[0, index].tolist(), "rank": pair[1, index].tolist()}
            for index, name in enumerate(comparison.methods)
        }

    parts = {
        name: {"tasks": len(part), "methods": by_method(pair)}
        for name, part, pair in zip(collections, rows, curves, strict=True)
    }
    return {"collections": parts, "macro": by_method(curves.mean(axis=0))}


def _checked_failures(failures: Sequence[Mapping[str, Any]], comparison: Comparison) -> list[dict[str, Any]]:
    """Failures with plain one-line reasons, in order of method, task, seed and trial."""
    records = []
    for failure in failures:
        missing = [key for key in FAILURE_KEYS if key not in failure]
        if missing:
            raise InputError(f"a failure lacks {missing[0]!r}: give {', '.join(FAILURE_KEYS)}")
        record = {key: failure[key] for key in FAILURE_KEYS}
        if record["method"] not in comparison.methods:
            raise InputError(
                f"a failure of {str(record['method'])[:60]!r}: no such method in the trajectories"
            )
        record["seed"], record["trial"] = int(record["seed"]), int(record["trial"])
        record["reason"] = _one_line(str(record["reason"]), MAX_REASON_LENGTH)
        records.append(record)
    place = {name: index for index, name in enumerate(comparison.methods)}
    return sorted(
        records, key=lambda one: (place[one["method"]], str(one["task"]), one["seed"], one["trial"])
    )


def _plain(value: Any) -> Any:
    """Nested data with every text on one printable line, so that no odd path or version spoils a summary."""
    if isinstance(value, str):
        return _one_line(value, MAX_TEXT_LENGTH)
    if isinstance(value, Mapping):
        return {_one_line(str(key), MAX_TEXT_LENGTH): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _one_line(text: str, longest: int) -> str:
    line = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in " ".join(text.split())
    )
    return line if len(line) <= longest else line[: longest - 3] + "..."


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
