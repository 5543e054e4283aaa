"""Response surfaces as arrays on the device: every task of every collection in one padded, masked bank.

The columns of a bank are configurations. All tasks of one collection share their columns (a configuration
that a task never evaluated is masked out for that task), so that knowledge of one task's surface is
knowledge about the same columns of another; collections of different sizes and spaces are padded to the
widest. A bank is a pytree of arrays only: it is passed to compiled functions as an argument. What has no
place on a device (names, identifiers) is in the
`BankIndex` beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.mesh import ALONE, Sharing
from hyprl_jax.runtime.smoothing import smoothed

if TYPE_CHECKING:
    from hyprl_jax.surfaces import Split, TaskTables

_NEIGHBOURS = 8  # evaluated configurations that a missing value is filled in from


class SurfaceBank(NamedTuple):
    """D tasks of L collections over N columns; F encoding features, M metafeatures. Float arrays are
    float32."""

    objective: jax.Array
    """`[D, N]` raw objective, negated where it is minimised (higher is better); 0 where missing."""
    legal: jax.Array
    """`[D, N]` bool: the task has a value for the configuration."""
    unit: jax.Array
    """`[D, N]` the objective scaled by the task's own best (1) and worst (0); missing values filled in from
    similar configurations. For tasks whose whole table is known beforehand, never for the task being
    played."""
    smooth: jax.Array
    """`[D, N]` the same without its noise, see `hyprl_jax.runtime.smoothing`."""
    best: jax.Array
    """`[D]` best objective of the task's table: for rewards and scoring."""
    worst: jax.Array
    """`[D]` worst objective of the task's table: for rewards and scoring."""
    encodings: jax.Array
    """`[L, N, F]` unit-cube encodings of the configurations, 0 in padded columns and features."""
    metafeatures: jax.Array
    """`[D, M]` metafeatures, not yet standardised; NaN where unknown or of another collection."""
    collection: jax.Array
    """`[D]` int32: which collection the task belongs to."""
    group: jax.Array
    """`[D]` int32: tasks with the same number come from the same source data."""


TABLES = ("objective", "legal", "unit", "smooth")
"""The fields of a bank that are `[D, N]`: nearly all of its size."""


class Fold(NamedTuple):
    """One fold of a split. Its K known tasks are the training tasks followed by the validation tasks; folds
    of a study are padded to the same K, so that they can be stacked and vmapped. Test tasks are in no array
    of a fold."""

    known: jax.Array
    """`[K]` int32 rows of the bank; padding repeats the first row."""
    usable: jax.Array
    """`[K]` bool, False for padding."""
    trained: jax.Array
    """Scalar int32: the first so many known tasks are the training tasks."""


@dataclass(frozen=True)
class BankIndex:
    """The names of what a bank holds, in its order."""

    tables: tuple[TaskTables, ...]
    tasks: tuple[tuple[str, str], ...]
    """`(collection, task)` of each of the D rows."""

    def rows(self, collection: str, tasks: Sequence[str]) -> np.ndarray:
        """Rows of the bank, int32, of the tasks of a collection; raises InputError for one it does not
        hold."""
        places = {name: row for row, name in enumerate(self.tasks)}
        missing = [task for task in tasks if (collection, task) not in places]
        if missing:
            raise InputError(f"task {missing[0]!r} of {collection!r} is not in the bank")
        return np.asarray([places[collection, task] for task in tasks], np.int32)


def pack(tables: Sequence[TaskTables]) -> tuple[SurfaceBank, BankIndex]:
    """One bank of several collections' tables, as NumPy arrays (placing them on devices is the caller's).

    Raises InputError for no tables, a collection given twice, or a task with no value at all.
    """
    if not tables:
        raise InputError("no collection to pack: name at least one")
    names = [table.collection for table in tables]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise InputError(f"collection {twice[0]!r} is given twice: name each collection once")
    columns = max(table.objective.shape[1] for table in tables)
    features = max(table.encodings.shape[1] for table in tables)
    metafeatures = sum(table.metafeatures.shape[1] for table in tables)
    groups = sorted({group for table in tables for group in table.groups})
    parts: list[dict[str, np.ndarray]] = []
    offset = 0
    for number, table in enumerate(tables):
        part = surfaces_of(table, columns)
        rows = len(table.tasks)
        part["collection"] = np.full(rows, number, np.int32)
        part["group"] = np.asarray([groups.index(group) for group in table.groups], np.int32)
        meta = np.full((rows, metafeatures), np.nan, np.float32)
        meta[:, offset : offset + table.metafeatures.shape[1]] = table.metafeatures
        offset += table.metafeatures.shape[1]
        parts.append({**part, "metafeatures": meta})
    encodings = np.zeros((len(tables), columns, features), np.float32)
    for number, table in enumerate(tables):
        encodings[number, : table.encodings.shape[0], : table.encodings.shape[1]] = table.encodings
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    index = tuple((table.collection, task) for table in tables for task in table.tasks)
    return SurfaceBank(encodings=encodings, **joined), BankIndex(tuple(tables), index)  # type: ignore[arg-type]


def make_fold(index: BankIndex, splits: Sequence[Split], size: int | None = None) -> Fold:
    """The fold, as NumPy arrays, of one split for each collection of the bank (in the bank's order), padded
    to `size`.

    Raises InputError if nothing is left to train on, or if tasks of one group are known in one collection and
    tested in another.
    """
    _check_groups(index, splits)
    sides = zip(index.tables, splits, strict=True)
    rows = [(index.rows(t.collection, s.train), index.rows(t.collection, s.validation)) for t, s in sides]
    train = np.concatenate([pair[0] for pair in rows])
    validation = np.concatenate([pair[1] for pair in rows])
    if not len(train):
        raise InputError("the split leaves no task to train on: use a split with more training tasks")
    return fold_of(train, validation, size)


def fold_of(train: np.ndarray, validation: np.ndarray, size: int | None = None) -> Fold:
    """The fold, as NumPy arrays, of int32 rows of training and of validation tasks, padded to `size`."""
    known = np.concatenate([train, validation])
    padding = (size or len(known)) - len(known)
    usable = np.arange(len(known) + padding) < len(known)
    return Fold(np.pad(known, (0, padding), constant_values=known[0]), usable, np.int32(len(train)))  # type: ignore[arg-type]


def _check_groups(index: BankIndex, splits: Sequence[Split]) -> None:
    """InputError if a group is known in one collection and tested in another (a split sees to its own)."""
    known: dict[str, list[tuple[str, str]]] = {}
    tested: dict[str, list[tuple[str, str]]] = {}
    for table, split in zip(index.tables, splits, strict=True):
        groups = dict(zip(table.tasks, table.groups, strict=True))
        for side, tasks in ((known, (*split.train, *split.validation)), (tested, split.test)):
            for task in tasks:
                side.setdefault(groups[task], []).append((table.collection, task))
    for group in sorted(set(known) & set(tested)):
        for one, other in itertools.product(known[group], tested[group]):
            if one[0] != other[0]:
                raise InputError(
                    f"group {group!r} is on both sides: {'/'.join(one)} is trained on and {'/'.join(other)} "
                    "is tested; use a split file that keeps the group on one side in all collections"
                )


def take_candidates(bank: SurfaceBank, columns: jax.Array, sharing: Sharing = ALONE) -> SurfaceBank:
    """The bank with only the configurations `columns [C]` int32; `best` and `worst` stay those of the whole
    table. Where `sharing` says that each device holds some tasks only, all hold all tasks of the result."""
    tables = {name: sharing.columns_of(getattr(bank, name), columns, bank.best.shape[0]) for name in TABLES}
    return bank._replace(encodings=bank.encodings[:, columns], **tables)


def peers(bank: SurfaceBank, fold: Fold, row: jax.Array, leave_out: bool = True) -> jax.Array:
    """`[K]` bool: which known tasks may inform the one who plays task `row` (int32 scalar).

    Those are the known tasks of the same collection without the group of `row` itself (unless `leave_out` is
    False).
    """
    allowed = fold.usable & (bank.collection[fold.known] == bank.collection[row])
    return allowed & (bank.group[fold.known] != bank.group[row]) if leave_out else allowed


def standardised_metafeatures(bank: SurfaceBank, fold: Fold) -> jax.Array:
    """`[D, M]` float32 metafeatures with mean 0 and variance 1 over the known tasks, unknown ones 0, within
    3."""
    present = jnp.isfinite(bank.metafeatures)
    weights = (present[fold.known] & fold.usable[:, None]).astype(jnp.float32)
    first = fold.known[jnp.argmax(weights, axis=0)]
    # Counted from a known value, so that what is the same for all known tasks comes to 0 exactly.
    counted_from = jnp.take_along_axis(bank.metafeatures, first[None], axis=0)
    counted_from = jnp.where(jnp.isfinite(counted_from), counted_from, 0.0)
    values = jnp.where(present, bank.metafeatures - counted_from, 0.0)
    count = jnp.maximum(weights.sum(0), 1.0)
    mean = (weights * values[fold.known]).sum(0) / count
    variance = (weights * (values[fold.known] - mean) ** 2).sum(0) / count
    scaled = (values - mean) / jnp.sqrt(variance + 1e-6)
    return jnp.clip(jnp.where(present, scaled, 0.0), -3.0, 3.0)


def surfaces_of(table: TaskTables, columns: int) -> dict[str, np.ndarray]:
    """The arrays `objective`, `legal`, `unit`, `smooth`, `best` and `worst` of a bank for the tasks of one
    collection, padded to `columns`.

    Raises InputError for a task with no value at all.
    """
    sign = 1.0 if table.direction == "maximize" else -1.0
    values = sign * np.asarray(table.objective, np.float64)
    known = np.isfinite(values)
    if not known.any(axis=1).all():
        task = table.tasks[int(np.argmin(known.any(axis=1)))]
        raise InputError(f"collection {table.collection!r}: task {task!r} has no evaluation")
    best = np.max(np.where(known, values, -np.inf), axis=1)
    worst = np.min(np.where(known, values, np.inf), axis=1)
    span = np.where(best > worst, best - worst, 1.0)
    unit = (np.where(known, values, worst[:, None]) - worst[:, None]) / span[:, None]
    unit = _fill_in(unit, known, np.asarray(table.encodings, np.float64))
    pad = ((0, 0), (0, columns - values.shape[1]))
    return {
        "objective": np.pad(np.where(known, values, 0.0), pad).astype(np.float32),
        "legal": np.pad(known, pad),
        "unit": np.pad(unit, pad).astype(np.float32),
        "smooth": np.pad(smoothed(unit, table.encodings), pad).astype(np.float32),
        "best": best.astype(np.float32),
        "worst": worst.astype(np.float32),
    }


def _fill_in(unit: np.ndarray, known: np.ndarray, encodings: np.ndarray) -> np.ndarray:
    """`unit [D, C]` with missing entries replaced by a mean over the nearest configurations that the task
    evaluated."""
    filled = unit.copy()
    for row in np.flatnonzero(~known.all(axis=1)):
        have, lack = np.flatnonzero(known[row]), np.flatnonzero(~known[row])
        for block in np.array_split(lack, max(1, len(lack) // 256)):
            distance = ((encodings[block, None, :] - encodings[None, have, :]) ** 2).sum(-1)
            number = min(_NEIGHBOURS, len(have))
            nearest = np.argpartition(distance, number - 1, axis=1)[:, :number]
            weight = 1.0 / (1e-3 + np.take_along_axis(distance, nearest, axis=1))
            filled[row, block] = (weight * unit[row, have[nearest]]).sum(1) / weight.sum(1)
    return filled
