"""Several processes that train one run: who they are, what comes out, and how they end."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny_runs

from hyprl_jax import training
from hyprl_jax.checkpoints import CheckpointStore
from hyprl_jax.cli.common import INTERRUPTED
from hyprl_jax.config import AugmentConfig, TrainConfig, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.hosts import Company, any_of, arrays_from_first, check_same, fetch, find_company, from_first
from hyprl_jax.runs import RunFolder

MOMENT = 600.0  # seconds after which processes that do not answer have failed
SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "environment", "company"),
    [
        (Company("a:1", 0, 2), {}, Company("a:1", 0, 2)),
        (Company(), {}, Company()),  # JAX may know the cluster
        (Company("a:1", 0, 1), {}, None),
        (Company(), SLURM, Company(None, 1, 2)),
        (Company(), SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (Company(), SLURM | {"SLURM_STEP_NUM_TASKS": "3"}, Company(None, 1, 3)),
        (Company("a:1", None, 4), {"JOB_COMPLETION_INDEX": "3"}, Company("a:1", 3, 4)),
        (Company(), {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, Company()),  # a batch script, no step
        (
            Company(process=1),
            {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "3"},
            Company("b:2", 1, 3),
        ),
    ],
)
def test_options_come_before_the_environment(
    given: Company, environment: dict[str, str], company: Company | None
) -> None:
    assert find_company(given, environment) == company


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (Company("a:1", 2, 2), {}, "--process-id is 2: count from 0"),
        (Company("a:1", -1, None), {}, "--process-id is -1"),
        (Company("a:1", 0, 0), {}, "--num-processes is 0"),
        (Company("nowhere", 0, 2), {}, "give HOST:PORT"),
        (Company(), {"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID is 'first'"),
    ],
)
def test_senseless_numbers_are_refused(given: Company, environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_company(given, environment)


def test_one_process_agrees_with_itself() -> None:
    tree = {"a": np.arange(3)}
    assert fetch(tree) is tree and arrays_from_first(tree, tree) is tree
    assert any_of(True, False) == (True, False)
    assert from_first(lambda: {"a": 1}) == {"a": 1}
    check_same({"a": 1})


# --- real processes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _shared_programs() -> Iterator[None]:
    with tiny_runs.shared_programs():
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run by one process on one device, and its configuration as a file."""
    folder = tmp_path_factory.mktemp("alone")
    collection = tiny_runs.write_collections(folder)["grid"]
    config = tiny_runs.tiny_config(collection, folds=(0,), seeds=(0,))
    file = folder / "config.json"
    file.write_text(json.dumps(to_dict(config)))
    result = training.train(config, folder / "run", silent=True)
    return SimpleNamespace(config=config, file=str(file), run=folder / "run", result=result)


def start_all(number: int, *words: str, patience: int = 60) -> list[subprocess.Popen]:
    """So many processes of `hyprl train` that know each other; each has one device."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "hyprl_jax", "train", *words, "--devices", "1", "--json"),
                *("--coordinator", f"127.0.0.1:{port}", "--process-id", str(process)),
                *("--num-processes", str(number), "--patience", str(patience)),
            ],
            cwd=Path(__file__).resolve().parent.parent, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for process in range(number)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each; none is left behind."""
    try:
        return [
            (process.wait(MOMENT), *process.communicate(timeout=MOMENT))  # type: ignore[misc]
            for process in processes
        ]
    finally:
        for process in processes:
            process.kill()


def answers_of(processes: list[subprocess.Popen]) -> list[dict[str, Any]]:
    found = ended(processes)
    for code, _, err in found:
        assert code == 0, err
    return [json.loads(out) for _, out, _ in found]


def wait_for_rows(run: Path, rows: int, process: subprocess.Popen) -> None:
    """Returns as soon as the run has so many rows of metrics and a checkpoint; fails if `process` ends."""
    give_up = time.monotonic() + MOMENT
    file = run / "metrics.jsonl"
    while not file.is_file() or file.read_bytes().count(b"\n") < rows or not any(run.glob("checkpoints/0*")):
        assert time.monotonic() < give_up and process.poll() is None
        time.sleep(0.01)


def same_run(config: TrainConfig, one: Path, other: Path) -> None:
    """Whether two runs of a configuration ended alike, up to rounding."""
    data = training.load_data(config)
    target = jax.eval_shape(tiny_runs.program_of(config).start, data.bank, data.folds)
    states = [CheckpointStore(path / "checkpoints").restore(target).state for path in (one, other)]
    compare = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(compare, states[0].learner.params, states[1].learner.params)
    jax.tree.map(compare, states[0].best, states[1].best)
    rows, others = (RunFolder(path).read_metrics() for path in (one, other))
    assert [row["env_steps"] for row in rows] == [row["env_steps"] for row in others]
    for row, same in zip(rows, others, strict=True):
        for name in ("regret_train", "regret_validation", "loss"):
            assert row[name] == pytest.approx(same[name], rel=1e-3, abs=1e-3)


def shorter(run: Path, steps: int) -> None:
    """Makes `run` one that was interrupted after its checkpoint of so many steps."""
    for folder in ("checkpoints", "policy"):
        for path in (run / folder).iterdir():
            if int(path.name.rpartition("_")[2]) > steps:
                shutil.rmtree(path)


def test_two_processes_train_the_run_of_one_and_one_goes_on_with_it(
    alone: SimpleNamespace, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first, second = answers_of(start_all(2, "--config", alone.file, "--out", str(run)))
    assert first == second
    expected = {name: alone.result[name] for name in ("env_steps", "interrupted")}
    assert {**expected, "run": str(run)}.items() <= first.items()
    same_run(alone.config, run, alone.run)
    before, last = CheckpointStore(run / "checkpoints").steps()
    shorter(run, before)
    result = training.resume(run, silent=True)
    assert result["env_steps"] == last
    same_run(alone.config, run, alone.run)


def endless(config: TrainConfig, folder: Path) -> str:
    """The configuration file of a run that only a signal ends."""
    learner = dataclasses.replace(config.learner, updates=100_000, episodes=24)
    file = folder / "config.json"
    file.write_text(json.dumps(to_dict(dataclasses.replace(config, learner=learner))))
    return str(file)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(alone: SimpleNamespace, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_all(2, "--config", endless(alone.config, tmp_path), "--out", str(run), patience=20)
    wait_for_rows(run, 2, processes[0])
    processes[1].kill()
    (code, out, err), (killed, _, _) = ended(processes)
    assert (code, killed) == (1, -signal.SIGKILL)
    assert "another process of this run" in err.splitlines()[-1], err
    assert "Traceback" not in err
    assert not out or json.loads(out)["code"] == 1
    assert CheckpointStore(run / "checkpoints").read_metadata()[0] > 0


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_and_another_number_goes_on(
    alone: SimpleNamespace, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words: tuple[str, ...] = ("--config", endless(alone.config, tmp_path), "--out", str(run))
    done, rows = 0, 0
    for number, asked in ((2, 1), (3, 0), (1, 0)):
        processes = start_all(number, *words)
        wait_for_rows(run, rows + 2, processes[0])
        processes[asked].terminate()
        found = ended(processes)
        assert [code for code, _, _ in found] == [INTERRUPTED] * number, found
        results = [json.loads(out) for _, out, _ in found]
        assert all(result == results[0] for result in results)
        assert results[0]["interrupted"] and results[0]["env_steps"] > done
        done = CheckpointStore(run / "checkpoints").steps()[-1]
        assert done == results[0]["env_steps"]
        rows = len(RunFolder(run).read_metrics())
        words = ("--resume", str(run))


@pytest.mark.slow
def test_the_death_of_the_first_process_ends_the_others(alone: SimpleNamespace, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_all(2, "--config", endless(alone.config, tmp_path), "--out", str(run), patience=20)
    wait_for_rows(run, 1, processes[0])
    processes[0].kill()
    _, (code, _, err) = ended(processes)
    assert code == 1
    assert "another process of this run" in err.splitlines()[-1], err


@pytest.mark.slow
def test_a_process_that_falls_silent_ends_the_others(alone: SimpleNamespace, tmp_path: Path) -> None:
    """Its connections stay open: only heartbeats tell."""
    run = tmp_path / "run"
    processes = start_all(2, "--config", endless(alone.config, tmp_path), "--out", str(run), patience=10)
    wait_for_rows(run, 1, processes[0])
    processes[1].send_signal(signal.SIGSTOP)
    code, (_, err) = processes[0].wait(MOMENT), processes[0].communicate(timeout=MOMENT)
    processes[1].kill()
    ended(processes[1:])
    assert code == 1
    assert "another process of this run" in err.splitlines()[-1], err


@pytest.mark.slow
def test_a_process_that_never_comes_is_not_waited_for_for_ever(
    alone: SimpleNamespace, tmp_path: Path
) -> None:
    processes = start_all(2, "--config", alone.file, "--out", str(tmp_path / "run"), patience=5)
    processes[0].kill()
    _, (code, _, err) = ended(processes)
    assert code == 1
    assert "another process of this run did not come" in err.splitlines()[-1], err


@pytest.mark.slow
def test_processes_with_other_options_are_refused(alone: SimpleNamespace, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    changed = dataclasses.replace(alone.config.learner, learning_rate=0.5)
    other.write_text(json.dumps(to_dict(dataclasses.replace(alone.config, learner=changed))))
    first, second = start_all(2, "--config", alone.file, "--out", str(tmp_path / "run"))
    second.kill()
    second.communicate()
    words = [str(other) if word == alone.file else word for word in second.args]  # type: ignore[union-attr]
    again = subprocess.Popen(
        words, cwd=Path(__file__).resolve().parent.parent, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = ended([first, again])
    assert 2 in [code for code, _, _ in found]
    assert any("differ in their configuration" in err for _, _, err in found)
    assert 0 not in [code for code, _, _ in found]


@pytest.mark.slow
def test_four_processes_train_seeds_and_shares_of_episodes(alone: SimpleNamespace, tmp_path: Path) -> None:
    """Two seeds by two shares of the episodes of each; then two processes go on."""
    config = dataclasses.replace(alone.config, seeds=(0, 1))
    file, run, one = tmp_path / "config.json", tmp_path / "run", tmp_path / "one"
    file.write_text(json.dumps(to_dict(config)))
    training.train(config, one, silent=True)
    results = answers_of(start_all(4, "--config", str(file), "--out", str(run)))
    assert all(result == results[0] for result in results)
    same_run(config, run, one)
    before, _ = CheckpointStore(run / "checkpoints").steps()
    shorter(run, before)
    answers_of(start_all(2, "--resume", str(run)))
    same_run(config, run, one)


@pytest.mark.slow
def test_two_processes_hold_the_surfaces_of_some_tasks_each(alone: SimpleNamespace, tmp_path: Path) -> None:
    """They ask each other for columns; all are seen, so that the run is that of one process with all."""
    config = dataclasses.replace(alone.config, augment=AugmentConfig(candidates=4))
    file, run, one = tmp_path / "config.json", tmp_path / "run", tmp_path / "one"
    training.train(config, one, silent=True)
    file.write_text(json.dumps(to_dict(dataclasses.replace(config, surfaces="sharded"))))
    first, second = answers_of(start_all(2, "--config", str(file), "--out", str(run)))
    assert first == second
    same_run(config, run, one)
