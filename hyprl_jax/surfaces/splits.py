"""Splits of a collection's tasks into training, validation and test, without leaks between groups.

Tasks of one group (from the same source data) never stand on two sides. Every split is a pure function of
its name, its fold and its seed: groups are ordered by the SHA-256 of seed and group name, so that a split
is the same on every machine, with every version of every library, in every language.

Names: `loo` (fold K tests the K-th group in sorted order); `kfold5`, or any `kfoldN` (fold K tests the K-th
of N parts of about equally many tasks); `kfold5:SEED` (another shuffle; `kfold5` is `kfold5:0`);
`holdout:N:SEED` (N test tasks, fewer where whole groups do not add up, drawn by the seed); the published
splits `metabo`, `metabo:published` and `hpob` (see `surfaces.protocols`); or the path of a JSON file
`{"train": [...], "validation": [...], "test": [...], "config_ids": [...]}`, where validation and config_ids
may be left out.

A split may be about some of the configurations only (`config_ids`): `restrict` gives the tables without the
others, whose best and worst values are those of the subset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.protocols import PROTOCOLS, Sides, published_sides
from hyprl_jax.surfaces.tables import TaskTables

MAX_SPLIT_BYTES = 16 * 2**20
_KFOLD = re.compile(r"kfold(\d{1,4})(?::(\d{1,18}))?")
_HOLDOUT = re.compile(r"holdout:(\d{1,9}):(\d{1,18})")

__all__ = ["Split", "make_split", "number_of_folds", "restrict"]


@dataclass(frozen=True)
class Split:
    """Task names of the three sides, each in the order of the collection.

    `config_ids`, in the order of the collection too, are the configurations it is about, None for all;
    `note` says in words what a reader of results must know about the split, and is mostly empty.
    """

    name: str
    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    config_ids: tuple[int, ...] | None = None
    note: str = ""


def make_split(
    tables: TaskTables, name: str, fold: int, validation_fraction: float = 0.2, seed: int = 0
) -> Split:
    """Split the tasks of a collection.

    Args:
        tables: the collection; its tasks and groups are used, no values.
        name: see the module's description.
        fold: which fold, from 0; 0 for a split that has only one.
        validation_fraction: about which share of the training tasks becomes validation, as whole groups; 0
            for none.
        seed: which validation groups; the test side does not depend on it.

    Raises:
        InputError: unknown name or fold, or a split file that names unknown tasks, one task twice, or puts
            one group on two sides.
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise InputError(f"validation fraction {validation_fraction} is not in [0, 1)")
    folds = number_of_folds(tables, name)
    if not 0 <= fold < folds:
        raise InputError(f"split '{name}' has the folds 0 to {folds - 1}; there is no fold {fold}")
    sides, key = _sides(tables, name, fold)
    train, validation = sides.train, sides.validation or frozenset()
    if sides.validation is None and validation_fraction > 0:
        validation = _validation(tables, train, validation_fraction, f"{key}|{seed}")
        train -= validation
    for side, names in (("train", train), ("test", sides.test)):
        if not names:
            raise InputError(f"split '{name}', fold {fold}, leaves no task on the {side} side")
    ordered = {
        side: tuple(task for task in tables.tasks if task in names)
        for side, names in (("train", train), ("validation", validation), ("test", sides.test))
    }
    return Split(name, fold, **ordered, config_ids=sides.config_ids, note=sides.note)


def restrict(tables: TaskTables, split: Split) -> TaskTables:
    """The tables with the configurations of a split only, in their order; the same tables if it has all.

    They have a content hash of their own, since what is best, worst and where it stands is different. Tasks
    on no side of the split that have no value left are left out.

    Raises:
        InputError: a configuration that the tables do not have, or a task of the split without a value.
    """
    if split.config_ids is None:
        return tables
    columns = np.isin(tables.config_ids, split.config_ids)
    if columns.sum() != len(split.config_ids):
        raise InputError(
            f"split '{split.name}' names configurations that collection '{tables.collection}' does not have"
        )
    valued = ~np.isnan(tables.objective[:, columns]).all(axis=1)
    for task, some in zip(tables.tasks, valued, strict=True):
        if not some and task in {*split.train, *split.validation, *split.test}:
            raise InputError(f"split '{split.name}': task '{task}' has no value for any of its config_ids")
    chosen = hashlib.sha256(f"{tables.content_hash}|{tables.config_ids[columns].tolist()}".encode())
    return dataclasses.replace(
        tables,
        content_hash=chosen.hexdigest(),
        tasks=tuple(task for task, some in zip(tables.tasks, valued, strict=True) if some),
        groups=tuple(group for group, some in zip(tables.groups, valued, strict=True) if some),
        config_ids=tables.config_ids[columns],
        encodings=tables.encodings[columns],
        objective=tables.objective[valued][:, columns],
        cost=tables.cost[valued][:, columns],
        metafeatures=tables.metafeatures[valued],
    )


def number_of_folds(tables: TaskTables, name: str) -> int:
    """How many folds a split has on this collection (`InputError` for an unknown split)."""
    groups = len(set(tables.groups))
    if name == "loo":
        if groups < 2:
            raise InputError("split 'loo' needs at least two groups of tasks")
        return groups
    match = _KFOLD.fullmatch(name)
    if match:
        folds = int(match[1])
        if not 2 <= folds <= groups:
            raise InputError(f"split '{name}' needs 2 to {groups} folds: this collection has {groups} groups")
        return folds
    if name in PROTOCOLS or _HOLDOUT.fullmatch(name) or Path(name).is_file():
        return 1
    raise InputError(
        f"there is no split '{name}'; use loo, kfold5, kfold5:SEED, holdout:N:SEED, {', '.join(PROTOCOLS)} "
        "or the path of a JSON file"
    )


def _sides(tables: TaskTables, name: str, fold: int) -> tuple[Sides, str]:
    """The sides of a fold, and the text that its validation tasks are drawn by."""
    if _is_generated(name):
        held_out = _test_groups(tables, name, fold)
        tested = zip(tables.tasks, tables.groups, strict=True)
        test = frozenset(task for task, group in tested if group in held_out)
        return Sides(frozenset(tables.tasks) - test, None, test), f"{name}|{fold}"
    if name in PROTOCOLS:
        sides = published_sides(tables, name)
    else:
        sides = _file_sides(tables, Path(name))
    if name != "metabo:published":
        _check_groups(tables, sides, name)
    return sides, "|".join(sorted(sides.test))


def _is_generated(name: str) -> bool:
    return name == "loo" or bool(_KFOLD.fullmatch(name) or _HOLDOUT.fullmatch(name))


def _shuffled(groups: Iterable[str], key: str) -> list[str]:
    """Distinct groups in an order that depends on nothing but their names and the key."""
    return sorted(set(groups), key=lambda group: hashlib.sha256(f"{key}\0{group}".encode()).digest())


def _sizes(tables: TaskTables, tasks: Iterable[str]) -> dict[str, int]:
    wanted, sizes = set(tasks), dict[str, int]()
    for task, group in zip(tables.tasks, tables.groups, strict=True):
        if task in wanted:
            sizes[group] = sizes.get(group, 0) + 1
    return sizes


def _test_groups(tables: TaskTables, name: str, fold: int) -> set[str]:
    sizes = _sizes(tables, tables.tasks)
    if name == "loo":
        return {sorted(sizes)[fold]}
    match = _KFOLD.fullmatch(name)
    if match:
        parts: list[list[str]] = [[] for _ in range(int(match[1]))]
        loads = [0] * len(parts)
        # largest groups first, each to the part with the fewest tasks: as balanced as whole groups allow
        for group in sorted(_shuffled(sizes, f"kfold{match[2] or 0}"), key=lambda g: -sizes[g]):
            part = loads.index(min(loads))
            parts[part].append(group)
            loads[part] += sizes[group]
        return set(parts[fold])
    match = _HOLDOUT.fullmatch(name)
    assert match is not None, "the caller checked the name"
    wanted = int(match[1])
    if not 1 <= wanted < len(tables.tasks):
        raise InputError(
            f"split '{name}': test tasks must be 1 to {len(tables.tasks) - 1} of {len(tables.tasks)}"
        )
    chosen = _choose(_shuffled(sizes, f"holdout{match[2]}"), sizes, wanted)
    if not chosen or len(chosen) == len(sizes):
        raise InputError(
            f"split '{name}': the groups are too large to hold out {wanted} tasks as whole groups"
        )
    return chosen


def _choose(order: list[str], sizes: dict[str, int], wanted: int) -> set[str]:
    """Groups in order while they fit into `wanted` tasks."""
    chosen: set[str] = set()
    for group in order:
        if sizes[group] <= wanted:
            chosen.add(group)
            wanted -= sizes[group]
    return chosen


def _validation(tables: TaskTables, train: frozenset[str], fraction: float, key: str) -> frozenset[str]:
    """Tasks of whole groups, about `fraction` of the training tasks, at least one group and never all of
    them.
    """
    sizes = _sizes(tables, train)
    if len(sizes) < 2:
        raise InputError("the training side is a single group, so no validation tasks can be taken out of it")
    order = _shuffled(sizes, f"validation|{key}")
    chosen = _choose(order, sizes, max(1, round(fraction * len(train)))) or {
        min(order, key=lambda g: sizes[g])
    }
    if len(chosen) == len(sizes):
        chosen.discard(next(group for group in reversed(order) if group in chosen))
    return frozenset(
        task
        for task, group in zip(tables.tasks, tables.groups, strict=True)
        if group in chosen and task in train
    )


def _file_sides(tables: TaskTables, path: Path) -> Sides:
    """The sides in a split file, checked but for groups."""
    data = _read_json(path)
    allowed = {"train", "validation", "test", "config_ids"}
    if not isinstance(data, dict) or not {"train", "test"} <= set(data) <= allowed:
        raise InputError(
            f"{path}: must be an object with 'train', 'test' and, if wanted, 'validation' and 'config_ids'"
        )
    config_ids = _file_configurations(tables, path, data.pop("config_ids", None))
    side_of: dict[str, str] = {}
    known = set(tables.tasks)
    for side, tasks in data.items():
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise InputError(f"{path}: '{side}' must be a list of task names")
        for task in tasks:
            if task not in known:
                raise InputError(f"{path}: '{side}' names the unknown task '{task[:100]}'")
            if task in side_of:
                raise InputError(f"{path}: task '{task}' stands in '{side_of[task]}' and again in '{side}'")
            side_of[task] = side
    validation = frozenset(data["validation"]) if "validation" in data else None
    return Sides(frozenset(data["train"]), validation, frozenset(data["test"]), config_ids)


def _file_configurations(tables: TaskTables, path: Path, given: Any) -> tuple[int, ...] | None:
    """The `config_ids` of a split file, checked, in the order of the collection."""
    if given is None:
        return None
    if not isinstance(given, list) or not all(type(number) is int for number in given):
        raise InputError(f"{path}: 'config_ids' must be a list of whole numbers")
    unknown = set(given) - set(tables.config_ids.tolist())
    if unknown:
        raise InputError(f"{path}: 'config_ids' names the unknown configuration {str(min(unknown))[:40]}")
    if len(set(given)) < max(len(given), 2):
        raise InputError(f"{path}: 'config_ids' must be different configurations, at least 2")
    return tuple(tables.config_ids[np.isin(tables.config_ids, given)].tolist())


def _check_groups(tables: TaskTables, sides: Sides, name: str) -> None:
    """InputError where tasks of one group stand on two sides."""
    side_of_group: dict[str, tuple[str, str]] = {}
    group_of = dict(zip(tables.tasks, tables.groups, strict=True))
    for side in ("train", "validation", "test"):
        for task in sorted(getattr(sides, side) or ()):
            other_side, other = side_of_group.setdefault(group_of[task], (side, task))
            if other_side != side:
                raise InputError(
                    f"{name}: '{other}' ({other_side}) and '{task}' ({side}) are of the group "
                    f"'{group_of[task]}', which must stand on one side"
                )


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_SPLIT_BYTES:
            raise InputError(f"{path}: too large to be a split")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON ({' '.join(str(error).split())[:200]})") from None
