"""The files of a packed collection: their names, types and headers, and maps of the large ones.

Nothing that a header says is believed before it agrees with what is wanted and with the size of the file.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hyprl_jax.sealing import DamagedError
from hyprl_jax.surfaces import Collection, TaskTables
from hyprl_jax.surfaces.tables import outline as outline_of

FORMAT = "hyprl-jax pack 1"
NAMES = "names.json"
DESCRIBED = "described"
"""The folder with what the collection is about, see `surfaces.reading.read_description`."""
LARGE: dict[str, np.dtype] = {
    "objective": np.dtype(np.float32),
    "unit": np.dtype(np.float32),
    "smooth": np.dtype(np.float32),
    "legal": np.dtype(np.bool_),
}
SMALL: dict[str, np.dtype] = {
    "sums": np.dtype(np.uint32),
    "best": np.dtype(np.float32),
    "worst": np.dtype(np.float32),
    "metafeatures": np.dtype(np.float64),
    "encodings": np.dtype(np.float32),
    "config_ids": np.dtype(np.int64),
}
CELL_BYTES = sum(dtype.itemsize for dtype in LARGE.values())
NAME_FIELDS = ("tasks", "groups", "feature_names", "metafeature_names")
_PAGE = mmap.ALLOCATIONGRANULARITY
_HEADER_LIMIT = 1024  # bytes that a header takes at most
# As NumPy writes it (version 1.0), for the types that occur here; anything else need not be understood.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"(\{'descr': '(<f4|<f8|<i8|<u4|\|b1)', 'fortran_order': False, 'shape': \(([\d ,]{0,60})\), \} *\n)",
    re.DOTALL,
)


def fault_of(outline: TaskTables) -> str | None:
    """What is wrong with a collection but for its values, in words; None if nothing is."""
    tasks, columns = len(outline.tasks), len(outline.config_ids)
    if not tasks or len(set(outline.tasks)) < tasks or len(outline.groups) != tasks:
        return "its tasks must have different names and a group each, and there must be one"
    if not (all(outline.tasks) and all(outline.groups)):
        return "a task or a group has no name"
    if columns < 2 or len(np.unique(outline.config_ids)) < columns:
        return "its configurations must have different numbers, and there must be two"
    if outline.direction not in ("minimize", "maximize"):
        return "its direction is neither minimize nor maximize"
    if outline.encodings.shape != (columns, len(outline.feature_names)):
        return "its encodings are not those of its configurations"
    if not (np.abs(outline.encodings) <= 1.0).all():
        return "its encodings are not between 0 and 1"
    if outline.metafeatures.shape != (tasks, len(outline.metafeature_names)):
        return "its metafeatures are not those of its tasks"
    return "a metafeature is infinite" if np.isinf(outline.metafeatures).any() else None


def describes(collection: Collection, outline: TaskTables) -> bool:
    """Whether a collection has the tasks, configurations, features and direction of an outline."""
    one, other = outline_of(collection), outline
    words = all(getattr(one, name) == getattr(other, name) for name in (*NAME_FIELDS, "direction"))
    arrays = ("config_ids", "encodings", "metafeatures")
    return words and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in arrays
    )


def header(file: BinaryIO, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and dtype in the header of an .npy file, and where its values begin.

    Raises DamagedError if it is none, or its size is another than the header says.
    """
    found = _HEADER.match(file.read(_HEADER_LIMIT))
    if found is None or int.from_bytes(found[1], "little") != len(found[2]):
        raise DamagedError(f"{name} is no array of plain numbers")
    dtype = np.dtype(found[3].decode())
    shape = tuple(int(length) for length in found[4].split(b",") if length.strip())
    offset = found.end()
    if os.fstat(file.fileno()).st_size != offset + math.prod(shape) * dtype.itemsize:
        raise DamagedError(f"{name} has not the size that its header says")
    return shape, dtype, offset


def read_small(path: Path, dtype: np.dtype, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array in a small file; None in `shape` stands for any length.

    Raises DamagedError if it has another shape or dtype.
    """
    with open(path, "rb") as file:
        found, own, offset = header(file, path.name)
        fits = len(found) == len(shape) and all(b in (a, None) for a, b in zip(found, shape, strict=True))
        if not fits or own != dtype:
            raise DamagedError(f"{path.name} is {own} {found}, which does not fit the other files")
        file.seek(offset)
        return np.frombuffer(file.read(), dtype, math.prod(found)).reshape(found).copy()


class Map:
    """One large file, mapped for reading; raises DamagedError if it is not what it should be."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, int]) -> None:
        with open(path, "rb") as file:
            found, own, self._offset = header(file, path.name)
            if found != shape or own != dtype:
                raise DamagedError(f"{path.name} is {own} {found}, which does not fit the other files")
            self._file = os.dup(file.fileno())
            self._size = os.fstat(self._file).st_size
            self._map = mmap.mmap(self._file, self._size, access=mmap.ACCESS_READ)
        self._name, self._dtype, self._row = path.name, dtype, shape[1] * dtype.itemsize
        self._advise("MADV_RANDOM")  # each task is asked for beforehand, and none beside it is wanted

    def close(self) -> None:
        """Closes the file; closing twice does nothing."""
        if not self._map.closed:
            self._map.close()
            os.close(self._file)

    def copy(self, rows: np.ndarray, into: np.ndarray) -> None:
        """Copies rows and gives their pages back.

        Raises DamagedError if the file has another size by now: beyond its end there is nothing to map.
        """
        if os.fstat(self._file).st_size != self._size:
            raise DamagedError(f"{self._name} has changed its size")
        for row in rows:
            begin = (self._offset + int(row) * self._row) // _PAGE * _PAGE
            self._advise("MADV_WILLNEED", begin, self._offset + (int(row) + 1) * self._row - begin)
        for place, row in enumerate(rows):
            begin = self._offset + int(row) * self._row
            into[place] = np.frombuffer(self._map, self._dtype, into.shape[1], begin)
        self._advise("MADV_DONTNEED")

    def _advise(self, what: str, *place: int) -> None:
        """Tells the system how the map is used; where it cannot be told, it is only slower or larger."""
        advice = getattr(mmap, what, None)
        if advice is not None:
            with contextlib.suppress(OSError):
                self._map.madvise(advice, *place)
