"""Every fault of a collection on disk, not only the first."""

from __future__ import annotations

from pathlib import Path

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.checks import Fault
from hyprl_jax.surfaces.reading import open_collection

__all__ = ["validate_path"]


def validate_path(path: str | Path) -> list[Fault]:
    """All faults of the collection in a folder, each with file, task, row and rule; an empty list is good
    news.

    Of one rule at most 100,000 rows are listed, then a line says how many more there are.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    faults: list[Fault] = []
    open_collection(folder, faults.append)
    return faults
