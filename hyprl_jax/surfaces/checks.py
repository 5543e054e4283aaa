"""The rules that the tables of a collection must obey, each with a name, checked on whole columns at a time.

Used by the reader (which stops at the first fault), by `validate` (which lists them all), by the writer and
by the importers (which repair some of them by named rules).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.collection import Collection

MOST_FAULTS_A_RULE = 100_000  # so that a report stays finite

__all__ = ["Fault", "collection_faults", "highest_fidelity"]


@dataclass(frozen=True)
class Fault:
    """One fault of a collection: file, task and row (0-based; None where they do not apply), rule and
    words.
    """

    file: str
    task: str | None
    row: int | None
    rule: str
    message: str

    def __str__(self) -> str:
        place = [self.file]
        if self.task is not None:
            place.append(f"task '{self.task}'")
        if self.row is not None:
            place.append(f"row {self.row}")
        return f"{', '.join(place)}: {self.message} [{self.rule}]"


def collection_faults(collection: Collection) -> Iterator[Fault]:
    """Every fault in the tables of a canonical collection; none means that it obeys all rules."""
    task_faults = list(_task_faults(collection.tasks))
    config_faults = list(_config_faults(collection))
    yield from task_faults
    yield from config_faults
    yield from _evaluation_faults(collection)


def highest_fidelity(evaluations: pd.DataFrame, task_codes: np.ndarray, tasks: int) -> np.ndarray:
    """Which rows `[R]` bool stand at the highest fidelity of their task (all rows where there is no
    fidelity).
    """
    if "fidelity" not in evaluations.columns:
        return np.ones(len(evaluations), dtype=bool)
    fidelity = evaluations["fidelity"].to_numpy()
    top = np.full(tasks, -np.inf)
    known = (task_codes >= 0) & np.isfinite(fidelity)
    np.maximum.at(top, task_codes[known], fidelity[known])
    top = np.append(top, np.nan)  # the code of an unknown task is -1, which is this entry
    return known & (fidelity == top[task_codes])


def _rows(
    file: str,
    rows: np.ndarray,
    rule: str,
    message: str,
    tasks: pd.Series | None = None,
    values: pd.Series | None = None,
) -> Iterator[Fault]:
    """A fault a row where `rows` `[R]` bool holds; `{value}` in the message becomes the value of the row."""
    found = np.flatnonzero(rows)
    for row in found[:MOST_FAULTS_A_RULE]:
        task = None if tasks is None or pd.isna(tasks.iloc[row]) else str(tasks.iloc[row])
        words = message if values is None else message.replace("{value}", str(values.iloc[row])[:100])
        yield Fault(file, task, int(row), rule, words)
    if len(found) > MOST_FAULTS_A_RULE:
        yield Fault(
            file, None, None, rule, f"and {len(found) - MOST_FAULTS_A_RULE} more rows with this fault"
        )


def _task_faults(tasks: pd.DataFrame) -> Iterator[Fault]:
    file = "tasks.parquet"
    names = tasks["task"]
    if not len(tasks):
        yield Fault(file, None, None, "no-tasks", "there is no task in it")
    empty = (names.isna() | (names == "")).to_numpy(dtype=bool)
    yield from _rows(file, empty, "empty-task-name", "the task has no name")
    yield from _rows(
        file, names.duplicated().to_numpy() & ~empty, "duplicate-task", "the task occurs twice", names
    )
    groups = tasks["group"]
    no_group = (groups.isna() | (groups == "")).to_numpy(dtype=bool)
    yield from _rows(
        file, no_group, "empty-group", "the task has no group; a task of its own is its own group", names
    )
    for column in tasks.columns[2:]:
        infinite = np.isinf(tasks[column].to_numpy())
        message = f"metafeature '{column}' is {{value}}"
        yield from _rows(file, infinite, "infinite-metafeature", message, names, tasks[column])


def _config_faults(collection: Collection) -> Iterator[Fault]:
    file = "configs.parquet"
    configs = collection.configs
    if not len(configs):
        yield Fault(file, None, None, "no-configurations", "there is no configuration in it")
    ids = configs["config_id"]
    yield from _rows(
        file, ids.duplicated().to_numpy(), "duplicate-config-id", "config_id {value} occurs twice", None, ids
    )
    yield from _rows(
        file, (ids < 0).to_numpy(), "negative-config-id", "config_id {value} is negative", None, ids
    )
    values = configs.iloc[:, 1:]
    counts: dict[str, int] = {}
    for violation in SpaceEncoding(collection.space).violations(values):
        counts[violation.rule] = counts.get(violation.rule, 0) + 1
        if counts[violation.rule] <= MOST_FAULTS_A_RULE:
            column = f"hyperparameter '{violation.parameter}': " if violation.parameter else ""
            yield Fault(file, None, violation.row, violation.rule, column + violation.message)
    twice = values.duplicated().to_numpy()
    yield from _rows(file, twice, "duplicate-configuration", "the same configuration as an earlier row")


def _evaluation_faults(collection: Collection) -> Iterator[Fault]:
    file = "evaluations.parquet"
    evaluations, objective = collection.evaluations, collection.info.objective
    names, values = evaluations["task"], evaluations["objective"]
    tasks = collection.tasks["task"].drop_duplicates().dropna()
    task_codes = pd.Index(tasks).get_indexer(names)
    config_codes = pd.Index(collection.configs["config_id"].drop_duplicates()).get_indexer(
        evaluations["config_id"]
    )
    yield from _rows(
        file, task_codes < 0, "unknown-task", "task '{value}' is not in tasks.parquet", None, names
    )
    ids = evaluations["config_id"]
    yield from _rows(
        file, config_codes < 0, "unknown-config", "config_id {value} is not in configs.parquet", names, ids
    )
    numbers = values.to_numpy()
    yield from _rows(file, np.isinf(numbers), "infinite-objective", "objective is {value}", names, values)
    outside = np.zeros(len(numbers), dtype=bool)
    if objective.lower is not None:
        outside |= numbers < objective.lower
    if objective.upper is not None:
        outside |= numbers > objective.upper
    message = f"objective {{value}} is outside the declared bounds [{objective.lower}, {objective.upper}]"
    yield from _rows(file, outside & np.isfinite(numbers), "objective-out-of-bounds", message, names, values)
    yield from _column_faults(evaluations)
    yield from _duplicate_faults(evaluations, task_codes, config_codes)
    yield from _surface_faults(evaluations, task_codes, config_codes, tasks)


def _column_faults(evaluations: pd.DataFrame) -> Iterator[Fault]:
    """Faults of the optional columns: fidelity, repeat, cost and other objectives."""
    file, names = "evaluations.parquet", evaluations["task"]
    for column in evaluations.columns[3:]:
        series = evaluations[column]
        numbers = series.to_numpy()
        if column == "fidelity":
            wrong, rule, words = ~np.isfinite(numbers), "bad-fidelity", "fidelity is {value}"
        elif column == "repeat":
            wrong, rule, words = numbers < 0, "bad-repeat", "repeat is {value}"
        elif column == "cost":
            wrong, rule, words = np.isinf(numbers) | (numbers < 0), "bad-cost", "cost is {value}"
        else:
            wrong, rule, words = np.isinf(numbers), "infinite-objective", f"{column} is {{value}}"
        yield from _rows(file, wrong, rule, words, names, series)


def _duplicate_faults(
    evaluations: pd.DataFrame, task_codes: np.ndarray, config_codes: np.ndarray
) -> Iterator[Fault]:
    key = {"task": task_codes, "config": config_codes}
    for column in ("fidelity", "repeat"):
        if column in evaluations.columns:
            key[column] = evaluations[column].to_numpy()
    known = (task_codes >= 0) & (config_codes >= 0)
    twice = pd.DataFrame(key).duplicated().to_numpy() & known
    message = f"this evaluation (config_id {{value}}) stands in an earlier row too: same {', '.join(key)}"
    yield from _rows(
        "evaluations.parquet",
        twice,
        "duplicate-evaluation",
        message,
        evaluations["task"],
        evaluations["config_id"],
    )


def _surface_faults(
    evaluations: pd.DataFrame, task_codes: np.ndarray, config_codes: np.ndarray, tasks: pd.Series
) -> Iterator[Fault]:
    """Tasks whose surface, the mean over repeats at the highest fidelity, is empty or the same everywhere."""
    numbers = evaluations["objective"].to_numpy()
    used = highest_fidelity(evaluations, task_codes, len(tasks)) & np.isfinite(numbers)
    used &= (task_codes >= 0) & (config_codes >= 0)
    width = int(config_codes.max(initial=0)) + 1
    cells, inverse = np.unique(task_codes[used] * width + config_codes[used], return_inverse=True)
    count = np.bincount(inverse, minlength=len(cells))
    means = np.bincount(inverse, weights=numbers[used], minlength=len(cells)) / np.maximum(count, 1)
    owners = cells // width
    low, high = np.full(len(tasks), np.inf), np.full(len(tasks), -np.inf)
    np.minimum.at(low, owners, means)
    np.maximum.at(high, owners, means)
    sizes = np.bincount(owners, minlength=len(tasks))
    for index, task in enumerate(tasks):
        if sizes[index] == 0:
            message = "the task has no evaluation with a value (at its highest fidelity)"
            yield Fault("evaluations.parquet", str(task), None, "empty-surface", message)
        elif low[index] == high[index]:
            value = f"{sizes[index]} configurations with a value have {low[index]:g}"
            message = f"constant surface: all {value}, so nothing can be chosen"
            yield Fault("evaluations.parquet", str(task), None, "constant-surface", message)
