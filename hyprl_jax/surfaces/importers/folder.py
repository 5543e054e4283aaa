"""Import a collection that somebody made elsewhere: check it, mend it by named rules if asked, copy it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.checks import Fault
from hyprl_jax.surfaces.collection import Collection
from hyprl_jax.surfaces.reading import find_collection, open_collection
from hyprl_jax.surfaces.repairs import chosen_rules, mend

__all__ = ["import_folder"]


def import_folder(
    path: str | Path, name: str | None = None, repair: str | tuple[str, ...] = ()
) -> Collection:
    """The collection in a folder, under a new name if one is given.

    A content hash that does not fit is refused unless a repair is asked for, since then the tables change
    anyway.

    Raises:
        InputError: it has a fault that the rules in `repair` (names, or "all") do not mend.
    """
    folder = find_collection(path)
    rules = chosen_rules(repair)
    faults: list[Fault] = []
    collection = open_collection(folder, faults.append)
    if collection is None:
        raise InputError(f"{folder.name}/{faults[0]}")
    if rules:
        faults = [fault for fault in faults if fault.rule != "content-hash"]
    try:
        collection = mend(collection, faults, rules)
    except InputError as error:
        raise InputError(f"{folder.name}/{error}") from None
    if name is not None:
        collection = dataclasses.replace(collection, info=dataclasses.replace(collection.info, name=name))
    return collection
