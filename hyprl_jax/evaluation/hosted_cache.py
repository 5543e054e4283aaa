"""Finished runs of optimizers from outside, kept in files so that a comparison resumes.

A run is one small JSON file, named by the hash of all that decides its outcome (its key), written in one step
and read with distrust: where anything about it is off, it counts as absent and is played again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.hosted_pool import Job, Outcome

MAX_RUN_BYTES = 2**24
_FIELDS = {"key", "columns", "seconds", "failed_trial", "reason"}

__all__ = ["RunCache"]


class RunCache:
    """Runs in the files of one folder, which is made if it is missing (InputError where it cannot be)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: runs cannot be kept here ({error.strerror}); choose another folder"
            ) from None

    def place(self, key: dict[str, Any]) -> Path:
        """The file of the run with this key."""
        return self.folder / f"{hashlib.sha256(_canonical(key)).hexdigest()}.json"

    def load(self, key: dict[str, Any], job: Job) -> Outcome | None:
        """The outcome of `job` as it was stored under `key`; None where it was not, or is damaged."""
        try:
            place = self.place(key)
            if place.stat().st_size > MAX_RUN_BYTES:
                return None
            data = json.loads(place.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if (
            not isinstance(data, dict)
            or data.pop("checksum", None) != _checksum(data)
            or set(data) != _FIELDS
        ):
            return None
        if data["key"] != key or not _fits(data, job):
            return None
        return Outcome(data["columns"], data["seconds"], data["failed_trial"], data["reason"])

    def store(self, key: dict[str, Any], outcome: Outcome) -> None:
        """Keep an outcome, unless it is a failure that may not happen again. A full disk is no reason to end
        a comparison: then nothing is kept.
        """
        if outcome.failed_trial is not None and not outcome.lasting:
            return
        data: dict[str, Any] = {
            "key": key,
            "columns": outcome.columns,
            "seconds": outcome.seconds,
            "failed_trial": outcome.failed_trial,
            "reason": outcome.reason,
        }
        data["checksum"] = _checksum(data)
        temporary: Path | None = None
        with contextlib.suppress(OSError):
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                temporary = Path(file.name)
                file.write(_canonical(data))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.place(key))
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, allow_nan=False).encode()


def _checksum(data: dict[str, Any]) -> str | None:
    try:
        return hashlib.sha256(_canonical(data)).hexdigest()
    except (ValueError, RecursionError):
        return None


def _fits(data: dict[str, Any], job: Job) -> bool:
    """Whether this is an outcome that `job` may have had."""
    columns, seconds, failed = data["columns"], data["seconds"], data["failed_trial"]
    if not isinstance(columns, list) or not isinstance(seconds, list) or not isinstance(data["reason"], str):
        return False
    length = job.play
    if failed is not None:
        if type(failed) is not int or not 1 <= failed <= length:
            return False
        length = failed - 1
    legal = set(np.flatnonzero(np.isfinite(job.objective)).tolist())
    given = list(job.starts)[:length]
    return (
        len(columns) == len(seconds) == length
        and all(type(column) is int and column in legal for column in columns)
        and len(set(columns)) == length
        and columns[: len(given)] == given
        and all(_is_time(value) for value in seconds)
    )


def _is_time(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value) and value >= 0)
