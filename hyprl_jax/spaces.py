"""Search spaces as unit-cube features: mixed types, conditions, constants, and back without loss.

A search space is a `ConfigSpace.ConfigurationSpace`. `SpaceEncoding` turns a frame of configurations (one
column a hyperparameter in its own unit, null where inactive) into features that kernels and networks digest:

- a float or integer: one column, its position between the bounds in [0, 1], on the log scale where the
  space has one;
- an ordinal: one column, its rank divided by the highest rank; a categorical: one 0/1 column a choice;
- every conditional hyperparameter: one more column `NAME:active` that is 1 where it is active;
- an inactive number or ordinal stands at 0.5, an inactive categorical has zeros in all its columns; a
  constant and a choice among one need no column of their own.

Whether a hyperparameter is active follows from the values of its parents, with the semantics of ConfigSpace
(in a nested condition a comparison with an inactive parent is false, but for "not equal", which is true).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd
from ConfigSpace.hyperparameters import FloatHyperparameter, IntegerHyperparameter

from hyprl_jax.encoding import (
    Parameter,
    allowed,
    choice_codes,
    choice_text,
    feature_names,
    from_unit,
    illegal,
    plain_value,
    to_unit,
)
from hyprl_jax.errors import InputError

__all__ = ["Parameter", "SpaceEncoding", "Violation", "choice_text"]


@dataclass(frozen=True)
class Violation:
    """One value of a configuration that the space does not allow: row number (0-based), rule and words."""

    row: int
    parameter: str
    rule: str
    message: str


class SpaceEncoding:
    """Configurations of one space <-> features in the unit cube, for whole frames at a time.

    Args:
        space: the search space.
        known: configurations (a table) that `decode` gives back to the last digit when it meets their
            features; other features are decoded by the formula, exact but for float32 rounding.
    """

    def __init__(self, space: ConfigSpace.ConfigurationSpace, known: pd.DataFrame | None = None) -> None:
        self.space = space
        self.parameters = tuple(_parameter(space, name) for name in space)
        self.parameter_names = tuple(parameter.name for parameter in self.parameters)
        self._index = {name: i for i, name in enumerate(self.parameter_names)}
        self._choice_codes = [choice_codes(parameter) for parameter in self.parameters]
        self.feature_names = tuple(name for parameter in self.parameters for name in feature_names(parameter))
        self._known: pd.DataFrame | None = None
        self._known_rows: dict[bytes, int] = {}
        if known is not None:
            self._remember(known)

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Features and activity of the configurations in `frame` (other columns are ignored).

        Returns:
            features `[N, F]` float32 in [0, 1] in the order of `feature_names`, and active `[N, P]` bool in
            the order of `parameter_names`.

        Raises:
            InputError: a value is missing, outside its bounds, not among its choices, or set though inactive.
        """
        codes = self.codes(frame)
        active = self.active(codes)
        fault = next(iter(self._value_violations(frame, codes, active)), None)
        if fault is not None:
            raise InputError(f"row {fault.row}, hyperparameter '{fault.parameter}': {fault.message}")
        return self._features(codes, active), active

    def decode(self, features: np.ndarray) -> pd.DataFrame:
        """Configurations of features `[N, F]`: the known ones exactly, others to the nearest legal value.

        A choice is the largest of its columns, integers and ordinals are rounded, and activity follows from
        the decoded parents: the result obeys bounds and conditions (but perhaps not forbidden clauses).
        """
        features = np.asarray(features, dtype=np.float32)
        if features.ndim != 2 or features.shape[1] != len(self.feature_names):
            raise InputError(f"features of shape {features.shape} are not [N, {len(self.feature_names)}]")
        codes = np.full((len(features), len(self.parameters)), np.nan)
        column = 0
        for index, parameter in enumerate(self.parameters):
            width = len(feature_names(parameter))
            values = from_unit(parameter, features[:, column : column + width].astype(np.float64))
            codes[:, index] = np.where(self._active_column(index, codes), values, np.nan)
            column += width
        return self._with_known(features, self.frame(codes))

    def codes(self, frame: pd.DataFrame) -> np.ndarray:
        """Values as float64 `[N, P]`: numbers as they are, choices as their index (-1: no such choice),
        NaN: null.

        Raises:
            InputError: a hyperparameter has no column, or a number's column holds something else than
            numbers.
        """
        codes = np.full((len(frame), len(self.parameters)), np.nan)
        for index, parameter in enumerate(self.parameters):
            if parameter.name not in frame.columns:
                raise InputError(f"no column for the hyperparameter '{parameter.name}' of the space")
            codes[:, index] = _column_codes(frame[parameter.name], parameter, self._choice_codes[index])
        return codes

    def active(self, codes: np.ndarray) -> np.ndarray:
        """Activity `[N, P]` bool by the conditions of the space; values of inactive parents are ignored."""
        codes = codes.copy()
        active = np.ones(codes.shape, dtype=bool)
        for index in range(len(self.parameters)):
            active[:, index] = self._active_column(index, codes)
            codes[~active[:, index], index] = np.nan
        return active

    def frame(self, codes: np.ndarray) -> pd.DataFrame:
        """The frame whose `codes` these are, each column in the dtype of `Parameter.value_type`."""
        return pd.DataFrame({p.name: _column(p, codes[:, i]) for i, p in enumerate(self.parameters)})

    def violations(self, frame: pd.DataFrame) -> list[Violation]:
        """Every value in `frame` that the space does not allow, in the order of the hyperparameters.

        Rules: `illegal-value`, `active-without-value`, `inactive-with-value`, `forbidden-configuration`.
        """
        codes = self.codes(frame)
        active = self.active(codes)
        found = list(self._value_violations(frame, codes, active))
        broken = {violation.row for violation in found}
        if self.space.forbidden_clauses:
            found += [v for v in self._forbidden_violations(codes) if v.row not in broken]
        return found

    def _remember(self, known: pd.DataFrame) -> None:
        features, _ = self.encode(known)
        self._known = self.frame(self.codes(known))
        for row, line in enumerate(features):
            self._known_rows.setdefault(line.tobytes(), row)

    def _with_known(self, features: np.ndarray, decoded: pd.DataFrame) -> pd.DataFrame:
        if self._known is None:
            return decoded
        rows = np.array([self._known_rows.get(line.tobytes(), -1) for line in features], dtype=np.int64)
        met, new = np.flatnonzero(rows >= 0), np.flatnonzero(rows < 0)
        both = pd.concat([self._known.iloc[rows[met]], decoded.iloc[new]])
        return both.iloc[np.argsort(np.concatenate([met, new]))].reset_index(drop=True)

    def _features(self, codes: np.ndarray, active: np.ndarray) -> np.ndarray:
        columns: list[np.ndarray] = []
        for index, parameter in enumerate(self.parameters):
            columns += to_unit(parameter, codes[:, index], active[:, index])
        if not columns:
            return np.zeros((len(codes), 0), dtype=np.float32)
        return np.stack(columns, axis=1).astype(np.float32)

    def _active_column(self, index: int, codes: np.ndarray) -> np.ndarray:
        """Activity of one hyperparameter `[N]`, given its parents' codes (NaN where one is inactive)."""
        active = np.ones(len(codes), dtype=bool)
        for condition in self.space.parent_conditions_of[self.parameter_names[index]]:
            active &= self._satisfied(condition, codes)
        return active

    def _satisfied(self, condition: Any, codes: np.ndarray) -> np.ndarray:
        if isinstance(condition, ConfigSpace.AndConjunction):
            return np.all([self._satisfied(part, codes) for part in condition.components], axis=0)
        if isinstance(condition, ConfigSpace.OrConjunction):
            return np.any([self._satisfied(part, codes) for part in condition.components], axis=0)
        index = self._index[condition.parent.name]
        values = codes[:, index]
        if isinstance(condition, ConfigSpace.InCondition):
            return np.isin(values, [self._code(index, value) for value in condition.values])
        target = self._code(index, condition.value)
        for kind, compare in _COMPARISONS.items():
            if isinstance(condition, kind):
                return compare(values, target)
        raise InputError(f"condition '{condition}' is of a kind that is not supported")

    def _code(self, index: int, value: Any) -> float:
        codes = self._choice_codes[index]
        return float(value) if codes is None else float(codes[choice_text(value)])

    def _value_violations(self, frame: pd.DataFrame, codes: np.ndarray, active: np.ndarray) -> Any:
        broken = np.zeros(codes.shape, dtype=bool)  # whoever depends on a broken value is not blamed as well
        for index, parameter in enumerate(self.parameters):
            parents = [self._index[parent.name] for parent in self.space.parents_of[parameter.name]]
            unsure = broken[:, parents].any(axis=1)
            given, on = ~np.isnan(codes[:, index]), active[:, index]
            wrong, missing = illegal(parameter, codes[:, index]), on & ~given & ~unsure
            broken[:, index] = wrong | missing | unsure
            for rule, rows, words in (
                ("illegal-value", wrong, "{value} is not " + allowed(parameter)),
                ("inactive-with-value", given & ~on & ~unsure, "{value} is set though it is inactive"),
                ("active-without-value", missing, "no value though it is active"),
            ):
                for row in np.flatnonzero(rows):
                    shown = words.replace("{value}", str(frame[parameter.name].iloc[row])[:100])
                    yield Violation(int(row), parameter.name, rule, shown)

    def _forbidden_violations(self, codes: np.ndarray) -> Any:
        vectors = np.full((len(self.parameters), len(codes)), np.nan)
        for index, parameter in enumerate(self.parameters):
            legal = ~np.isnan(codes[:, index]) & ~illegal(parameter, codes[:, index])
            values = codes[legal, index]
            if parameter.is_number:
                values = values.astype(np.int64) if parameter.kind == "integer" else values
                vectors[index, legal] = self.space[parameter.name].to_vector(values)
            else:
                vectors[index, legal] = 1.0 if parameter.kind == "constant" else values
        for clause in self.space.forbidden_clauses:
            for row in np.flatnonzero(clause.is_forbidden_vector_array(vectors)):
                yield Violation(int(row), "", "forbidden-configuration", f"the space forbids it: {clause}")


_COMPARISONS = {
    ConfigSpace.EqualsCondition: np.equal,
    ConfigSpace.NotEqualsCondition: np.not_equal,
    ConfigSpace.LessThanCondition: np.less,
    ConfigSpace.GreaterThanCondition: np.greater,
}


def _parameter(space: ConfigSpace.ConfigurationSpace, name: str) -> Parameter:
    hyperparameter = space[name]
    conditional = bool(space.parent_conditions_of[name])
    if isinstance(hyperparameter, (FloatHyperparameter, IntegerHyperparameter)):
        kind = "float" if isinstance(hyperparameter, FloatHyperparameter) else "integer"
        lower, upper = float(hyperparameter.lower), float(hyperparameter.upper)
        if not (np.isfinite(lower) and np.isfinite(upper)):
            raise InputError(f"hyperparameter '{name}' needs finite bounds")
        return Parameter(name, kind, lower, upper, bool(hyperparameter.log), (), conditional)
    if isinstance(hyperparameter, ConfigSpace.Constant):
        kind, choices = "constant", (hyperparameter.value,)
    elif isinstance(hyperparameter, ConfigSpace.OrdinalHyperparameter):
        kind, choices = "ordinal", tuple(hyperparameter.sequence)
    elif isinstance(hyperparameter, ConfigSpace.CategoricalHyperparameter):
        kind, choices = "categorical", tuple(hyperparameter.choices)
    else:
        raise InputError(
            f"hyperparameter '{name}' is of the unsupported kind {type(hyperparameter).__name__}"
        )
    plain = tuple(plain_value(choice) for choice in choices)
    return Parameter(name, kind, 0.0, float(len(plain) - 1), False, plain, conditional)


def _column_codes(series: pd.Series, parameter: Parameter, choice_codes: dict[str, int] | None) -> np.ndarray:
    if choice_codes is None:
        if series.isna().all():
            return np.full(len(series), np.nan)
        if not pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
            raise InputError(
                f"hyperparameter '{parameter.name}' is a number, but its column holds {series.dtype}"
            )
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    positions, values = pd.factorize(series)
    lookup = np.array(
        [choice_codes.get(choice_text(value), -1) for value in values] + [np.nan], dtype=np.float64
    )
    return lookup[positions]  # factorize gives -1 to nulls, which is the NaN at the end


def _column(parameter: Parameter, codes: np.ndarray) -> pd.Series:
    missing = np.isnan(codes) | ((codes < 0) & (not parameter.is_number))
    if parameter.kind == "float":
        return pd.Series(codes.astype(np.float64))
    if parameter.kind == "integer":
        values = pd.Series(np.where(missing, 0, codes).astype(np.int64)).astype("Int64")
    else:
        choices = parameter.choices
        if parameter.value_type == "str":
            choices = tuple(choice_text(choice) for choice in choices)
        positions = np.where(missing, 0, codes).astype(np.int64)
        values = pd.Series([choices[i] for i in positions], dtype=parameter.value_type)
    values[missing] = np.nan if parameter.value_type in ("float64", "str") else pd.NA
    return values
