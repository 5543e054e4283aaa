"""Small collections and random search spaces that several tests of the surfaces share."""

from __future__ import annotations

import dataclasses
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd
from ConfigSpace.exceptions import InactiveHyperparameterSetError
from hypothesis import strategies as st

from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces import Collection, CollectionInfo, Objective, Quantity


def small_space() -> ConfigSpace.ConfigurationSpace:
    """A kernel machine with a parameter for each kernel, an ordinal, a constant and a forbidden corner."""
    space = ConfigSpace.ConfigurationSpace()
    kernel = ConfigSpace.CategoricalHyperparameter("kernel", ["rbf", "poly", "linear"])
    gamma = ConfigSpace.UniformFloatHyperparameter("gamma", 1e-4, 10.0, log=True)
    degree = ConfigSpace.UniformIntegerHyperparameter("degree", 2, 5)
    depth = ConfigSpace.OrdinalHyperparameter("depth", ["flat", "medium", "deep"])
    bias = ConfigSpace.CategoricalHyperparameter("bias", [True, False])
    solver = ConfigSpace.Constant("solver", "smo")
    space.add(kernel, gamma, degree, depth, bias, solver)
    space.add(
        ConfigSpace.EqualsCondition(gamma, kernel, "rbf"),
        ConfigSpace.EqualsCondition(degree, kernel, "poly"),
    )
    space.add(
        ConfigSpace.ForbiddenAndConjunction(
            ConfigSpace.ForbiddenEqualsClause(kernel, "linear"),
            ConfigSpace.ForbiddenEqualsClause(depth, "deep"),
        )
    )
    return space


def sampled_frame(space: ConfigSpace.ConfigurationSpace, number: int, seed: int = 0) -> pd.DataFrame:
    """Different configurations sampled by ConfigSpace, in the dtypes of a collection. Those that its own
    check refuses are left out: under an OR it may sample what only an inactive parent would activate."""
    space.seed(seed)
    samples = [
        dict(configuration)
        for configuration in space.sample_configuration(4 * number + 8)
        if _is_sound(configuration)
    ]
    return typed_frame(space, samples).drop_duplicates(ignore_index=True).iloc[:number]


def _is_sound(configuration: ConfigSpace.Configuration) -> bool:
    try:
        configuration.check_valid_configuration()
    except InactiveHyperparameterSetError:
        return False
    return True


def typed_frame(space: ConfigSpace.ConfigurationSpace, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Dicts of hyperparameters as a frame with one column a hyperparameter, null where one is left out."""
    columns = {}
    for parameter in SpaceEncoding(space).parameters:
        values = [row.get(parameter.name) for row in rows]
        plain = [value.item() if isinstance(value, np.generic) else value for value in values]
        if parameter.value_type == "str":
            plain = [None if value is None else str(value) for value in plain]
        columns[parameter.name] = pd.Series(plain, dtype=parameter.value_type)
    return pd.DataFrame(columns)


def small_collection(tasks: int = 6, configs: int = 20, seed: int = 0, **changes: Any) -> Collection:
    """A collection with two tasks a group, two repeats, two fidelities, costs and a second objective."""
    rng = np.random.default_rng(seed)
    space = small_space()
    table = sampled_frame(space, configs, seed)
    table.insert(0, "config_id", 10 * np.arange(len(table)) + 3)
    names = [f"task{number}" for number in range(tasks)]
    index = pd.MultiIndex.from_product(
        [names, table["config_id"], [0.5, 1.0], [0, 1]], names=["task", "config_id", "fidelity", "repeat"]
    )
    evaluations = index.to_frame(index=False)
    evaluations["objective"] = rng.uniform(0.1, 0.9, len(evaluations))
    evaluations.loc[rng.random(len(evaluations)) < 0.1, "objective"] = np.nan
    evaluations["cost"] = rng.uniform(1.0, 5.0, len(evaluations))
    evaluations["log_loss"] = rng.normal(size=len(evaluations))
    info = CollectionInfo(
        name="small",
        objective=Objective("error", "minimize", None, 0.0, 1.0),
        fidelity=Quantity("share", None),
        cost=Quantity("time", "s"),
        other_objectives=(Quantity("log_loss", None, "minimize"),),
    )
    described = pd.DataFrame({"task": names, "group": [f"group{number // 2}" for number in range(tasks)]})
    described["rows"] = rng.integers(10, 1000, tasks).astype(float)
    collection = Collection(info, space, described, table, evaluations)
    return dataclasses.replace(collection, **changes)


@st.composite
def spaces(draw: st.DrawFn) -> ConfigSpace.ConfigurationSpace:
    """Search spaces of every kind of hyperparameter and condition, nested ones included."""
    space = ConfigSpace.ConfigurationSpace(seed=draw(st.integers(0, 2**16)))
    made = [_hyperparameter(draw, number) for number in range(draw(st.integers(1, 6)))]
    space.add(*made)
    conditions: list[Any] = []
    conditional: set[str] = set()
    for number in range(1, len(made)):
        if draw(st.booleans()):
            parts = [
                _condition(draw, made[number], made[draw(st.integers(0, number - 1))], conditional)
                for _ in range(draw(st.integers(1, 2)))
            ]
            conditions.append(_joined(draw, parts))
            conditional.add(made[number].name)
    space.add(*conditions)
    return space


def _hyperparameter(draw: st.DrawFn, number: int) -> Any:
    name = f"h{number}"
    kind = draw(st.sampled_from(["float", "integer", "categorical", "ordinal", "constant"]))
    log = draw(st.booleans())
    if kind == "float":
        lower = draw(st.floats(1e-6, 10.0))
        return ConfigSpace.UniformFloatHyperparameter(name, lower, lower * draw(st.floats(1.5, 1e5)), log=log)
    if kind == "integer":
        lower = draw(st.integers(1, 50))
        return ConfigSpace.UniformIntegerHyperparameter(
            name, lower, lower + draw(st.integers(1, 5000)), log=log
        )
    choices = draw(
        st.sampled_from([["a", "b", "c"], [True, False], [1, 2, 4, 8], ["x"], [0.5, 1.5], [1, "auto"]])
    )
    if kind == "categorical":
        return ConfigSpace.CategoricalHyperparameter(name, choices)
    if kind == "ordinal":
        return ConfigSpace.OrdinalHyperparameter(name, choices)
    return ConfigSpace.Constant(name, choices[0])


def _condition(draw: st.DrawFn, child: Any, parent: Any, conditional: set[str]) -> Any:
    """A condition on a value that the parent can have."""
    kinds: list[Any] = [ConfigSpace.EqualsCondition]
    if (
        parent.name not in conditional
    ):  # ConfigSpace contradicts itself about "not equal" to an inactive value
        kinds.append(ConfigSpace.NotEqualsCondition)
    if isinstance(parent, ConfigSpace.Constant):
        return ConfigSpace.EqualsCondition(child, parent, parent.value)
    if hasattr(parent, "choices") or hasattr(parent, "sequence"):
        values = list(getattr(parent, "choices", None) or parent.sequence)
        if draw(st.booleans()):
            some = draw(st.lists(st.sampled_from(values), min_size=1, unique_by=str))
            return ConfigSpace.InCondition(child, parent, some)
        value = draw(st.sampled_from(values))
    else:
        value = draw(
            st.integers(int(np.ceil(parent.lower)), max(int(np.ceil(parent.lower)), int(parent.upper)))
        )
        value = (
            min(value, parent.upper) if isinstance(parent, ConfigSpace.UniformIntegerHyperparameter) else None
        )
        value = (
            float(parent.lower + draw(st.floats(0.1, 0.9)) * (parent.upper - parent.lower))
            if value is None
            else value
        )
    if not isinstance(parent, ConfigSpace.CategoricalHyperparameter):
        kinds += [ConfigSpace.LessThanCondition, ConfigSpace.GreaterThanCondition]
    return draw(st.sampled_from(kinds))(child, parent, value)


def _joined(draw: st.DrawFn, parts: list[Any]) -> Any:
    """One condition of the parts; ConfigSpace wants different ones in a conjunction."""
    if len(parts) == 1 or parts[0] == parts[1] or str(parts[0]) == str(parts[1]):
        return parts[0]
    return draw(st.sampled_from([ConfigSpace.AndConjunction, ConfigSpace.OrConjunction]))(*parts)
