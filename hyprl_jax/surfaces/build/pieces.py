"""The work folder of a build: one small file for each finished piece, so that a killed build goes on where it
was.

`<out>.work` stands beside the collection that is being built. `plan.json` says what is computed; a finished
piece (one task, a few configurations) is one Parquet file that appears whole or not at all. A lock keeps two
builds of the same folder apart and vanishes with the process that held it, however it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError

_MISMATCH = "{work} holds pieces of another build ({what} differ): delete it, or choose another --out"


@dataclass(frozen=True)
class Piece:
    """One task and the configuration ids that are trained together."""

    task: str
    number: int
    config_ids: tuple[int, ...]


class WorkFolder:
    """Finished pieces on disk. Made by `open_work_folder`, which also checks that the plan is the same."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_of(self, piece: Piece) -> Path:
        return self.path / f"{piece.task}.{piece.number:03d}.parquet"

    def save(self, piece: Piece, columns: dict[str, np.ndarray]) -> None:
        """Write one piece: to a temporary name, flushed to the disk, then renamed."""
        target = self.file_of(piece)
        temporary = target.with_suffix(".partial")
        try:
            pd.DataFrame(columns).to_parquet(temporary, index=False, compression="zstd")
            flush(temporary)
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            reason = error.strerror or error
            raise InputError(
                f"{target}: {reason}; mend it and build again, finished pieces are kept"
            ) from None

    def load(self, piece: Piece) -> pd.DataFrame | None:
        """The finished piece, or None if it is not there or not readable as what it should be (it is computed
        again).
        """
        path = self.file_of(piece)
        if not path.exists():
            return None
        try:
            found = pd.read_parquet(path)
        except (OSError, ValueError):
            return None
        index = found.get("config_index")
        whole = index is not None and set(index) == set(range(len(piece.config_ids))) and "error" in found
        numbers = [name for name in found.columns if name != "error"]
        sound = whole and all(pd.api.types.is_numeric_dtype(found[name]) for name in numbers)
        return found if sound else None


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
    with _locked(path):
        _check_plan(path, plan)
        yield WorkFolder(path)


def flush(path: Path) -> None:
    """Make the content of a file durable before it gets its final name."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a small text file that appears whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)


def _check_plan(path: Path, plan: dict[str, Any]) -> None:
    file = path / "plan.json"
    plan = json.loads(json.dumps(plan))
    if not file.exists():
        if any(path.glob("*.parquet")):
            raise InputError(_MISMATCH.format(work=path, what="the plan is missing, so all may"))
        write_text(file, json.dumps(plan, indent=1))
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with (path / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another build is writing to {path}: wait for it or choose another --out"
            ) from None
        yield
