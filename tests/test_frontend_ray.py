"""The search algorithm for Ray Tune: conversion of spaces, the searcher by hand, and real local runs."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ConfigSpace
import pytest
from hypothesis import given
from hypothesis import strategies as st

ray = pytest.importorskip("ray")

from ray import tune  # noqa: E402
from ray.tune.search import ConcurrencyLimiter, Searcher  # noqa: E402

from hyprl_jax.errors import InputError  # noqa: E402
from hyprl_jax.frontends import HypRLSearch  # noqa: E402
from hyprl_jax.frontends.ray_space import RaySpace, has_domains  # noqa: E402
from hyprl_jax.runtime import Categorical, EarlierTask, Float, Integer, Space, when  # noqa: E402

SPACE = {
    "lr": tune.loguniform(1e-4, 1e-1),
    "model": {"depth": tune.randint(1, 5), "kind": tune.choice(["a", "b"])},
    "epochs": 3,
}


def loss(config: dict[str, Any]) -> float:
    return abs(math.log10(config["lr"]) + 2) + config["model"]["depth"]


def play(search: Searcher, trials: int, first: int = 0) -> list[dict[str, Any]]:
    """The configurations of trials that are told one after the other."""
    found = []
    for number in range(first, first + trials):
        config = search.suggest(f"t{number}")
        search.on_trial_complete(f"t{number}", {"loss": loss(config)})
        found.append(config)
    return found


def started(**options: Any) -> HypRLSearch:
    search = HypRLSearch(**options)
    assert search.set_search_properties("loss", "min", SPACE, num_samples=20)
    return search


# ---- conversion of spaces


@st.composite
def domains(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(("uniform", "log", "q", "int", "logint", "qint", "qlogint", "choice")))
    low, width = draw(st.integers(1, 50)), draw(st.integers(2, 60))
    quantum = draw(st.sampled_from((0.1, 0.25, 2, 0.001)))
    return {
        "uniform": lambda: tune.uniform(low - 25.5, low + width),
        "log": lambda: tune.loguniform(low / 1000, low * width),
        "q": lambda: tune.quniform(low * quantum, (low + width) * quantum, quantum),
        "int": lambda: tune.randint(-low, width),
        "logint": lambda: tune.lograndint(low, low + width),
        "qint": lambda: tune.qrandint(low, low + 7 * width, draw(st.integers(1, 7))),
        "qlogint": lambda: tune.qlograndint(low, low + 7 * width, draw(st.integers(1, 7))),
        "choice": lambda: tune.choice(
            draw(
                st.lists(
                    st.one_of(
                        st.none(),
                        st.booleans(),
                        st.integers(-9, 9),
                        st.floats(-1e3, 1e3),
                        st.text(max_size=5),
                        st.lists(st.integers(0, 3), max_size=3),
                        st.dictionaries(st.sampled_from("xy"), st.integers(0, 3), max_size=2),
                    ),
                    min_size=1,
                    max_size=5,
                )
            )
        ),
    }[kind]()


KEYS = st.text(alphabet="abcdefgh_", min_size=1, max_size=4)
SPACES = st.dictionaries(
    KEYS,
    st.recursive(
        domains() | st.integers(-3, 3) | st.lists(st.integers(0, 3), max_size=3),
        lambda inner: st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=6,
    ),
    min_size=1,
    max_size=4,
)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    else:
        yield path, value


def at(config: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        config = config[key]
    return config


@given(SPACES, st.integers(0, 2**31))
def test_every_space_goes_there_and_back(param_space: dict[str, Any], seed: int) -> None:
    wanted = {path: leaf for path, leaf in leaves(param_space) if isinstance(leaf, tune.search.sample.Domain)}
    if not wanted:
        with pytest.raises(InputError, match="nothing to search"):
            RaySpace.of(param_space)
        return
    converted = RaySpace.of(param_space)
    assert set(converted.space.names) == {"/".join(path) for path in wanted}
    written = converted.to_dict(constants=True)
    search = HypRLSearch(metric="loss", mode="min", seed=seed)
    assert search.set_search_properties(None, None, param_space)
    for number in range(3):
        config = search.suggest(str(number))
        if config in (None, Searcher.FINISHED):
            break
        for path, domain in wanted.items():
            value = at(config, path)
            assert domain.is_valid(value), (path, value, domain.domain_str)
            assert not isinstance(domain, tune.search.sample.Integer) or type(value) is int
            assert not isinstance(domain, tune.search.sample.Float) or type(value) is float
        flat = converted.flatten(config)
        assert converted.flatten(converted.nest(flat)) == flat
        assert converted.nest(flat) == config
        if written is not None:
            again = RaySpace.from_dict(json.loads(json.dumps(written)), converted.space.to_dict())
            assert again.with_constants(again.nest(flat)) == converted.with_constants(config)
        search.on_trial_complete(str(number), {"loss": float(number)})


@given(SPACES, st.integers(0, 2**31))
def test_what_ray_itself_draws_is_in_the_space(param_space: dict[str, Any], seed: int) -> None:
    if not has_domains(param_space):
        return
    converted = RaySpace.of(param_space)
    drawn: dict[str, Any] = {}
    for path, leaf in leaves(param_space):
        if isinstance(leaf, tune.search.sample.Domain):
            part = drawn
            for key in path[:-1]:
                part = part.setdefault(key, {})
            part[path[-1]] = leaf.sample(random_state=seed)
    flat = converted.flatten(drawn)
    again = converted.nest(flat)
    for path, value in leaves(drawn):
        found = at(again, path)
        assert found == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_types_of_the_converted_space() -> None:
    space = RaySpace.of(
        {
            "lr": tune.loguniform(1e-4, 1e-1),
            "drop": tune.quniform(0.0, 0.3, 0.1),
            "layers": tune.randint(1, 4),
            "width": tune.qlograndint(16, 256, 16),
            "batch": tune.choice([16, 32, 64]),
            "hidden": tune.choice([None, [16, 16], dict]),
            "deep": {"er": {"on": tune.choice([True, False])}},
        }
    )
    kinds = {p.name: (p.kind, p.lower, p.upper, p.log) for p in space.space.parameters if p.is_number}
    assert kinds == {
        "lr": ("float", 1e-4, 1e-1, True),
        "drop": ("integer", 0, 3, False),
        "layers": ("integer", 1, 3, False),
        "width": ("integer", 1, 16, True),
    }
    choices = {p.name: (p.kind, p.choices) for p in space.space.parameters if not p.is_number}
    assert choices == {
        "batch": ("ordinal", (16, 32, 64)),
        "hidden": ("categorical", ("0: null", "1: [16, 16]", "2: dict")),
        "deep/er/on": ("categorical", (True, False)),
    }
    config = space.nest(
        {"lr": 0.01, "drop": 3, "layers": 2, "width": 5, "batch": 32, "hidden": "2: dict", "deep/er/on": True}
    )
    assert config == {
        "lr": 0.01,
        "drop": 0.3,
        "layers": 2,
        "width": 80,
        "batch": 32,
        "hidden": dict,
        "deep": {"er": {"on": True}},
    }


@pytest.mark.parametrize(
    ("param_space", "said"),
    [
        ({"x": tune.grid_search([1, 2])}, "'x': a search algorithm has no grid_search"),
        ({"a": {"x": tune.grid_search([1, 2])}, "y": tune.uniform(0, 1)}, "'a/x': a search algorithm"),
        ({"x": tune.sample_from(lambda: 3)}, "sample_from"),
        ({"x": tune.randn(0, 1)}, "bounds"),
        ({"x": tune.qrandn(0, 1, 0.1)}, "bounds"),
        ({"x": {"eval": "3"}}, "eval"),
        ({"x": [tune.uniform(0, 1)]}, "inside a list"),
        ({"x": tune.choice([{"y": tune.uniform(0, 1)}, 3])}, "inside a choice"),
        ({"x": tune.choice([])}, "0 choices"),
        ({"a/b": tune.uniform(0, 1)}, "without '/'"),
        ({3: tune.uniform(0, 1)}, "keys are texts"),
        ({"x": tune.randint(5, 5)}, "no finite range"),
        ({"x": tune.qrandint(1, 3, 5)}, "no finite range"),
        ({"x": 3}, "nothing to search"),
        ({}, "nothing to search"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(param_space: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as mistake:
        HypRLSearch().set_search_properties("loss", "min", param_space)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lr": 0.01, "model": {"depth": 1}}, "'model/kind' has no value"),
        ({"lr": 0.01, "model": {"depth": 9, "kind": "a"}}, "9 is not"),
        ({"lr": 0.01, "model": {"depth": 1, "kind": "a", "width": 3}}, "'model/width' is not"),
        ({"lr": "high", "model": {"depth": 1, "kind": "a"}}, "no number"),
    ],
)
def test_mistaken_first_points_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        HypRLSearch(points_to_evaluate=[config]).set_search_properties("loss", "min", SPACE)


def test_mistaken_labels_and_quantized_numbers() -> None:
    space = RaySpace.of({"x": tune.choice([None, [1]]), "y": tune.quniform(0, 1, 0.5)})
    assert space.flatten({"x": [1], "y": 0.5}) == {"x": "1: [1]", "y": 1}
    for config in ({"x": [2], "y": 0.5}, {"x": None, "y": "a"}, {"x": None, "y": math.nan}):
        with pytest.raises(InputError):
            space.flatten(config)


# ---- the searcher by hand


def test_search_finds_better_and_keeps_constants_out() -> None:
    search = started(seed=1)
    configs = play(search, 20)
    assert all(set(config) == {"lr", "model"} for config in configs)
    assert search.best is not None and search.best.value == min(loss(config) for config in configs)
    assert loss(search.best.config) == search.best.value
    assert search.best.value < loss(configs[0])


def test_same_seed_same_suggestions() -> None:
    assert play(started(seed=3), 6) == play(started(seed=3), 6)


def test_maximum_is_sought_with_mode_max() -> None:
    space = {"x": tune.uniform(0, 1)}
    search = HypRLSearch(space, metric="score", mode="max")
    for number in range(15):
        config = search.suggest(str(number))
        search.on_trial_complete(str(number), {"score": config["x"]})
    assert search.best is not None and search.best.value is not None
    assert search.best.value > 0.9


def test_first_points_come_first_with_constants_of_the_space_given() -> None:
    points = [{"lr": 0.05, "model": {"depth": depth, "kind": "b"}} for depth in (4, 2)]
    search = HypRLSearch(SPACE, metric="loss", mode="min", points_to_evaluate=points)
    assert [search.suggest("a"), search.suggest("b")] == [{**point, "epochs": 3} for point in points]
    third = search.suggest("c")
    assert third["epochs"] == 3 and {**third, "epochs": 3} not in points


def test_failures_cuts_and_strangers() -> None:
    search = started()
    ids = [f"t{number}" for number in range(7)]
    configs = [search.suggest(name) for name in ids]
    assert all(configs.count(config) == 1 for config in configs)
    search.on_trial_complete("t0", None, error=True)
    search.on_trial_complete("t1", {"loss": math.nan})
    search.on_trial_complete("t2", {"other": 1.0})
    search.on_trial_result("t3", {"loss": 5.0})
    search.on_trial_result("t3", {"other": 5.0})
    search.on_trial_complete("t3")
    search.on_trial_complete("t4")
    search.on_trial_complete("t5", {"loss": 2.0})
    search.on_trial_complete("t5", {"loss": 1.0})
    search.on_trial_complete("stranger", {"loss": 0.0})
    search.on_trial_result("stranger", {"loss": 0.0})
    assert search._tuner is not None
    assert [result.value for result in search._tuner.results] == [None, None, None, 5.0, 2.0]
    assert len(search._tuner.pending) == 1


def test_small_space_is_finished_only_when_no_trial_can_come_back() -> None:
    search = HypRLSearch({"x": tune.choice(["a", "b", "c"])}, metric="loss", mode="min")
    configs = [search.suggest(name) for name in "123"]
    assert sorted(config["x"] for config in configs) == ["a", "b", "c"]
    assert search.suggest("4") is None
    search.on_trial_complete("1", {"loss": 1.0})
    search.on_trial_complete("2")  # cut before it began: free again
    assert search.suggest("5") == configs[1]
    search.on_trial_complete("5", {"loss": 1.0})
    search.on_trial_complete("3", error=True)
    assert search.suggest("6") == Searcher.FINISHED


def test_results_from_elsewhere_and_earlier_tasks() -> None:
    point = {"lr": 0.01, "model": {"depth": 1, "kind": "a"}}
    task = [({**point, "lr": 10**-power}, abs(power - 2.0)) for power in (1.0, 1.5, 2.0, 2.5, 3.0)]
    search = started(earlier=[[*task, (point, math.nan)]])
    search.add_evaluated_point(point, 1.0)
    search.add_evaluated_point({**point, "lr": 0.1}, 0.5, error=True)
    assert search.best is not None
    assert search.best.config == point and search.best.value == 1.0
    play(search, 2)
    with pytest.raises(InputError, match="not in the search space"):
        search.add_evaluated_point({**point, "more": 1}, 1.0)


def test_earlier_tasks_on_similar_datasets_count_more(tmp_path: Path) -> None:
    tasks = [
        EarlierTask([({"x": x / 20}, abs(x / 20 - best)) for x in range(21)], {"rows": rows})
        for best, rows in ((0.1, 1e2), (0.15, 2e2), (0.9, 1e5), (0.95, 2e5))
    ]
    space = {"x": tune.uniform(0.0, 1.0)}
    for rows, best in ((1.2e2, 0.1), (1.2e5, 0.9)):
        about = {"rows": rows}
        search = HypRLSearch(space, metric="loss", mode="min", earlier=tasks, metafeatures=about)
        assert abs(search.suggest("1")["x"] - best) < 0.2
        search.save(str(tmp_path / "state.json"))
        other = HypRLSearch(space, metric="loss", mode="min")
        other.restore(str(tmp_path / "state.json"))
        assert other.suggest("2") == search.suggest("2")
    with pytest.raises(InputError, match="'row' is unknown: use rows"):
        HypRLSearch(space, metric="loss", mode="min", earlier=tasks, metafeatures={"row": 1.0}).suggest("1")


def test_conditions_of_a_space_of_ours_and_of_configspace() -> None:
    ours = Space([Categorical("kind", ["a", "b"]), Float("x", 0, 1)], {"x": when("kind", "b")})
    theirs = ConfigSpace.ConfigurationSpace({"kind": ["b", "a"], "n": (0, 9)})
    theirs.add(ConfigSpace.ForbiddenEqualsClause(theirs["kind"], "a"))
    for space in (ours, ours.to_dict()):
        search = HypRLSearch(space, metric="loss", mode="min")
        configs = [search.suggest(str(number)) for number in range(6)]
        assert all(("x" in config) == (config["kind"] == "b") for config in configs)
    search = HypRLSearch(theirs, metric="loss", mode="min")
    assert [search.suggest(str(number))["kind"] for number in range(10)] == ["b"] * 10
    assert search.suggest("10") is None


def test_key_named_parameters_is_no_written_space() -> None:
    search = HypRLSearch({"parameters": [1, 2], "x": tune.uniform(0, 1)}, metric="loss", mode="min")
    assert search.suggest("1")["parameters"] == [1, 2]


def test_target_and_space_may_come_from_either_side_but_not_from_both() -> None:
    search = HypRLSearch(metric="loss", mode="min")
    assert search.set_search_properties(None, None, SPACE)
    assert (search.metric, search.mode) == ("loss", "min")
    with pytest.raises(InputError, match="metric is 'loss', not 'accuracy'"):
        search.set_search_properties("accuracy", None, SPACE)
    given = HypRLSearch({"x": tune.uniform(0, 1)}, metric="loss", mode="min")
    assert given.set_search_properties("loss", "min", SPACE) is False
    assert given.set_search_properties("loss", "min", {"epochs": 3}) is True
    anonymous = HypRLSearch({"x": tune.uniform(0, 1)}, mode="min")
    anonymous.on_trial_complete(*_first(anonymous), {"_metric": 0.25})
    assert anonymous.best is not None and anonymous.best.value == 0.25


def _first(search: HypRLSearch) -> tuple[str]:
    search.suggest("first")
    return ("first",)


def test_mistakes_are_said_in_one_line() -> None:
    with pytest.raises(InputError, match="nothing to search"):
        HypRLSearch(metric="loss", mode="min").suggest("1")
    with pytest.raises(InputError, match="no target"):
        HypRLSearch({"x": tune.uniform(0, 1)}).suggest("1")
    with pytest.raises(InputError, match="'min' or 'max'"):
        HypRLSearch(mode="lowest")
    with pytest.raises(InputError, match="not several"):
        HypRLSearch(metric=["a", "b"], mode="min")  # type: ignore[arg-type]


def test_planned_trials_are_those_of_ray_unless_given() -> None:
    assert started()._start()[0].trials == 20
    assert started(n_trials=7)._start()[0].trials == 7
    endless = HypRLSearch()
    endless.set_search_properties("loss", "min", SPACE, num_samples=-1)
    assert endless._start()[0].trials is None


# ---- save and restore


def test_restored_searcher_goes_on_the_same(tmp_path: Path) -> None:
    search = started(seed=5)
    play(search, 4)
    running = search.suggest("running")
    search.on_trial_result("running", {"loss": 3.0})
    search.save(str(tmp_path / "state"))
    assert json.loads((tmp_path / "state").read_text())["format"] == "hyprl-ray-search"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]

    # As `tune.Tuner.restore` does it: the same trials come back.
    other = started(seed=5)
    other.restore(str(tmp_path / "state"))
    for each in (search, other):
        each.on_trial_complete("running")
    assert other._tuner is not None and other._tuner.results[-1].value == 3.0
    assert other._tuner.results[-1].config["lr"] == running["lr"]
    assert play(search, 4, first=10) == play(other, 4, first=10)


def test_restored_before_a_new_run_forgets_the_running(tmp_path: Path) -> None:
    search = started(points_to_evaluate=[{"lr": 0.02, "model": {"depth": 1, "kind": "a"}}] * 3)
    play(search, 2)
    search.suggest("running")
    search.save_to_dir(str(tmp_path), "one")
    other = HypRLSearch()
    limited = ConcurrencyLimiter(other, 2)
    other.restore_from_dir(str(tmp_path))
    other.save(str(tmp_path / "again"))
    assert json.loads((tmp_path / "again").read_text()) == json.loads(
        (tmp_path / "searcher-state-one.json").read_text()
    )
    assert limited.set_search_properties("loss", "min", SPACE, num_samples=5)
    assert other._tuner is not None
    assert len(other._tuner.results) == 2 and other._tuner.pending == []
    assert limited.suggest("a") and limited.suggest("b")
    assert limited.suggest("c") is None
    limited.on_trial_complete("a", {"loss": 1.0})
    assert limited.suggest("c") is not None


def test_second_run_of_a_searcher_knows_the_first() -> None:
    search = started()
    play(search, 3)
    search.suggest("lost")
    assert search.set_search_properties("loss", "min", SPACE, num_samples=5)
    assert search._tuner is not None
    assert len(search._tuner.results) == 3 and search._tuner.pending == []


def test_forbidden_stays_forbidden_after_restoring(tmp_path: Path) -> None:
    space = Space([Float("x", 0, 1), Integer("n", 1, 9)], permits=lambda config: config["n"] > 4)
    first = HypRLSearch(space, metric="loss", mode="min")
    for number in range(3):
        first.on_trial_complete(str(number), {"loss": first.suggest(str(number))["x"]})
    first.save(str(tmp_path / "state"))
    second = HypRLSearch(space, metric="loss", mode="min")
    second.restore(str(tmp_path / "state"))
    for number in range(10, 18):
        one, two = first.suggest(str(number)), second.suggest(str(number))
        assert one == two and one["n"] > 4
        for each in (first, second):
            each.on_trial_complete(str(number), {"loss": one["x"]})


def test_state_of_another_search_is_refused(tmp_path: Path) -> None:
    search = started()
    play(search, 2)
    search.save(str(tmp_path / "state"))
    other = HypRLSearch({"x": tune.uniform(0, 1)}, metric="loss", mode="min")
    with pytest.raises(InputError, match="another search space"):
        other.restore(str(tmp_path / "state"))
    with pytest.raises(InputError, match="mode is 'max', not 'min'"):
        HypRLSearch(mode="max").restore(str(tmp_path / "state"))


def saved_state(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of a search after two trials, and what is in it."""
    search = started()
    play(search, 2)
    path = folder / "state"
    search.save(str(path))
    return path, json.loads(path.read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"format_version": 0},
        {"tuner": 3},
        {"tuner": {"format": "x"}},
        {"tuner": {"trials": ...}},
        {"tuner": {"results": [[{"lr": 10**400}, 1.0]]}},
        {"space": 3},
        {"adds_constants": None},
        {"live": []},
        {"live": {"a": 3}},
        {"live": {"a": {"zz": 3}}},
        {"points": [3]},
        {"points": [{"lr": 3}]},
        {"latest": {"a": "b"}},
        {"mode": "lowest"},
        {"metric": 3},
    ],
)
def test_damaged_state_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path, state = saved_state(tmp_path)
    for name, value in change.items():
        if isinstance(value, dict) and value.keys() <= state[name].keys():
            state[name] |= value
            state[name] = {key: part for key, part in state[name].items() if part is not ...}
        else:
            state[name] = value
    path.write_text(json.dumps(state))
    with pytest.raises(InputError) as mistake:
        started().restore(str(path))
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    "change",
    [
        {"domains": 3},
        {"domains": {}, "constants": 3},
        {"domains": {"lr": {}}},
        {"constants": [[["a"]]]},
        {"constants": [[[3], 3]]},
        {"constants": [[[], 3]]},
    ],
)
def test_damaged_space_in_a_state(tmp_path: Path, change: dict[str, Any]) -> None:
    path, state = saved_state(tmp_path)
    state["space"] = {**state["space"], **change}
    path.write_text(json.dumps(state))
    with pytest.raises(InputError, match="is damaged"):
        HypRLSearch().restore(str(path))


def test_restored_without_its_space_unless_it_cannot_be_written(tmp_path: Path) -> None:
    def target(x: float) -> float:
        return x

    for choice, known in ((["relu", None], True), ([target, None], False)):
        space = {"act": tune.choice(choice), "x": tune.quniform(0, 1, 0.1), "steps": 7}
        search = HypRLSearch(space, metric="loss", mode="min")
        search.on_trial_complete("0", {"loss": search.suggest("0")["x"]})
        search.save(str(tmp_path / "state"))
        other = HypRLSearch()
        other.restore(str(tmp_path / "state"))
        if known:
            assert other.suggest("1") == search.suggest("1")
            continue
        with pytest.raises(InputError, match="give `param_space`"):
            other.suggest("1")
        other.set_search_properties("loss", "min", space)
        assert {**other.suggest("1"), "steps": 7} == search.suggest("1")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_no_state(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "state").write_bytes(text)
    with pytest.raises(InputError):
        HypRLSearch().restore(str(tmp_path / "state"))
    with pytest.raises(InputError, match="cannot be read"):
        HypRLSearch().restore(str(tmp_path / "absent"))


def test_searcher_can_be_copied_as_ray_copies_it() -> None:
    search = started(seed=2)
    play(search, 3)
    copied = pickle.loads(pickle.dumps(search))
    assert play(search, 3, first=5) == play(copied, 3, first=5)


def test_searcher_needs_no_jax(repository: Path) -> None:
    script = (
        "import sys; from ray import tune; from hyprl_jax.frontends import HypRLSearch;"
        "s = HypRLSearch({'x': tune.uniform(0, 1)}, metric='loss', mode='min');"
        "s.on_trial_complete('1', {'loss': s.suggest('1')['x']}); s.suggest('2');"
        "sys.exit(str({'jax', 'flax', 'optax'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=repository)
    assert done.stderr.strip() == ""


# ---- real runs, in a process of their own: Ray forks, which threads of jax do not survive


def facts_of(names: list[str], folder: Path, repository: Path) -> dict[str, Any]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, __file__, str(repository / "docs" / "ray.md"), *names],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return found


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Any]:
    return facts_of(["failing"], tmp_path_factory.mktemp("ray"), repository)


@pytest.fixture(scope="module")
def more_facts(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Any]:
    return facts_of(["small", "interrupted", "documentation"], tmp_path_factory.mktemp("ray"), repository)


def test_real_run_with_failing_trials(facts: dict[str, Any]) -> None:
    run = facts["failing"]
    assert run["trials"] == 5
    assert run["errors"] == run["told"].count(None) == 1
    assert sorted(value for value in run["told"] if value is not None) == sorted(run["values"])
    assert run["best_value"] == min(run["values"])
    assert run["best_of_ray"] == {**run["best"], "epochs": 3}


def test_real_run_restored_in_a_new_searcher(facts: dict[str, Any]) -> None:
    assert facts["failing"]["restored"] == facts["failing"]["told"]
    assert facts["failing"]["next_restored"] == facts["failing"]["next"]


@pytest.mark.slow
def test_real_run_ends_when_nothing_is_left(more_facts: dict[str, Any]) -> None:
    assert sorted(more_facts["small"]["tried"]) == ["a", "b", "c"]


@pytest.mark.slow
def test_real_run_interrupted_and_restored_by_ray(more_facts: dict[str, Any]) -> None:
    run = more_facts["interrupted"]
    assert run["before"] < 4
    assert sorted(run["after"]) == sorted(run["told"]) == ["a", "b", "c", "d"]


@pytest.mark.slow
def test_documentation_runs(more_facts: dict[str, Any]) -> None:
    assert more_facts["documentation"] == {"first": 6, "told": 8, "jax": False}


def failing_objective(config: dict[str, Any]) -> None:
    if config["lr"] == 0.05:
        raise RuntimeError("diverged")
    depth = config["model"]["depth"]
    tune.report({"eval": {"loss": config["lr"] + depth + config["epochs"]}})


def fit(objective: Any, space: dict[str, Any], search: Any, metric: str, name: str) -> Any:
    run_config = tune.RunConfig(
        name=name,
        storage_path=str(Path.cwd()),
        verbose=0,
        callbacks=[InterruptOnce()] if name == "interrupted" else [],
    )
    plan = tune.TuneConfig(
        search_alg=search,
        metric=metric,
        mode="min",
        num_samples=5,
        max_concurrent_trials=1 if name == "interrupted" else 2,
        reuse_actors=True,
    )
    return tune.Tuner(objective, param_space=space, tune_config=plan, run_config=run_config).fit()


def values_of(search: HypRLSearch) -> list[float | None]:
    return [result.value for result in search._start()[0].results]


def run_with_failures() -> dict[str, Any]:
    # One failure alone: Ray starts a new process after each.
    bad = {"lr": 0.05, "model": {"depth": 1, "kind": "b"}}
    search = HypRLSearch(points_to_evaluate=[bad])
    grid = fit(failing_objective, SPACE, search, "eval/loss", "failing")
    fresh = HypRLSearch()
    fresh.restore_from_dir(str(Path.cwd() / "failing"))
    fresh.set_search_properties("eval/loss", "min", SPACE)
    assert search.best is not None
    return {
        "trials": len(grid),
        "errors": grid.num_errors,
        "told": values_of(search),
        "values": [result.metrics["eval"]["loss"] for result in grid if result.error is None],
        "best": search.best.config,
        "best_value": search.best.value,
        "best_of_ray": grid.get_best_result().config,
        "restored": values_of(fresh),
        "next": search.suggest("next"),
        "next_restored": fresh.suggest("next"),
    }


def run_small_space() -> dict[str, Any]:
    grid = fit(
        lambda config: {"loss": ord(config["x"])},
        {"x": tune.choice(["a", "b", "c"])},
        HypRLSearch(),
        "loss",
        "small",
    )
    return {"tried": [result.config["x"] for result in grid]}


class InterruptOnce(tune.Callback):
    """Presses Ctrl-C when the second trial has ended, but not in the run that Ray restores."""

    def __init__(self) -> None:
        self.pressed, self.ended = Path.cwd() / "pressed", 0

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        self.ended += 1
        if self.ended == 2 and not self.pressed.exists():
            self.pressed.touch()
            signal.raise_signal(signal.SIGINT)


def run_interrupted() -> dict[str, Any]:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        return {"loss": ord(config["x"])}

    folder = Path.cwd() / "interrupted"
    space = {"x": tune.choice(["a", "b", "c", "d"])}
    before = fit(objective, space, HypRLSearch(), "loss", folder.name)
    after = tune.Tuner.restore(str(folder), objective).fit()
    state = json.loads(max(folder.glob("searcher-state-*.json")).read_text())
    return {
        "before": sum("loss" in (result.metrics or {}) for result in before),
        "after": [result.config["x"] for result in after],
        "told": [config["x"] for config, _ in state["tuner"]["results"]],
    }


def run_documentation(page: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
    heavy = {"jax", "flax"} & set(sys.modules)
    return {
        "first": len(names["results"]),
        "told": len(values_of(names["search"])),
        "jax": bool(heavy),
    }


RUNS = {
    "failing": lambda _: run_with_failures(),
    "small": lambda _: run_small_space(),
    "interrupted": lambda _: run_interrupted(),
    "documentation": run_documentation,
}


def real_runs(page: Path, names: list[str]) -> None:
    """Does the runs of these names, and writes what they found into facts.json in the working folder."""
    warnings.simplefilter("error")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        facts = {name: RUNS[name](page) for name in names}
    finally:
        ray.shutdown()
    Path("facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    real_runs(Path(sys.argv[1]), sys.argv[2:])
