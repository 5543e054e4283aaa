"""What users of scikit-learn write for a search space, as a space of the runtime, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import ConfigSpace
import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.stats as stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.sklearn_dimensions import dimension
from hyprl_jax.frontends.sklearn_space import SearchSpace
from hyprl_jax.runtime import Categorical, Constant, EarlierTask, Float, Integer, Ordinal, Space, when
from hyprl_jax.runtime.candidates import quasi_random


def drawn(space: SearchSpace, count: int = 40) -> list[dict[str, Any]]:
    """Parameters of an estimator all over the space."""
    codes = quasi_random(space.space, count, np.random.default_rng(0))
    return [space.params(config) for config in space.space.configs(codes)]


def hyperparameter(values: Any) -> Any:
    return dimension("x", values).parameter


positive = st.floats(1e-6, 1e3)
CONTINUOUS = st.one_of(
    st.builds(stats.uniform, st.floats(-1e3, 1e3), positive),
    st.builds(lambda a, b: stats.loguniform(a, a * (1.5 + b)), positive, positive),
    st.builds(stats.norm, st.floats(-1e3, 1e3), positive),
    st.builds(lambda a: stats.expon(scale=a), positive),
    st.builds(stats.lognorm, st.floats(0.1, 3.0)),
    st.builds(stats.beta, st.floats(0.3, 5.0), st.floats(0.3, 5.0)),
    st.builds(lambda a, b: stats.gamma(a, scale=b), st.floats(0.3, 5.0), positive),
    st.builds(lambda a: stats.halfnorm(scale=a), positive),
    st.builds(lambda a: stats.truncnorm(-a, 2 * a), st.floats(0.1, 3.0)),
    st.builds(stats.t, st.floats(0.8, 20.0)),
)
DISCRETE = st.one_of(
    st.builds(lambda a, b: stats.randint(a, a + b), st.integers(-50, 50), st.integers(1, 100_000)),
    st.builds(stats.poisson, st.floats(0.5, 30.0)),
    st.builds(stats.binom, st.integers(1, 40), st.floats(0.05, 0.95)),
    st.builds(stats.geom, st.floats(0.05, 0.95)),
    st.builds(stats.zipf, st.floats(1.3, 4.0)),
    st.builds(
        lambda xs: stats.rv_discrete(values=(xs, np.full(len(xs), 1 / len(xs)))),
        st.lists(st.integers(-100, 100), min_size=1, max_size=6, unique=True).map(sorted),
    ),
)


@given(CONTINUOUS)
def test_values_of_a_continuous_distribution_lie_in_its_support(distribution: Any) -> None:
    space = SearchSpace.of({"x": distribution})
    lower, upper = distribution.support()
    values = [params["x"] for params in drawn(space)]
    assert all(type(value) is float and lower <= value <= upper for value in values)
    # no half of the distribution is left out
    assert min(values) <= distribution.median() <= max(values)


@given(DISCRETE)
def test_values_of_a_discrete_distribution_are_possible(distribution: Any) -> None:
    values = [params["x"] for params in drawn(SearchSpace.of({"x": distribution}))]
    assert all(type(value) is int for value in values)
    assert (distribution.pmf(values) > 0).all()


@given(st.one_of(CONTINUOUS, DISCRETE))
def test_parameters_find_back_to_their_configuration(distribution: Any) -> None:
    space = SearchSpace.of([{"x": distribution, "y": [1, None]}, {"z": ["a"]}])
    for params in drawn(space):
        again = space.params(space.config(params))
        assert again.pop("x", 0.0) == pytest.approx(params.pop("x", 0.0), rel=1e-6, abs=1e-9)
        assert again == params


@given(st.floats(-1e6, 1e6), positive)
def test_uniform_is_its_range(lower: float, width: float) -> None:
    distribution = stats.uniform(lower, width)
    found = hyperparameter(distribution)
    assert (found.kind, found.log) == ("float", False)
    assert (found.lower, found.upper) == distribution.support()


@given(st.floats(1e-9, 1e3), st.floats(2.0, 1e9))
def test_log_distributions_are_searched_on_the_log_scale(lower: float, ratio: float) -> None:
    for family in (stats.loguniform, stats.reciprocal):
        found = hyperparameter(family(lower, lower * ratio))
        assert (found.kind, found.log) == ("float", True)
        assert (found.lower, found.upper) == pytest.approx((lower, lower * ratio))


def test_a_range_of_whole_numbers_is_whole() -> None:
    assert hyperparameter(stats.randint(1, 11)) == Integer("x", 1, 10)
    assert hyperparameter(stats.randint(1, 10**6)) == Integer("x", 1, 10**6 - 1)
    assert hyperparameter(stats.binom(4, 0.5)) == Integer("x", 0, 4)


def test_any_other_distribution_is_searched_in_its_quantiles() -> None:
    one = dimension("x", stats.lognorm(2.0))
    assert (one.parameter.lower, one.parameter.upper) == (0.001, 0.999)
    assert one.value(0.5) == pytest.approx(stats.lognorm(2.0).median())
    shifted = dimension("x", stats.loguniform(1, 100, loc=5))  # no straight line on either scale
    assert shifted.value(0.25) == pytest.approx(stats.loguniform(1, 100, loc=5).ppf(0.25))
    assert hyperparameter(stats.expon) == one.parameter  # not frozen, but complete


class Layers:
    """A distribution that can do nothing but draw."""

    def rvs(self, random_state: Any = None) -> tuple[int, ...]:
        return (int(random_state.randint(1, 4)),) * int(random_state.randint(1, 3))


class Degree:
    def rvs(self, random_state: Any = None) -> int:
        return int(random_state.randint(2, 6))


def test_objects_that_only_draw_become_lists() -> None:
    layers = dimension("x", Layers())
    assert layers.parameter.kind == "categorical"
    found = {layers.value(choice) for choice in layers.parameter.choices}
    assert found == {(a,) * n for a in (1, 2, 3) for n in (1, 2)}
    assert hyperparameter(Degree()) == Ordinal("x", [2, 3, 4, 5])


def test_lists() -> None:
    assert hyperparameter([0.1, 1.0, 10]) == Ordinal("x", [0.1, 1.0, 10])
    assert hyperparameter(np.array([3, 2, 1])) == Ordinal("x", [3, 2, 1])
    assert hyperparameter(pd.Series([1.5, 2.5])) == Ordinal("x", [1.5, 2.5])
    assert hyperparameter([2, 3, 1]) == Categorical("x", [2, 3, 1])
    assert hyperparameter(["rbf", "linear", "rbf"]) == Categorical("x", ["rbf", "linear"])
    assert hyperparameter([True, False]) == Categorical("x", [True, False])
    assert hyperparameter(["sqrt", None, 0.5]) == Categorical("x", ["sqrt", "None", 0.5])
    assert hyperparameter([1, True, "1"]) == Categorical("x", [0, 1, 2])  # two read the same: by position
    assert hyperparameter(range(1, 101)) == Integer("x", 0, 99)  # by position
    assert hyperparameter([math.nan, 1.0]) == Categorical("x", ["nan", 1.0])


@pytest.mark.parametrize(
    "choices",
    [
        ["a", None, 1, 2.5, True],
        [StandardScaler(), MinMaxScaler(), "passthrough", None],
        [StandardScaler(), StandardScaler(with_mean=False)],
        [np.log, np.sqrt, None],
        [(10,), (10, 10), [5]],
        [{"a": 1}, {"a": 2}],
        [np.arange(3), np.arange(4)],
        list(np.logspace(-3, 3, 50)),
        [np.int64(3), np.int64(1), np.int64(2)],
    ],
)
def test_every_choice_reaches_the_estimator_as_it_is(choices: list[Any]) -> None:
    one = dimension("x", choices)
    plain = range(len(choices)) if one.parameter.is_number else one.parameter.choices
    for label, choice in zip(plain, choices, strict=True):
        assert one.value(label) is choice
        assert one.plain(choice) == label
    json.dumps(list(plain))


def test_estimators_are_recognised_in_copies() -> None:
    choices = [StandardScaler(), LogisticRegression(C=2.0), LogisticRegression()]
    one = dimension("x", choices)
    assert [one.value(one.plain(clone(choice))) for choice in choices] == choices


def test_a_single_value_is_no_hyperparameter() -> None:
    space = SearchSpace.of({"C": stats.uniform(0, 1), "kernel": ["rbf"], "degree": Constant("degree", 3)})
    assert space.space.names == ("C",)
    assert space.params({"C": 0.5}) == {"C": 0.5, "kernel": "rbf", "degree": 3}


def test_the_runtime_s_own_hyperparameters() -> None:
    own = {"svc__C": Float("any name", 1e-3, 1e3, log=True), "svc__degree": Integer("d", 1, 5)}
    space = SearchSpace.of(own)
    assert space.space.parameters == (Float("svc__C", 1e-3, 1e3, log=True), Integer("svc__degree", 1, 5))


def test_nothing_to_search_is_one_configuration() -> None:
    for distributions, params in (({}, {}), ({"C": [1]}, {"C": 1}), ([{"C": [1]}], {"C": 1})):
        space = SearchSpace.of(distributions)
        assert drawn(space) == [params]
        assert space.params(space.config(params)) == params


def test_sub_spaces() -> None:
    gamma = stats.loguniform(1e-3, 1)
    space = SearchSpace.of(
        [
            {"C": stats.uniform(0, 1), "kernel": ["linear"]},
            {"C": stats.uniform(0, 1), "kernel": ["rbf", "poly"], "gamma": gamma},
            {"C": stats.uniform(0, 9), "kernel": ["poly", "rbf"], "gamma": stats.loguniform(1e-3, 1)},
        ]
    )
    assert space.space.names == ("subspace", "C", "C@2", "gamma", "kernel", "kernel@2")
    assert space.space.conditions["C"] == when("subspace", [0, 1])
    assert space.space.conditions["gamma"] == when("subspace", [1, 2])
    found = drawn(space, 100)
    assert {tuple(sorted(params)) for params in found} == {("C", "kernel"), ("C", "gamma", "kernel")}
    assert {params["kernel"] for params in found if "gamma" not in params} == {"linear"}
    assert max(params["C"] for params in found) > 1
    assert all(space.params(space.config(params)) == params for params in found)


def test_a_name_of_an_estimator_s_own_is_kept() -> None:
    space = SearchSpace.of([{"subspace": [1, 2]}, {"subspace": [3, 4]}, {"subspace@2": [5, 6]}])
    found = {next(iter(params.items())) for params in drawn(space, 100)}
    assert found == {("subspace", n) for n in (1, 2, 3, 4)} | {("subspace@2", 5), ("subspace@2", 6)}


def test_the_order_of_a_dict_plays_no_role() -> None:
    one, other = {"a": [1, 2], "b": ["x", "y"]}, {"b": ["x", "y"], "a": [1, 2]}
    assert SearchSpace.of(one).space.to_dict() == SearchSpace.of(other).space.to_dict()


def test_whole_spaces() -> None:
    conditional = Space(
        [Categorical("kernel", ["rbf", "linear"]), Float("gamma", 1e-3, 1, log=True)],
        conditions={"gamma": when("kernel", "rbf")},
    )
    configspace = ConfigSpace.ConfigurationSpace({"kernel": ["rbf", "linear"], "gamma": (1e-3, 1.0)})
    configspace.add(ConfigSpace.EqualsCondition(configspace["gamma"], configspace["kernel"], "rbf"))
    for given_space in (conditional, configspace):
        space = SearchSpace.of(given_space)
        found = drawn(space)
        assert all(("gamma" in params) == (params["kernel"] == "rbf") for params in found)
        assert all(space.params(space.config(params)) == params for params in found)
        with pytest.raises(InputError, match="'gamma' has no value"):
            space.config({"kernel": "rbf"})


def test_what_a_configspace_forbids_stays_forbidden(tmp_path: Any) -> None:
    configspace = ConfigSpace.ConfigurationSpace({"a": (0, 3), "b": (0, 3)})
    configspace.add(ConfigSpace.ForbiddenEqualsClause(configspace["a"], 3))
    space = SearchSpace.of(configspace)
    joblib.dump(space.space, tmp_path / "space")  # as part of a fitted search
    again = SearchSpace.of(joblib.load(tmp_path / "space"))
    assert {params["a"] for params in drawn(space)} == {params["a"] for params in drawn(again)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("distributions", "fault"),
    [
        ([], "is a dict, a list of dicts, a Space or a ConfigSpace"),
        (3, "is a dict, a list of dicts, a Space or a ConfigSpace"),
        ([{"C": [1]}, 3], "each of its elements has to be a dict"),
        ({1: [1]}, "1 is no name of a parameter"),
        ({"C": 1.0}, "put a single value into a list"),
        ({"C": "rbf"}, "put a single value into a list"),
        ({"C": {1, 2}}, "neither a list nor a distribution"),
        ({"C": []}, "the list of choices is empty"),
        ({"C": np.eye(2)}, "an array of choices has one dimension, not 2"),
        ({"C": stats.uniform(0, -1)}, "no finite quantiles"),
        ({"C": stats.randint(5, 1)}, "no finite quantiles"),
        ({"C": stats.lognorm}, "lacks parameters"),
        ({"C": stats.randint}, "lacks parameters"),
    ],
)
def test_faults_are_told_in_one_line(distributions: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        SearchSpace.of(distributions)
    assert "\n" not in str(caught.value)


def test_earlier_results() -> None:
    space = SearchSpace.of({"C": stats.loguniform(1e-2, 1e2), "kernel": ["rbf", None]})
    params = [{"C": 1.0, "kernel": "rbf"}, {"C": 5.0, "kernel": None}, {"C": 9.0, "kernel": None}]
    table = {"params": params, "mean_test_score": np.array([0.5, 0.25, np.nan])}
    expected = [({"C": 1.0, "kernel": "rbf"}, 0.5), ({"C": 5.0, "kernel": "None"}, 0.25)]
    pairs, about = [(params[0], 0.5), (params[1], 0.25)], {"rows": 3.0}
    assert space.earlier([table], "score") == [EarlierTask(expected)]
    assert space.earlier([pairs], "score") == [EarlierTask(expected)]
    assert space.earlier([EarlierTask(table, about)], "score") == [EarlierTask(expected, about)]
    for task, fault in (
        ([({"C": 1e3, "kernel": "rbf"}, 1.0)], "earlier task 0 .*1000.* is not in the search space"),
        ([({"C": 1.0, "kernel": "poly"}, 1.0)], "poly is not in its list"),
        ([({"C": 1.0}, 1.0)], "no sub-space has these parameters"),
        ([3], "earlier task 0 cannot be used"),
        ({"params": params}, "the columns 'params' and 'mean_test_score'"),
    ):
        with pytest.raises(InputError, match=fault):
            space.earlier([task], "score")
    with pytest.raises(InputError, match="earlier is a list"):
        space.earlier(table, "score")
