"""Packed collections are written by blocks of tasks, of which no more than one is ever in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from hyprl_jax import bank as banks
from hyprl_jax.errors import InputError
from hyprl_jax.sealing import flush_folder, seal
from hyprl_jax.streams.files import (
    CELL_BYTES,
    DESCRIBED,
    FORMAT,
    LARGE,
    NAME_FIELDS,
    NAMES,
    SMALL,
    describes,
    fault_of,
)
from hyprl_jax.surfaces import Collection, TaskTables
from hyprl_jax.surfaces.writing import write_description

__all__ = ["PackWriter"]


class PackWriter:
    """Writes a packed collection by blocks of tasks; the folder `path` appears whole at the end of the
    `with`, or not at all.

    Args:
        path: the folder; it must not exist.
        outline: the collection; its values and costs are not used.
        described: the collection, whose card, space, tasks and configurations are kept with the pack; a
            policy that was trained on a pack without them cannot be exported.

    Raises InputError for an outline that makes no sense, a description of something else, too little space on
    the disk, or a fault of writing.
    """

    def __init__(
        self, path: str | os.PathLike[str], outline: TaskTables, described: Collection | None = None
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self._outline, self._described = outline, described
        tasks, columns = len(outline.tasks), len(outline.config_ids)
        if self.path.exists() or self.path.is_symlink():
            raise InputError(f"{self.path} exists: choose another folder")
        if wrong := fault_of(outline):
            raise InputError(f"cannot pack {outline.collection!r}: {wrong}")
        if described is not None and not describes(described, outline):
            other = described.info.name
            raise InputError(f"cannot pack {outline.collection!r}: {other!r} describes something else")
        self._done = 0
        self._small = {name: np.zeros(tasks, SMALL[name]) for name in ("sums", "best", "worst")}
        self._files: dict[str, BinaryIO] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            needed, free = tasks * columns * CELL_BYTES, shutil.disk_usage(self.path.parent).free
            if needed > free:
                raise InputError(
                    f"{self.path} needs {needed:,} bytes, and {free:,} are free: choose another disk"
                )
            self._folder = Path(
                tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
            )
        except OSError as fault:
            raise self._unwritten(fault) from None
        self._folder.chmod(0o755)

    def __enter__(self) -> PackWriter:
        try:
            shape = (len(self._outline.tasks), len(self._outline.config_ids))
            for name, dtype in LARGE.items():
                file = open(self._folder / f"{name}.npy", "wb")
                self._files[name] = file
                described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, described)
        except OSError as fault:
            self._abandon()
            raise self._unwritten(fault) from None
        return self

    def append(self, objective: np.ndarray) -> None:
        """The next tasks of the outline, `objective [n, N]` in raw units, NaN where there is no evaluation.

        Raises InputError for a task without a value, with an infinite one, or with the same everywhere.
        """
        begin, end = self._done, self._done + len(objective)
        outline, columns = self._outline, len(self._outline.config_ids)
        if objective.shape[1:] != (columns,) or end > len(outline.tasks):
            raise InputError(f"cannot pack {outline.collection!r}: more tasks or columns than it should have")
        if np.isinf(objective).any():
            raise InputError(f"cannot pack {outline.collection!r}: an objective is infinite")
        block = dataclasses.replace(
            outline, tasks=outline.tasks[begin:end], groups=outline.groups[begin:end], objective=objective
        )
        arrays = banks.surfaces_of(block, columns)
        if not (arrays["best"] > arrays["worst"]).all():
            task = block.tasks[int(np.argmin(arrays["best"] > arrays["worst"]))]
            raise InputError(
                f"cannot pack {outline.collection!r}: task {task!r} has the same value everywhere"
            )
        try:
            for name in LARGE:
                self._files[name].write(np.ascontiguousarray(arrays[name], LARGE[name]).data)
        except OSError as fault:
            raise self._unwritten(fault) from None
        for name in ("best", "worst"):
            self._small[name][begin:end] = arrays[name]
        for place in range(len(objective)):
            total = 0
            for name in LARGE:
                total = zlib.crc32(np.ascontiguousarray(arrays[name][place]).view(np.uint8).data, total)
            self._small["sums"][begin + place] = total
        self._done = end

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for file in self._files.values():
                file.close()
            if error is None:
                self._finish()
        except OSError as fault:
            raise self._unwritten(fault) from None
        finally:
            self._abandon()

    def _finish(self) -> None:
        outline = self._outline
        if self._done != len(outline.tasks):
            raise InputError(
                f"{outline.collection!r} has {len(outline.tasks)} tasks, of which {self._done} came"
            )
        small = {
            **self._small, "metafeatures": outline.metafeatures, "encodings": outline.encodings,
            "config_ids": outline.config_ids,
        }  # fmt: skip
        for name, dtype in SMALL.items():
            np.save(
                self._folder / f"{name}.npy", np.ascontiguousarray(small[name], dtype), allow_pickle=False
            )
        names = {key: list(getattr(outline, key)) for key in NAME_FIELDS}
        (self._folder / NAMES).write_text(json.dumps(names), encoding="utf-8")
        if self._described is not None:
            (self._folder / DESCRIBED).mkdir()
            write_description(self._described, self._folder / DESCRIBED)
        header = {"format": FORMAT, "collection": outline.collection, "direction": outline.direction}
        seal(self._folder, header | {"packed_from": outline.content_hash})
        os.rename(self._folder, self.path)
        flush_folder(self.path.parent)

    def _abandon(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _unwritten(self, fault: OSError) -> InputError:
        return InputError(
            f"{self.path} could not be written ({fault.strerror or fault}): choose another folder"
        )
