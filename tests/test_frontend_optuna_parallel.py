"""The Optuna sampler in several threads and processes, resumed from a storage, copied and pickled."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from optuna.storages import JournalStorage, RDBStorage  # noqa: E402
from optuna.storages.journal import JournalFileBackend  # noqa: E402

from hyprl_jax.frontends import HypRLSampler  # noqa: E402

WORKER = """
import json, sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from hyprl_jax.frontends import HypRLSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
path, seed, trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
storage = JournalStorage(JournalFileBackend(path))
sampler = HypRLSampler(seed=None if seed == "none" else int(seed))
study = optuna.create_study(study_name="shared", storage=storage, sampler=sampler, load_if_exists=True)

def objective(trial):
    x = trial.suggest_float("x", -5.0, 5.0)
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        return (x - 1.0) ** 2 + 0.1 * trial.suggest_int("n", 1, 9)
    return (x + 1.0) ** 2 + 1.0

numbers = []
study.optimize(objective, n_trials=trials, callbacks=[lambda study, trial: numbers.append(trial.number)])
print(json.dumps(numbers))
"""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial: Any) -> float:
    x = trial.suggest_float("x", -5.0, 5.0)
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        return float((x - 1.0) ** 2 + 0.1 * trial.suggest_int("n", 1, 9))
    return float((x + 1.0) ** 2 + 1.0)


def suggestions(study: Any) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def worker(path: Path, seed: str, trials: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORKER, str(path), seed, str(trials)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[int]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return list(json.loads(out))


def load(path: Path, sampler: Any = None) -> Any:
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="shared", storage=storage, sampler=sampler)


def test_two_threads() -> None:
    meeting = threading.Barrier(2, timeout=60)

    def side_by_side(trial: Any) -> float:
        value = objective(trial)
        meeting.wait()  # each trial runs beside another one
        return value

    study = optuna.create_study(sampler=HypRLSampler(seed=0))
    study.optimize(side_by_side, n_trials=20, n_jobs=2)
    assert len(study.trials) == 20 and all(t.state.is_finished() for t in study.trials)
    chosen = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(chosen)) == 20


def test_running_trials_are_taken_into_account() -> None:
    study = optuna.create_study(sampler=HypRLSampler(seed=0))
    study.optimize(objective, n_trials=6)
    # None of them suggests anything before all have been asked for.
    running = [study.ask() for _ in range(5)]
    given = [tuple(trial.relative_params.items()) for trial in running]
    assert len(set(given)) == 5
    for trial in running:
        study.tell(trial, objective(trial))
    study.optimize(objective, n_trials=2)
    assert len(study.trials) == 13


def test_running_trials_of_another_sampler_are_taken_into_account() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="shared", storage=storage, sampler=HypRLSampler(seed=0))
    study.optimize(objective, n_trials=6)
    first = study.ask()
    given = first.relative_params  # none of these has become a value of the trial yet
    beside = optuna.load_study(study_name="shared", storage=storage, sampler=HypRLSampler(seed=0)).ask()
    assert given and beside.relative_params != given
    first.study.tell(first, 3.0)
    beside.study.tell(beside, 3.0)


def test_two_processes_on_one_storage(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    processes = [worker(path, seed, 8) for seed in ("none", "1")]
    numbers = [finish(process) for process in processes]
    study = load(path)
    assert sorted(numbers[0] + numbers[1]) == list(range(16))
    # Two that ask at the same moment may be told the same.
    assert len({json.dumps(params, sort_keys=True) for params in suggestions(study)}) >= 10
    later = [trial for trial in study.trials if trial.number > 8]
    assert sum("hyprl:suggested" in trial.system_attrs for trial in later) == len(later)


def test_a_study_resumed_in_a_new_process_goes_on_the_same(tmp_path: Path) -> None:
    path, whole = tmp_path / "journal.log", optuna.create_study(sampler=HypRLSampler(seed=3))
    whole.optimize(objective, n_trials=12)
    assert finish(worker(path, "3", 7)) == list(range(7))
    study = load(path, HypRLSampler(seed=3))
    assert suggestions(study) == suggestions(whole)[:7]
    # What the independent sampler draws is not part of the history: compare what is chosen jointly.
    study.optimize(objective, n_trials=5)
    assert [p["x"] for p in suggestions(study)] == [p["x"] for p in suggestions(whole)]


def test_a_study_in_a_database(tmp_path: Path) -> None:
    storage = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage, sampler=HypRLSampler(seed=0), study_name="kept")
    study.optimize(objective, n_trials=6)
    study.enqueue_trial({"x": 1.0})
    again = optuna.load_study(storage=storage, sampler=HypRLSampler(seed=0), study_name="kept")
    again.optimize(objective, n_trials=6)
    in_memory = optuna.create_study(sampler=HypRLSampler(seed=0))
    in_memory.optimize(objective, n_trials=6)
    assert suggestions(again)[:6] == suggestions(in_memory)
    assert again.trials[6].params["x"] == 1.0
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_sampler_goes_on_the_same(copied: Any) -> None:
    studies = []
    for change in (copied, lambda one: one):
        study = optuna.create_study(sampler=HypRLSampler(seed=0))
        study.optimize(objective, n_trials=8)
        study.sampler = change(study.sampler)
        study.optimize(objective, n_trials=4)
        studies.append(study)
    assert [p["x"] for p in suggestions(studies[0])] == [p["x"] for p in suggestions(studies[1])]


def test_copies_without_a_seed_differ() -> None:
    samplers = [pickle.loads(pickle.dumps(HypRLSampler())) for _ in range(2)]
    studies = [optuna.create_study(sampler=sampler) for sampler in samplers]
    for study in studies:
        study.optimize(objective, n_trials=8)
    assert suggestions(studies[0]) != suggestions(studies[1])


def test_a_copied_study_with_earlier_ones(tmp_path: Path) -> None:
    earlier = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    earlier.optimize(objective, n_trials=20)
    sampler = pickle.loads(pickle.dumps(HypRLSampler(seed=0, earlier=[earlier])))
    studies = [optuna.create_study(sampler=one) for one in (sampler, HypRLSampler(seed=0, earlier=[earlier]))]
    for study in studies:
        study.optimize(objective, n_trials=3)
    assert [p["x"] for p in suggestions(studies[0])] == [p["x"] for p in suggestions(studies[1])]
