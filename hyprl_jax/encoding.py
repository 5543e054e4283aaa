"""Hyperparameters as features in the unit cube: the rule for one hyperparameter, in NumPy alone.

`hyprl_jax.spaces` applies it to frames of configurations of a ConfigSpace, `hyprl_jax.runtime` to those of a
space that needs neither ConfigSpace nor pandas: both give the same features. The rule is told in
`hyprl_jax.spaces`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError

INACTIVE_POSITION = 0.5  # the middle: no active value is further away than half the range


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter as this package sees it.

    `kind` is "float", "integer", "ordinal", "categorical" or "constant"; `lower`, `upper` and `log` belong
    to the numbers, `choices` to the rest (in order); `conditional` tells whether it can be inactive.
    """

    name: str
    kind: str
    lower: float
    upper: float
    log: bool
    choices: tuple[Any, ...]
    conditional: bool

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.kind in ("float", "integer")

    @property
    def value_type(self) -> str:
        """The pandas dtype of its column: float64, Int64, boolean or str."""
        if self.kind == "float":
            return "float64"
        if self.kind == "integer":
            return "Int64"
        kinds = {type(choice) for choice in self.choices}
        if kinds == {bool}:
            return "boolean"
        if kinds == {int} and max(abs(choice) for choice in self.choices) <= 2**53:
            return "Int64"
        return "float64" if kinds == {float} else "str"


def choice_text(value: Any) -> str:
    """A choice as text, the same for 1, 1.0 and "1", so that what a file holds can be matched with the
    space.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)


def plain_value(value: Any) -> Any:
    """The value as Python has it, if it is a NumPy scalar."""
    return value.item() if isinstance(value, np.generic) else value


def choice_codes(parameter: Parameter) -> dict[str, int] | None:
    if parameter.is_number:
        return None
    for choice in parameter.choices:
        if not isinstance(choice, (str, int, float)) or choice in (np.inf, -np.inf) or choice != choice:
            raise InputError(f"hyperparameter '{parameter.name}': choice {choice!r} is no plain value")
    codes = {choice_text(choice): i for i, choice in enumerate(parameter.choices)}
    if len(codes) != len(parameter.choices):
        raise InputError(f"hyperparameter '{parameter.name}': two choices read the same, such as 1 and '1'")
    return codes


def illegal(parameter: Parameter, values: np.ndarray) -> np.ndarray:
    """Which codes `[N]` are none of the hyperparameter's values (NaN, no value at all, is not meant)."""
    wrong = (values < parameter.lower) | (values > parameter.upper)
    return wrong | (values != np.round(values)) & ~np.isnan(values) if parameter.kind == "integer" else wrong


def allowed(parameter: Parameter) -> str:
    if parameter.is_number:
        return f"of the kind {parameter.kind} in [{parameter.lower:g}, {parameter.upper:g}]"
    return "one of " + ", ".join(choice_text(choice) for choice in parameter.choices[:12])


def feature_names(parameter: Parameter) -> list[str]:
    if parameter.is_number or (parameter.kind == "ordinal" and len(parameter.choices) > 1):
        names = [parameter.name]
    elif parameter.kind == "categorical" and len(parameter.choices) > 1:
        names = [f"{parameter.name}={choice_text(choice)}" for choice in parameter.choices]
    else:
        names = []
    return [*names, f"{parameter.name}:active"] if parameter.conditional else names


def to_unit(parameter: Parameter, codes: np.ndarray, active: np.ndarray) -> list[np.ndarray]:
    names = feature_names(parameter)
    width = len(names) - parameter.conditional
    columns: list[np.ndarray] = []
    if parameter.kind == "categorical":
        columns = [(codes == choice).astype(np.float64) for choice in range(width)]
    elif width:
        lower, upper = parameter.lower, parameter.upper
        values = np.where(active, codes, lower)
        if parameter.log:
            lower, upper, values = np.log(lower), np.log(upper), np.log(values)
        unit = np.clip((values - lower) / (upper - lower), 0.0, 1.0)
        columns = [np.where(active, unit, INACTIVE_POSITION)]
    return [*columns, active.astype(np.float64)] if parameter.conditional else columns


def from_unit(parameter: Parameter, columns: np.ndarray) -> np.ndarray:
    """Codes `[N]` of the feature columns `[N, width]` of one hyperparameter, taken as active."""
    if len(feature_names(parameter)) == parameter.conditional:
        return np.zeros(len(columns))
    if parameter.kind == "categorical":
        return np.argmax(columns[:, : len(parameter.choices)], axis=1).astype(np.float64)
    lower, upper = parameter.lower, parameter.upper
    unit = np.clip(np.nan_to_num(columns[:, 0], nan=INACTIVE_POSITION), 0.0, 1.0)
    if parameter.log:
        values = np.exp(np.log(lower) + unit * (np.log(upper) - np.log(lower)))
    else:
        values = lower + unit * (upper - lower)
    if parameter.kind != "float":
        values = np.round(values)
    return np.clip(values, lower, upper)
