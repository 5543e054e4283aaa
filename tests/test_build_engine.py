"""The build engine: the same tables however a build went, and nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import read_collection, validate_path
from hyprl_jax.surfaces.build import RECIPES, build, pieces, show_progress
from hyprl_jax.surfaces.build.pieces import Piece, open_work_folder

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


@pytest.mark.parametrize("recipe", ["boosting", "mlp"])
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


def wait_for_pieces(work: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(list(work.glob("*.parquet"))) < count:
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
    kept = {path.name: path.read_bytes() for path in work.glob("*.parquet")}
    assert len(kept) >= moments[-1]
    calls: list[tuple[int, int, str]] = []
    build("svm", killed, 2, jobs, TASKS, 120, lambda *call: calls.append(call))
    assert calls[0][0] >= len(kept)  # what was finished is not computed again
    assert_same_tables(killed, whole)
    assert not work.exists()


def test_workers_do_not_outlive_a_killed_build(tmp_path: Path) -> None:
    process = run(tmp_path / "killed", 2)
    wait_for_pieces(tmp_path / "killed.work", 1, process)
    assert len(members(process.pid)) >= 3  # the build and two workers
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_gone(process.pid)


def members(group: int) -> list[str]:
    """The living processes of a process group."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and _group_of(pid) == group]


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 60
    while members(group):
        assert time.monotonic() < deadline, "a worker is still running"
        time.sleep(0.05)


def _group_of(pid: str) -> int | None:
    """The process group of a process that is not a zombie, else None."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[2])


@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_stops_after_a_piece_and_leaves_no_process(tmp_path: Path, jobs: int) -> None:
    process = run(tmp_path / "stopped", jobs)
    wait_for_pieces(tmp_path / "stopped.work", 1, process)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0 and b"build again to go on" in said
    assert not (tmp_path / "stopped").exists()
    assert 2 <= len(list((tmp_path / "stopped.work").glob("*.parquet"))) < 9
    assert not list((tmp_path / "stopped.work").glob("*.partial"))
    wait_until_gone(process.pid)


def test_ctrl_c_keeps_the_finished_pieces(tmp_path: Path) -> None:
    def stop(done: int, total: int, label: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build("svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1, progress=stop)
    assert len(list((tmp_path / "mine.work").glob("*.parquet"))) == 2
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
    kept = sorted((tmp_path / "mine.work").glob("*.parquet"))
    kept[0].write_bytes(kept[0].read_bytes()[:-20])
    kept[1].write_bytes(b"")
    pd.DataFrame({"config_index": [0], "error": [""]}).to_parquet(kept[2])
    build("svm", tmp_path / "mine", tasks=TASKS, configs=8, jobs=1)
    assert_same_tables(tmp_path / "mine", build("svm", tmp_path / "whole", tasks=TASKS, configs=8, jobs=1))


def test_failed_trainings_are_missing_rows_and_named_in_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RECIPES["svm"]

    def evaluate(task: object, configs: list[dict], seed: int) -> dict[str, np.ndarray]:
        found = whole.evaluate(task, configs, seed)
        found["error"] = np.array(["", "ValueError: broken | here", *[""] * (len(configs) - 2)])
        return found

    monkeypatch.setitem(RECIPES, "svm", dataclasses.replace(whole, evaluate=evaluate))
    collection = read_collection(build("svm", tmp_path / "mine", tasks=TASKS[:2], configs=8, jobs=1))
    assert len(collection.evaluations) == 14
    assert 1 not in set(collection.evaluations["config_id"])
    assert "ValueError: broken / here" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def test_mistakes_are_named_in_one_line(tmp_path: Path) -> None:
    mistakes = {
        "mean svm": lambda: build("svn", tmp_path / "a"),
        "mean moons-full": lambda: build("svm", tmp_path / "a", tasks=["moons-ful"]),
        "no task": lambda: build("svm", tmp_path / "a", tasks=[]),
        "from 1 to": lambda: build("svm", tmp_path / "a", tasks=0),
        "at least 2": lambda: build("svm", tmp_path / "a", configs=1),
        "--jobs": lambda: build("svm", tmp_path / "a", jobs=0),
        "seed": lambda: build("svm", tmp_path / "a", seed=-1),
        "exists already": lambda: build("svm", tmp_path),
        "letters, digits": lambda: build("svm", tmp_path / "a name"),
    }
    for words, call in mistakes.items():
        with pytest.raises(InputError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_pieces_of_another_build_are_never_mixed_in(tmp_path: Path) -> None:
    plan = {"recipe": "svm", "seed": 0}
    with open_work_folder(tmp_path / "work", plan) as work:
        work.save(Piece("a", 0, (4, 5)), {"config_index": np.arange(2), "error": np.array(["", ""])})
        assert work.load(Piece("a", 0, (4, 5))) is not None
        assert work.load(Piece("a", 1, (4, 5))) is None
        with (
            pytest.raises(InputError, match="another build is writing"),
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


@given(content=st.binary(max_size=200), keep=st.integers(0, 3000))
def test_whatever_lies_in_the_work_folder_is_refused_or_computed_again(content: bytes, keep: int) -> None:
    piece = Piece("a", 0, (4, 5))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        with open_work_folder(work, {"seed": 0}) as opened:
            opened.save(piece, {"config_index": np.arange(2), "error": np.array(["", ""])})
            file = opened.file_of(piece)
            whole = file.read_bytes()
            for damaged in (content, whole[:keep] + content, whole[:-8] + content):
                file.write_bytes(damaged)
                found = opened.load(piece)
                assert found is None or damaged == whole or len(found) == 2
        (work / "plan.json").write_bytes(content)
        with pytest.raises(InputError), open_work_folder(work, {"seed": 0}):
            pass


def test_a_piece_of_wrong_kinds_is_computed_again(tmp_path: Path) -> None:
    piece = Piece("a", 0, (4, 5))
    with open_work_folder(tmp_path / "work", {}) as work:
        for columns in (
            {"config_index": ["0", "1"]},
            {"config_index": [0, 1], "objective": ["x", "y"]},
            {"a": [1, 2]},
        ):
            pd.DataFrame({**columns, "error": ["", ""]}).to_parquet(work.file_of(piece))
            assert work.load(piece) is None


def test_a_full_disk_is_named_and_leaves_no_partial_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with open_work_folder(tmp_path / "work", {}) as work:
        monkeypatch.setattr(pieces, "flush", full)
        with pytest.raises(InputError, match="No space left"):
            work.save(Piece("a", 0, (4,)), {"config_index": np.arange(1), "error": np.array([""])})
        assert not list((tmp_path / "work").glob("a.*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"), open_work_folder(tmp_path / "file" / "work", {}):
        pass


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
