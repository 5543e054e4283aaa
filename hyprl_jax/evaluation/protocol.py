"""From what a method played to the long table of trajectories that every report starts from.

`Played` holds the configurations that one method tried on every test task with every seed. `trajectories`
looks the results up in the tables, follows the incumbent, and returns one row a trial. Each action is checked
first: a method that tries a configuration twice, or one without a result, gets an `InputError` that names
method, task, seed and trial, never a number. Only a method that declares it may repeat itself: a repeat costs
a trial, and the configuration's cost once more, and leaves the incumbent as it is. The task's own best and
worst value are used here, for scoring, and nowhere else.

A method that broke down on a task is no mistake of the user's: its `Failure` stands beside the play, it has
-1 from that trial on, and keeps the regret it had reached (1, the worst, if it had tried nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import incumbent_curve, normalized_regret, table_bounds

NOTHING_LEFT = -1

# Column -> pandas dtype. `config_id` is nullable: a trial after the table is exhausted has none.
COLUMNS: dict[str, str] = {
    "method": "str",
    "collection": "str",
    "task": "str",
    "seed": "int64",
    "trial": "int64",
    "config_id": "Int64",
    "objective": "float64",
    "incumbent": "float64",
    "normalized_regret": "float64",
    "cost": "float64",
    "suggest_seconds": "float64",
}
MAX_NAME_LENGTH = 200


class Tables(Protocol):
    """The part of `hyprl_jax.surfaces.TaskTables` that scoring needs; `D` tasks, `C` configurations."""

    @property
    def collection(self) -> str: ...
    @property
    def direction(self) -> str: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def config_ids(self) -> np.ndarray: ...  # [C] int64
    @property
    def objective(self) -> np.ndarray: ...  # [D, C] float64, NaN where missing
    @property
    def cost(self) -> np.ndarray: ...  # [D, C] float64, NaN where unknown


@dataclass(frozen=True)
class Failure:
    """A run that ended early: the method raised, proposed what it may not, died or hung at the 1-based
    `trial`; `reason` is one line."""

    task: str
    seed: int
    trial: int
    reason: str


@dataclass(frozen=True, eq=False)
class Played:
    """What one method did on `D` test tasks, with `S` seeds, for `T` trials.

    `actions` `[D, S, T]` integers: column of `TaskTables.config_ids`, or -1 where nothing was left to try (at
    the end only) and from the trial of a failure on. `seeds`: `S` distinct integers; a deterministic method
    may have one. `suggest_seconds`: wall seconds of every suggestion, `[D, S, T]` or anything that broadcasts
    to it; NaN where it was not measured. `failures`: at most one a (task, seed). `repeats`: the method is one
    that tries configurations again.
    """

    method: str
    actions: np.ndarray
    seeds: tuple[int, ...]
    suggest_seconds: np.ndarray | float = float("nan")
    failures: tuple[Failure, ...] = ()
    repeats: bool = False


def trajectories(
    tables: Tables, test_tasks: Sequence[str], played: Played | Sequence[Played]
) -> pd.DataFrame:
    """One row a (method, task, seed, trial), in this order, with the columns and dtypes of `COLUMNS`.

    `config_id` and `objective` are null where nothing was left to try; `cost` is cumulative, null from the
    first trial on whose cost is unknown. A failed run keeps its incumbent; where it has none, incumbent is
    null and normalized_regret 1. Raises `InputError` for unknown tasks and for every illegal action.
    """
    rows = _task_rows(tables, test_tasks)
    methods = [played] if isinstance(played, Played) else list(played)
    if not methods:
        raise InputError("no method was played: name at least one")
    names = [one.method for one in methods]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"method {repeated[0]!r} was played twice: give each method its own name")
    frames = [_one_method(tables, list(test_tasks), rows, one) for one in methods]
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def _one_method(tables: Tables, test_tasks: list[str], rows: np.ndarray, played: Played) -> pd.DataFrame:
    objective = np.asarray(tables.objective, dtype=np.float64)[rows]
    actions, seconds = _checked_shapes(played, len(rows))
    _check_actions(played, test_tasks, objective, actions, _failed_trials(played, test_tasks, actions))

    stopped = actions == NOTHING_LEFT
    column = np.where(stopped, 0, actions)
    task = np.arange(len(rows))[:, None, None]
    values = np.where(stopped, np.nan, objective[task, column])
    incumbent = incumbent_curve(values, tables.direction)
    regret = normalized_regret(incumbent, *table_bounds(objective, tables.direction))
    regret = np.where(np.isnan(incumbent), 1.0, regret)  # failed before it had tried anything
    step_cost = np.asarray(tables.cost, dtype=np.float64)[rows][task, column]
    cost = np.cumsum(np.where(stopped, 0.0, step_cost), axis=-1)  # NaN spreads to every later trial
    config_id = pd.array(np.asarray(tables.config_ids, dtype=np.int64)[column].ravel(), dtype="Int64")
    config_id[stopped.ravel()] = pd.NA

    index = np.indices(actions.shape).reshape(3, -1)
    data = {
        "method": _constant_text(played.method, actions.size),
        "collection": _constant_text(tables.collection, actions.size),
        "task": pd.array(test_tasks, dtype="str").take(index[0]),
        "seed": np.asarray(played.seeds, dtype=np.int64)[index[1]],
        "trial": index[2] + 1,
        "config_id": config_id,
        "objective": values.ravel(),
        "incumbent": incumbent.ravel(),
        "normalized_regret": regret.ravel(),
        "cost": cost.ravel(),
        "suggest_seconds": np.where(stopped, np.nan, seconds).ravel(),
    }
    return pd.DataFrame(data).astype(COLUMNS)


def _constant_text(text: str, length: int) -> pd.api.extensions.ExtensionArray:
    return pd.array([text], dtype="str").take(np.zeros(length, dtype=np.int64))


def _task_rows(tables: Tables, test_tasks: Sequence[str]) -> np.ndarray:
    """Row of every test task in the tables, `[D_test]`; checks that each exists once and has results."""
    if isinstance(test_tasks, str) or len(test_tasks) == 0:
        raise InputError("test_tasks is empty or a single text: give a list with at least one task name")
    position = {name: row for row, name in enumerate(tables.tasks)}
    for name in test_tasks:
        if name not in position:
            raise InputError(f"task {name!r} is not in collection {tables.collection!r}: check the split")
    if len(set(test_tasks)) != len(test_tasks):
        repeated = next(name for name in test_tasks if list(test_tasks).count(name) > 1)
        raise InputError(f"task {repeated!r} stands twice among the test tasks: name each task once")
    rows = np.asarray([position[name] for name in test_tasks], dtype=np.int64)
    values = np.asarray(tables.objective, dtype=np.float64)[rows]
    for name, row in zip(test_tasks, values, strict=True):
        if np.isinf(row).any():
            raise InputError(
                f"task {name!r}: the table holds infinite objectives; run `surfaces validate` on it"
            )
        if np.isnan(row).all():
            raise InputError(f"task {name!r}: no configuration has a result; leave the task out of the split")
    return rows


def check_method_name(name: object) -> None:
    """Method names go into files, plots and tables: printable text of 1 to `MAX_NAME_LENGTH` characters."""
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InputError(f"method name {str(name)[:60]!r}: use 1 to {MAX_NAME_LENGTH} printable characters")


def _checked_shapes(played: Played, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions as int64 and seconds as float64, both `[D, S, T]`, after checks of names, dtypes and shapes."""
    check_method_name(played.method)
    where = f"method {played.method!r}"
    actions, seeds = np.asarray(played.actions), tuple(played.seeds)
    if not np.issubdtype(actions.dtype, np.integer):
        raise InputError(f"{where}: actions have dtype {actions.dtype}; give integers (columns of the table)")
    if actions.ndim != 3 or actions.shape[:2] != (tasks, len(seeds)) or 0 in actions.shape:
        expected = f"[{tasks} tasks, {len(seeds)} seeds, trials >= 1]"
        raise InputError(f"{where}: actions have shape {list(actions.shape)}, expected {expected}")
    whole = all(isinstance(seed, int | np.integer) and not isinstance(seed, bool) for seed in seeds)
    if not whole or len(set(seeds)) != len(seeds):
        raise InputError(f"{where}: seeds {str(seeds)[:60]} must be distinct integers")
    if min(seeds) < -(2**63) or max(seeds) >= 2**63:
        raise InputError(f"{where}: a seed does not fit into 64 bits; choose smaller seeds")
    try:
        seconds = np.broadcast_to(np.asarray(played.suggest_seconds, dtype=np.float64), actions.shape)
    except (TypeError, ValueError) as error:
        shape = list(actions.shape)
        raise InputError(f"{where}: suggest_seconds must be numbers that broadcast to {shape}") from error
    if (seconds < 0).any() or np.isinf(seconds).any():
        raise InputError(f"{where}: suggest_seconds must be finite and not negative (NaN where not measured)")
    if (actions > np.iinfo(np.int64).max).any():
        raise InputError(f"{where}: an action does not fit into 64 bits; give columns of the table")
    return actions.astype(np.int64), seconds


def _failed_trials(played: Played, tasks: Sequence[str], actions: np.ndarray) -> np.ndarray:
    """1-based trial at which each run failed, `[D, S, 1]`, one beyond the last where it did not; checks the
    failures.
    """
    failed = np.full((*actions.shape[:2], 1), actions.shape[2] + 1, dtype=np.int64)
    for failure in played.failures:
        where = f"method {played.method!r}, failure on task {failure.task!r}, seed {failure.seed}"
        if failure.task not in tasks or failure.seed not in played.seeds:
            raise InputError(f"{where}: this task or seed was not played")
        cell = list(tasks).index(failure.task), list(played.seeds).index(failure.seed)
        if failed[cell][0] <= actions.shape[2]:
            raise InputError(f"{where}: stands twice; a run fails once")
        if not 1 <= failure.trial <= actions.shape[2]:
            raise InputError(f"{where}: trial {failure.trial} is none of the {actions.shape[2]} played")
        if (actions[cell][failure.trial - 1 :] != NOTHING_LEFT).any():
            raise InputError(f"{where}: has actions from trial {failure.trial} on; a failed run has -1 there")
        if (actions[cell][: failure.trial - 1] == NOTHING_LEFT).any():
            raise InputError(f"{where}: has -1 before trial {failure.trial}, at which it failed")
        failed[cell] = failure.trial
    return failed


def _check_actions(
    played: Played, tasks: list[str], objective: np.ndarray, actions: np.ndarray, failed: np.ndarray
) -> None:
    """Raises `InputError` for the first illegal action; `objective` `[D, C]`, `actions` `[D, S, T]`, `failed`
    `[D, S, 1]`."""

    def refuse(faulty: np.ndarray, reason: str) -> None:
        if faulty.any():
            task, seed, trial = (int(i) for i in np.argwhere(faulty)[0])
            where = f"method {played.method!r}, task {tasks[task]!r}, seed {played.seeds[seed]}"
            raise InputError(f"{where}, trial {trial + 1}: action {actions[task, seed, trial]} {reason}")

    size = objective.shape[1]
    refuse(
        (actions < NOTHING_LEFT) | (actions >= size), f"is out of range; columns are 0 to {size - 1}, or -1"
    )
    stopped = actions == NOTHING_LEFT
    first = stopped & (np.arange(actions.shape[2]) == 0) & (failed != 1)
    refuse(first, "(nothing left) at the first trial leaves no incumbent; play at least one configuration")
    resumed = ~stopped & (np.cumsum(stopped, axis=-1) > 0)
    refuse(resumed, "follows a -1 (nothing left); -1 may only stand at the end")
    task = np.arange(len(actions))[:, None, None]
    missing = np.isnan(objective[task, np.where(stopped, 0, actions)]) & ~stopped
    refuse(missing, "is illegal: this configuration has no result on this task")
    if not played.repeats:
        refuse(_repeats(actions), "repeats an earlier trial; each configuration may be tried once")


def _repeats(actions: np.ndarray) -> np.ndarray:
    """True where an action stood earlier in the same run, `[D, S, T]`; -1 is no repeat."""
    order = np.argsort(actions, axis=-1, kind="stable")  # equal actions stay in order of their trials
    ordered = np.take_along_axis(actions, order, axis=-1)
    same = np.zeros(actions.shape, dtype=bool)
    same[..., 1:] = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != NOTHING_LEFT)
    faulty = np.zeros(actions.shape, dtype=bool)
    np.put_along_axis(faulty, order, same, axis=-1)
    return faulty
