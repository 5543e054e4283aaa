"""When a hyperparameter is active, as a small tree that needs no library: built by hand or from ConfigSpace.

The semantics are those of ConfigSpace and of `hyprl_jax.spaces`: a comparison with an inactive parent is
false, but for "not in", which is true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyprl_jax.encoding import plain_value
from hyprl_jax.errors import InputError

_COMPARISONS = ("in", "not_in", "less", "greater")
_JOINTS = ("and", "or")
_DEEPEST = 20

CodeOf = Callable[[str, Any], float]
"""The code of a value of a hyperparameter: a number itself, or the index of a choice."""


@dataclass(frozen=True)
class Condition:
    """One comparison with a parent (`parent`, `values`), or several joined by "and" or "or" (`parts`).

    `kind` is "in", "not_in", "less", "greater", "and" or "or".
    """

    kind: str
    parent: str = ""
    values: tuple[Any, ...] = ()
    parts: tuple[Condition, ...] = ()

    def parents(self) -> set[str]:
        """Names of all hyperparameters that it looks at."""
        return {self.parent} if self.parent else set().union(*(part.parents() for part in self.parts))

    def holds(self, codes: Mapping[str, np.ndarray], code_of: CodeOf) -> np.ndarray:
        """`[N]` bool for codes `[N]` of the parents (NaN where one is inactive)."""
        if self.kind in _JOINTS:
            each = [part.holds(codes, code_of) for part in self.parts]
            return np.logical_and.reduce(each) if self.kind == "and" else np.logical_or.reduce(each)
        parent = codes[self.parent]
        wanted = [code_of(self.parent, value) for value in self.values]
        if self.kind in ("in", "not_in"):
            inside = np.isin(parent, wanted)
            return inside if self.kind == "in" else ~inside
        return parent < wanted[0] if self.kind == "less" else parent > wanted[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        if self.kind in _JOINTS:
            return {"kind": self.kind, "parts": [part.to_dict() for part in self.parts]}
        return {"kind": self.kind, "parent": self.parent, "values": list(self.values)}

    @classmethod
    def from_dict(cls, data: Any, depth: int = 0) -> Condition:
        """What `to_dict` wrote; InputError if it is something else."""
        kind = str(data.get("kind")) if isinstance(data, dict) else ""
        if kind in _JOINTS and isinstance(data.get("parts"), list) and data["parts"] and depth < _DEEPEST:
            return cls(kind, parts=tuple(cls.from_dict(part, depth + 1) for part in data["parts"]))
        values = data.get("values") if kind in _COMPARISONS else None
        if (
            not isinstance(values, list)
            or not values
            or not isinstance(data.get("parent"), str)
            or not data["parent"]
        ):
            raise InputError(f"a condition is malformed: {str(data)[:100]}")
        return cls(kind, data["parent"], tuple(values))


def when(parent: str, values: Any) -> Condition:
    """Active where `parent` has one of `values` (a single one, or a list)."""
    several = isinstance(values, Sequence) and not isinstance(values, str)
    return Condition("in", parent, tuple(values) if several else (values,))


def from_configspace(conditions: Sequence[Any]) -> Condition:
    """The condition that all of ConfigSpace's `conditions` on one hyperparameter hold."""
    parts = tuple(_one_from_configspace(condition) for condition in conditions)
    return parts[0] if len(parts) == 1 else Condition("and", parts=parts)


def _one_from_configspace(condition: Any) -> Condition:
    kind = type(condition).__name__
    if kind in ("AndConjunction", "OrConjunction"):
        parts = tuple(_one_from_configspace(part) for part in condition.components)
        return Condition("and" if kind == "AndConjunction" else "or", parts=parts)
    if kind == "InCondition":
        return Condition("in", condition.parent.name, tuple(plain_value(value) for value in condition.values))
    kinds = {
        "EqualsCondition": "in",
        "NotEqualsCondition": "not_in",
        "LessThanCondition": "less",
        "GreaterThanCondition": "greater",
    }
    if kind not in kinds:
        raise InputError(f"condition '{condition}' is of a kind that is not supported")
    return Condition(kinds[kind], condition.parent.name, (plain_value(condition.value),))
