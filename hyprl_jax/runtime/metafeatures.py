"""Metafeatures by their names: those that a policy was trained with, and those that are told of a dataset.

They decide which earlier tasks count most (`likeness`), and some policies' networks read them as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime.likeness import scaled

LARGEST = 1e38  # what single precision can hold
_MOST_NAME = 200
_SHOWN = 20


@dataclass(frozen=True)
class EarlierTask:
    """An earlier task whose dataset is described, for `earlier` of a `Tuner` or a front end."""

    results: Any
    """What `earlier` takes for a task, such as a list of (configuration, value)."""
    metafeatures: Mapping[str, float] | None = None
    """Of its dataset, by name; None: nothing is known of it."""

    @classmethod
    def of(cls, task: Any) -> EarlierTask:
        """The task itself, or bare results as a task of which nothing else is known."""
        return task if isinstance(task, EarlierTask) else cls(task)


class Described(NamedTuple):
    """The metafeatures of one training collection."""

    names: tuple[str, ...]
    offset: int | None
    """Where they begin in the input of the network, None if it does not read them."""
    mean: np.ndarray
    """`[M]` float64 over the known tasks."""
    deviation: np.ndarray
    """`[M]` float64, above 0."""

    def network_input(self, width: int, given: Mapping[str, float]) -> np.ndarray | None:
        """The input `[width]` of the network, scaled, for a dataset with the values `given` (0 where
        unknown); None if it reads none."""
        if self.offset is None:
            return None
        found = np.zeros(width)
        values = scaled(vector(self.names, given), self.mean, self.deviation)
        found[self.offset : self.offset + len(values)] = values
        return found


def vector(names: Sequence[str], given: Mapping[str, float]) -> np.ndarray:
    """The values `[M]` float64 by `names`, NaN where unknown."""
    return np.asarray([given.get(name, math.nan) for name in names], np.float64)


def checked(given: Any, whose: str = "metafeatures") -> dict[str, float]:
    """Metafeatures by name as plain numbers, without those that are unknown (None or NaN).

    Raises:
        InputError: beginning with `whose`: it is no mapping from names to finite numbers.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{whose}: give a dict from names to numbers, not a {type(given).__name__}")
    found = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise InputError(f"{whose}: {str(name)[:50]!r} is no name")
        if value is None:
            continue
        number = isinstance(value, (int, float, np.number)) and not isinstance(
            value, (bool, np.complexfloating)
        )
        if not number or abs(value) > LARGEST:
            raise InputError(f"{whose}: '{name[:100]}' is {str(value)[:50]!r}: give a finite number")
        if not math.isnan(value):
            found[name] = float(value)
    return found


def check_names(given: Iterable[str], known: Iterable[str], policy: str) -> None:
    """InputError for a name that is not `known`."""
    listed = list(dict.fromkeys(known))
    unknown = next((name for name in given if name not in listed), None)
    if unknown is None:
        return
    if not listed:
        raise InputError(
            f"policy '{policy}' knows no metafeatures, and no earlier task has any: leave them out, or give "
            "each earlier task as EarlierTask(results, metafeatures)"
        )
    shown = ", ".join(listed[:_SHOWN]) + (", and others" if len(listed) > _SHOWN else "")
    raise InputError(f"metafeature '{unknown[:100]}' is unknown: use {shown}")


def read_described(data: Any, width: int, where: str) -> dict[str, Described]:
    """What `policy.json` says of the metafeatures of each collection, for a network that reads `width` of
    them; InputError, beginning with `where`, if it is malformed."""
    if data is None:
        return {}
    collections = data.get("collections") if isinstance(data, dict) else None
    if not isinstance(collections, dict):
        raise InputError(f"{where}: 'metafeatures' has no object 'collections'")
    return {
        name: _read_one(part, width, f"{where}: the metafeatures of {name[:100]!a}")
        for name, part in collections.items()
    }


def _read_one(part: Any, width: int, where: str) -> Described:
    if not isinstance(part, dict):
        raise InputError(f"{where} are no object")
    names, mean, deviation = (part.get(field) for field in ("names", "mean", "deviation"))
    if not isinstance(names, list) or not all(_is_name(name) for name in names) or len({*names}) < len(names):
        raise InputError(f"{where} are not named by different texts of one line")
    for values in (mean, deviation):
        if not isinstance(values, list) or len(values) != len(names) or not all(map(_is_number, values)):
            raise InputError(f"{where} need one finite mean and deviation each")
    if not all(value > 0 for value in part["deviation"]):
        raise InputError(f"{where} have deviations that are not above 0")
    offset = part.get("offset")
    if offset is not None and (type(offset) is not int or not 0 <= offset <= width - len(names)):
        raise InputError(f"{where} do not fit into the input of the network")
    arrays = (np.asarray(part[field], np.float64) for field in ("mean", "deviation"))
    return Described(tuple(names), offset, *arrays)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MOST_NAME


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST
