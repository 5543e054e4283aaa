"""Guess a search space from a table of configurations, by rules that a user can predict.

- a column with a single value is a constant; text is a categorical with its values in sorted order;
- whole numbers are an integer, others a float, between the smallest and the largest value; both on the log
  scale when all values are positive and the largest is at least 100 times the smallest;
- a column with empty cells is conditional: another column must tell, by its values, exactly when it is empty.

A space that is known should rather be given: what a table holds is not always what was allowed.
"""

from __future__ import annotations

from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError

LOG_RATIO = 100.0
MOST_CHOICES = 200
MOST_PARENT_VALUES = 50

__all__ = ["infer_space"]


def infer_space(frame: pd.DataFrame) -> ConfigSpace.ConfigurationSpace:
    """A space that allows exactly the kinds, ranges and activities seen in `frame` (a column a
    hyperparameter).

    Number columns are float64 (NaN: inactive), all others hold text (null: inactive).

    Raises:
        InputError: a column is empty, has too many texts for a categorical, or is empty at times with no
            column that explains when, or has numbers too large or too small for a range; the message names
            the column.
    """
    space = ConfigSpace.ConfigurationSpace()
    for column in frame.columns:
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                space.add(_hyperparameter(str(column), frame[column]))
        except InputError:
            raise
        except (ValueError, ArithmeticError) as error:
            # Numbers at the ends of what a float64 can hold have no range, and some names are reserved.
            why = " ".join(str(error.__cause__ or error).split())[:200]
            raise InputError(f"hyperparameter '{column}': no space can be inferred ({why})") from None
    empty = {str(column): int(frame[column].isna().sum()) for column in frame.columns}
    conditions = [
        _condition(space, frame, child, [parent for parent in empty if empty[parent] < empty[child]])
        for child in empty
        if empty[child] > 0
    ]
    space.add(*conditions)
    return space


def _hyperparameter(name: str, series: pd.Series) -> Any:
    values = series.dropna()
    if not len(values):
        raise InputError(f"hyperparameter '{name}': the column is empty; leave it out")
    distinct = sorted(values.unique().tolist())
    if not pd.api.types.is_numeric_dtype(series.dtype):
        if len(distinct) > MOST_CHOICES:
            raise InputError(
                f"hyperparameter '{name}' has {len(distinct)} different texts such as '{distinct[0][:40]}', "
                "too many for a categorical; is the column a number, or no hyperparameter?"
            )
        if len(distinct) == 1:
            return ConfigSpace.Constant(name, str(distinct[0]))
        return ConfigSpace.CategoricalHyperparameter(name, [str(value) for value in distinct])
    lower, upper = distinct[0], distinct[-1]
    whole = bool((values == np.round(values)).all()) and max(abs(lower), abs(upper)) <= 2**53
    if lower == upper:
        return ConfigSpace.Constant(name, int(lower) if whole else float(lower))
    log = lower > 0 and upper / lower >= LOG_RATIO
    if whole:
        return ConfigSpace.UniformIntegerHyperparameter(name, int(lower), int(upper), log=log)
    return ConfigSpace.UniformFloatHyperparameter(name, float(lower), float(upper), log=log)


def _condition(
    space: ConfigSpace.ConfigurationSpace, frame: pd.DataFrame, child: str, parents: list[str]
) -> Any:
    """The condition on the one parent that tells when `child` is set; texts first, then whole numbers."""
    given = frame[child].notna().to_numpy()
    parents.sort(key=lambda parent: (_is_number(frame[parent]), frame[parent].nunique()))
    for parent in parents:
        hyperparameter, series = space[parent], frame[parent]
        usable = isinstance(
            hyperparameter, (ConfigSpace.CategoricalHyperparameter, ConfigSpace.UniformIntegerHyperparameter)
        )
        if not usable or series.nunique() > MOST_PARENT_VALUES or series[given].isna().any():
            continue
        on, off = set(series[given].unique()), set(series[~given].dropna().unique())
        if on & off or not on:
            continue
        values = sorted(int(value) if _is_number(series) else str(value) for value in on)
        if len(values) == 1:
            return ConfigSpace.EqualsCondition(space[child], hyperparameter, values[0])
        return ConfigSpace.InCondition(space[child], hyperparameter, values)
    row = int(np.argmax(~given))
    raise InputError(
        f"hyperparameter '{child}' is empty in row {row}, and no other column tells when it is; "
        "fill it or give the space with its conditions"
    )


def _is_number(series: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(series.dtype))
