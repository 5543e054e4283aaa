"""The pieces of a build: what a process trains at a time, and the work folder that keeps what is finished.

A piece is one task and a few configurations. Each is a job (`hyprl_jax.jobs`): its record in
`<out>.work/pieces`, written whole or not at all, holds the columns that came out, so that a killed build goes
on where it was. `plan.json` says what is computed. A lock keeps two builds of the same folder apart and
vanishes with the process that held it, however it ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.interrupts import StopSignal
from hyprl_jax.jobs.engine import Job, locked, read_record, write_json
from hyprl_jax.surfaces.build.recipe import Columns, Recipe
from hyprl_jax.surfaces.build.sources import stream
from hyprl_jax.surfaces.build.tasks import load_task

# Settings that must stand before the numerical libraries are loaded: one thread, and results that do not
# depend on how many devices there are.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
_MISMATCH = "{work} holds pieces of another build ({what} differ): delete it, or choose another --out"
_PLAN = "plan.json"


@dataclass(frozen=True)
class Piece:
    """One task and the configuration ids that are trained together."""

    task: str
    number: int
    config_ids: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of its job."""
        return f"{self.task}.{self.number:03d}"


def piece_job(recipe: Recipe, piece: Piece, configs: Sequence[Mapping[str, Any]], seed: int) -> Job:
    """The job that trains a piece, `configs` being those of all ids."""
    chosen = [dict(configs[at]) for at in piece.config_ids]
    arguments = {"recipe": recipe.name, "task": piece.task, "configs": chosen, "seed": seed}
    return Job(piece.name, "hyprl_jax.surfaces.build.pieces:compute_piece", arguments)


def compute_piece(arguments: Mapping[str, Any], tell: Callable[[int, int, str], None]) -> dict[str, Any]:
    """The body of a piece's job, `{"columns": {name: {"dtype", "values"}}}`. Pieces are short: one that is
    asked to stop goes on to its end."""
    from hyprl_jax.surfaces.build import RECIPES

    del tell
    with StopSignal("this piece goes on to its end"):
        recipe = RECIPES[arguments["recipe"]]
        columns = train_piece(recipe, arguments["task"], arguments["configs"], arguments["seed"])
    return {"columns": {name: _as_json(values) for name, values in columns.items()}}


def train_piece(recipe: Recipe, task: str, configs: list[dict[str, Any]], seed: int) -> Columns:
    """Train configurations of one task, with numerical libraries held to one thread."""
    from threadpoolctl import threadpool_limits

    data = load_task(task, seed)
    with threadpool_limits(limits=1):
        return recipe.evaluate(data, configs, stream(seed, recipe.name, task))


class WorkFolder:
    """Finished pieces on disk. Made by `open_work_folder`, which also checks that the plan is the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pieces = path / "pieces"

    def load(self, piece: Piece) -> pd.DataFrame | None:
        """The finished piece, or None if it is not there or is not what it should be."""
        record = read_record(self.pieces, piece.name)
        if record is None or "result" not in record:
            return None
        found = _table(record["result"].get("columns"))
        if found is None or "config_index" not in found or "error" not in found:
            return None
        return found if set(found["config_index"]) == set(range(len(piece.config_ids))) else None

    def forget_damaged(self, pieces: Sequence[Piece]) -> None:
        """Removes records that say a piece is done without holding it, so that it is computed again."""
        for piece in pieces:
            record = read_record(self.pieces, piece.name)
            if record is not None and "result" in record and self.load(piece) is None:
                (self.pieces / f"{piece.name}.json").unlink(missing_ok=True)


@contextmanager
def open_work_folder(path: Path, plan: dict[str, Any]) -> Iterator[WorkFolder]:
    """Make or reopen the work folder of `plan` and hold its lock for the block.

    Raises InputError if the folder belongs to another plan or another running build.
    """
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path} is in the way of the build's work folder: remove it or choose another --out"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror or error}): choose another --out") from None
    with locked(path):
        _check_plan(path, plan)
        yield WorkFolder(path)


def _check_plan(path: Path, plan: dict[str, Any]) -> None:
    file = path / _PLAN
    plan = json.loads(json.dumps(plan))
    if not file.exists():
        if any(path.glob("pieces/[!.]*.json")):
            raise InputError(_MISMATCH.format(work=path, what="the plan is missing, so all may"))
        write_json(file, plan)
        return
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{file} is damaged: delete {path} and build again") from None
    if not isinstance(earlier, dict):
        raise InputError(f"{file} is damaged: delete {path} and build again")
    differing = sorted(key for key in plan.keys() | earlier.keys() if plan.get(key) != earlier.get(key))
    if differing:
        raise InputError(_MISMATCH.format(work=path, what=", ".join(differing)))


def _as_json(values: np.ndarray) -> dict[str, Any]:
    """A column as JSON, exact to the last bit; what JSON has no number for (NaN, infinities) as its name."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        return {"dtype": "str", "values": [str(value) for value in array]}
    plain = [value if math.isfinite(value) else str(value) for value in array.tolist()]
    return {"dtype": array.dtype.name, "values": plain}


def _table(columns: Any) -> pd.DataFrame | None:
    """The columns of a record, numbers all but `error`; None if they are not that."""
    try:
        arrays = {name: _column(name, given) for name, given in columns.items()}
        return pd.DataFrame(arrays)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None


def _column(name: str, given: Mapping[str, Any]) -> np.ndarray:
    """One of them; ValueError if it is of the wrong kind."""
    kind, values = given["dtype"], given["values"]
    if (kind == "str") != (name == "error") or not isinstance(values, list):
        raise ValueError(f"the column {name!r} is of the wrong kind")
    if kind == "str":
        return np.array([str(value) for value in values], dtype=object)
    numbers = [float(value) if isinstance(value, str) else value for value in values]
    if not all(type(value) in (int, float) for value in numbers):
        raise ValueError(f"the column {name!r} holds what is no number")
    dtype = np.dtype(str(kind))
    if dtype.kind not in "fiu":
        raise ValueError(f"the column {name!r} is of the wrong kind")
    return np.array(numbers, dtype=dtype)
