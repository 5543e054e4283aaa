"""Write collections to disk: the folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.checks import collection_faults
from hyprl_jax.surfaces.collection import Collection, canonical, content_hash
from hyprl_jax.surfaces.reading import CARD, SPACE, TABLES
from hyprl_jax.surfaces.space_json import space_to_json

__all__ = ["write_collection", "write_description"]


def write_collection(
    collection: Collection,
    path: str | Path,
    overwrite: bool = False,
    extra_files: Mapping[str, str] | None = None,
) -> Path:
    """Check a collection and write it as the folder `path`, which appears whole or not at all.

    Args:
        collection: what to write; its columns are brought into canonical order, its content hash is computed.
        path: the folder; its parents are made.
        overwrite: replace a collection that stands there. Any other folder is never replaced.
        extra_files: further text files by name, such as a `README.md` that is the card in words.

    Returns:
        The folder.

    Raises:
        InputError: the collection has a fault, or something stands in the way.
    """
    path = Path(path).expanduser().absolute()
    _check_target(path, overwrite)
    collection = canonical(collection)
    collection.info.check()
    fault = next(collection_faults(collection), None)
    if fault is not None:
        raise InputError(f"this collection cannot be written: {fault}")
    files = _files(collection, extra_files or {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written to ({error.strerror or error})") from None
    try:
        temporary.chmod(0o755)
        for name, content in files.items():
            _write_file(temporary / name, content)
        for name, frame in zip(
            TABLES, (collection.tasks, collection.configs, collection.evaluations), strict=True
        ):
            _write_table(temporary / name, frame)
        _sync_folder(temporary)
        _move(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def write_description(collection: Collection, folder: Path) -> None:
    """Writes what a collection is about, without its evaluations, into a folder that is there; its content
    hash stays as it is. Raises OSError; `read_description` reads it."""
    for name, content in _texts(collection).items():
        _write_file(folder / name, content)
    for name, frame in zip(TABLES[:2], (collection.tasks, collection.configs), strict=True):
        _write_table(folder / name, frame)


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise InputError(f"{path} exists already; choose another folder, remove it, or ask to overwrite it")
    if not (path / CARD).is_file() or path.is_symlink():
        raise InputError(f"{path} is not a collection, so it is not replaced; choose another folder")


def _files(collection: Collection, extra_files: Mapping[str, str]) -> dict[str, str]:
    info = dataclasses.replace(collection.info, content_hash=content_hash(collection))
    files = _texts(dataclasses.replace(collection, info=info))
    for name, content in extra_files.items():
        if name in files or name in TABLES or Path(name).name != name or name.startswith("."):
            raise InputError(f"'{name}' is not a name for a further file of a collection")
        files[name] = content
    return files


def _texts(collection: Collection) -> dict[str, str]:
    """Card and space by the names of their files."""
    card = json.dumps(collection.info.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return {CARD: card, SPACE: space_to_json(collection.space)}


def _write_file(path: Path, content: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    with open(path, "wb") as file:
        pq.write_table(table, file, compression="zstd", compression_level=9)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move(temporary: Path, path: Path) -> None:
    """Put the finished folder in place; one that stands there is moved aside first and removed last."""
    if not path.exists():
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    try:
        os.replace(path, aside / path.name)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        if not path.exists():  # interrupted between the two moves: the old one comes back
            os.replace(aside / path.name, path)
        shutil.rmtree(aside, ignore_errors=True)
