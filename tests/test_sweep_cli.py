"""`hyprl sweep` from a file to a report, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweep_examples import sweep_file, write_grid

from hyprl_jax.__main__ import main
from hyprl_jax.cli.train import read_config_file
from hyprl_jax.policies import load_policy
from hyprl_jax.runs import RunFolder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_grid(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Compiling is what takes time in the processes that train, with slow tests as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


def write(folder: Path, collection: str, **values: Any) -> Path:
    file = folder / "sweep.json"
    file.write_text(json.dumps(sweep_file(collection, **values)))
    return file


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    """The one JSON object that `hyprl sweep WORDS --json` prints."""
    capsys.readouterr()
    assert main(["sweep", *map(str, words), "--json"]) == code
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return json.loads(out)


def mistake(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main(["sweep", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_sweep_from_file_to_report_and_once_more(
    collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"learner.learning_rate": [1e-3, 0.1]}
    file = write(tmp_path, collection, folds=[0], grid=grid, evaluate={"methods": ["policy", "mean_list"]})
    out = tmp_path / "out"
    found = answer(capsys, file, "--out", out)
    assert (found["settings"], found["groups"], found["finished"]) == (2, 1, 2)
    assert (found["failed"], found["interrupted"]) == ({}, False)
    frame = pd.read_csv(out / "results.csv").set_index("setting")
    for one in found["results"]:
        row, run = frame.loc[one["setting"]], RunFolder(one["run"])
        policy = load_policy(run.path)
        assert policy.config.learner.learning_rate == row["learner.learning_rate"]
        rows = run.read_metrics()
        assert len(rows) == 3 and (run.path / "versions.json").is_file()
        assert row["validation_regret"] == pytest.approx(rows[-1]["best_validation"], abs=1e-6)
        trials = pd.read_parquet(run.evaluation / "trajectories.parquet")
        played = trials[trials["method"] == "policy"]["normalized_regret"].mean()
        assert row["test_regret"] == pytest.approx(played, abs=1e-6)
        assert one["test_regret"].keys() == {"policy", "mean_list"}
    best = read_config_file(Path(found["best"]["config"]))
    assert best == load_policy(Path(found["results"][0]["run"])).config
    assert (out / "table.md").is_file() and (out / "plots" / "learner.learning_rate.png").is_file()
    assert not (out / "jobs" / "group-0" / "checkpoints").exists()

    records = {path: path.stat().st_mtime_ns for path in (out / "jobs").glob("*.json")}
    assert len(records) == 2
    assert answer(capsys, file, "--out", out) == found
    assert {path: path.stat().st_mtime_ns for path in (out / "jobs").glob("*.json")} == records
    assert answer(capsys, out / "sweep.json", "--out", out) == found, "the plan is kept as a file of its own"
    other = write(tmp_path, collection, folds=[0], grid={"learner.learning_rate": [1e-3, 0.2]})
    assert "holds another sweep, with grid.learner.learning_rate" in mistake(capsys, other, "--out", out)


def test_failures_are_told_and_do_not_stop_the_report(
    collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Only a process that has read the tables can know that the fixed head has not as many outputs.
    fixed = {"head": "fixed", "residual": False, "dueling": False, "layer_norm": False, "shortlist": 0}
    file = write(
        tmp_path, collection, network=fixed, augment={"candidates": 0}, learner={"ordering": "q"},
        grid={"network.outputs": [5, 6]},
    )  # fmt: skip
    found = answer(capsys, file, "--out", tmp_path / "out", code=1)
    assert found["finished"] == 0 and found["best"] is None
    assert "set network.outputs to 8" in found["failed"]["group-0"]
    assert found["failed"].keys() == {"group-0", "group-1"}
    assert "network.outputs to 8" in (tmp_path / "out" / "table.md").read_text()
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 1
    assert "--retry" in capsys.readouterr().out


def test_mistakes_are_one_line(collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"learner.gamma": [0.9, 0.5]}
    file, out = write(tmp_path, collection, grid=grid), tmp_path / "out"
    assert "--jobs is 0" in mistake(capsys, file, "--out", out, "--jobs", "0")
    assert "leave it out" in mistake(capsys, file, "--out", out, "--jobs", "2", "--ray", "local")
    assert "--cpus-per-job" in mistake(capsys, file, "--out", out, "--ray", "local", "--cpus-per-job", "-1")
    assert "cannot be read" in mistake(capsys, tmp_path / "absent.toml", "--out", out)
    assert "--out" in mistake(capsys, file)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    assert "is not empty" in mistake(capsys, file, "--out", tmp_path / "full")
    assert "is a file" in mistake(capsys, file, "--out", file)
    assert "collection" in mistake(capsys, write(tmp_path, "./absent", grid=grid), "--out", out)
    assert "fold" in mistake(capsys, write(tmp_path, collection, folds=[7], grid=grid), "--out", out)
    method = {"methods": ["policy", "nothing"]}
    file = write(tmp_path, collection, grid=grid, evaluate=method)
    assert "unknown method 'nothing'" in mistake(capsys, file, "--out", out)
    assert not out.exists()


def test_help_shows_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    shown = capsys.readouterr().out
    for words in ("hyprl sweep sweep.toml --out runs/sweep", "[grid]", "--retry", "--ray"):
        assert words in shown


def long_sweep(folder: Path, collection: str) -> Path:
    """Two groups of two settings that take long enough to be killed in the middle."""
    grid = {"learner.gamma": [0.9, 0.5], "network.hidden": [4, 5]}
    return write(folder, collection, folds=[0], learner={"updates": 60}, grid=grid)


def weights(out: Path) -> dict[str, Any]:
    """Hashes of weights and regrets of all settings that are recorded."""
    found: dict[str, Any] = {}
    for file in sorted(out.glob("jobs/group-*.json")):
        for name, record in json.loads(file.read_text()).get("result", {}).get("settings", {}).items():
            found[name] = record["weights_sha256"], record["best_validation"]
    return found


@pytest.fixture(scope="module")
def whole(collection: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of a sweep that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["sweep", str(long_sweep(folder, collection)), "--out", str(folder / "out")]) == 0
    return weights(folder / "out")


def start(file: Path, out: Path, *words: str) -> subprocess.Popen:
    """The sweep in a process of its own, once the first group has left two checkpoints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["RAY_worker_niceness"] = "0"  # as other processes, which may keep the machine busy
    command = [sys.executable, "-m", "hyprl_jax", "sweep", str(file), "--out", str(out), *words]
    log = out.with_suffix(".log")
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    deadline = time.monotonic() + 400
    while len(list(out.glob("jobs/group-0/checkpoints/*_step_*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    return process


def process_of(log: Path) -> int:
    """The process whose prints go to this file."""
    for error in Path("/proc").glob("[0-9]*/fd/2"):
        try:
            found = error.readlink()
        except OSError:
            continue
        if found == log.absolute():
            return int(error.parts[2])
    raise AssertionError(f"nobody writes to {log}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_goes_on_to_bitwise_the_same_weights(
    collection: str,
    whole: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    file, out = long_sweep(tmp_path, collection), tmp_path / "out"
    process = start(file, out)
    process.send_signal(number)
    if number == signal.SIGINT:
        assert process.wait(timeout=400) == 130
        assert "stopped; the same command goes on" in out.with_suffix(".log").read_text()
        assert "Not finished yet: group-0, group-1" in (out / "table.md").read_text()
    process.wait()
    assert not list((out / "settings").iterdir())
    assert answer(capsys, file, "--out", out)["finished"] == 4
    log = out / "jobs" / "group-0.log"
    assert not log.exists() or "Traceback" not in log.read_text()
    assert weights(out) == whole


@pytest.mark.slow
def test_a_worker_that_is_killed_is_recorded_the_rest_goes_on_and_a_retry_ends_the_same(
    collection: str, whole: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = long_sweep(tmp_path, collection), tmp_path / "out"
    process = start(file, out)
    os.kill(process_of(out / "jobs" / "group-0.log"), signal.SIGKILL)
    assert process.wait(timeout=400) == 1, out.with_suffix(".log").read_text()
    table = (out / "table.md").read_text()
    assert "2 of 4 settings" in table and "- `group-0`: the process was killed by SIGKILL" in table
    assert len(weights(out)) == 2 and len(list((out / "settings").iterdir())) == 2
    other = (out / "jobs" / "group-1.json").stat().st_mtime_ns
    told = answer(capsys, file, "--out", out, "--retry")
    assert (told["finished"], told["failed"]) == (4, {})
    assert weights(out) == whole
    assert (out / "jobs" / "group-1.json").stat().st_mtime_ns == other, "it was not trained twice"
    assert len(pd.read_csv(out / "results.csv")) == 4


@pytest.mark.slow
def test_a_ray_worker_that_is_cut_off_goes_on_elsewhere_to_the_same_weights(
    collection: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    file, out = long_sweep(tmp_path, collection), tmp_path / "out"
    process = start(file, out, "--ray", "local")
    trainer = process_of(out / "jobs" / "group-0.log")
    ray_worker = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(ray_worker, signal.SIGKILL)
    assert process.wait(timeout=500) == 0, out.with_suffix(".log").read_text()
    assert weights(out) == whole
    assert len(pd.read_csv(out / "results.csv")) == 4
    assert not list((out / "jobs").glob("*.progress"))


@pytest.mark.slow
def test_the_runs_of_a_sweep_are_resumed_evaluated_exported_and_trained_anew(
    collection: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")  # this process trains as well
    file = write(tmp_path, collection, folds=[0], grid={"learner.gamma": [0.9, 0.5]})
    found = answer(capsys, file, "--out", tmp_path / "out")
    run = found["results"][0]["run"]
    record = json.loads((tmp_path / "out" / "jobs" / "group-0.json").read_text())
    expected = record["result"]["settings"][found["results"][0]["setting"]]
    capsys.readouterr()
    assert main(["train", "--resume", run, "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["weights_sha256"] == expected["weights_sha256"]
    assert resumed["best_validation"] == expected["best_validation"]
    assert main(["evaluate", run, "--methods", "policy,random", "--out", str(tmp_path / "evaluation")]) == 0
    assert main(["export", run, "--out", str(tmp_path / "policy")]) == 0
    assert (tmp_path / "policy" / "policy.json").is_file()
    capsys.readouterr()
    again = str(tmp_path / "again")
    assert main(["train", "--config", str(tmp_path / "out" / "best.json"), "--out", again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best_validation"] == [
        pytest.approx(row, abs=1e-5) for row in expected["best_validation"]
    ]
