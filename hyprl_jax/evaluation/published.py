"""Results that others published for HPO-B, as trajectories beside our own.

A result file is `{space: {dataset: {seed: [number, ...]}}}`, seeds called test0 to test4. The numbers are
incumbents as HPO-B's own loader writes them (`HPOBHandler.evaluate`): the best response so far, scaled by the
best (1) and the worst (0) of the dataset's own table, so the regret is one minus the number. The first stands
after the five starting configurations, each further one after one more trial; the usual 101 numbers are 100
trials, 105 configurations in all. What the curve was before, at the trials of the starting points, follows
from the tables.

The first number must be what the starting points reached on the tables: this finds files that belong to
other starting points, to other tables, or to HPO-B's continuous surrogates. Numbers that agree with a value
of the table to seven digits are taken to be it, so that ties with our own methods are ties.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import incumbent_curve, normalized_regret, table_bounds
from hyprl_jax.evaluation.protocol import COLUMNS, check_method_name
from hyprl_jax.surfaces.importers.nested_json import scanner_of
from hyprl_jax.surfaces.reading import SPACE, find_collection
from hyprl_jax.surfaces.space_json import read_space
from hyprl_jax.surfaces.tables import TaskTables

MAX_BYTES = 2**30
MOST_NUMBERS = 100_000
SAME = 1e-7  # numbers this close are one: HPO-B's authors compare eight digits
_SEED = re.compile(r"test(\d{1,9})")

Published = dict[str, dict[str, dict[int, np.ndarray]]]
"""Of each space, dataset and seed the scaled incumbents `[N]` float64, not decreasing, in [0, 1]."""

__all__ = ["Published", "hpob_space", "published_trajectories", "read_published"]


def read_published(path: str | Path) -> Published:
    """A result file, checked.

    Raises:
        InputError: not of the form; a number outside [0, 1] or an incumbent that gets worse, named with
        space, dataset and seed.
    """
    scanner = scanner_of(Path(path).expanduser(), MAX_BYTES)
    results: Published = {}
    for space in scanner.members("the file", set()):
        results[space] = {}
        for dataset in scanner.members(f"space '{space}'", set()):
            where = f"space '{space}', dataset '{dataset}'"
            seeds = results[space][dataset] = {}
            for seed in scanner.members(where, set()):
                match = _SEED.fullmatch(seed)
                if match is None or int(match[1]) in seeds:
                    raise InputError(
                        f"{scanner.file}: {where}: '{seed[:40]}' is no seed like test0, test1, .."
                    )
                seeds[int(match[1])] = _incumbents(f"{scanner.file}: {where}, {seed}", scanner.value())
    scanner.end()
    return results


def published_trajectories(
    results: Published,
    method: str,
    tables: TaskTables,
    tasks: Sequence[str],
    seeds: Sequence[int],
    starts: np.ndarray | None,
    trials: int | None = None,
    space: str | None = None,
) -> pd.DataFrame:
    """Published curves as trajectories with the columns of `COLUMNS`, for the test tasks of a collection.

    What was tested is not known, so `config_id` and `objective` are null, as are costs and seconds.

    Args:
        results: a result file as read.
        method: its name among the methods.
        tables: the collection, one search space.
        tasks: the D test tasks.
        seeds: the S seeds; seed 0 is the file's test0.
        starts: the starting points `[D, S, I]` that the file's curves begin after.
        trials: length of the curves, with the I trials of the starting points; None for all that there is.
        space: which space of the file; may be left out where only one has all the tasks.

    Raises:
        InputError: no starting points, or others than those of the file; a task, a seed or trials that the
        file does not have.
    """
    check_method_name(method)
    if starts is None:
        raise InputError(
            f"{method}: published curves begin after the starting points, so these must be known: play with "
            "starting points"
        )
    if starts.ndim != 3 or starts.shape[:2] != (len(tasks), len(seeds)) or starts.shape[2] < 1:
        expected = f"[{len(tasks)} tasks, {len(seeds)} seeds, at least 1]"
        raise InputError(f"{method}: starting points have the shape {list(starts.shape)}, not {expected}")
    datasets = results[_space(results, method, tasks, space)]
    curves = [_curves(method, task, datasets[task], seeds) for task in tasks]
    begun = starts.shape[2]
    there = begun - 1 + min(len(curve) for runs in curves for curve in runs)
    trials = there if trials is None else trials
    if not begun <= trials <= there:
        raise InputError(f"{method}: has the trials {begun} to {there}; {trials} trials cannot be compared")
    rows = [tables.tasks.index(task) if task in tables.tasks else -1 for task in tasks]
    if -1 in rows:
        raise InputError(f"task '{tasks[rows.index(-1)]}' is not in collection '{tables.collection}'")
    objective = tables.objective[rows]
    tested = objective[np.arange(len(rows))[:, None, None], starts]  # [D, S, I]
    if np.isnan(tested).any():
        raise InputError(f"{method}: a starting point has no result on its task")
    best, worst = table_bounds(objective, tables.direction)
    first = incumbent_curve(tested, tables.direction)
    regret = np.ones((len(tasks), len(seeds), trials))
    regret[..., :begun] = normalized_regret(first, best, worst)
    after = 1.0 - np.array([[curve[: trials - begun + 1] for curve in runs] for runs in curves])
    after = np.stack([_snapped(own, objective[[row]], tables.direction) for row, own in enumerate(after)])
    _check_beginning(method, tasks, seeds, regret[..., begun - 1], after[..., 0])
    regret[..., begun:] = after[..., 1:]
    regret = np.minimum.accumulate(regret, axis=-1)
    incumbent = best[:, None, None] - regret * (best - worst)[:, None, None]
    incumbent[..., :begun] = first
    return _frame(method, tables.collection, tasks, seeds, incumbent, regret)


def hpob_space(collection: str | Path) -> str | None:
    """Which search space of HPO-B a collection on disk is, None if none."""
    name = read_space(find_collection(collection) / SPACE).name
    return name.removeprefix("hpob-") if name and name.startswith("hpob-") else None


def _incumbents(where: str, content: Any) -> np.ndarray:
    """One curve `[N]` float64, checked; numbers that miss [0, 1] or fall by a rounding error are mended."""
    numbers = content if isinstance(content, list) else []
    numbers = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in numbers]
    plain = all(type(one) in (int, float) and -1.0 <= one <= 2.0 for one in numbers)
    if not plain or not 1 <= len(numbers) <= MOST_NUMBERS:
        raise InputError(f"{where}: must be a list of incumbents, numbers from 0 to 1")
    curve = np.array(numbers, dtype=np.float64)
    outside = np.flatnonzero((curve < -SAME) | (curve > 1.0 + SAME))
    if len(outside):
        raise InputError(
            f"{where}: {curve[outside[0]]:g} (number {outside[0]}) is not within 0 and 1; incumbents must be "
            "scaled by the best and the worst value of the dataset"
        )
    falls = np.flatnonzero(np.diff(curve) < -SAME)
    if len(falls):
        raise InputError(
            f"{where}: falls after number {falls[0]}; incumbents never get worse (are they regrets?)"
        )
    return np.maximum.accumulate(np.clip(curve, 0.0, 1.0))


def _space(results: Published, method: str, tasks: Sequence[str], space: str | None) -> str:
    """The space to be taken: the wanted one, or the only one that has all tasks."""
    if space is not None and space not in results:
        there = ", ".join(list(results)[:30]) or "none"
        raise InputError(f"{method}: has no search space '{space}'; there are {there}")
    spaces = [space] if space is not None else list(results)
    complete = [one for one in spaces if set(tasks) <= set(results[one])]
    if len(complete) == 1:
        return complete[0]
    if len(complete) > 1:
        raise InputError(
            f"{method}: the spaces {', '.join(complete[:30])} have these tasks; say which to take"
        )
    lacking = sorted(set(tasks) - set(results[spaces[0]]))[0] if len(spaces) == 1 else tasks[0]
    raise InputError(
        f"{method}: no result for the task '{lacking}'" + (f" in space '{space}'" if space else "")
    )


def _curves(method: str, task: str, runs: dict[int, np.ndarray], seeds: Sequence[int]) -> list[np.ndarray]:
    missing = [seed for seed in seeds if seed not in runs]
    if missing:
        raise InputError(f"{method}, task '{task}': no result for seed {missing[0]} (test{missing[0]})")
    return [runs[seed] for seed in seeds]


def _snapped(regret: np.ndarray, objective: np.ndarray, direction: str) -> np.ndarray:
    """Regrets of one task, those as close as `SAME` to a value of its table `[1, C]` replaced by it."""
    values = objective[:, ~np.isnan(objective[0])]
    known = np.unique(normalized_regret(values, *table_bounds(values, direction)))
    place = np.clip(np.searchsorted(known, regret), 1, max(1, len(known) - 1))
    below, above = known[place - 1], known[np.minimum(place, len(known) - 1)]
    nearest = np.where(regret - below <= above - regret, below, above)
    return np.where(np.abs(nearest - regret) <= SAME, nearest, regret)


def _check_beginning(
    method: str, tasks: Sequence[str], seeds: Sequence[int], own: np.ndarray, theirs: np.ndarray
) -> None:
    """InputError unless the curves begin, `[D, S]`, where the starting points end."""
    faulty = np.argwhere(np.abs(own - theirs) > 10 * SAME)
    if len(faulty):
        task, run = faulty[0]
        raise InputError(
            f"{method}, task '{tasks[task]}', seed {seeds[run]}: the published curve begins with a regret of "
            f"{theirs[task, run]:.6g}, but the starting points reach {own[task, run]:.6g}; the file belongs "
            "to other starting points or to another table"
        )


def _frame(
    method: str,
    collection: str,
    tasks: Sequence[str],
    seeds: Sequence[int],
    incumbent: np.ndarray,
    regret: np.ndarray,
) -> pd.DataFrame:
    """The long table of curves `[D, S, T]`."""
    index = np.indices(regret.shape).reshape(3, -1)
    nothing = np.full(regret.size, np.nan)
    data = {
        "method": pd.array([method], dtype="str").take(np.zeros(regret.size, dtype=np.int64)),
        "collection": pd.array([collection], dtype="str").take(np.zeros(regret.size, dtype=np.int64)),
        "task": pd.array(list(tasks), dtype="str").take(index[0]),
        "seed": np.asarray(seeds, dtype=np.int64)[index[1]],
        "trial": index[2] + 1,
        "config_id": pd.array([pd.NA] * regret.size, dtype="Int64"),
        "objective": nothing,
        "incumbent": incumbent.ravel(),
        "normalized_regret": regret.ravel(),
        "cost": nothing,
        "suggest_seconds": nothing,
    }
    return pd.DataFrame(data)[list(COLUMNS)].astype(COLUMNS)
