"""Read collections from disk. Nothing in the files is trusted: sizes, types and values are checked on the
way in.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import hyprl_jax
from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.checks import MOST_FAULTS_A_RULE, Fault, collection_faults
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, canonical, content_hash
from hyprl_jax.surfaces.space_json import read_space

MAX_CARD_BYTES = 2**20
MAX_TABLE_BYTES = 2 * 2**30
MAX_TABLE_CELLS = 10**9
MAX_TABLE_COLUMNS = 5000
CARD, SPACE = "collection.json", "space.json"
PACKED = "sums.npy"
"""A file that stands in the folder of a packed collection alone, see `hyprl_jax.streams.packs`."""
TABLES = ("tasks.parquet", "configs.parquet", "evaluations.parquet")

__all__ = [
    "check_types",
    "collection_folders",
    "find_collection",
    "open_collection",
    "read_collection",
    "read_description",
    "read_info",
    "read_parquet",
]


def find_collection(name_or_path: str | Path) -> Path:
    """The folder of a collection: a path, or a name under `meta_data/` here or beside the package.

    Raises:
        InputError: there is none; the message lists the names that exist.
    """
    given = Path(name_or_path).expanduser()
    candidates = [given]
    if len(given.parts) == 1 and not given.is_absolute():
        candidates += [folder / given for folder in _meta_data_folders()]
    for candidate in candidates:
        if (candidate / CARD).is_file():
            return candidate.resolve()
        if (candidate / PACKED).is_file():
            raise InputError(
                f"'{given}' is packed for streamed training (`hyprl train --stream.tasks N`): here, name the "
                "collection that it was packed from"
            )
    known = ", ".join(sorted({folder.name for folder in collection_folders()})) or "none"
    missing = f"'{given}' has no {CARD}" if given.is_dir() else f"there is no collection '{given}'"
    raise InputError(f"{missing}; give a folder that has one or a name under meta_data/ (there: {known})")


def collection_folders(root: str | Path | None = None) -> list[Path]:
    """Folders of collections directly under `root`, or under every `meta_data/` in sight, sorted by name."""
    roots = _meta_data_folders() if root is None else [Path(root)]
    found: dict[str, Path] = {}
    for folder in roots:
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if not path.name.startswith(".") and (path / CARD).is_file():
                    found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def read_collection(path: str | Path) -> Collection:
    """The collection in a folder (or of a name, see `find_collection`), checked completely.

    Raises:
        InputError: at the first fault, naming file, task and row.
    """
    folder = find_collection(path)

    def refuse(fault: Fault) -> None:
        raise InputError(f"{folder.name}/{fault}; `surfaces validate` lists every fault")

    collection = open_collection(folder, refuse)
    assert collection is not None, "every fault raises"
    return collection


def open_collection(folder: Path, report: Callable[[Fault], None]) -> Collection | None:
    """Read a folder and give every fault to `report`; None if faults leave no collection to speak of."""
    info = _attempt(report, CARD, "bad-card", lambda: read_info(folder / CARD))
    space = _attempt(report, SPACE, "bad-space", lambda: read_space(folder / SPACE))
    frames = [_read_table(folder / name, report) for name in TABLES]
    if info is None or space is None or any(frame is None for frame in frames):
        return None
    parts = _attempt(report, "tables", "bad-columns", lambda: _canonical_parts(info, space, frames))
    if parts is None:
        return None
    for fault in collection_faults(parts):
        report(fault)
    actual = content_hash(parts)
    if info.content_hash and info.content_hash != actual:
        message = f"content_hash is not that of the tables, {actual[:12]}..: something changed since"
        report(Fault(CARD, None, None, "content-hash", message))
    return dataclasses.replace(parts, info=dataclasses.replace(info, content_hash=actual))


def read_description(folder: Path) -> Collection:
    """The collection in a folder without its evaluations, which need not be there; the rest is checked.

    Raises:
        InputError: at the first fault.
    """
    for name in (CARD, SPACE):
        if not (folder / name).is_file():
            raise InputError(f"{folder.name}/{name}: the file is missing")
    try:
        info = read_info(folder / CARD)
    except InputError as fault:
        raise InputError(f"{folder.name}/{CARD}: {fault}") from None
    tables = []
    for name in TABLES[:2]:
        try:
            tables.append(read_parquet(folder / name).replace_schema_metadata(None).to_pandas())
        except InputError as fault:
            raise InputError(f"{folder.name}/{name}: {fault}") from None
    numbers = ["objective", *(quantity.name for quantity in info.other_objectives)]
    numbers += [name for name, there in (("fidelity", info.fidelity), ("cost", info.cost)) if there]
    nothing = pd.DataFrame({name: np.zeros(0) for name in numbers})
    nothing.insert(0, "config_id", np.zeros(0, np.int64))
    nothing.insert(0, "task", pd.Series([], dtype="str"))
    collection = canonical(Collection(info, read_space(folder / SPACE), tables[0], tables[1], nothing))
    for found in collection_faults(collection):
        if found.file != TABLES[2]:
            raise InputError(f"{folder.name}/{found}; `surfaces validate` lists every fault")
    return collection


def read_info(path: Path) -> CollectionInfo:
    """The card in a `collection.json` (`InputError` where it is damaged, too large or incomplete)."""
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise InputError(f"larger than the {MAX_CARD_BYTES} bytes a card may have")
        data = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not valid JSON ({' '.join(str(error).split())[:200]})") from None
    return CollectionInfo.from_json(data)


def _meta_data_folders() -> list[Path]:
    here, package = Path.cwd() / "meta_data", Path(hyprl_jax.__file__).resolve().parents[1] / "meta_data"
    return [here] if here == package else [here, package]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _attempt(report: Callable[[Fault], None], file: str, rule: str, action: Callable[[], Any]) -> Any:
    """The result of `action`, or None after reporting its `InputError` as a fault of `file`."""
    try:
        return action()
    except InputError as error:
        message = str(error)
    report(Fault(file, None, None, rule, message))
    return None


def _canonical_parts(
    info: CollectionInfo, space: ConfigSpace.ConfigurationSpace, frames: list[pd.DataFrame]
) -> Collection:
    return canonical(Collection(info, space, *frames))


def _read_table(path: Path, report: Callable[[Fault], None]) -> pd.DataFrame | None:
    """One Parquet file as a frame, or None after reporting why not. NaN, which is not null, is a fault of
    its row.
    """
    table = _attempt(report, path.name, "bad-parquet", lambda: read_parquet(path))
    if table is None:
        return None
    tasks = table.column("task") if "task" in table.column_names else None
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_floating(column.type):
            found = np.flatnonzero(pc.fill_null(pc.is_nan(column), False).to_numpy(zero_copy_only=False))
            for row in found[:MOST_FAULTS_A_RULE]:
                task = None if tasks is None else str(tasks[int(row)].as_py())
                message = f"'{name}' is NaN; a missing value is null or a missing row"
                report(Fault(path.name, task, int(row), "nan", message))
            if len(found) > MOST_FAULTS_A_RULE:
                message = f"and {len(found) - MOST_FAULTS_A_RULE} more rows with this fault"
                report(Fault(path.name, None, None, "nan", message))
    # Without what pandas noted about its types: that text may be damaged, and it is read even if ignored.
    return table.replace_schema_metadata(None).to_pandas()


def read_parquet(path: Path) -> pa.Table:
    """A Parquet file of plain columns, within limits on declared sizes (`InputError` where it is not)."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"larger than the {MAX_TABLE_BYTES} bytes a table may have")
        with pq.ParquetFile(path, memory_map=False) as file:
            rows, columns = file.metadata.num_rows, file.metadata.num_columns
            _check_declared(rows, columns, file.metadata)
            check_types(file.schema_arrow)
            table = file.read(use_threads=True)
            table.validate(full=True)  # text that is no UTF-8, offsets that lead elsewhere
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("the file is missing") from None
    except (pa.ArrowException, OSError, MemoryError, ValueError, OverflowError) as error:
        raise InputError(f"not a readable Parquet file ({' '.join(str(error).split())[:200]})") from None
    if table.num_rows != rows:
        raise InputError(f"declares {rows} rows but holds {table.num_rows}")
    return _plain_strings(table)


def check_types(schema: pa.Schema) -> None:
    """InputError for a column that holds neither text nor numbers nor truth values."""
    for field in schema:
        _check_type(field)


def _check_declared(rows: int, columns: int, metadata: Any) -> None:
    if columns > MAX_TABLE_COLUMNS or rows < 0 or rows * max(columns, 1) > MAX_TABLE_CELLS:
        raise InputError(f"declares {rows} rows x {columns} columns, more than a table may have")
    declared = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if declared > 4 * MAX_TABLE_BYTES or declared < 0:
        raise InputError(f"declares {declared} bytes of content, more than a table may have")


def _check_type(field: pa.Field) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    plain = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_string)
    if not any(is_kind(kind) for is_kind in (*plain, pa.types.is_large_string, pa.types.is_null)):
        raise InputError(
            f"column '{field.name[:100]}' is of the type {kind}; text, numbers and truth values are read"
        )


def _plain_strings(table: pa.Table) -> pa.Table:
    if len(set(table.column_names)) < table.num_columns:
        raise InputError("two columns have the same name")
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
    return table
