"""Adapters of libraries on a small conditional space: legal, repeatable, told what was tried, good."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizers_for_tests import easy_collection
from surface_examples import sampled_frame, spaces

from hyprl_jax.baselines.libraries import (
    LIBRARIES,
    Candidates,
    TableProblem,
    check_installed,
    configurations_of,
    find_optimizer,
    is_users,
    library_versions,
    make_optimizer,
)
from hyprl_jax.baselines.libraries.toy import toy_problem
from hyprl_jax.errors import InputError, MissingExtraError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces import TaskTables, task_tables

TRIALS = 12  # the random beginning of Optuna's samplers is 10
METHODS = tuple(LIBRARIES)


@pytest.fixture(scope="module", autouse=True)
def _quiet_imports() -> None:
    """Some libraries warn while they are imported; what they do afterwards must be quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in ("optuna", "smac", "torch", "botorch"):
            if importlib.util.find_spec(package):
                importlib.import_module(package)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    for package in LIBRARIES[request.param].needs:
        pytest.importorskip(package, reason=f"{package} of the extra 'baselines' is not installed")
    return str(request.param)


def problem_of(tables: TaskTables, row: int, trials: int, seed: int, sign: float = 1.0) -> TableProblem:
    collection = easy_collection()
    encoding = SpaceEncoding(collection.space)
    legal = np.flatnonzero(np.isfinite(tables.objective[row]))
    values = configurations_of(encoding, encoding.codes(collection.configs))
    direction = "minimize" if sign > 0 else "maximize"
    return TableProblem(collection.space, values, tables.encodings, direction, legal, trials, seed)


TABLES = task_tables(easy_collection())


def play(
    name: str,
    row: int = 0,
    trials: int = TRIALS,
    seed: int = 0,
    sign: float = 1.0,
    starts: tuple[int, ...] = (),
) -> tuple[list[int], Any]:
    """Columns in the order they were tested, and the optimizer; every proposal is checked."""
    problem = problem_of(TABLES, row, trials, seed, sign)
    optimizer = make_optimizer(name, problem)
    columns: list[int] = []
    for column in starts:
        optimizer.tell(column, sign * float(TABLES.objective[row, column]))
        columns.append(column)
    while len(columns) < trials:
        column = optimizer.ask()
        assert type(column) is int
        assert column in problem.legal
        assert column not in columns
        optimizer.tell(column, sign * float(TABLES.objective[row, column]))
        columns.append(column)
    return columns, optimizer


def regret(columns: list[int], row: int) -> float:
    values = TABLES.objective[row]
    best, worst = np.nanmin(values), np.nanmax(values)
    return float((values[columns].min() - best) / (worst - best))


def test_two_runs_agree_and_seeds_differ(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    first, _ = play(method)
    assert play(method)[0] == first
    assert play(method, seed=1, trials=6)[0] != first[:6]
    assert capfd.readouterr() == ("", "")


def test_a_maximised_objective_is_the_mirror_of_a_minimised_one(method: str) -> None:
    assert play(method, sign=-1.0)[0] == play(method)[0]


def test_better_than_chance_on_an_easy_surface(method: str) -> None:
    trials = 12 if method == "botorch" else 25  # it is the slowest, and the quickest to find the optimum
    found = [regret(play(method, row, trials, seed)[0], row) for row, seed in ((0, 0), (2, 1))]
    rng = np.random.default_rng(0)
    legal = {row: np.flatnonzero(np.isfinite(TABLES.objective[row])) for row in (0, 2)}
    chance = [regret(list(rng.permutation(legal[row])[:trials]), row) for row in (0, 2) for _ in range(300)]
    assert np.mean(found) < 0.5 * np.mean(chance)


def test_starts_are_only_told(method: str) -> None:
    starts = (7, 30, 11)
    columns, _ = play(method, trials=8, starts=starts)
    assert columns[:3] == list(starts)


def test_plays_until_nothing_is_left(method: str) -> None:
    problem = toy_problem(12, configurations=12)
    optimizer = make_optimizer(method, problem)
    columns = []
    for _ in range(12):
        columns.append(optimizer.ask())
        optimizer.tell(columns[-1], float(problem.encodings[columns[-1]].sum()))
    assert sorted(columns) == list(range(12))


def test_a_constant_objective_is_no_obstacle(method: str) -> None:
    problem = toy_problem(11)
    optimizer = make_optimizer(method, problem)
    for _ in range(11):
        optimizer.tell(optimizer.ask(), 1.0)


@pytest.mark.parametrize("name", ["optuna_tpe", "optuna_gp"])
def test_the_study_holds_what_was_tried_and_nothing_is_left_running(name: str) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna of the extra 'baselines' is not installed")
    pytest.importorskip("torch", reason="torch of the extra 'baselines' is not installed")
    columns, optimizer = play(name, starts=(7, 30))
    trials = optimizer._study.get_trials()
    assert {trial.state.name for trial in trials} == {"COMPLETE", "FAIL"}
    finished = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    values = problem_of(TABLES, 0, 1, 0).configurations
    ranks = {"flat": 0, "medium": 1, "deep": 2}
    for trial, column in zip(finished, columns, strict=True):
        tried = {key: value for key, value in values[column].items() if key != "solver"}
        tried["depth"] = ranks[tried["depth"]]
        assert trial.params == tried  # inactive hyperparameters are absent
        assert trial.value == TABLES.objective[0, column]
    for trial in trials:  # proposals obey the conditions too
        assert ("gamma" in trial.params) == (trial.params["kernel"] == "rbf")
        assert ("degree" in trial.params) == (trial.params["kernel"] == "poly")


def test_the_run_history_of_smac_holds_what_was_tried() -> None:
    pytest.importorskip("smac", reason="smac of the extra 'baselines' is not installed")
    starts = tuple(range(1, 21))  # more than its intensifier tolerates as mere knowledge
    columns, optimizer = play("smac", trials=30, starts=starts)
    history = optimizer._facade.runhistory
    values = problem_of(TABLES, 0, 1, 0).configurations
    assert [dict(configuration) for configuration in history.get_configs()] == [values[c] for c in columns]
    costs = [history.get_cost(configuration) for configuration in history.get_configs()]
    assert costs == [TABLES.objective[0, column] for column in columns]
    assert not history.get_running_configs()


@settings(max_examples=30)
@given(spaces(), st.integers(0, 1000))
def test_nearest_is_what_a_loop_finds(space: Any, seed: int) -> None:
    frame = sampled_frame(space, 12, seed)
    encoding = SpaceEncoding(space)
    values = configurations_of(encoding, encoding.codes(frame))
    features, _ = encoding.encode(frame)
    legal = np.arange(len(frame))
    candidates = Candidates(TableProblem(space, values, features, "minimize", legal, 3, 0))
    for column in legal:
        assert candidates.nearest(values[column]) == column
    taken = int(legal[seed % len(legal)])
    candidates.take(taken)
    assert taken not in candidates.untried
    if len(legal) > 1:
        gaps = {int(c): loop_distance(encoding, values[taken], values[c]) for c in candidates.untried}
        found = candidates.nearest(values[taken])
        assert gaps[found] == pytest.approx(min(gaps.values()), abs=1e-12)


def loop_distance(encoding: SpaceEncoding, one: dict[str, Any], other: dict[str, Any]) -> float:
    total = 0.0
    for parameter in encoding.parameters:
        a, b = one.get(parameter.name), other.get(parameter.name)
        if (a is None) != (b is None):
            total += 1.0
        elif a is not None and b is not None and parameter.is_number:
            if parameter.upper > parameter.lower:
                scale = np.log if parameter.log else float
                span = scale(parameter.upper) - scale(parameter.lower)
                total += ((scale(a) - scale(b)) / span) ** 2
        elif a is not None and parameter.kind == "ordinal":
            ranks = [parameter.choices.index(a), parameter.choices.index(b)]
            total += ((ranks[0] - ranks[1]) / max(len(parameter.choices) - 1, 1)) ** 2
        elif a is not None:
            total += float(a != b)
    return total


def test_names_of_methods() -> None:
    assert is_users("package.module:Name")
    assert is_users("module:Outer.Inner")
    assert not any(is_users(name) for name in ("smac", "module:", ":Name", "mod ule:Name", "a:b:c", "a/b:c"))
    with pytest.raises(InputError, match=r"unknown method 'tpe': use optuna_tpe, .*package\.module:Name"):
        find_optimizer("tpe")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hyprl-jax\[baselines\]'"):
        check_installed("smac")
    check_installed("somebody.else:Name")


def test_versions_name_the_library_and_the_adapter(method: str) -> None:
    versions = library_versions(method)
    assert versions["adapter"].isdigit()
    assert set(LIBRARIES[method].packages) < set(versions)
