"""Single hyperparameters of a space: made by hand, read from a ConfigSpace or a dict, guessed from values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hyprl_jax.encoding import Parameter, choice_codes, choice_text, plain_value
from hyprl_jax.errors import InputError

MOST_CHOICES = 100_000
_LARGEST = 1e300
_LARGEST_INTEGER = 2**53  # beyond it a float64 no longer holds every integer
_LOG_RATIO = 100.0  # a guessed range of positive numbers this wide is taken to be on the log scale


def Float(name: str, lower: float, upper: float, log: bool = False) -> Parameter:  # noqa: N802
    """A real number between two bounds (`log`: searched on the log scale)."""
    return _number(name, "float", lower, upper, log)


def Integer(name: str, lower: int, upper: int, log: bool = False) -> Parameter:  # noqa: N802
    """A whole number between two bounds, both included."""
    return _number(name, "integer", lower, upper, log)


def Categorical(name: str, choices: Iterable[Any]) -> Parameter:  # noqa: N802
    """One of several texts, numbers or truth values without an order."""
    return _choice(name, "categorical", choices)


def Ordinal(name: str, choices: Iterable[Any]) -> Parameter:  # noqa: N802
    """One of several values in a meaningful order."""
    return _choice(name, "ordinal", choices)


def Constant(name: str, value: Any) -> Parameter:  # noqa: N802
    """A value that is always the same."""
    return _choice(name, "constant", [value])


def to_dict(parameter: Parameter) -> dict[str, Any]:
    """Plain JSON-able values."""
    if not parameter.is_number:
        return {"name": parameter.name, "kind": parameter.kind, "choices": list(parameter.choices)}
    bounds = {"lower": parameter.lower, "upper": parameter.upper, "log": parameter.log}
    return {"name": parameter.name, "kind": parameter.kind, **bounds}


def from_dict(data: Any) -> Parameter:
    """What `to_dict` wrote; InputError if it is something else."""
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise InputError("a hyperparameter without a name")
    name, kind = data["name"], data.get("kind")
    if kind in ("float", "integer"):
        return _number(name, kind, data.get("lower"), data.get("upper"), data.get("log", False))
    if kind in ("ordinal", "categorical", "constant") and isinstance(data.get("choices"), list):
        return _choice(name, kind, data["choices"])
    raise InputError(f"hyperparameter '{name}' is of the unknown kind {str(kind)[:50]!r}")


def from_configspace(hyperparameter: Any) -> Parameter:
    """The hyperparameter of a ConfigSpace."""
    name, kinds = hyperparameter.name, {base.__name__ for base in type(hyperparameter).__mro__}
    for base, kind in (("FloatHyperparameter", "float"), ("IntegerHyperparameter", "integer")):
        if base in kinds:
            lower, upper = hyperparameter.lower, hyperparameter.upper
            return _number(name, kind, float(lower), float(upper), bool(hyperparameter.log))
    if "Constant" in kinds:
        return _choice(name, "constant", [hyperparameter.value])
    if "OrdinalHyperparameter" in kinds:
        return _choice(name, "ordinal", hyperparameter.sequence)
    if "CategoricalHyperparameter" in kinds:
        return _choice(name, "categorical", hyperparameter.choices)
    raise InputError(f"hyperparameter '{name}' is of the unsupported kind {type(hyperparameter).__name__}")


def guess(name: str, values: Sequence[Any]) -> Parameter:
    """A hyperparameter that allows all of `values`."""
    plain = [plain_value(value) for value in values]
    distinct = {choice_text(value): value for value in plain}
    if len(distinct) == 1:
        return Constant(name, plain[0])
    if any(isinstance(value, (str, bool)) for value in plain):
        return Categorical(name, [distinct[text] for text in sorted(distinct)])
    lower, upper = min(plain), max(plain)
    log = lower > 0 and upper / lower >= _LOG_RATIO
    whole = all(float(value).is_integer() for value in plain)
    return Integer(name, int(lower), int(upper), log) if whole else Float(name, lower, upper, log)


def value_of(parameter: Parameter, code: float) -> Any:
    """The value that a code stands for, as a plain Python value."""
    if parameter.kind == "float":
        return float(code)
    return int(code) if parameter.kind == "integer" else parameter.choices[int(code)]


def number_at(parameter: Parameter, unit: np.ndarray) -> np.ndarray:
    """Values `[N]` at positions `[N]` in [0, 1); every integer takes an equal share of the scale."""
    lower, upper = _edges(parameter)
    values = lower + unit * (upper - lower)
    values = np.exp(values) if parameter.log else values
    if parameter.kind == "integer":
        values = np.round(values)
    return np.clip(values, parameter.lower, parameter.upper)


def position_of(parameter: Parameter, values: np.ndarray) -> np.ndarray:
    """Positions `[N]` in [0, 1] that `number_at` brings back to `values`."""
    lower, upper = _edges(parameter)
    raw = np.log(values) if parameter.log else values
    return (raw - lower) / (upper - lower) if upper > lower else np.full(len(values), 0.5)


def _edges(parameter: Parameter) -> tuple[float, float]:
    """Ends of the scale; half a unit beyond the bounds of an integer."""
    beyond = 0.499 if parameter.kind == "integer" else 0.0
    lower, upper = parameter.lower - beyond, parameter.upper + beyond
    return (float(np.log(lower)), float(np.log(upper))) if parameter.log else (lower, upper)


def _number(name: str, kind: str, lower: Any, upper: Any, log: Any) -> Parameter:
    for bound in (lower, upper):
        if isinstance(bound, bool) or not isinstance(bound, (int, float, np.number)):
            raise InputError(f"hyperparameter '{name}': bound {str(bound)[:50]!r} is no number")
    try:
        lower, upper = float(lower), float(upper)
    except OverflowError:
        raise InputError(f"hyperparameter '{name}': a bound is too large for a number") from None
    largest = _LARGEST_INTEGER if kind == "integer" else _LARGEST
    if not lower <= upper or max(abs(lower), abs(upper)) > largest:
        raise InputError(f"hyperparameter '{name}': [{lower:g}, {upper:g}] is no finite range")
    if kind == "integer" and not (lower.is_integer() and upper.is_integer()):
        raise InputError(f"hyperparameter '{name}': bounds {lower:g} and {upper:g} are not whole")
    if log and lower <= 0:
        raise InputError(f"hyperparameter '{name}': a log scale needs bounds above 0, not {lower:g}")
    if lower == upper:  # no column: it would divide by a width of 0
        return Constant(name, int(lower) if kind == "integer" else lower)
    return Parameter(name, kind, lower, upper, bool(log), (), False)


def _choice(name: str, kind: str, choices: Iterable[Any]) -> Parameter:
    plain = tuple(plain_value(choice) for choice in choices)
    if not 0 < len(plain) <= MOST_CHOICES:
        raise InputError(f"hyperparameter '{name}': {len(plain)} choices; give 1 to {MOST_CHOICES}")
    parameter = Parameter(name, kind, 0.0, float(len(plain) - 1), False, plain, False)
    choice_codes(parameter)  # complains about choices that are no plain values or read the same
    return parameter
