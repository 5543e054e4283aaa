"""Spaces without ConfigSpace: the same features as with it, positions and back, dicts and back."""

from __future__ import annotations

import json
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Categorical, Condition, Constant, Float, Integer, Ordinal, Space, when
from hyprl_jax.runtime import candidates as sources
from hyprl_jax.spaces import SpaceEncoding


def conditional_space() -> ConfigSpace.ConfigurationSpace:
    space = ConfigSpace.ConfigurationSpace(seed=0)
    kernel = ConfigSpace.Categorical("kernel", ["rbf", "poly", "linear"])
    gamma, degree = ConfigSpace.Float("gamma", (1e-4, 1e2), log=True), ConfigSpace.Integer("degree", (2, 6))
    cost, size = (
        ConfigSpace.Float("C", (1e-3, 1e3), log=True),
        ConfigSpace.Integer("cache", (1, 4096), log=True),
    )
    shrink, level = (
        ConfigSpace.Categorical("shrink", [True, False]),
        ConfigSpace.OrdinalHyperparameter("level", ["low", "mid", "high"]),
    )
    fixed = ConfigSpace.Constant("version", 3)
    coefficient = ConfigSpace.Float("coef0", (-1.0, 1.0))
    space.add(kernel, gamma, degree, cost, size, shrink, level, fixed, coefficient)
    space.add(
        ConfigSpace.InCondition(gamma, kernel, ["rbf", "poly"]),
        ConfigSpace.EqualsCondition(degree, kernel, "poly"),
        ConfigSpace.AndConjunction(
            ConfigSpace.EqualsCondition(coefficient, kernel, "poly"),
            ConfigSpace.GreaterThanCondition(coefficient, degree, 3),
        ),
    )
    return space


def plain(config: ConfigSpace.Configuration) -> dict[str, Any]:
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in dict(config).items()}


def test_features_are_those_of_the_training_side() -> None:
    space = conditional_space()
    configs = [plain(config) for config in space.sample_configuration(60)]
    ours = Space.from_configspace(space)
    theirs = SpaceEncoding(space)
    frame = pd.DataFrame(configs).reindex(columns=list(theirs.parameter_names))
    features, active = theirs.encode(frame)
    assert ours.feature_names == theirs.feature_names
    np.testing.assert_array_equal(ours.encode(configs), features)
    np.testing.assert_array_equal(~np.isnan(ours.codes(configs)), active)


def test_configurations_survive_codes_positions_and_json() -> None:
    space = Space.from_configspace(conditional_space())
    configs = [plain(config) for config in conditional_space().sample_configuration(60)]
    codes = space.codes(configs)
    assert space.configs(codes) == configs
    again = Space.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again.to_dict() == space.to_dict()
    np.testing.assert_array_equal(again.codes(configs), codes)
    back = space.configs(space.from_positions(space.positions(codes)))
    for before, after in zip(configs, back, strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_position_is_a_legal_configuration(data: st.DataObject) -> None:
    space = conditional_space()
    ours = Space.from_configspace(space)
    points = data.draw(st.lists(st.floats(0, 1), min_size=len(ours.names), max_size=len(ours.names)))
    (config,) = ours.configs(ours.from_positions(np.asarray([points])))
    ConfigSpace.Configuration(space, values=config).check_valid_configuration()


def test_positions_reach_every_integer_about_equally_often() -> None:
    space = Space([Integer("depth", 1, 4)])
    depths = space.from_positions(np.linspace(0, 1, 4001)[:, None])[:, 0]
    counts = np.unique(depths, return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > 0.2 * 4001


def test_quasi_random_points_cover_the_space_and_begin_in_the_middle() -> None:
    space = Space([Float("x", 0.0, 1.0), Float("y", 1.0, 100.0, log=True)])
    codes = sources.quasi_random(space, 128, np.random.default_rng(0))
    assert codes[0] == pytest.approx([0.5, 10.0])
    cells = np.floor(space.positions(codes) * 8).astype(int)
    assert len({tuple(cell) for cell in cells}) > 50  # of 64; independent draws reach about 55 at best


def test_small_discrete_spaces_are_listed_whole() -> None:
    space = Space(
        [Categorical("kind", ["a", "b"]), Integer("n", 1, 3), Ordinal("size", [1, 10])],
        {"n": when("kind", "b")},
    )
    configs = space.configs(sources.enumerate_all(space))
    assert len(configs) == 2 + 3 * 2
    assert {"kind": "a", "size": 10} in configs and {"kind": "b", "n": 2, "size": 1} in configs
    assert sources.enumerate_all(Space([Float("x", 0.0, 1.0)])) is None


def test_neighbours_are_near_and_legal() -> None:
    space = Space.from_configspace(conditional_space())
    origin = space.codes([plain(conditional_space().get_default_configuration())])
    found = sources.neighbours(space, origin, 200, np.random.default_rng(1))
    assert len(found) > 150
    space.codes(space.configs(found))
    distance = np.abs(space.positions(found) - space.positions(origin))[:, space.names.index("C")]
    assert np.median(distance) < 0.1


def test_forbidden_configurations_are_never_drawn() -> None:
    space = ConfigSpace.ConfigurationSpace()
    a, b = ConfigSpace.Categorical("a", ["x", "y"]), ConfigSpace.Integer("b", (0, 40), default=35)
    space.add(a, b)
    space.add(
        ConfigSpace.ForbiddenAndConjunction(
            ConfigSpace.ForbiddenEqualsClause(a, "x"), ConfigSpace.ForbiddenInClause(b, list(range(30)))
        )
    )
    ours = Space.from_configspace(space)
    for codes in (sources.enumerate_all(ours), sources.quasi_random(ours, 50, np.random.default_rng(0))):
        assert codes is not None and len(codes)
        assert not [c for c in ours.configs(codes) if c["a"] == "x" and c["b"] < 30]


def test_a_guessed_space_holds_what_it_was_guessed_from() -> None:
    configs: list[dict[str, Any]] = [
        {"rate": 1e-4, "layers": 1, "optimizer": "adam", "nesterov": True},
        {"rate": 1e-1, "layers": 4, "optimizer": "sgd", "nesterov": False, "momentum": 0.5},
        {"rate": 1e-2, "layers": 2, "optimizer": "sgd", "nesterov": True, "momentum": 0.9},
    ]
    space = Space.infer(configs)
    assert space.configs(space.codes(configs)) == configs
    kinds = {p.name: (p.kind, p.log) for p in space.parameters}
    assert kinds["rate"] == ("float", True) and kinds["layers"] == ("integer", False)
    assert space.optional == {"momentum"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Space([]), "0 hyperparameters"),
        (lambda: Space([Float("x", 0, 1), Float("x", 0, 2)]), "'x' is given twice"),
        (lambda: Float("x", 1, 0), "no finite range"),
        (lambda: Float("x", 0, float("inf")), "no finite range"),
        (lambda: Float("x", 0, 1, log=True), "log scale needs bounds above 0"),
        (lambda: Integer("n", 0.5, 3), "not whole"),
        (lambda: Categorical("c", []), "0 choices"),
        (lambda: Categorical("c", [1, "1"]), "two choices read the same"),
        (lambda: Space([Float("x", 0, 1)], {"y": when("x", 0.5)}), "no hyperparameter 'y'"),
        (lambda: Space([Float("x", 0, 1)], {"x": when("z", 1)}), "'z', which is not in the space"),
        (
            lambda: Space([Categorical("c", ["a"]), Float("x", 0, 1)], {"x": when("c", "b")}),
            "'b' is not one of",
        ),
        (
            lambda: Space([Integer("a", 0, 1), Integer("b", 0, 1)], {"a": when("b", 1), "b": when("a", 1)}),
            "in a circle",
        ),
        (lambda: Space.of(3), "not int"),
        (lambda: Space.from_dict({"parameters": [{"name": "x", "kind": "complex"}]}), "unknown kind"),
        (lambda: Condition.from_dict({"kind": "in", "parent": "x"}), "malformed"),
    ],
)
def test_mistakes_are_told_in_one_line(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "b"}, "'n' has no value"),
        ({"kind": "c"}, "'c' is not one of"),
        ({"kind": "b", "n": 9}, "9 is not of the kind integer"),
        ({"kind": "b", "n": 1.5}, "1.5 is not of the kind integer"),
        ({"kind": "b", "n": "one"}, "'one' is no number"),
        ({"kind": "b", "n": float("nan")}, "nan is not"),
        ({"kind": "a", "m": 1}, "'m' is not in the space"),
    ],
)
def test_configurations_of_another_space_are_refused(config: dict[str, Any], words: str) -> None:
    space = Space([Categorical("kind", ["a", "b"]), Integer("n", 1, 3)], {"n": when("kind", "b")})
    with pytest.raises(InputError, match=words):
        space.codes([config])


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["parameters", "conditions", "name", "kind", "choices", "parts", "optional"]),
            inner, max_size=4,
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_any_dict_is_a_space_or_a_mistake(data: Any) -> None:
    try:
        Space.from_dict(data)
    except InputError as error:
        assert "\n" not in str(error)


def test_constants_and_single_values_have_no_column() -> None:
    space = Space([Constant("version", 3), Float("x", 2.0, 2.0), Float("y", 0.0, 1.0)])
    assert space.feature_names == ("y",)
    assert space.configs(space.codes([{"version": 3, "x": 2.0, "y": 0.25}])) == [
        {"version": 3, "x": 2.0, "y": 0.25}
    ]


def test_a_changed_choice_counts_about_as_much_as_a_number_from_end_to_end() -> None:
    space = Space.from_configspace(conditional_space())
    scales = dict(zip(space.feature_names, space.feature_scales(), strict=True))
    assert len(space.feature_scales()) == len(space.feature_names)
    assert scales["C"] == 1.0 and scales["level"] == 1.0
    changed = 2 * scales["kernel=rbf"] ** 2
    assert 0.8 < changed < 1.2 and scales["gamma:active"] < 1.0
