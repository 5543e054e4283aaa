"""Folders that can prove that they are whole: a manifest with the size and SHA-256 of every other file.

`seal` writes the manifest last, after everything else has reached the disk; `verify` believes nothing that
does not agree with it, the manifest itself included. What is found wrong is told by `DamagedError`. This
guards against crashes, truncation, full disks and bit rot; it is no signature against somebody who rewrites
the manifest as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

__all__ = ["MANIFEST", "DamagedError", "flush_folder", "seal", "verify"]

MANIFEST = "manifest.json"

_SIZE_LIMIT = 64 * 2**20  # bytes of a manifest that are read at most


class DamagedError(Exception):
    """A folder is not what its manifest says; the message says how."""


def seal(folder: Path, header: Mapping[str, Any]) -> None:
    """Writes the manifest of `folder`: the fields of `header`, the files, and a hash over all that.

    When it returns, the files, the manifest and the folder's entries have reached the disk.
    """
    files = {name: _fingerprint(folder / name, flush=True) for name in _files(folder)}
    # Through JSON and back, so that the hash is over what a reader will see.
    manifest = json.loads(json.dumps(dict(header) | {"files": files}))
    manifest["sha256"] = _hash_of(manifest)
    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for parent, _, _ in os.walk(folder, topdown=False):
        flush_folder(parent)


def verify(folder: Path, unread: Collection[str] = ()) -> dict[str, Any]:
    """The manifest of a folder whose files are all there, whole and unchanged, and no others.

    Of the files named in `unread` only the size is compared: for those too large to be read beforehand.

    Raises:
      DamagedError: anything else.
      OSError: the folder cannot be read.
    """
    manifest = _read_manifest(folder / MANIFEST)
    files: dict[str, Any] = manifest["files"]
    names = set(_files(folder)) - {MANIFEST}
    if names != set(files):
        odd = min(names ^ set(files))
        raise DamagedError(f"{odd} {'should not be there' if odd in names else 'is missing'}")
    for name, recorded in files.items():
        size = (folder / name).stat().st_size
        if size != recorded["bytes"]:
            raise DamagedError(f"{name} has {size} bytes, not {recorded['bytes']}")
        if name not in unread and _fingerprint(folder / name) != recorded:
            raise DamagedError(f"{name} has been altered")
    return manifest


def flush_folder(path: str | os.PathLike[str]) -> None:
    """Writes the entries of a folder through to the disk, so that a rename in it outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(file: Path) -> dict[str, Any]:
    """A manifest whose own hash is right and whose list of files has the right form."""
    if file.is_symlink() or not file.is_file():
        raise DamagedError(f"{MANIFEST} is missing")
    if file.stat().st_size > _SIZE_LIMIT:
        raise DamagedError(f"{MANIFEST} is larger than {_SIZE_LIMIT} bytes")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        intact = manifest.pop("sha256") == _hash_of(manifest)
        sound = all(
            type(entry["bytes"]) is int and isinstance(entry["sha256"], str)
            for entry in manifest["files"].values()
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read ({type(error).__name__})") from error
    if not (intact and sound):
        raise DamagedError(f"{MANIFEST} has been altered")
    return manifest


def _hash_of(manifest: Mapping[str, Any]) -> str:
    """Hash of everything in a manifest but the hash itself."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[str]:
    """Names of the files below a folder, relative to it; links and other special files are refused."""
    names = []
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise DamagedError(f"{path.relative_to(folder)} is not a plain file")
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    return sorted(names)


def _fingerprint(path: Path, flush: bool = False) -> dict[str, Any]:
    """Size and SHA-256 of a file as it reads now; `flush` has the system write it to the disk as well."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": sha256}
