"""A problem to warm up on: numbers on both scales, an integer, an ordinal, a choice, and a condition."""

from __future__ import annotations

import ConfigSpace
import numpy as np

from hyprl_jax.baselines.libraries.problem import TableProblem, configurations_of
from hyprl_jax.spaces import SpaceEncoding

__all__ = ["toy_problem"]


def toy_problem(trials: int, configurations: int = 40) -> TableProblem:
    """The same problem on every call, to be minimised."""
    space = ConfigSpace.ConfigurationSpace()
    kind = ConfigSpace.CategoricalHyperparameter("kind", ["plain", "scaled"])
    rate = ConfigSpace.UniformFloatHyperparameter("rate", 1e-4, 1.0, log=True)
    depth = ConfigSpace.UniformIntegerHyperparameter("depth", 1, 9)
    size = ConfigSpace.OrdinalHyperparameter("size", ["small", "middle", "large"])
    space.add(kind, rate, depth, size, ConfigSpace.UniformFloatHyperparameter("share", 0.0, 1.0))
    space.add(ConfigSpace.EqualsCondition(rate, kind, "scaled"))
    encoding = SpaceEncoding(space)
    rng = np.random.default_rng(0)
    number = configurations
    columns = {
        "kind": rng.integers(0, 2, number),
        "rate": 10.0 ** rng.uniform(-4, 0, number),
        "depth": rng.integers(1, 10, number),
        "size": rng.integers(0, 3, number),
        "share": rng.uniform(0, 1, number),
    }
    codes = np.stack([columns[name] for name in encoding.parameter_names], axis=1).astype(np.float64)
    codes[~encoding.active(codes)] = np.nan
    encodings, _ = encoding.encode(encoding.frame(codes))
    return TableProblem(
        space, configurations_of(encoding, codes), encodings, "minimize", np.arange(number), trials, 0
    )
