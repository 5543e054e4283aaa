"""Search spaces for ask and tell: mixed types, log scales and conditions, in NumPy alone.

A space is built by hand (`Space([Float("learning_rate", 1e-5, 1e-1, log=True), ...])`), from a ConfigSpace
(`Space.from_configspace`), or guessed from a list of configurations (`Space.infer`). Configurations are plain
dicts without the inactive hyperparameters. The features are those of `hyprl_jax.spaces.SpaceEncoding`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hyprl_jax.encoding import (
    Parameter,
    allowed,
    choice_codes,
    choice_text,
    feature_names,
    illegal,
    plain_value,
    to_unit,
)
from hyprl_jax.errors import InputError
from hyprl_jax.runtime import conditions as rules
from hyprl_jax.runtime import parameters as kinds
from hyprl_jax.runtime.conditions import Condition

Config = dict[str, Any]
"""A configuration: hyperparameter name to value; inactive hyperparameters are left out."""

_MOST_PARAMETERS = 1000
_CHOICE_SCALE, _ACTIVITY_SCALE = 0.7, 0.5


class Space:
    """Hyperparameters, the conditions under which each is active, and what is forbidden.

    Args:
        parameters: made by `Float`, `Integer`, `Categorical`, `Ordinal` and `Constant`.
        conditions: hyperparameter name to the condition under which it is active (`when("kernel", "rbf")`).
        permits: a function that tells whether a configuration may be suggested (all may by default).
        optional: hyperparameters that a configuration may leave out though no condition says when.

    Raises:
        InputError: names given twice, unknown parents, or conditions in a circle.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        conditions: Mapping[str, Condition] | None = None,
        permits: Callable[[Config], bool] | None = None,
        optional: Collection[str] = (),
    ) -> None:
        conditions = dict(conditions or {})
        names = [parameter.name for parameter in parameters]
        _check_names(names, [*conditions, *optional])
        self.optional = frozenset(optional)
        self.parameters = tuple(
            dataclasses.replace(p, conditional=p.name in conditions or p.name in self.optional)
            for p in parameters
        )
        self.names = tuple(names)
        self.conditions = conditions
        self.permits = permits
        self._codes = {p.name: choice_codes(p) for p in self.parameters}
        self._order = _parents_first(names, conditions)
        self._index = {name: index for index, name in enumerate(names)}
        self.feature_names = tuple(name for p in self.parameters for name in feature_names(p))
        for child, condition in conditions.items():
            self._check_condition(child, condition)

    @classmethod
    def of(cls, space: Any) -> Space:
        """`space` itself, or the one that a ConfigSpace or the dict of `to_dict` describes."""
        if isinstance(space, Space):
            return space
        if hasattr(space, "parent_conditions_of"):
            return cls.from_configspace(space)
        if isinstance(space, Mapping) and "parameters" in space:
            return cls.from_dict(space)
        raise InputError(
            f"a search space is a Space, a ConfigSpace or the dict of `to_dict`, not {type(space).__name__}"
        )

    @classmethod
    def from_configspace(cls, space: Any) -> Space:
        """The space of a `ConfigSpace.ConfigurationSpace`: types, conditions and forbidden clauses."""
        parameters = [kinds.from_configspace(space[name]) for name in space]
        conditions = {
            name: rules.from_configspace(space.parent_conditions_of[name])
            for name in space
            if space.parent_conditions_of[name]
        }
        permits = _NotForbidden(space) if space.forbidden_clauses else None
        return cls(parameters, conditions, permits)

    @classmethod
    def infer(cls, configs: Sequence[Config]) -> Space:
        """A space that holds all of `configs`: bounds and choices as seen, positive numbers on the log scale
        if the largest is 100 times the smallest; what some configurations leave out is optional."""
        if not configs:
            raise InputError("no configuration to infer a space from")
        names = list(dict.fromkeys(name for config in configs for name in config))
        seen = {name: [c[name] for c in configs if c.get(name) is not None] for name in names}
        parts = [kinds.guess(name, values) for name, values in seen.items() if values]
        return cls(parts, optional=[part.name for part in parts if len(seen[part.name]) < len(configs)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values (`permits` is a function and is left out)."""
        return {
            "parameters": [kinds.to_dict(parameter) for parameter in self.parameters],
            "conditions": {name: condition.to_dict() for name, condition in self.conditions.items()},
            "optional": sorted(self.optional),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Space:
        """What `to_dict` wrote; InputError, naming the hyperparameter, if it is something else."""
        parts = data.get("parameters") if isinstance(data, Mapping) else None
        given = data.get("conditions", {}) if isinstance(data, Mapping) else None
        if not isinstance(parts, list) or not isinstance(given, Mapping):
            raise InputError("a search space has a list of parameters and a dict of conditions")
        conditions = {str(name): Condition.from_dict(value) for name, value in given.items()}
        optional = data.get("optional", [])
        if not isinstance(optional, list) or not all(isinstance(name, str) for name in optional):
            raise InputError("the optional hyperparameters of a search space are a list of names")
        return cls([kinds.from_dict(part) for part in parts], conditions, optional=optional)

    def codes(self, configs: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Values `[N, P]` float64: numbers as they are, choices as their index, NaN where inactive.

        Raises:
            InputError: a hyperparameter is missing though it is active, unknown, or its value not allowed.
        """
        codes = np.full((len(configs), len(self.names)), np.nan)
        for row, config in enumerate(configs):
            unknown = [name for name in config if name not in self._codes]
            if unknown:
                raise InputError(f"hyperparameter '{unknown[0]}' is not in the space")
            for column, name in enumerate(self.names):
                if name in config and config[name] is not None:
                    codes[row, column] = self._code(name, config[name])
        active = self._active(codes)
        codes[~active] = np.nan
        for row, column in np.argwhere(active & np.isnan(codes)):
            if self.names[column] not in self.optional:
                raise InputError(f"hyperparameter '{self.names[column]}' has no value in {configs[row]}")
        return (
            codes + 0.0
        )  # -0.0 and 0.0 are one value, but differ in the bytes that configurations are known by

    def configs(self, codes: np.ndarray) -> list[Config]:
        """The configurations `[N]` of codes `[N, P]`."""
        return [
            {
                parameter.name: kinds.value_of(parameter, code)
                for parameter, code in zip(self.parameters, row, strict=True)
                if not np.isnan(code)
            }
            for row in codes
        ]

    def features(self, codes: np.ndarray) -> np.ndarray:
        """Features `[N, F]` float32 of codes `[N, P]`, in the order of `feature_names`."""
        active = ~np.isnan(codes)
        columns: list[np.ndarray] = []
        for index, parameter in enumerate(self.parameters):
            columns += to_unit(parameter, codes[:, index], active[:, index])
        if not columns:
            return np.zeros((len(codes), 0), np.float32)
        return np.stack(columns, axis=1).astype(np.float32)

    def feature_scales(self) -> np.ndarray:
        """`[F]` factors on the features that make hyperparameters count alike in distances: two columns of a
        choice change together, and activity is told by the columns of the hyperparameter as well."""
        scales: list[float] = []
        for parameter in self.parameters:
            own = len(feature_names(parameter)) - parameter.conditional
            scales += [_CHOICE_SCALE if parameter.kind == "categorical" else 1.0] * own
            scales += [_ACTIVITY_SCALE] * parameter.conditional
        return np.asarray(scales)

    def encode(self, configs: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Features `[N, F]` float32 of configurations; raises as `codes` does."""
        return self.features(self.codes(configs))

    def from_positions(self, positions: np.ndarray) -> np.ndarray:
        """Codes `[N, P]` of points `[N, P]` of the unit cube, one coordinate a hyperparameter; what is
        inactive is NaN."""
        codes = np.full(positions.shape, np.nan)
        for index, parameter in enumerate(self.parameters):
            unit = np.clip(positions[:, index], 0.0, np.nextafter(1.0, 0.0))
            if parameter.kind in ("float", "integer"):
                codes[:, index] = kinds.number_at(parameter, unit)
            else:
                codes[:, index] = np.floor(unit * len(parameter.choices))
        return self.deactivate(codes) + 0.0

    def deactivate(self, codes: np.ndarray) -> np.ndarray:
        """`codes [N, P]` with NaN for what the conditions make inactive."""
        return np.where(self._active(codes), codes, np.nan)

    def positions(self, codes: np.ndarray) -> np.ndarray:
        """Points `[N, P]` of the unit cube that `from_positions` brings back to `codes` (0.5 where
        inactive)."""
        points = np.full(codes.shape, 0.5)
        for index, parameter in enumerate(self.parameters):
            given = ~np.isnan(codes[:, index])
            values = codes[given, index]
            if parameter.is_number:
                points[given, index] = kinds.position_of(parameter, values)
            else:
                points[given, index] = (values + 0.5) / len(parameter.choices)
        return points

    def size(self) -> float:
        """Number of configurations if all were active (infinite with a float)."""
        total = 1.0
        for p in self.parameters:
            if p.kind == "float":
                return np.inf if p.upper > p.lower else total
            total *= p.upper - p.lower + 1.0
        return total

    def _active(self, codes: np.ndarray) -> np.ndarray:
        columns = {name: codes[:, index].copy() for index, name in enumerate(self.names)}
        active = np.ones(codes.shape, bool)
        for name in self._order:
            if name in self.conditions:
                index = self._index[name]
                active[:, index] = self.conditions[name].holds(columns, self._code)
                columns[name][~active[:, index]] = np.nan
        return active

    def _code(self, name: str, value: Any) -> float:
        codes = self._codes[name]
        parameter = self.parameters[self._index[name]]
        if codes is None:
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
                raise InputError(f"hyperparameter '{name}': {value!r} is no number")
            try:
                code = float(value)
            except OverflowError:  # an integer of hundreds of digits
                code = np.inf
        else:
            code = float(codes.get(choice_text(value), -1))
        if not np.isfinite(code) or illegal(parameter, np.asarray([code]))[0]:
            raise InputError(f"hyperparameter '{name}': {_shown(value)} is not {allowed(parameter)}")
        return code

    def _check_condition(self, child: str, condition: Condition) -> None:
        for part in condition.parts:
            self._check_condition(child, part)
        for value in condition.values:
            try:
                self._code(condition.parent, value)
            except InputError as error:
                raise InputError(f"condition on '{child}': {error}") from None


def _check_names(names: Sequence[str], children: Sequence[str]) -> None:
    if not 1 <= len(names) <= _MOST_PARAMETERS:
        raise InputError(f"{len(names)} hyperparameters; a space has 1 to {_MOST_PARAMETERS}")
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise InputError(f"hyperparameter '{twice[0]}' is given twice")
    unknown = [name for name in children if name not in names]
    if unknown:
        raise InputError(f"there is no hyperparameter '{unknown[0]}' to put a condition on")


def _parents_first(names: Sequence[str], conditions: Mapping[str, Condition]) -> list[str]:
    """The names, every parent before its children; InputError for conditions in a circle or unknown
    parents."""
    order: list[str] = []
    waiting = list(names)
    while waiting:
        ready = [n for n in waiting if n not in conditions or conditions[n].parents() <= set(order)]
        if not ready:
            parents = conditions[waiting[0]].parents()
            missing = sorted(parents - set(names))
            fault = f"'{missing[0]}', which is not in the space" if missing else "itself, in a circle"
            raise InputError(f"hyperparameter '{waiting[0]}' depends on {fault}")
        order += ready
        waiting = [name for name in waiting if name not in ready]
    return order


class _NotForbidden:
    """Whether the forbidden clauses of a ConfigSpace allow a configuration."""

    def __init__(self, space: Any) -> None:
        self._space = space

    def __call__(self, config: Config) -> bool:
        import ConfigSpace

        try:
            ConfigSpace.Configuration(self._space, values=config).check_valid_configuration()
        except ConfigSpace.exceptions.ForbiddenValueError:
            return False
        return True


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "an integer this large"
    return text[:100]


def plain(config: Mapping[str, Any]) -> Config:
    """The configuration with Python values in the place of NumPy's."""
    return {name: plain_value(value) for name, value in config.items()}
