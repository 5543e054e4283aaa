"""Long tables of trajectories, checked and brought into one dense array per method.

The frames may come straight from `trajectories` or from a file that somebody else wrote, so everything that
the figures rely on is checked here: columns and dtypes, every (task, seed) with the trials 1 to T and nothing
else, the same tasks for every method, regrets in [0, 1] that never rise. Seeds number repetitions: the k-th
smallest seed of one method is compared with the k-th smallest of another, and a method with one seed
(deterministic) stands against all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.protocol import COLUMNS, check_method_name

TEXT_COLUMNS = tuple(name for name, dtype in COLUMNS.items() if dtype == "str")
INTEGER_COLUMNS = tuple(name for name, dtype in COLUMNS.items() if dtype == "int64")
FLOAT_COLUMNS = tuple(name for name, dtype in COLUMNS.items() if dtype == "float64")


@dataclass(frozen=True, eq=False)
class Comparison:
    """`M` methods on the same `D` tasks for the same `T` trials.

    `regret` holds one `[D, S or 1, T]` float64 array a method; `suggest` what its suggestions cost
    (`median_ms` and `p95_ms` of one, `total_seconds` of all), None where no time was measured.
    """

    methods: tuple[str, ...]
    tasks: tuple[tuple[str, str], ...]  # (collection, task), sorted
    seeds: int
    trials: int
    regret: tuple[np.ndarray, ...]
    suggest: tuple[dict[str, float] | None, ...]

    def stacked(self) -> np.ndarray:
        """All regrets, methods of one seed repeated for every seed: `[M, D, S, T]`."""
        shape = (len(self.tasks), self.seeds, self.trials)
        return np.stack([np.broadcast_to(regret, shape) for regret in self.regret])

    def task_means(self) -> np.ndarray:
        """Regret averaged over seeds, `[M, D, T]`."""
        return np.stack([regret.mean(axis=1) for regret in self.regret])

    def task_names(self) -> list[str]:
        """Task names, with the collection in front where there are several collections."""
        several = len({collection for collection, _ in self.tasks}) > 1
        return [f"{collection}/{task}" if several else task for collection, task in self.tasks]

    def collection(self) -> str:
        """The collection's name, or the sorted names joined by commas."""
        return ",".join(sorted({collection for collection, _ in self.tasks}))


def pooled(frames: pd.DataFrame | Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One frame out of one or several, each with the columns of `COLUMNS` and their dtypes."""
    parts = [frames] if isinstance(frames, pd.DataFrame) else list(frames)
    if not parts or any(len(part) == 0 for part in parts):
        raise InputError("trajectories are empty: evaluate at least one method on one task")
    parts = [_with_dtypes(part) for part in parts]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]


def compare(frames: pd.DataFrame | Sequence[pd.DataFrame]) -> Comparison:
    """Checks and arranges trajectories; methods in order of appearance, tasks sorted by name."""
    frame = pooled(frames)
    _check_values(frame)
    method_codes, methods = pd.factorize(frame["method"])
    tasks, task_codes = _task_codes(frame)
    seed, trial = frame["seed"].to_numpy(), frame["trial"].to_numpy()
    order = np.lexsort((trial, seed, task_codes, method_codes))
    trials = int(trial.max())
    regret = frame["normalized_regret"].to_numpy()
    seconds = frame["suggest_seconds"].to_numpy()
    bounds = np.searchsorted(method_codes[order], np.arange(len(methods) + 1))
    for name in methods:
        check_method_name(name)
    cubes, speeds = [], []
    for name, start, stop in zip(methods, bounds[:-1], bounds[1:], strict=True):
        rows = order[start:stop]
        seeds = _check_block(name, tasks, task_codes[rows], seed[rows], trial[rows], trials)
        cube = regret[rows].reshape(len(tasks), seeds, trials)
        if (np.diff(cube, axis=-1) > 1e-9).any():
            task = tasks[int(np.argwhere(np.diff(cube, axis=-1) > 1e-9)[0, 0])][1]
            raise InputError(
                f"method {name!r}, task {task!r}: normalized_regret rises with the trials; file damaged?"
            )
        cubes.append(cube)
        speeds.append(_cost(seconds[rows]))
    counts = {name: cube.shape[1] for name, cube in zip(methods, cubes, strict=True)}
    if len({count for count in counts.values() if count > 1}) > 1:
        raise InputError(
            f"methods have different numbers of seeds {counts}: use one seed or the same number for all"
        )
    return Comparison(tuple(methods), tasks, max(counts.values()), trials, tuple(cubes), tuple(speeds))


def _cost(seconds: np.ndarray) -> dict[str, float] | None:
    """What suggestions cost, from the seconds of each, NaN where not measured."""
    measured = np.sort(seconds[~np.isnan(seconds)])  # sorted: the sum does not depend on the order of rows
    if not measured.size:
        return None
    median, late = np.quantile(measured, [0.5, 0.95]) * 1e3
    return {"median_ms": float(median), "p95_ms": float(late), "total_seconds": float(measured.sum())}


def _with_dtypes(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `COLUMNS` in their order, cast to their dtypes; `InputError` where that cannot be."""
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"trajectories lack the column {missing[0]!r}: columns are {', '.join(COLUMNS)}")
    if not frame.columns.is_unique:
        raise InputError("trajectories have two columns of one name: write each column once")
    for name in TEXT_COLUMNS:
        texts = frame[name]
        if not pd.api.types.is_string_dtype(texts.dtype) or texts.isna().any():
            raise InputError(f"trajectories: column {name!r} must be text without nulls")
    for name in (*INTEGER_COLUMNS, "config_id"):
        if not pd.api.types.is_integer_dtype(frame[name].dtype) or (
            name != "config_id" and frame[name].isna().any()
        ):
            raise InputError(f"trajectories: column {name!r} must hold integers, not {frame[name].dtype}")
    for name in FLOAT_COLUMNS:
        if not pd.api.types.is_numeric_dtype(frame[name].dtype) or pd.api.types.is_complex_dtype(
            frame[name].dtype
        ):
            raise InputError(f"trajectories: column {name!r} must hold numbers, not {frame[name].dtype}")
    try:
        return frame[list(COLUMNS)].astype(COLUMNS)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"trajectories: a column cannot be read as its type ({str(error)[:80]})") from error


def _check_values(frame: pd.DataFrame) -> None:
    regret = frame["normalized_regret"].to_numpy()
    good = (regret >= 0.0) & (regret <= 1.0)  # False for NaN too
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"trajectories, row {row}: normalized_regret {regret[row]} is not within 0 and 1")
    seconds = frame["suggest_seconds"].to_numpy()
    if (seconds < 0).any() or np.isinf(seconds).any():
        raise InputError("trajectories: suggest_seconds must be finite and not negative, or null")
    if (frame["trial"].to_numpy() < 1).any():
        raise InputError("trajectories: trials are counted from 1")


def _task_codes(frame: pd.DataFrame) -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
    """Sorted (collection, task) pairs and the position of each row's pair among them."""
    collection_codes, collections = pd.factorize(frame["collection"], sort=True)
    name_codes, names = pd.factorize(frame["task"], sort=True)
    pair_codes, inverse = np.unique(collection_codes * len(names) + name_codes, return_inverse=True)
    pairs = [(str(collections[pair // len(names)]), str(names[pair % len(names)])) for pair in pair_codes]
    return tuple(pairs), inverse


def _check_block(
    name: str,
    tasks: Sequence[tuple[str, str]],
    task: np.ndarray,
    seed: np.ndarray,
    trial: np.ndarray,
    trials: int,
) -> int:
    """Number of seeds of a method, whose rows in order must be a full block of tasks, seeds and trials."""
    rows_per_task = np.bincount(task, minlength=len(tasks))
    seeds = int(rows_per_task[0]) // trials
    if seeds < 1 or (rows_per_task != seeds * trials).any():
        wrong = int(np.argmax(rows_per_task != max(seeds, 1) * trials))
        rule = f"every method needs every task with the same number of seeds and trials 1 to {trials}"
        raise InputError(f"method {name!r}, task {tasks[wrong][1]!r}: {rows_per_task[wrong]} rows; {rule}")
    run_seed = seed.reshape(-1, trials)
    faulty = (trial.reshape(-1, trials) != np.arange(1, trials + 1)).any(axis=1)
    faulty |= (run_seed != run_seed[:, :1]).any(axis=1)
    if faulty.any():
        row = int(np.argmax(faulty))
        where = f"method {name!r}, task {tasks[row // seeds][1]!r}, seed {run_seed[row, 0]}"
        raise InputError(f"{where}: trials must be 1 to {trials}, each once")
    repeated = np.diff(run_seed[:, 0].reshape(len(tasks), seeds), axis=1) == 0
    if repeated.any():
        task_name = tasks[int(np.argwhere(repeated)[0, 0])][1]
        raise InputError(f"method {name!r}, task {task_name!r}: a seed stands twice; write each run once")
    return seeds
