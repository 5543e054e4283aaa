"""One fixed sample of configurations from a search space: the default first, then a scrambled Sobol sequence.

A Sobol point fills the space more evenly than independent draws do (Sobol 1967; Owen scrambling by the seed).
Each coordinate belongs to one hyperparameter; coordinates of hyperparameters that turn out inactive are
dropped, and a configuration that repeats an earlier one is skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    OrdinalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from ConfigSpace.hyperparameters import Hyperparameter
from ConfigSpace.util import deactivate_inactive_hyperparameters

SIGNIFICANT_DIGITS = 6


def sample_configs(space: ConfigurationSpace, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different configurations as dicts of their active hyperparameters, fixed by the seed."""
    from scipy.stats import qmc

    names = list(space.keys())
    points = qmc.Sobol(len(names), scramble=True, rng=np.random.default_rng(seed))
    chosen = [plain_values(space.get_default_configuration())]
    seen = {_key(chosen[0])}
    while len(chosen) < count:
        for point in points.random_base2(max(1, int(np.ceil(np.log2(count))))):
            values = {name: _value(space[name], unit) for name, unit in zip(names, point, strict=True)}
            config = plain_values(deactivate_inactive_hyperparameters(values, space))
            if len(chosen) < count and _key(config) not in seen:
                seen.add(_key(config))
                chosen.append(config)
    return chosen


def plain_values(configuration: Any) -> dict[str, Any]:
    """The active values of a configuration as plain Python numbers, booleans and strings."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in dict(configuration).items()
    }


def _key(config: dict[str, Any]) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in config.items()))


def _value(parameter: Hyperparameter, unit: float) -> Any:
    """The value of a hyperparameter at a coordinate in [0, 1): log scale where the hyperparameter has one."""
    if isinstance(parameter, CategoricalHyperparameter):
        edges = np.cumsum(parameter.probabilities)
        return parameter.choices[
            min(int(np.searchsorted(edges, unit, side="right")), len(parameter.choices) - 1)
        ]
    if isinstance(parameter, OrdinalHyperparameter):
        return parameter.sequence[min(int(unit * len(parameter.sequence)), len(parameter.sequence) - 1)]
    if isinstance(parameter, UniformIntegerHyperparameter):
        low, high = float(parameter.lower), float(parameter.upper) + 1.0
        value = low * (high / low) ** unit if parameter.log else low + (high - low) * unit
        return int(min(np.floor(value), parameter.upper))
    if isinstance(parameter, UniformFloatHyperparameter):
        low, high = float(parameter.lower), float(parameter.upper)
        value = low * (high / low) ** unit if parameter.log else low + (high - low) * unit
        rounded = float(np.format_float_positional(value, SIGNIFICANT_DIGITS, unique=False, fractional=False))
        return min(max(rounded, low), high)
    raise TypeError(f"cannot sample a {type(parameter).__name__}")
