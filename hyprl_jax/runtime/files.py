"""Files that nobody vouches for: their size is looked at before they are read, and they are written whole."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError


def check_size(path: Path, most: int) -> None:
    """InputError unless `path` is a plain file of at most `most` bytes."""
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{path}: cannot be read (it is no plain file)")
    if facts.st_size > most:
        raise InputError(f"{path}: {facts.st_size} bytes are more than the {most} it may have")


def read_json(path: Path, most: int, otherwise: str) -> Any:
    """What a JSON file of at most `most` bytes holds; InputError, ending in `otherwise`, if it is none."""
    check_size(path, most)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON; {otherwise}") from None


def write_json(path: Path, data: Any, allow_nan: bool = True) -> None:
    """Writes a JSON file, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(data, file, allow_nan=allow_nan)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
