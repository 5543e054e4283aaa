"""Starting points: the configurations that all methods test first, so that they are compared from there on.

They are an array `[D, S, I]` of columns of the tables: for each of D test tasks and S seeds the same I
configurations for every method, each with a result on the task. They are drawn (`random_starts`), or read
from a file (`read_starts`):

    {task: [[config_id, ...] of seed 0, [config_id, ...] of seed 1, ...]}

which is also what the importer of HPO-B writes beside a collection, from the starting points that were
published with it. Seeds of a file are numbers from 0, HPO-B's test0 to test4 are the seeds 0 to 4.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.protocols import STARTS_FILE
from hyprl_jax.surfaces.reading import find_collection
from hyprl_jax.surfaces.tables import TaskTables

MAX_BYTES = 2**28
PUBLISHED = "published"

__all__ = ["PUBLISHED", "random_starts", "read_starts", "starts_for"]


def starts_for(
    wish: str,
    collection: str | Path,
    tables: TaskTables,
    tasks: Sequence[str],
    seeds: Sequence[int],
    trials: int | None = None,
) -> np.ndarray:
    """The starting points that an option asks for, int64 columns `[D, S, I]`.

    Args:
        wish: a number I of random ones; `published` for those beside the collection; or the path of a file.
        collection: the collection's name or folder.
        tables: its tables, restricted to the configurations of the split.
        tasks: the D test tasks.
        seeds: the S seeds.
        trials: how many trials are played, of which starting points are the first; None for any number.

    Raises:
        InputError: no such file or a fault in it, or more starting points than trials.
    """
    if wish.isascii() and wish.isdigit():
        starts = random_starts(tables, tasks, seeds, int(wish[:18]))
    elif wish == PUBLISHED:
        file = find_collection(collection) / STARTS_FILE
        if not file.is_file():
            raise InputError(
                f"collection '{tables.collection}' has no published starting points ({STARTS_FILE}); give a "
                "number of random ones, or a file"
            )
        starts = read_starts(file, tables, tasks, seeds)
    else:
        starts = read_starts(wish, tables, tasks, seeds)
    if trials is not None and starts.shape[2] > trials:
        raise InputError(f"{starts.shape[2]} starting points do not fit into {trials} trials: play more")
    return starts


def random_starts(tables: TaskTables, tasks: Sequence[str], seeds: Sequence[int], number: int) -> np.ndarray:
    """`number` different configurations with a result, uniformly drawn for each task and seed: `[D, S, I]`.

    A draw depends on nothing but the name of the task, the seed and the ids of its configurations, not on
    the machine, the versions of libraries or the other tasks; fewer are the beginning of more.

    Raises:
        InputError: an unknown task, or one with fewer configurations than `number`.
    """
    rows = _rows(tables, tasks)
    starts = np.zeros((len(rows), len(seeds), number), dtype=np.int64)
    if number < 1:
        raise InputError(f"{number} starting points: give at least 1")
    for place, (task, row) in enumerate(zip(tasks, rows, strict=True)):
        legal = np.flatnonzero(~np.isnan(tables.objective[row]))
        legal = legal[np.argsort(tables.config_ids[legal])]
        if len(legal) < number:
            raise InputError(
                f"task '{task}' has {len(legal)} configurations, so no {number} starting points; give fewer"
            )
        for run, seed in enumerate(seeds):
            starts[place, run] = legal[_drawn(f"starts|{task}|{seed}", len(legal), number)]
    return starts


def read_starts(
    path: str | Path, tables: TaskTables, tasks: Sequence[str], seeds: Sequence[int]
) -> np.ndarray:
    """The starting points in a file of this module's form, int64 columns `[D, S, I]`, all checked.

    Raises:
        InputError: the file is not of the form; a task or a seed is not in it; a configuration that the
        tables do not have, without a result on the task, or twice in one list; lists of different lengths.
    """
    path = Path(path).expanduser()
    content = _read(path)
    column_of = {number: column for column, number in enumerate(tables.config_ids.tolist())}
    lists: list[list[list[int]]] = []
    for task, row in zip(tasks, _rows(tables, tasks), strict=True):
        given = content.get(task)
        if not isinstance(given, list):
            raise InputError(f"{path}: has no list of starting points for the task '{task}'")
        known = ~np.isnan(tables.objective[row])
        lists.append([])
        for seed in seeds:
            if not 0 <= seed < len(given):
                raise InputError(
                    f"{path}: task '{task}' has starting points for the seeds 0 to {len(given) - 1}, not for "
                    f"{seed}"
                )
            where = f"{path}: task '{task}', seed {seed}"
            lists[-1].append(_columns(where, given[seed], column_of, known))
    lengths = {len(one) for runs in lists for one in runs}
    if len(lengths) != 1:
        raise InputError(
            f"{path}: lists of {min(lengths)} to {max(lengths)} configurations; give equally many"
        )
    return np.array(lists, dtype=np.int64)


def _columns(where: str, given: Any, column_of: dict[int, int], known: np.ndarray) -> list[int]:
    """The columns of one list of config ids; `known` `[C]` tells which have a result."""
    if not isinstance(given, list) or not given or not all(type(number) is int for number in given):
        raise InputError(f"{where}: must be a list of config ids, whole numbers")
    if len(set(given)) < len(given):
        raise InputError(f"{where}: a configuration stands twice")
    for number in given:
        if number not in column_of:
            raise InputError(f"{where}: configuration {str(number)[:40]} is none of those that are played")
        if not known[column_of[number]]:
            raise InputError(f"{where}: configuration {number} has no result on this task")
    return [column_of[number] for number in given]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: too large to hold starting points")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not valid JSON ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be an object {{task: [[config_id, ...], ...]}}")
    if any(isinstance(value, dict) for value in content.values()):
        raise InputError(
            f"{path}: this is the file of HPO-B, which counts rows of its source; import the space with it "
            f"in the folder, and take the '{STARTS_FILE}' that comes with the collection"
        )
    return content


def _rows(tables: TaskTables, tasks: Sequence[str]) -> list[int]:
    """Rows of the tasks in the tables."""
    place = {task: row for row, task in enumerate(tables.tasks)}
    for task in tasks:
        if task not in place:
            raise InputError(f"task '{task}' is not in collection '{tables.collection}': check the split")
    return [place[task] for task in tasks]


def _drawn(key: str, size: int, number: int) -> list[int]:
    """`number` different places out of `size`: the first steps of a Fisher-Yates shuffle, whose numbers are
    SHA-256 of the key and the step."""
    moved: dict[int, int] = {}
    drawn = []
    for step in range(number):
        digest = hashlib.sha256(f"{key}|{step}".encode()).digest()
        place = step + int.from_bytes(digest, "big") % (size - step)
        drawn.append(moved.get(place, place))
        moved[place] = moved.get(step, step)
    return drawn
