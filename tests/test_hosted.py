"""Optimizers from outside in their own processes: what they are told, and that their faults stay theirs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optimizers_for_tests import easy_collection

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import Failure, Played, trajectories
from hyprl_jax.evaluation.hosted import Hosting, default_cache, play_hosted
from hyprl_jax.surfaces import TaskTables, task_tables, write_collection

USERS = "optimizers_for_tests"
TASKS = ("task0", "task2")
TRIALS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("collections") / "easy"
    write_collection(easy_collection(), place)
    return place


@pytest.fixture(scope="module")
def tables() -> TaskTables:
    return task_tables(easy_collection())


@pytest.fixture(scope="module")
def together(folder: Path, tables: TaskTables) -> dict[str, Played]:
    """Every method of a user at once: one that fails must not touch the others."""
    names = [
        "Ascending",
        "Faulty",
        "Repeating",
        "OutOfRange",
        "Negative",
        "WithoutResult",
        "Nonsense",
        "Truthful",
        "Quitting",
    ]
    names += ["Deaf", "Unmakeable", "Wrecking", "Unversioned", "Drawing"]
    methods = [f"{USERS}:{name}" for name in names]
    played = play_hosted(methods, folder, tables, TASKS, TRIALS, [4, 9], hosting=Hosting(jobs=2), silent=True)
    assert [one.method for one in played] == methods
    trajectories(tables, TASKS, played)  # all of it can be scored
    return dict(zip(names, played, strict=True))


def test_a_method_is_played_on_every_task_and_seed(together: dict[str, Played]) -> None:
    played = together["Ascending"]
    assert played.seeds == (4, 9)
    assert played.failures == ()
    expected = [
        [[1, 2, 3, 4, 5]] * 2,
        [[0, 1, 3, 4, 5]] * 2,
    ]  # column 0 has no result on task0, 2 none on task2
    np.testing.assert_array_equal(played.actions, expected)
    assert played.actions.dtype == np.int64
    seconds = np.asarray(played.suggest_seconds)
    assert seconds.shape == played.actions.shape
    assert (seconds >= 0).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Faulty", "RuntimeError: no idea what to do (optimizers_for_tests.py:"),
        ("Repeating", "proposed column {first} again, first tested at trial 1"),
        ("OutOfRange", "proposed column 120, out of range: there are 0 to 119"),
        ("Negative", "proposed column -1, out of range"),
        ("WithoutResult", "proposed column {missing}, which has no result on this task"),
        ("Quitting", "SystemExit: 5 (optimizers_for_tests.py:"),
        ("Nonsense", "TypeError: ask() gave 'the best one', which is no column number"),
        ("Truthful", "TypeError: ask() gave True, which is no column number"),
    ],
)
def test_a_fault_costs_its_own_run_alone(together: dict[str, Played], name: str, reason: str) -> None:
    played = together[name]
    runs = [(task, seed) for task in TASKS for seed in (4, 9)]
    assert [(failure.task, failure.seed) for failure in played.failures] == runs
    for failure in played.failures:
        row = TASKS.index(failure.task)
        numbers = {"first": [1, 0][row], "missing": [0, 2][row]}
        assert failure.trial == 3
        assert failure.reason.startswith(reason.format(**numbers))
        assert failure.reason.isprintable()
    np.testing.assert_array_equal(played.actions[..., :2], together["Ascending"].actions[..., :2])
    assert (played.actions[..., 2:] == -1).all()
    assert np.isnan(np.asarray(played.suggest_seconds)[..., 2:]).all()


def test_faults_when_told_or_made_name_their_trial(together: dict[str, Played]) -> None:
    deaf, unmakeable = together["Deaf"], together["Unmakeable"]
    assert {(failure.trial, failure.reason.partition(" (")[0]) for failure in deaf.failures} == {
        (2, "ValueError: too much")
    }
    assert (deaf.actions[..., 0] >= 0).all()
    assert (deaf.actions[..., 1:] == -1).all()
    assert {failure.trial for failure in unmakeable.failures} == {1}
    assert (unmakeable.actions == -1).all()


def test_a_run_cannot_spoil_the_next(together: dict[str, Played]) -> None:
    assert together["Wrecking"].failures == ()


def test_global_generators_are_seeded_for_every_run(
    together: dict[str, Played], folder: Path, tables: TaskTables
) -> None:
    """One process and another order of runs: the same to the last digit."""
    method = f"{USERS}:Drawing"
    hosting = Hosting(jobs=1)
    (again,) = play_hosted(
        [method], folder, tables, TASKS[::-1], TRIALS, [9, 4], hosting=hosting, silent=True
    )
    np.testing.assert_array_equal(again.actions[::-1, ::-1], together["Drawing"].actions)
    assert len({tuple(run) for run in together["Drawing"].actions.reshape(4, TRIALS).tolist()}) == 4


def test_a_process_that_hangs_or_ends_is_replaced(folder: Path, tables: TaskTables, tmp_path: Path) -> None:
    methods = [f"{USERS}:{name}" for name in ("Hanging", "Exiting", "Ascending")]
    hosting = Hosting(cache=tmp_path, jobs=1, time_limit=3.0)
    *broken, fine = play_hosted(methods, folder, tables, ["task0"], TRIALS, [0], hosting=hosting, silent=True)
    reasons = ["ask() took longer than the time limit of 3 s", "its process ended with exit code 3"]
    for played, reason in zip(broken, reasons, strict=True):
        assert played.failures == (Failure("task0", 0, 3, reason),)
        np.testing.assert_array_equal(played.actions, [[[1, 2, -1, -1, -1]]])
    assert fine.failures == ()
    assert len(list(tmp_path.iterdir())) == 1  # of the last method: the others may do better another day


def test_starts_come_first_and_are_only_told(folder: Path, tables: TaskTables) -> None:
    starts = np.array([[[7, 3], [50, 2]]])
    methods = [f"{USERS}:CheckingStarts"]
    hosting = Hosting(jobs=1)
    (played,) = play_hosted(methods, folder, tables, ["task1"], 4, [0, 1], starts, hosting, silent=True)
    assert played.failures == ()
    np.testing.assert_array_equal(played.actions, [[[7, 3, 0, 2], [50, 2, 0, 3]]])
    measured = ~np.isnan(np.asarray(played.suggest_seconds))
    np.testing.assert_array_equal(measured, np.broadcast_to([False, False, True, True], (1, 2, 4)))


def test_fewer_configurations_than_the_collection_has(folder: Path, tables: TaskTables) -> None:
    kept = np.array([100, 4, 31, 0])
    some = restricted(tables, kept)
    (played,) = play_hosted(
        [f"{USERS}:Ascending"], folder, some, ["task0"], 6, [0], hosting=Hosting(jobs=1), silent=True
    )
    np.testing.assert_array_equal(played.actions, [[[0, 1, 2, -1, -1, -1]]])  # column 3 has no result
    frame = trajectories(some, ["task0"], played)
    assert frame["config_id"].dropna().tolist() == [1003, 43, 313]


def restricted(tables: TaskTables, kept: np.ndarray) -> TaskTables:
    return dataclasses.replace(
        tables,
        config_ids=tables.config_ids[kept],
        encodings=tables.encodings[kept],
        objective=tables.objective[:, kept],
        cost=tables.cost[:, kept],
    )


def test_a_library_plays_in_its_process(
    folder: Path, tables: TaskTables, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="optuna of the extra 'baselines' is not installed")
    (played,) = play_hosted(["optuna_tpe"], folder, tables, ["task0"], 12, [0], hosting=Hosting(jobs=1))
    assert played.failures == ()
    assert len(set(played.actions.ravel().tolist()) - {-1}) == 12
    seconds = np.asarray(played.suggest_seconds)
    assert seconds.max() < 100 * np.median(seconds)  # the import of the library is in nobody's seconds
    out, err = capfd.readouterr()
    assert out == ""
    assert "hosted methods: 1/1 (100%)" in err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"methods": ["nobody"]}, "unknown method 'nobody'"),
        ({"methods": ["no.such.module:Name"]}, "cannot be used: ModuleNotFoundError: No module named 'no'"),
        ({"methods": [f"{USERS}:Nobody"]}, "cannot be used: AttributeError: .*'Nobody'"),
        ({"methods": [f"{USERS}:Slow"] * 2}, "methods .* must be different"),
        ({"tasks": ["nowhere"]}, "task 'nowhere' is not in collection 'easy'"),
        ({"trials": 0}, "0 trials: give at least 1"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": [1, 1]}, "must be different"),
        ({"starts": np.zeros((1, 1, 1))}, "starts of shape"),
        ({"starts": np.zeros((1, 2, 1), int)}, "starts of shape"),
        ({"starts": np.array([[[1, 1]]])}, "task 'task0', seed 0: starts must be different columns"),
        ({"starts": np.array([[[0]]])}, "starts must be different columns that have a result"),
        ({"hosting": Hosting(jobs=0)}, "0 jobs"),
        ({"hosting": Hosting(time_limit=0.0)}, "time limit"),
        ({"hosting": Hosting(cache=Path("/dev/null/runs"))}, "runs cannot be kept here"),
    ],
)
def test_mistakes_are_named_before_anything_is_played(
    folder: Path, tables: TaskTables, changes: dict[str, Any], reason: str
) -> None:
    given: dict[str, Any] = {"methods": [f"{USERS}:Slow"], "tasks": ["task0"], "trials": 3, "seeds": [0]}
    with pytest.raises(InputError, match=reason):
        play_hosted(collection=folder, tables=tables, **(given | changes), silent=True)


def test_tables_of_another_collection_are_refused(folder: Path, tables: TaskTables) -> None:
    other = dataclasses.replace(tables, encodings=1.0 - tables.encodings)
    with pytest.raises(InputError, match="its configurations are not those of the tables"):
        play_hosted([f"{USERS}:Slow"], folder, other, ["task0"], 2, [0], silent=True)
    strange = dataclasses.replace(tables, config_ids=tables.config_ids + 1)
    with pytest.raises(InputError, match="its configurations are not those of the tables"):
        play_hosted([f"{USERS}:Slow"], folder, strange, ["task0"], 2, [0], silent=True)


def test_the_cache_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "hyprl_jax" / "hosted"
