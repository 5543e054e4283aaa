"""Single parameters of an estimator: what stands for one in a `Space` of the runtime, and the way back.

`dimension` takes what `RandomizedSearchCV` takes for one parameter: a list of anything, a distribution of
`scipy.stats`, an object that draws; or a hyperparameter of the runtime.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyprl_jax.encoding import Parameter, choice_text, plain_value
from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Categorical, Constant, Float, Integer, Ordinal

_TAIL = 1e-3  # quantiles this close to 0 and 1 are not searched: there, many distributions are infinite
_PROBES = np.linspace(0.05, 0.95, 19)
_MOST_STEPS = 20  # a longer list of numbers is searched by position, with steps of any length
_MOST_COUNTED = 10_000  # values of a discrete distribution that are looked at one by one
_DRAWS = 256  # from a distribution that can do nothing but draw


@dataclasses.dataclass(frozen=True, eq=False)
class Dimension:
    """One parameter of an estimator: the hyperparameter that stands for it, and the way there and back."""

    parameter: Parameter

    def value(self, plain: Any) -> Any:
        """What the estimator gets for the hyperparameter's value `plain`."""
        return plain

    def plain(self, value: Any) -> Any:
        """The hyperparameter's value for what the estimator got; InputError if there is none."""
        return plain_value(value)

    def same(self, other: Dimension) -> bool:
        """Whether both stand for the same values, whatever their names."""
        mine = dataclasses.replace(self.parameter, name=other.parameter.name)
        return type(self) is type(other) and mine == other.parameter


@dataclasses.dataclass(frozen=True, eq=False)
class Listed(Dimension):
    """One of several objects of any kind; the hyperparameter's values are labels or positions of them."""

    choices: tuple[Any, ...]

    def value(self, plain: Any) -> Any:
        if self.parameter.is_number:
            return self.choices[int(plain)]
        texts = [choice_text(label) for label in self.parameter.choices]
        return self.choices[texts.index(choice_text(plain))]

    def plain(self, value: Any) -> Any:
        for place, choice in enumerate(self.choices):
            if _alike(choice, value):
                return place if self.parameter.is_number else self.parameter.choices[place]
        raise InputError(f"hyperparameter '{self.parameter.name}': {str(value)[:100]} is not in its list")

    def same(self, other: Dimension) -> bool:
        return (
            isinstance(other, Listed)
            and super().same(other)
            and all(_alike(a, b) for a, b in zip(self.choices, other.choices, strict=True))
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Quantiles(Dimension):
    """A value of a distribution; the hyperparameter is the probability of values below it."""

    distribution: Any

    def value(self, plain: Any) -> Any:
        return float(self.distribution.ppf(plain))

    def plain(self, value: Any) -> Any:
        level = float(self.distribution.cdf(value))
        return min(max(level, self.parameter.lower), self.parameter.upper)

    def same(self, other: Dimension) -> bool:
        return isinstance(other, Quantiles) and _identity(self.distribution) == _identity(other.distribution)


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed(Dimension):
    """A parameter that has always the same value; no hyperparameter of the space stands for it."""

    only: Any

    def value(self, plain: Any) -> Any:
        return self.only

    def plain(self, value: Any) -> Any:
        if not _alike(self.only, value):
            raise InputError(f"hyperparameter '{self.parameter.name}': {str(value)[:100]} is not in its list")
        return None


def dimension(name: str, values: Any) -> Dimension:
    """The dimension for one entry of `param_distributions`.

    A list of growing or falling numbers is ordered, any other list is not. A distribution that is uniform, or
    uniform on the log scale, becomes its range; any other is searched in its quantiles.

    Raises:
        InputError: `values` is neither a list nor a distribution, or one that cannot be searched.
    """
    if isinstance(values, Parameter):
        if values.kind == "constant":
            return Fixed(Constant(name, values.choices[0]), values.choices[0])
        return Dimension(dataclasses.replace(values, name=name))
    if hasattr(values, "ppf"):
        return _distributed(name, values)
    if hasattr(values, "rvs"):
        return _listed(name, _drawn(values))
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InputError(f"hyperparameter '{name}': an array of choices has one dimension, not {values.ndim}")
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise InputError(
            f"hyperparameter '{name}': {str(values)[:100]!r} is neither a list nor a distribution; "
            "put a single value into a list"
        )
    return _listed(name, list(values))


def _listed(name: str, values: list[Any]) -> Dimension:
    distinct: dict[Any, Any] = {}
    for value in values:
        distinct.setdefault(_key(value), value)
    choices = list(distinct.values())
    if not choices:
        raise InputError(f"hyperparameter '{name}': the list of choices is empty")
    if len(choices) == 1:
        return Fixed(Constant(name, 0), choices[0])
    if not _ordered(choices):
        return Listed(Categorical(name, _labels(choices)), tuple(choices))
    if len(choices) > _MOST_STEPS:
        return Listed(Integer(name, 0, len(choices) - 1), tuple(choices))
    return Listed(Ordinal(name, choices), tuple(choices))


def _ordered(choices: Sequence[Any]) -> bool:
    """Whether these are finite numbers that only grow or only fall."""
    if not all(_is_number(choice) and math.isfinite(choice) for choice in choices):
        return False
    steps = np.diff(np.asarray(choices, np.float64))
    return bool((steps > 0).all() or (steps < 0).all())


def _labels(choices: Sequence[Any]) -> list[Any]:
    """A plain value for each choice: itself where it is one, else a name; positions if two read the same."""
    labels = [_label(choice) for choice in choices]
    distinct = {choice_text(label) for label in labels}
    return labels if len(distinct) == len(labels) else list(range(len(labels)))


def _label(choice: Any) -> Any:
    plain = plain_value(choice)
    if isinstance(plain, (str, bool)) or (_is_number(plain) and math.isfinite(plain)):
        return plain
    if plain is None or _is_number(plain):
        return str(plain)
    return getattr(plain, "__name__", type(plain).__name__)


def _distributed(name: str, distribution: Any) -> Dimension:
    try:
        found = (_discrete if hasattr(distribution, "pmf") else _continuous)(name, distribution)
    except (TypeError, AttributeError) as error:
        raise InputError(f"hyperparameter '{name}': its distribution lacks parameters ({error})") from None
    if found is None:
        raise InputError(f"hyperparameter '{name}': its distribution has no finite quantiles")
    return found


def _continuous(name: str, distribution: Any) -> Dimension | None:
    quantiles = np.asarray(distribution.ppf([_TAIL, *_PROBES, 1.0 - _TAIL]), np.float64)
    if quantiles.shape != (len(_PROBES) + 2,) or not np.isfinite(quantiles).all():
        return None
    if quantiles[0] == quantiles[-1]:
        return Fixed(Constant(name, 0), float(quantiles[0]))
    lower, upper = (float(end) for end in distribution.support())
    if math.isfinite(lower) and math.isfinite(upper):
        if _on_line(quantiles[1:-1], lower, upper):
            return Dimension(Float(name, lower, upper))
        if lower > 0 and _on_line(np.log(quantiles[1:-1]), math.log(lower), math.log(upper)):
            return Dimension(Float(name, lower, upper, log=True))
    return Quantiles(Float(name, _TAIL, 1.0 - _TAIL), distribution)


def _on_line(values: np.ndarray, lower: float, upper: float) -> bool:
    rounding = 8 * np.finfo(np.float64).eps * max(abs(lower), abs(upper))
    line = lower + _PROBES * (upper - lower)
    return bool(np.abs(values - line).max() <= 1e-9 * (upper - lower) + rounding)


def _discrete(name: str, distribution: Any) -> Dimension | None:
    listed = getattr(distribution, "dist", distribution)
    if hasattr(listed, "xk"):  # made of values and their probabilities
        weights = np.asarray(listed.pk, np.float64).ravel()
        values = distribution.ppf((np.cumsum(weights) - weights / 2)[weights > 0])
        return _listed(name, [int(v) if float(v).is_integer() else float(v) for v in np.unique(values)])
    lower, upper = (float(end) for end in distribution.support())
    if math.isnan(lower) or math.isnan(upper):
        return None
    if math.isfinite(lower) and math.isfinite(upper):
        weights = distribution.pmf(np.unique(np.round(np.linspace(lower, upper, 101))))
        if weights.min() > 0 and np.ptp(weights) <= 1e-9 * weights.max():
            return _whole_numbers(name, int(lower), int(upper))
    # Counted, because scipy's own quantiles of heavy tails take minutes.
    count = min(upper - lower + 1.0, _MOST_COUNTED) if math.isfinite(lower) else 0.0
    values = lower + np.arange(count)
    weights = distribution.pmf(values)
    below = np.cumsum(weights)
    likely = (below >= _TAIL) & (below - weights <= 1.0 - _TAIL) & (weights > 0)
    if not len(below) or below[-1] < 1.0 - _TAIL:
        return _listed(name, [int(value) for value in _drawn(distribution)])
    possible = values[likely]
    if len(possible) == possible[-1] - possible[0] + 1:
        return _whole_numbers(name, int(possible[0]), int(possible[-1]))
    return _listed(name, [int(value) for value in possible])


def _whole_numbers(name: str, lower: int, upper: int) -> Dimension:
    if lower == upper:
        return Fixed(Constant(name, 0), lower)
    return Dimension(Integer(name, lower, upper))


def _drawn(distribution: Any) -> list[Any]:
    """Draws from an object with `rvs` alone, always the same ones; numbers in order."""
    state = np.random.RandomState(0)  # what `rvs` takes
    values = [distribution.rvs(random_state=state) for _ in range(_DRAWS)]
    return sorted(values) if all(_is_number(v) and math.isfinite(v) for v in values) else values


def _alike(one: Any, other: Any) -> bool:
    """Whether two choices are the same value: True is not 1, and estimators compare by what they print."""
    if one is other:
        return True
    if isinstance(one, (bool, np.bool_)) != isinstance(other, (bool, np.bool_)):
        return False
    try:
        equal = np.asarray(one == other)
    except (TypeError, ValueError):
        return False
    if equal.dtype == bool and equal.size and bool(equal.all()):
        return True
    return type(one) is type(other) and hasattr(one, "get_params") and repr(one) == repr(other)


def _key(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _identity(distribution: Any) -> Any:
    """Equal for distributions of the same family with the same numbers."""
    if not hasattr(distribution, "dist"):
        return id(distribution)
    return type(distribution.dist), repr(distribution.args), repr(sorted(distribution.kwds.items()))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
