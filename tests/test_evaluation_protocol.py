"""Trajectories against a plain loop over trials, their dtypes, and the refusal of every illegal action."""

from __future__ import annotations

import math
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import COLUMNS, Failure, Played, summarize, trajectories
from hyprl_jax.surfaces.tables import TaskTables


@dataclass(frozen=True)
class Tables:
    collection: str
    direction: str
    tasks: tuple[str, ...]
    config_ids: np.ndarray
    objective: np.ndarray
    cost: np.ndarray


def sample(seed: int, direction: str = "maximize", tasks: int = 4, configs: int = 9) -> Tables:
    """Ragged tables with missing values, ties, one unknown cost, and ids that are no positions."""
    rng = np.random.default_rng(seed)
    objective = rng.integers(0, 12, (tasks, configs)) / 4.0
    objective[rng.random(objective.shape) < 0.2] = np.nan
    objective[:, 0] = 1.0
    cost = rng.gamma(2.0, 1.0, objective.shape)
    cost[0, 0] = np.nan
    names = tuple(f"task {index}" for index in range(tasks))
    return Tables("sample", direction, names, np.arange(configs) * 7 + 3, objective, cost)


def legal_play(tables: Tables, rows: list[int], seeds: int, trials: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    actions = np.full((len(rows), seeds, trials), -1)
    for place, row in enumerate(rows):
        for run in range(seeds):
            legal = rng.permutation(np.flatnonzero(~np.isnan(tables.objective[row])))[:trials]
            actions[place, run, : len(legal)] = legal
    return actions


def loop_rows(tables: Tables, names: list[str], played: Played) -> list[dict]:
    rows = []
    sign = 1.0 if tables.direction == "minimize" else -1.0
    for place, name in enumerate(names):
        values = tables.objective[tables.tasks.index(name)]
        known = [sign * value for value in values if not math.isnan(value)]
        for run, seed in enumerate(played.seeds):
            best, cost = math.inf, 0.0
            for trial in range(played.actions.shape[2]):
                action = int(played.actions[place, run, trial])
                if action >= 0:
                    best = min(best, sign * values[action])
                    cost += tables.cost[tables.tasks.index(name), action]
                span = max(known) - min(known)
                row = {"method": played.method, "collection": tables.collection, "task": name, "seed": seed}
                row |= {"trial": trial + 1, "incumbent": sign * best, "cost": cost}
                row |= {"config_id": tables.config_ids[action] if action >= 0 else None}
                row |= {"objective": values[action] if action >= 0 else math.nan}
                row |= {"normalized_regret": (best - min(known)) / span if span else 0.0}
                row |= {"suggest_seconds": 0.25 if action >= 0 else math.nan}
                rows.append(row)
    return rows


@given(st.integers(0, 10_000), st.sampled_from(["minimize", "maximize"]), st.integers(1, 12))
def test_trajectories_are_what_a_loop_finds(seed: int, direction: str, trials: int) -> None:
    tables = sample(seed, direction)
    names = ["task 2", "task 0", "task 3"]
    played = Played("method", legal_play(tables, [2, 0, 3], 2, trials, seed), (5, 3), 0.25)
    found = trajectories(tables, names, played)
    expected = pd.DataFrame(loop_rows(tables, names, played))[list(COLUMNS)].astype(COLUMNS)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("trials", [1, 3])
def test_dtypes_do_not_depend_on_the_values(trials: int) -> None:
    tables = sample(0)
    frame = trajectories(
        tables, tables.tasks, Played("a", legal_play(tables, [0, 1, 2, 3], 1, trials, 0), (0,))
    )
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == COLUMNS
    assert frame["suggest_seconds"].isna().all()


def test_exhausted_table_keeps_the_incumbent_and_names_no_configuration() -> None:
    tables = replace(sample(0), objective=np.array([[1.0, 2.0, np.nan]]), tasks=("t",), cost=np.ones((1, 3)))
    frame = trajectories(tables, ["t"], Played("a", np.array([[[0, 1, -1, -1]]]), (0,), 1.0))
    assert frame["config_id"].isna().tolist() == [False, False, True, True]
    assert frame["incumbent"].tolist() == [1.0, 2.0, 2.0, 2.0]
    assert frame["cost"].tolist() == [1.0, 2.0, 2.0, 2.0]
    assert frame["normalized_regret"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert frame["suggest_seconds"].isna().tolist() == [False, False, True, True]


def test_cost_is_unknown_from_the_first_unknown_step_on() -> None:
    tables = replace(sample(0), objective=np.ones((1, 3)), tasks=("t",), cost=np.array([[1.0, np.nan, 4.0]]))
    frame = trajectories(tables, ["t"], Played("a", np.array([[[0, 1, 2]]]), (0,)))
    np.testing.assert_array_equal(frame["cost"], [1.0, np.nan, np.nan])
    assert frame["normalized_regret"].tolist() == [0.0, 0.0, 0.0]


def test_several_methods_stand_below_each_other() -> None:
    tables = sample(1)
    actions = legal_play(tables, [0, 1], 2, 3, 0)
    frame = trajectories(
        tables, ["task 0", "task 1"], [Played("b", actions, (0, 1)), Played("a", actions[:, :1], (9,))]
    )
    assert frame["method"].drop_duplicates().tolist() == ["b", "a"]
    assert len(frame) == 2 * 2 * 3 + 2 * 3


@pytest.mark.parametrize(
    ("trial", "action", "reason"),
    [
        (2, 9, "action 9 is out of range; columns are 0 to 8"),
        (2, -2, "action -2 is out of range"),
        (1, -1, r"action -1 \(nothing left\) at the first trial"),
        (3, 0, "action 0 repeats an earlier trial"),
        (2, -1, "follows a -1"),
        (3, 4, "action 4 is illegal: this configuration has no result"),
    ],
)
def test_illegal_actions_are_named(trial: int, action: int, reason: str) -> None:
    tables = sample(3)
    tables.objective[:, :4] = 1.0
    tables.objective[1, 4] = np.nan
    actions = np.tile(np.array([0, 1, 2]), (2, 2, 1))
    actions[1, 1, trial - 1] = action
    named = trial + 1 if reason.startswith("follows") else trial
    with pytest.raises(InputError, match=rf"method 'mine', task 'task 1', seed 8, trial {named}: .*{reason}"):
        trajectories(tables, ["task 0", "task 1"], Played("mine", actions, (7, 8)))


ZERO = np.zeros((1, 1, 1), dtype=np.int64)


@pytest.mark.parametrize(
    ("played", "reason"),
    [
        (Played("", ZERO, (0,)), "method name"),
        (Played("two\nlines", ZERO, (0,)), "method name"),
        (Played("m", ZERO.astype(float), (0,)), "dtype float64"),
        (Played("m", ZERO.astype(bool), (0,)), "dtype bool"),
        (Played("m", ZERO[0], (0,)), "shape"),
        (Played("m", ZERO[:, :, :0], (0,)), "shape"),
        (Played("m", ZERO, (0, 1)), "shape"),
        (Played("m", np.zeros((2, 1, 1), int), (0,)), "shape"),
        (Played("m", np.zeros((1, 2, 1), int), (4, 4)), "distinct integers"),
        (Played("m", ZERO, (0.5,)), "distinct integers"),
        (Played("m", ZERO, (2**70,)), "64 bits"),
        (Played("m", np.full((1, 1, 1), 2**64 - 1, dtype=np.uint64), (0,)), "64 bits"),
        (Played("m", ZERO, (0,), -1.0), "suggest_seconds"),
        (Played("m", ZERO, (0,), np.zeros((3, 3, 3))), "suggest_seconds"),
        (Played("m", ZERO, (0,), "fast"), "suggest_seconds"),
    ],
)
def test_malformed_play_is_refused(played: Played, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        trajectories(sample(0), ["task 0"], played)


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([], "empty"),
        ("task 0", "single text"),
        (["task 0", "nowhere"], "'nowhere' is not in collection 'sample'"),
        (["task 0", "task 0"], "twice"),
        (["task 1"], "no configuration has a result"),
        (["task 2"], "infinite"),
    ],
)
def test_impossible_test_tasks_are_refused(tasks: list[str], reason: str) -> None:
    tables = sample(0)
    tables.objective[1] = np.nan
    tables.objective[2, 3] = np.inf
    with pytest.raises(InputError, match=reason):
        trajectories(tables, tasks, Played("m", np.zeros((len(tasks), 1, 1), int), (0,)))


def test_methods_need_their_own_names() -> None:
    played = Played("m", ZERO, (0,))
    with pytest.raises(InputError, match="'m' was played twice"):
        trajectories(sample(0), ["task 0"], [played, played])
    with pytest.raises(InputError, match="no method"):
        trajectories(sample(0), ["task 0"], [])


def svm_tables(shared_data: Path) -> TaskTables:
    """Accuracy of 288 support vector machine configurations on 50 data sets, from the original files."""
    values: dict[str, list[float]] = {}
    with tarfile.open(shared_data / "ecml2016-svm.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                lines = file.read().decode().splitlines()
                values[Path(member.name).name] = [
                    float(line.split()[0].split(":")[-1]) for line in lines if line
                ]
    objective = np.array(list(values.values()))
    tasks, configs = objective.shape
    return TaskTables(
        collection="svm",
        content_hash="",
        direction="maximize",
        tasks=tuple(values),
        groups=tuple(values),
        config_ids=np.arange(configs, dtype=np.int64),
        encodings=np.zeros((configs, 0), dtype=np.float32),
        feature_names=(),
        objective=objective,
        cost=np.full((tasks, configs), np.nan),
        metafeatures=np.zeros((tasks, 0)),
        metafeature_names=(),
    )


def greedy_portfolio(regret: np.ndarray, trials: int) -> list[int]:
    """Configurations that lower the mean best regret of the tasks (rows) most, one after another."""
    best, chosen = np.ones(len(regret)), []
    for _ in range(trials):
        value = np.minimum(best[:, None], regret).mean(axis=0)
        value[chosen] = np.inf
        chosen.append(int(value.argmin()))
        best = np.minimum(best, regret[:, chosen[-1]])
    return chosen


def test_known_figures_of_the_svm_table_come_out(shared_data: Path) -> None:
    """Leave one out: the greedy portfolio (exact), and random search (close, 20 seeds)."""
    tables = svm_tables(shared_data)
    best, worst = tables.objective.max(axis=1, keepdims=True), tables.objective.min(axis=1, keepdims=True)
    regret = (best - tables.objective) / (best - worst)
    lists = [greedy_portfolio(np.delete(regret, task, axis=0), 50) for task in range(50)]
    rng = np.random.default_rng(0)
    orders = np.array([[rng.permutation(288)[:50] for _ in range(20)] for _ in range(50)])
    played = [Played("portfolio", np.array(lists)[:, None], (0,)), Played("random", orders, tuple(range(20)))]
    summary = summarize(trajectories(tables, tables.tasks, played), resamples=100)
    curves = {name: np.array(figures["normalized_regret"]) for name, figures in summary["methods"].items()}
    at = np.array([1, 5, 10, 20, 30, 50]) - 1
    np.testing.assert_allclose(curves["portfolio"][at], [0.170, 0.077, 0.051, 0.041, 0.038, 0.037], atol=6e-4)
    np.testing.assert_allclose(curves["random"][at], [0.544, 0.194, 0.110, 0.064, 0.047, 0.031], atol=0.015)


def test_a_failed_run_keeps_what_it_had_reached() -> None:
    tables = replace(
        sample(0), objective=np.array([[1.0, 3.0, 2.0]] * 2), tasks=("t", "u"), cost=np.ones((2, 3))
    )
    actions = np.array([[[0, 1, 2], [2, -1, -1]], [[-1, -1, -1], [0, 1, 2]]])
    failures = (Failure("t", 8, 2, "raised"), Failure("u", 7, 1, "hung"))
    frame = trajectories(tables, ["t", "u"], Played("a", actions, (7, 8), failures=failures))
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == COLUMNS
    regret = frame["normalized_regret"].to_numpy().reshape(2, 2, 3)
    np.testing.assert_array_equal(regret[0], [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(regret[1], [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    never = frame[(frame["task"] == "u") & (frame["seed"] == 7)]
    assert never[["config_id", "objective", "incumbent"]].isna().all(axis=None)
    summary = summarize(frame, resamples=100)
    assert summary["methods"]["a"]["normalized_regret"] == [0.875, 0.375, 0.375]


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([Failure("nowhere", 0, 1, "")], "was not played"),
        ([Failure("task 0", 5, 1, "")], "was not played"),
        ([Failure("task 0", 0, 3, ""), Failure("task 0", 0, 3, "")], "stands twice"),
        ([Failure("task 0", 0, 5, "")], "none of the 4 played"),
        ([Failure("task 0", 0, 0, "")], "none of the 4 played"),
        ([Failure("task 0", 0, 2, "")], "has actions from trial 2 on"),
        ([Failure("task 0", 0, 4, "")], "has -1 before trial 4"),
        ([], "nothing left"),
    ],
)
def test_failures_that_do_not_fit_the_play_are_refused(failures: list[Failure], reason: str) -> None:
    actions = np.array([[[0, 1, -1, -1]]]) if failures else np.full((1, 1, 4), -1)
    tables = sample(0)
    tables.objective[:, :2] = 1.0
    with pytest.raises(InputError, match=reason):
        trajectories(tables, ["task 0"], Played("m", actions, (0,), failures=tuple(failures)))
