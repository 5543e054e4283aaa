"""A collection as dense NumPy tables: one value a task and configuration, with a packed cache beside the
files.

The tables hold the highest fidelity of every task and the mean over repeats, in raw units. Reading Parquet
and checking it takes a while, so `load_tables` keeps the result in `.packed/` in the collection's folder
(in the user's cache where that cannot be written), under a name that is the hash of the bytes of the
collection's files. A cached file is checked (names, shapes, dtypes, checksum) before it is used, and made
anew where anything is off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.checks import highest_fidelity
from hyprl_jax.surfaces.collection import Collection
from hyprl_jax.surfaces.reading import CARD, SPACE, TABLES, find_collection, read_collection

MAX_CELLS = 10**8  # tasks x configurations: beyond it a dense table is the wrong form
_PACKED_VERSION = "1"
_ARRAYS = {
    "config_ids": np.dtype(np.int64),
    "encodings": np.dtype(np.float32),
    "objective": np.dtype(np.float64),
    "cost": np.dtype(np.float64),
    "metafeatures": np.dtype(np.float64),
}
_NAMES = ("tasks", "groups", "feature_names", "metafeature_names")

__all__ = ["TaskTables", "load_tables", "task_tables"]


@dataclass(frozen=True)
class TaskTables:
    """Dense view of a collection: D tasks, C configurations, F features, M metafeatures.

    Attributes:
        collection: its name.
        content_hash: its content hash.
        direction: "minimize" or "maximize".
        tasks: task names `[D]`.
        groups: group of each task `[D]`.
        config_ids: `[C]` int64.
        encodings: `[C, F]` float32 in [0, 1], see `SpaceEncoding`.
        feature_names: names of the columns of `encodings`.
        objective: `[D, C]` float64 in the raw unit, NaN where there is no evaluation.
        cost: `[D, C]` float64 in its unit, NaN where unknown.
        metafeatures: `[D, M]` float64, NaN where unknown.
        metafeature_names: names of the columns of `metafeatures`.
    """

    collection: str
    content_hash: str
    direction: str
    tasks: tuple[str, ...]
    groups: tuple[str, ...]
    config_ids: np.ndarray
    encodings: np.ndarray
    feature_names: tuple[str, ...]
    objective: np.ndarray
    cost: np.ndarray
    metafeatures: np.ndarray
    metafeature_names: tuple[str, ...]


def task_tables(collection: Collection) -> TaskTables:
    """The dense tables of a checked collection.

    Of each task only the rows at its highest fidelity count; repeats are averaged, missing ones left out.

    Raises:
        InputError: the dense tables would have more than `MAX_CELLS` cells.
    """
    tasks, configs, evaluations = collection.tasks, collection.configs, collection.evaluations
    shape = (len(tasks), len(configs))
    if shape[0] * shape[1] > MAX_CELLS:
        raise InputError(
            f"collection '{collection.info.name}': {shape[0]} tasks x {shape[1]} configurations are more "
            f"than {MAX_CELLS} cells; split it into collections of fewer tasks or configurations"
        )
    task_codes = pd.Index(tasks["task"]).get_indexer(evaluations["task"])
    config_codes = pd.Index(configs["config_id"]).get_indexer(evaluations["config_id"])
    rows = highest_fidelity(evaluations, task_codes, len(tasks))
    cells = (task_codes * shape[1] + config_codes)[rows]
    cost = evaluations["cost"].to_numpy()[rows] if "cost" in evaluations.columns else np.zeros(0)
    return replace(
        outline(collection),
        objective=_cell_means(cells, evaluations["objective"].to_numpy()[rows], shape),
        cost=_cell_means(cells[: len(cost)], cost, shape),
    )


def outline(collection: Collection) -> TaskTables:
    """The tables of a collection without their values: `objective` and `cost` are `[tasks, 0]`."""
    tasks, configs, encoding = collection.tasks, collection.configs, SpaceEncoding(collection.space)
    return TaskTables(
        collection=collection.info.name,
        content_hash=collection.info.content_hash,
        direction=collection.info.objective.direction,
        tasks=tuple(tasks["task"].tolist()),
        groups=tuple(tasks["group"].tolist()),
        config_ids=configs["config_id"].to_numpy(dtype=np.int64),
        encodings=encoding.encode(configs)[0],
        feature_names=encoding.feature_names,
        objective=np.zeros((len(tasks), 0)),
        cost=np.zeros((len(tasks), 0)),
        metafeatures=tasks.iloc[:, 2:].to_numpy(dtype=np.float64).reshape(len(tasks), -1),
        metafeature_names=tuple(str(name) for name in tasks.columns[2:]),
    )


def load_tables(name_or_path: str | Path, cache: bool = True) -> TaskTables:
    """The dense tables of a collection on disk, from its packed cache where that is in order.

    Raises:
        InputError: there is no such collection, or it has a fault.
    """
    folder = find_collection(name_or_path)
    key = _files_hash(folder)
    places = [place / f"{key}.safetensors" for place in _cache_folders(folder)] if cache else []
    for place in places:
        tables = _read_packed(place)
        if tables is not None:
            return tables
    tables = task_tables(read_collection(folder))
    if key == _files_hash(folder):  # nobody changed the files while they were read
        for place in places:
            if _write_packed(tables, place):
                break
    return tables


def _cell_means(cells: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean of the values of each cell `[D, C]`, NaN where there is none. Missing values do not count."""
    given = ~np.isnan(values)
    size = shape[0] * shape[1]
    count = np.bincount(cells[given], minlength=size)
    total = np.bincount(cells[given], weights=values[given], minlength=size)
    mean = np.full(size, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.reshape(shape)


def _files_hash(folder: Path) -> str:
    digest = hashlib.sha256(_PACKED_VERSION.encode())
    try:
        for name in (CARD, SPACE, *TABLES):
            with open(folder / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise InputError(f"{folder}: {name} cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


def _cache_folders(folder: Path) -> Iterator[Path]:
    yield folder / ".packed"
    with contextlib.suppress(RuntimeError):  # no home folder
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        yield Path(base) / "hyprl_jax" / "packed"


def _write_packed(tables: TaskTables, place: Path) -> bool:
    """Write the cache file in one step, so that readers and other writers never meet half of it; False if
    impossible.
    """
    arrays = {name: np.ascontiguousarray(getattr(tables, name)) for name in _ARRAYS}
    texts = {name: list(getattr(tables, name)) for name in _NAMES}
    texts |= {"names": [tables.collection, tables.content_hash, tables.direction]}
    metadata = {name: json.dumps(value) for name, value in texts.items()}
    metadata["checksum"] = _checksum(arrays, metadata)
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(save(arrays, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except OSError:
        return False
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return True


def _read_packed(place: Path) -> TaskTables | None:
    """The tables in a cache file, or None where it is missing, damaged or not what it claims to be."""
    try:
        with safe_open(place, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            if set(file.keys()) != set(_ARRAYS):
                return None
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        claimed = metadata.pop("checksum", "")
        if claimed != _checksum(arrays, metadata):
            return None
        texts = {name: json.loads(metadata[name]) for name in (*_NAMES, "names")}
        collection, content_hash, direction = texts.pop("names")
        fields: dict[str, Any] = {name: tuple(map(str, value)) for name, value in texts.items()}
        tables = TaskTables(str(collection), str(content_hash), str(direction), **fields, **arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tables if _fits(tables) else None


def _checksum(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps({key: metadata[key] for key in sorted(metadata)}).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _fits(tables: TaskTables) -> bool:
    tasks, configs = len(tables.tasks), len(tables.config_ids)
    shapes = {
        "config_ids": (configs,),
        "encodings": (configs, len(tables.feature_names)),
        "objective": (tasks, configs),
        "cost": (tasks, configs),
        "metafeatures": (tasks, len(tables.metafeature_names)),
    }
    return (
        len(tables.groups) == tasks
        and tables.direction in ("minimize", "maximize")
        and all(getattr(tables, name).shape == shape for name, shape in shapes.items())
        and all(getattr(tables, name).dtype == dtype for name, dtype in _ARRAYS.items())
    )
