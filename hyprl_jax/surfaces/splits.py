"""Splits of a collection's tasks into training, validation and test, without leaks between groups.

Tasks of one group (from the same source data) never stand on two sides. Every split is a pure function of
its name, its fold and its seed: groups are ordered by the SHA-256 of seed and group name, so that a split
is the same on every machine, with every version of every library, in every language.

Names: `loo` (fold K tests the K-th group in sorted order); `kfold5`, or any `kfoldN` (fold K tests the K-th
of N parts of about equally many tasks); `kfold5:SEED` (another shuffle; `kfold5` is `kfold5:0`);
`holdout:N:SEED` (N test tasks, fewer where whole groups do not add up, drawn by the seed); or the path of a
JSON file `{"train": [...], "validation": [...], "test": [...]}`, where validation may be left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.tables import TaskTables

MAX_SPLIT_BYTES = 16 * 2**20
_KFOLD = re.compile(r"kfold(\d{1,4})(?::(\d{1,18}))?")
_HOLDOUT = re.compile(r"holdout:(\d{1,9}):(\d{1,18})")

__all__ = ["Split", "make_split", "number_of_folds"]


@dataclass(frozen=True)
class Split:
    """Task names of the three sides, each in the order of the collection."""

    name: str
    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


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
    if _is_generated(name):
        held_out = _test_groups(tables, name, fold)
        test = {task for task, group in zip(tables.tasks, tables.groups, strict=True) if group in held_out}
        sides: dict[str, set[str]] = {"train": set(tables.tasks) - test, "validation": set(), "test": test}
        key, given = f"{name}|{fold}|{seed}", False
    else:
        sides, given = _file_sides(tables, Path(name))
        key = f"{'|'.join(sorted(sides['test']))}|{seed}"
    if not given and validation_fraction > 0:
        sides["validation"] = _validation(tables, sides["train"], validation_fraction, key)
        sides["train"] -= sides["validation"]
    ordered = {side: tuple(task for task in tables.tasks if task in names) for side, names in sides.items()}
    for side in ("train", "test"):
        if not ordered[side]:
            raise InputError(f"split '{name}', fold {fold}, leaves no task on the {side} side")
    return Split(name, fold, **ordered)


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
    if _HOLDOUT.fullmatch(name) or Path(name).is_file():
        return 1
    raise InputError(
        f"there is no split '{name}'; use loo, kfold5, kfold5:SEED, holdout:N:SEED or the path of a JSON file"
    )


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


def _validation(tables: TaskTables, train: set[str], fraction: float, key: str) -> set[str]:
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
    return {
        task
        for task, group in zip(tables.tasks, tables.groups, strict=True)
        if group in chosen and task in train
    }


def _file_sides(tables: TaskTables, path: Path) -> tuple[dict[str, set[str]], bool]:
    """The sides in a split file, checked, and whether it gives the validation side itself."""
    data = _read_json(path)
    if not isinstance(data, dict) or not {"train", "test"} <= set(data) <= {"train", "validation", "test"}:
        raise InputError(f"{path}: must be an object with 'train', 'test' and, if wanted, 'validation'")
    known = dict(zip(tables.tasks, tables.groups, strict=True))
    sides: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    side_of: dict[str, str] = {}
    for side, tasks in data.items():
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise InputError(f"{path}: '{side}' must be a list of task names")
        for task in tasks:
            if task not in known:
                raise InputError(f"{path}: '{side}' names the unknown task '{task[:100]}'")
            if task in side_of:
                raise InputError(f"{path}: task '{task}' stands in '{side_of[task]}' and again in '{side}'")
            side_of[task] = side
            sides[side].add(task)
    side_of_group: dict[str, tuple[str, str]] = {}
    for task, side in side_of.items():
        other_side, other = side_of_group.setdefault(known[task], (side, task))
        if other_side != side:
            raise InputError(
                f"{path}: '{other}' ({other_side}) and '{task}' ({side}) are of the group '{known[task]}', "
                "which must stand on one side"
            )
    return sides, "validation" in data


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
