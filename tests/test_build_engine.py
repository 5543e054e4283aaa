"""The build engine: the same tables however a build went, and nothing half-written."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.__main__ import main
from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import read_record, write_json
from hyprl_jax.surfaces import read_collection, validate_path
from hyprl_jax.surfaces.build import RECIPES, PiecesFailed, build, show_progress
from hyprl_jax.surfaces.build.engine import make_plan
from hyprl_jax.surfaces.build.pieces import (
    Piece,
    WorkFolder,
    _as_json,
    _table,
    compute_piece,
    open_work_folder,
    piece_job,
)

TASKS = ["moons-full", "moons-wide", "iris-sepals"]
MEASURED = {"cost"}  # processor seconds: everything else must be equal to the last bit

_SCRIPT = """
import sys
from hyprl_jax.surfaces.build import build
build("svm", sys.argv[1], seed=2, jobs=int(sys.argv[2]), tasks=sys.argv[3].split(","), configs=120)
"""


def assert_same_tables(first: Path, second: Path, measured: set[str] = MEASURED) -> None:
    one, other = read_collection(first), read_collection(second)
    assert one.space == other.space
    pd.testing.assert_frame_equal(one.tasks, other.tasks, check_exact=True)
    pd.testing.assert_frame_equal(one.configs, other.configs, check_exact=True)
    columns = [name for name in one.evaluations.columns if name not in measured]
    pd.testing.assert_frame_equal(one.evaluations[columns], other.evaluations[columns], check_exact=True)


def test_a_build_is_a_valid_collection_with_a_card(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    out = build(
        "svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1, progress=lambda *call: calls.append(call)
    )
    assert out == tmp_path / "mine"
    assert validate_path(out) == []
    collection = read_collection(out)
    assert list(collection.tasks["task"]) == TASKS
    assert list(collection.tasks["group"]) == ["moons", "moons", "iris"]
    assert len(collection.configs) == 8 and len(collection.evaluations) == 24
    assert collection.info.objective.direction == "minimize" and collection.info.cost is not None
    assert [call[0] for call in calls] == [0, 1, 2, 3] and {call[1] for call in calls} == {3}
    card = (out / "README.md").read_text(encoding="utf-8")
    for word in ("surfaces build svm", "--seed 0", "moons-wide", "licence", "scikit-learn", "Known limits"):
        assert word in card
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine"]  # no work folder is left behind


def test_seed_workers_and_order_of_tasks_do_not_change_results(tmp_path: Path) -> None:
    alone = build("svm", tmp_path / "alone", seed=1, tasks=TASKS, configs=8, jobs=1)
    again = build("svm", tmp_path / "again", seed=1, tasks=TASKS, configs=8, jobs=2)
    assert_same_tables(alone, again)
    other = build("svm", tmp_path / "other", seed=3, tasks=TASKS, configs=8, jobs=1)
    differing = (
        read_collection(other).evaluations["objective"] != read_collection(alone).evaluations["objective"]
    )
    assert differing.mean() > 0.5
    swapped = read_collection(
        build("svm", tmp_path / "swapped", seed=1, tasks=TASKS[::-1], configs=8, jobs=1)
    )
    values = {name: list(rows["objective"]) for name, rows in swapped.evaluations.groupby("task")}
    expected = {
        name: list(rows["objective"]) for name, rows in read_collection(alone).evaluations.groupby("task")
    }
    assert values == expected


@pytest.mark.parametrize("recipe", ["boosting", pytest.param("mlp", marks=pytest.mark.slow)])
def test_other_recipes_build_valid_collections_twice_the_same(tmp_path: Path, recipe: str) -> None:
    first = build(recipe, tmp_path / "first", tasks=["moons-full"], configs=8, jobs=1)
    second = build(recipe, tmp_path / "second", tasks=["moons-full"], configs=8, jobs=1)
    assert validate_path(first) == []
    assert_same_tables(first, second, set() if recipe == "mlp" else MEASURED)
    info = read_collection(first).info
    assert (info.fidelity is not None) == (recipe == "mlp")
    if recipe == "mlp":  # nothing is measured, so even the hashes agree
        assert info.content_hash == read_collection(second).info.content_hash


def run(out: Path, jobs: int) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _SCRIPT, str(out), str(jobs), ",".join(TASKS)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)


def finished(work: Path) -> dict[str, bytes]:
    """The records of a work folder."""
    return {path.name: path.read_bytes() for path in work.glob("pieces/[!.]*.json")}


def wait_for_pieces(work: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(list(work.glob("pieces/[!.]*.json"))) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read().decode()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `run` builds, never killed."""
    return build("svm", tmp_path_factory.mktemp("whole") / "whole", seed=2, jobs=1, tasks=TASKS, configs=120)


@pytest.mark.parametrize(("jobs", "moments"), [(1, (1, 4)), (2, (3,))])
def test_a_killed_build_goes_on_and_ends_the_same(
    tmp_path: Path, whole: Path, jobs: int, moments: tuple[int, ...]
) -> None:
    killed, work = tmp_path / "killed", tmp_path / "killed.work"
    for count in moments:
        process = run(killed, jobs)
        wait_for_pieces(work, count, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not killed.exists()
    kept = finished(work)
    assert len(kept) >= moments[-1]
    calls: list[tuple[int, int, str]] = []
    build("svm", killed, 2, jobs, TASKS, 120, lambda *call: calls.append(call))
    assert calls[0][0] >= len(kept)  # what was finished is not computed again
    assert_same_tables(killed, whole)
    assert not work.exists()


def test_workers_do_not_outlive_a_killed_build(tmp_path: Path) -> None:
    process = run(tmp_path / "killed", 2)
    wait_for_pieces(tmp_path / "killed.work", 1, process)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_gone(workers)


def workers_of(parent: int) -> list[int]:
    """The living workers of a process, and no other child: what an earlier test left, say joblib's tracker
    of resources, is not a build's to kill."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_worker(pid, parent)]


def _is_worker(pid: str, parent: int) -> bool:
    try:
        command = Path("/proc", pid, "cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return False
    return b"hyprl_jax.jobs.worker" in command and _parent_of(pid) == parent


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(_parent_of(str(pid)) is not None for pid in processes):
        assert time.monotonic() < deadline, "a worker is still running"
        time.sleep(0.05)


def _parent_of(pid: str) -> int | None:
    """The parent of a process that is not a zombie, else None."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_stops_after_a_piece_and_leaves_no_process(tmp_path: Path, whole: Path, jobs: int) -> None:
    stopped, work = tmp_path / "stopped", tmp_path / "stopped.work"
    process = run(stopped, jobs)
    wait_for_pieces(work, 1, process)
    workers = workers_of(process.pid)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0 and b"build again to go on" in said
    assert not stopped.exists()
    kept = finished(work)
    assert 1 <= len(kept) < 9
    assert not list(work.rglob(".writing-*"))
    wait_until_gone(workers)
    build("svm", stopped, 2, 1, TASKS, 120)
    assert_same_tables(stopped, whole)


def test_a_killed_worker_is_recorded_and_the_others_go_on(tmp_path: Path, whole: Path) -> None:
    out, work = tmp_path / "mine", tmp_path / "mine.work"
    killed: list[int] = []

    def kill_once(done: int, total: int, label: str) -> None:
        if done == 2 and not killed:
            killed.extend(workers_of(os.getpid()))
            for pid in killed:
                os.kill(pid, signal.SIGSTOP)  # so that it cannot be done before it is killed
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(PiecesFailed, match=r"of 9 pieces failed \(.*killed by SIGKILL.*--retry") as caught:
        build("svm", out, 2, 2, TASKS, 120, kill_once)
    assert 1 <= len(caught.value.failed) <= len(killed) and not out.exists()
    kept = finished(work)
    with pytest.raises(PiecesFailed):  # not tried again unless it is asked for
        build("svm", out, 2, 2, TASKS, 120)
    assert finished(work) == kept
    calls: list[tuple[int, int, str]] = []
    build("svm", out, 2, 2, TASKS, 120, lambda *call: calls.append(call), retry=True)
    assert calls[0][0] == 9 - len(caught.value.failed)  # every other piece is counted, once
    assert_same_tables(out, whole)


@pytest.mark.slow
def test_a_build_on_a_ray_cluster_gives_the_same_tables(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "mine"
    words = ["surfaces", "build", "svm", "--out", str(out), "--seed", "2", "--tasks", ",".join(TASKS)]
    words += ["--configs", "120", "--ray", "local", "--json"]
    environment = {**os.environ, "RAY_worker_niceness": "0"}  # others may keep the machine busy
    command = [sys.executable, "-m", "hyprl_jax", *words]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["path"] == str(out)
    assert_same_tables(out, whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_the_command_line_says_which_pieces_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(RECIPES["svm"], 0, TASKS[:1], 8)
    with open_work_folder(tmp_path / "mine.work", plan.as_json()) as work:
        work.pieces.mkdir()
        record = {"name": plan.pieces[0].name, "status": "failed", "seconds": 1.0, "reason": "no memory"}
        write_json(work.pieces / f"{plan.pieces[0].name}.json", record)
    words = ["surfaces", "build", "svm", "--out", str(tmp_path / "mine"), "--tasks", TASKS[0]]
    words += ["--configs", "8"]
    assert main([*words, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["failed"] == {"moons-full.000": "no memory"} and "--retry" in told["error"]
    assert main([*words, "--retry"]) == 0
    assert validate_path(tmp_path / "mine") == []


def test_ctrl_c_keeps_the_finished_pieces(tmp_path: Path) -> None:
    def stop(done: int, total: int, label: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1, progress=stop)
    assert len(finished(tmp_path / "mine.work")) == 2
    assert not (tmp_path / "mine").exists()
    assert (
        len(read_collection(build("svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1)).evaluations)
        == 24
    )


def test_a_damaged_piece_is_computed_again(tmp_path: Path) -> None:
    def stop(done: int, total: int, label: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1, progress=stop)
    kept = sorted((tmp_path / "mine.work" / "pieces").glob("*.json"))
    kept[0].write_bytes(kept[0].read_bytes()[:-20])
    kept[1].write_bytes(b"")
    record = json.loads(kept[2].read_text())
    kept[2].write_text(json.dumps({**record, "result": {"columns": {}}}))
    build("svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1)
    assert_same_tables(tmp_path / "mine", build("svm", tmp_path / "whole", tasks=TASKS, configs=8, jobs=1))


def test_failed_trainings_are_missing_rows_and_named_in_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RECIPES["svm"]

    def evaluate(task: object, configs: list[dict], seed: int) -> dict[str, np.ndarray]:
        found = whole.evaluate(task, configs, seed)
        found["error"] = np.array(["", "ValueError: broken | here", *[""] * (len(configs) - 2)])
        found["objective"][1] = np.nan
        return found

    plan = make_plan(whole, 0, TASKS[:2], 8)
    with monkeypatch.context() as patch, open_work_folder(tmp_path / "mine.work", plan.as_json()) as work:
        patch.setitem(RECIPES, "svm", dataclasses.replace(whole, evaluate=evaluate))
        for piece in plan.pieces:
            keep(work, piece, compute_piece(piece_job(whole, piece, plan.configs, 0).arguments, print))
    collection = read_collection(build("svm", tmp_path / "mine", tasks=TASKS[:2], configs=8, jobs=1))
    assert len(collection.evaluations) == 14
    assert 1 not in set(collection.evaluations["config_id"])
    assert "ValueError: broken / here" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def keep(work: WorkFolder, piece: Piece, result: dict[str, Any]) -> Path:
    """Leaves the record of a piece as the engine of jobs does."""
    work.pieces.mkdir(exist_ok=True)
    file = work.pieces / f"{piece.name}.json"
    write_json(file, {"name": piece.name, "status": "done", "seconds": 1.0, "result": result})
    return file


def test_mistakes_are_named_in_one_line(tmp_path: Path) -> None:
    mistakes = {
        "mean svm": lambda: build("svn", tmp_path / "a"),
        "mean moons-full": lambda: build("svm", tmp_path / "a", tasks=["moons-ful"]),
        "no task": lambda: build("svm", tmp_path / "a", tasks=[]),
        "from 1 to": lambda: build("svm", tmp_path / "a", tasks=0),
        "at least 2": lambda: build("svm", tmp_path / "a", configs=1),
        "--jobs must": lambda: build("svm", tmp_path / "a", jobs=0),
        "leave it out": lambda: build("svm", tmp_path / "a", jobs=2, ray="local"),
        "seed": lambda: build("svm", tmp_path / "a", seed=-1),
        "exists already": lambda: build("svm", tmp_path),
        "letters, digits": lambda: build("svm", tmp_path / "a name"),
    }
    for words, call in mistakes.items():
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def columns(**given: list) -> dict[str, Any]:
    """The result of a piece of two configurations, some of it changed."""
    found: dict[str, Any] = {"config_index": [0, 1], "objective": [0.5, "nan"], "error": ["", "E: x"]} | given
    kinds = {"config_index": "int64", "error": "str"}
    return {
        "columns": {name: {"dtype": kinds.get(name, "float64"), "values": v} for name, v in found.items()}
    }


PIECE = Piece("a", 0, (4, 5))


def test_pieces_of_another_build_are_never_mixed_in(tmp_path: Path) -> None:
    plan = {"recipe": "svm", "seed": 0}
    with open_work_folder(tmp_path / "work", plan) as work:
        keep(work, PIECE, columns())
        assert work.load(PIECE) is not None
        assert work.load(Piece("a", 1, (4, 5))) is None
        with (
            pytest.raises(InputError, match="another process is working"),
            open_work_folder(tmp_path / "work", plan),
        ):
            pass
    with (
        pytest.raises(InputError, match="seed differ"),
        open_work_folder(tmp_path / "work", {**plan, "seed": 1}),
    ):
        pass
    for damage in ("{", "[]"):
        (tmp_path / "work" / "plan.json").write_text(damage)
        with pytest.raises(InputError, match="damaged"), open_work_folder(tmp_path / "work", plan):
            pass
    (tmp_path / "work" / "plan.json").unlink()
    with pytest.raises(InputError, match="plan is missing"), open_work_folder(tmp_path / "work", plan):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="in the way"), open_work_folder(tmp_path / "file", plan):
        pass
    with pytest.raises(InputError, match="cannot be made"), open_work_folder(tmp_path / "file" / "work", {}):
        pass


@given(content=st.binary(max_size=200), cut=st.integers(0, 3000))
def test_whatever_lies_in_the_work_folder_is_refused_or_computed_again(content: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work"
        with open_work_folder(path, {"seed": 0}) as work:
            file = keep(work, PIECE, columns())
            whole = file.read_bytes()
            for damaged in (content, whole[:cut] + content, whole[:-8] + content):
                file.write_bytes(damaged)
                found = work.load(PIECE)
                assert found is None or len(found) == 2
                work.forget_damaged([PIECE])
                assert file.exists() == (found is not None) or read_record(work.pieces, "a.000") is None
        (path / "plan.json").write_bytes(content)
        with pytest.raises(InputError), open_work_folder(path, {"seed": 0}):
            pass


@pytest.mark.parametrize(
    "changes",
    [
        {"config_index": ["0", "x"]}, {"config_index": [0, 0]}, {"config_index": [0]}, {"objective": ["x"]},
        {"objective": [None, 1.0]}, {"objective": [True, 1.0]}, {"error": [""]}, {"objective": 3},
        {"objective": [[1.0], [2.0]]}, {"config_index": [0, 10**30]},
    ],
)  # fmt: skip
def test_a_piece_of_wrong_kinds_is_computed_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    with open_work_folder(tmp_path / "work", {}) as work:
        file = keep(work, PIECE, columns(**changes))
        assert work.load(PIECE) is None
        work.forget_damaged([PIECE])
        assert not file.exists()
        for damage in ({}, {"columns": 3}, {"columns": {"error": 4}}):
            keep(work, PIECE, damage)
            assert work.load(PIECE) is None


@given(st.lists(st.floats(width=64), min_size=2, max_size=2), st.sampled_from(["float64", "float32"]))
def test_pieces_are_kept_to_the_last_bit(values: list[float], kind: str) -> None:
    with np.errstate(over="ignore"):
        given = np.array(values).astype(kind)
    result = {"config_index": np.arange(2), "x": given, "error": np.array(["", "y"])}
    kept = json.loads(
        json.dumps({name: _as_json(column) for name, column in result.items()}, allow_nan=False)
    )
    found = _table(kept)
    assert found is not None
    np.testing.assert_array_equal(found["x"].to_numpy(), given)
    assert found["x"].dtype == kind and found["config_index"].dtype == np.int64
    assert list(found["error"]) == ["", "y"]


def test_a_full_disk_is_named_and_keeps_what_was_finished(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "mine", tmp_path / "mine.work"
    flushes: list[int] = []

    def fill_up(descriptor: int) -> None:
        flushes.append(descriptor)
        if len(flushes) > 4:  # the plan, then three pieces
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        with pytest.raises(InputError, match=r"cannot write .*No space left on device.*free space") as caught:
            build("svm", out, 2, 2, TASKS, 120)
    assert "\n" not in str(caught.value)
    kept = finished(work)
    assert len(kept) == 3 and not list(work.rglob(".writing-*")) and not out.exists()
    calls: list[tuple[int, int, str]] = []
    build("svm", out, 2, 2, TASKS, 120, lambda *call: calls.append(call))
    assert [call[0] for call in calls] == list(range(3, 10))
    assert_same_tables(out, whole)


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("svm") as progress:
        for done in range(5):
            progress(done, 4, "moons-full")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["svm: 0/4 moons-full", "svm: 4/4 moons-full"]


def test_the_plan_of_a_stopped_build_can_be_read(tmp_path: Path) -> None:
    def stop(done: int, total: int, label: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("boosting", tmp_path / "mine", seed=4, tasks=1, configs=4, progress=stop)
    plan = json.loads((tmp_path / "mine.work" / "plan.json").read_text())
    assert plan["recipe"] == "boosting" and plan["seed"] == 4 and len(plan["configs"]) == 4
    with pytest.raises(InputError, match="configs, pieces differ"):
        build("boosting", tmp_path / "mine", seed=4, tasks=1, configs=5)
