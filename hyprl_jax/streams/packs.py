"""Packed collections: the arrays of a surface bank in a folder of .npy files, a task a row, to be read by
rows.

    manifest.json   what it is, and size and SHA-256 of every other file
    names.json      tasks, groups, features and metafeatures by name
    objective.npy   `[D, N]` float32, and likewise unit.npy, smooth.npy and legal.npy (bool): as in
                    `hyprl_jax.bank.SurfaceBank`
    sums.npy        `[D]` uint32: CRC-32 of a task's rows in these four, in this order
    best.npy, worst.npy, metafeatures.npy, encodings.npy, config_ids.npy
    described/      card, space, tasks and configurations of the collection, where they were given

Nothing in the files is trusted. What is small is hashed when a pack is opened; of the four large files the
sizes and headers are checked then, and every row when it is read: its checksum, and that its values are what
a bank may hold. Rows are read through memory maps whose pages are given back at once, so that the resident
memory of a process does not grow with what it has read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.sealing import MANIFEST, DamagedError, verify
from hyprl_jax.streams.files import (
    DESCRIBED,
    FORMAT,
    LARGE,
    NAME_FIELDS,
    NAMES,
    SMALL,
    Map,
    describes,
    fault_of,
    read_small,
)
from hyprl_jax.surfaces import Collection, TaskTables
from hyprl_jax.surfaces.reading import read_description

__all__ = ["Pack", "Rows"]

_NAMES_LIMIT = 256 * 2**20  # bytes of names.json that are read at most

Rows = dict[str, np.ndarray]
"""The arrays `objective`, `unit`, `smooth` and `legal` of a bank, `[n, N]` each."""


class Pack:
    """A packed collection that is open for reading; usable in a `with`, and by one thread at a time.

    Attributes:
        path: its folder.
        outline: the collection without its values (`objective` and `cost` have no columns); its
            `content_hash` is that of the pack.
        best, worst: `[D]` float32.

    Raises InputError where the folder is no pack, is damaged, or holds what no bank may hold.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise InputError(
                f"{self.path} is no packed collection: make one with `hyprl surfaces pack NAME --out DIR`"
            )
        try:
            manifest = verify(self.path, unread={f"{name}.npy" for name in LARGE})
            if manifest.get("format") != FORMAT:
                raise DamagedError(f"its format is not {FORMAT!r}")
            self.outline, small = _read_outline(self.path, manifest)
            self.best, self.worst, self._sums = small["best"], small["worst"], small["sums"]
            shape = (len(self.outline.tasks), len(self.outline.config_ids))
            self._maps = {name: Map(self.path / f"{name}.npy", LARGE[name], shape) for name in LARGE}
        except DamagedError as fault:
            raise self._damaged(str(fault)) from None
        except (OSError, MemoryError, RecursionError) as fault:
            raise self._damaged(getattr(fault, "strerror", None) or "it cannot be read") from None

    def __enter__(self) -> Pack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; closing twice does nothing."""
        for one in self._maps.values():
            one.close()

    def read(self, rows: np.ndarray, into: Rows | None = None) -> Rows:
        """The surfaces of the tasks `rows [n]`, in that order, written into the arrays of `into` if given.

        Raises InputError for a row that is damaged or out of range, and for files that have changed.
        """
        tasks, columns = len(self.outline.tasks), len(self.outline.config_ids)
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < tasks):
            raise InputError(f"{self.path} has the tasks 0 to {tasks - 1}, not all that are asked for")
        if into is None:
            into = {name: np.empty((len(rows), columns), dtype) for name, dtype in LARGE.items()}
        try:
            for name, one in self._maps.items():
                one.copy(rows, into[name])
        except (OSError, DamagedError) as fault:
            raise self._damaged(getattr(fault, "strerror", None) or str(fault)) from None
        self._check(rows, into)
        return into

    def tables(self, rows: np.ndarray) -> TaskTables:
        """The tables of the tasks `rows [n]`: raw objectives of float32 precision, no costs."""
        read = self.read(rows)
        sign = 1.0 if self.outline.direction == "maximize" else -1.0
        values = np.where(read["legal"], sign * read["objective"].astype(np.float64), np.nan)
        return dataclasses.replace(
            self.outline,
            tasks=tuple(self.outline.tasks[row] for row in rows),
            groups=tuple(self.outline.groups[row] for row in rows),
            objective=values,
            cost=np.full_like(values, np.nan),
            metafeatures=self.outline.metafeatures[rows],
        )

    def description(self) -> Collection:
        """What the pack was made from, without its evaluations: card, space, tasks and configurations.

        Raises InputError for a pack that was made without them, and for one that is damaged.
        """
        if not (self.path / DESCRIBED).is_dir():
            raise InputError(
                f"{self.path} does not say what its space is: pack the collection again, with "
                "`hyprl surfaces pack`"
            )
        try:
            found = read_description(self.path / DESCRIBED)
        except InputError as fault:
            raise self._damaged(str(fault)) from None
        if not describes(found, self.outline):
            raise self._damaged(f"what {DESCRIBED}/ says is not what was packed")
        return found

    def _check(self, rows: np.ndarray, read: Rows) -> None:
        """InputError if a row is not as it was written, or not what a bank may hold."""
        for place, row in enumerate(rows):
            total = 0
            for name in LARGE:
                total = zlib.crc32(read[name][place].view(np.uint8).data, total)
            if total != self._sums[row]:
                raise self._damaged(f"task {self.outline.tasks[row]!r} has been altered")
        if read["legal"].view(np.uint8).max(initial=0) > 1:
            raise self._damaged("legal.npy holds what is no truth value")
        legal, objective = read["legal"], read["objective"]
        best = np.max(objective, axis=1, where=legal, initial=-np.inf)
        worst = np.min(objective, axis=1, where=legal, initial=np.inf)
        sound = (best == self.best[rows]) & (worst == self.worst[rows])
        for name in ("objective", "unit", "smooth"):
            sound &= np.isfinite(read[name]).all(axis=1)
        sound &= (np.abs(read["unit"] - 0.5) <= 0.501).all(axis=1)
        if not sound.all():
            task = self.outline.tasks[rows[int(np.argmin(sound))]]
            raise self._damaged(f"task {task!r} has values that no surface has")

    def _damaged(self, how: str) -> InputError:
        return InputError(f"the packed collection {self.path} is damaged ({how}): pack it again")


def _read_outline(folder: Path, manifest: dict[str, Any]) -> tuple[TaskTables, dict[str, np.ndarray]]:
    """The collection without its values, and the small arrays, checked."""
    if (folder / NAMES).stat().st_size > _NAMES_LIMIT:
        raise DamagedError(f"{NAMES} is larger than {_NAMES_LIMIT} bytes")
    try:
        names = json.loads((folder / NAMES).read_text(encoding="utf-8"))
    except ValueError:
        raise DamagedError(f"{NAMES} is not JSON") from None
    texts: list[Any] = [manifest.get(key) for key in ("collection", "direction")]
    listed = (
        isinstance(names, dict) and set(names) == set(NAME_FIELDS) and all(map(_are_texts, names.values()))
    )
    if not listed or not _are_texts(texts):
        raise DamagedError(f"{NAMES} or {MANIFEST} lacks a name, or has one too many")
    lengths = {"sums": 1, "best": 1, "worst": 1, "config_ids": 1, "metafeatures": 2, "encodings": 2}
    small = {
        name: read_small(folder / f"{name}.npy", dtype, (None,) * lengths[name])
        for name, dtype in SMALL.items()
    }
    if any(small[name].shape != (len(names["tasks"]),) for name in ("sums", "best", "worst")):
        raise DamagedError("sums.npy, best.npy or worst.npy has not one number for each task")
    nothing = np.zeros((len(names["tasks"]), 0))
    outline = TaskTables(
        collection=texts[0],
        content_hash=_hash_of(manifest),
        direction=texts[1],
        **{key: tuple(value) for key, value in names.items()},
        config_ids=small["config_ids"],
        encodings=small["encodings"],
        metafeatures=small["metafeatures"],
        objective=nothing,
        cost=nothing,
    )
    if fault := fault_of(outline):
        raise DamagedError(fault)
    if not (np.isfinite(small["best"] - small["worst"]) & (small["best"] > small["worst"])).all():
        raise DamagedError("best.npy and worst.npy hold no range")
    return outline, small


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _hash_of(manifest: dict[str, Any]) -> str:
    """Content hash of a pack, hex: of its manifest, which has that of every file."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
