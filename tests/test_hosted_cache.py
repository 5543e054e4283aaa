"""Kept runs of optimizers from outside: hits, keys, damaged files, and comparisons killed or stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimizers_for_tests import easy_collection

from hyprl_jax.evaluation.hosted import Hosting, play_hosted
from hyprl_jax.evaluation.hosted_cache import RunCache
from hyprl_jax.evaluation.hosted_pool import Job, Outcome
from hyprl_jax.evaluation.protocol import Played
from hyprl_jax.surfaces import TaskTables, load_tables, write_collection

SLOW, QUICK = "optimizers_for_tests:Slow", "optimizers_for_tests:Ascending"
TASKS = ("task0", "task1", "task2")
RUNS = 3 * 12  # of the script: tasks times seeds

SCRIPT = """
import sys
from hyprl_jax.evaluation.hosted import Hosting, play_hosted
from hyprl_jax.surfaces import load_tables
sys.path.append(sys.argv[3])
hosting = Hosting(cache=sys.argv[2], jobs=2)
try:
    play_hosted([sys.argv[4]], sys.argv[1], load_tables(sys.argv[1]), ["task0", "task1", "task2"], 6,
                range(12), hosting=hosting)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("collections") / "easy"
    write_collection(easy_collection(), place)
    return place


@pytest.fixture(scope="module")
def tables(folder: Path) -> TaskTables:
    return load_tables(folder)


def play(folder: Path, tables: TaskTables, cache: Path, method: str = QUICK, **changes: Any) -> Played:
    usual: dict[str, Any] = {"tasks": ["task0"], "trials": 4, "seeds": [0], "hosting": Hosting(cache, jobs=1)}
    (played,) = play_hosted([method], folder, tables, **(usual | changes), silent=True)
    return played


def contents(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_a_kept_run_is_not_played_again(folder: Path, tables: TaskTables, tmp_path: Path) -> None:
    first = play(folder, tables, tmp_path)
    before = contents(tmp_path)
    assert len(before) == 1
    again = play(folder, tables, tmp_path)
    assert contents(tmp_path) == before
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_array_equal(again.suggest_seconds, first.suggest_seconds)  # as they were measured


def test_whatever_decides_a_run_decides_its_file(folder: Path, tables: TaskTables, tmp_path: Path) -> None:
    play(folder, tables, tmp_path)
    fewer = dataclasses.replace(
        tables,
        config_ids=tables.config_ids[:50],
        encodings=tables.encodings[:50],
        objective=tables.objective[:, :50],
        cost=tables.cost[:, :50],
    )
    other = dataclasses.replace(tables, objective=tables.objective + 1.0)
    for number, (changed, changes) in enumerate(
        (
            (tables, {"trials": 5}),
            (tables, {"starts": np.array([[[5]]])}),
            (fewer, {}),
            (other, {}),
        )
    ):
        play(folder, changed, tmp_path, **changes)
        assert len(contents(tmp_path)) == number + 2


def test_failures_are_kept_and_methods_without_a_version_are_not(
    folder: Path, tables: TaskTables, tmp_path: Path
) -> None:
    failed = play(folder, tables, tmp_path, "optimizers_for_tests:Faulty")
    before = contents(tmp_path)
    assert len(before) == 1
    assert play(folder, tables, tmp_path, "optimizers_for_tests:Faulty").failures == failed.failures != ()
    assert contents(tmp_path) == before
    play(folder, tables, tmp_path, "optimizers_for_tests:Unversioned")
    assert contents(tmp_path) == before


JOB = Job("name", "method", np.array([0.5, np.nan, 0.25, 1.0, 2.0]), 3, 7, (2,))
KEY = {"method": "method", "seed": 7}
GOOD = Outcome([2, 0, 4], [None, 0.25, 0.5])


def stored(folder: Path, outcome: Outcome = GOOD) -> tuple[RunCache, Path]:
    cache = RunCache(folder)
    cache.store(KEY, outcome)
    return cache, cache.place(KEY)


def test_an_outcome_comes_back_as_it_was(tmp_path: Path) -> None:
    cache, _ = stored(tmp_path)
    assert cache.load(KEY, JOB) == GOOD
    assert cache.load({**KEY, "seed": 8}, JOB) is None
    failed = Outcome([2], [None], 2, "no idea")
    cache.store(KEY, failed)
    assert cache.load(KEY, JOB) == failed
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@given(st.integers(0, 10**6), st.binary(max_size=4), st.booleans())
def test_a_damaged_file_counts_as_absent(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes, cut: bool
) -> None:
    cache, place = stored(tmp_path_factory.mktemp("cache"))
    whole = place.read_bytes()
    at %= len(whole)
    damaged = whole[:at] + put + (b"" if cut else whole[at + len(put) :])
    place.write_bytes(damaged)
    found = cache.load(KEY, JOB)
    assert found is None or (found == GOOD and json.loads(damaged) == json.loads(whole))


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 7), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "columns": values | st.lists(values | st.sampled_from([0, 2, 3, 4]), max_size=4),
            "seconds": values | st.lists(values, max_size=4),
            "failed_trial": values,
            "reason": values,
            "key": values,
            "more": values,
        },
    ),
    st.sampled_from(["", "columns", "seconds", "failed_trial", "reason", "key"]),
)
def test_a_file_of_the_wrong_content_counts_as_absent(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], missing: str
) -> None:
    """With the right checksum: whoever writes files may write that too."""
    cache, place = stored(tmp_path_factory.mktemp("cache"))
    data = json.loads(place.read_bytes()) | changes
    data.pop("checksum")
    data.pop(missing, None)
    text = json.dumps(data, sort_keys=True).encode()
    place.write_text(json.dumps({**data, "checksum": hashlib.sha256(text).hexdigest()}))
    found = cache.load(KEY, JOB)
    if found is not None:
        length = 3 if found.failed_trial is None else found.failed_trial - 1
        assert 0 <= length <= 3
        assert len(found.columns) == len(found.seconds) == len(set(found.columns)) == length
        assert set(found.columns) <= {0, 2, 3, 4}
        assert found.columns[:1] in ([], [2])
        assert all(value is None or 0 <= value < float("inf") for value in found.seconds)


@pytest.mark.parametrize("content", [b"", b"[" * 10**5, b"null", b"{}", b'{"checksum": NaN}', b"\xff\xfe"])
def test_hostile_files_count_as_absent(tmp_path: Path, content: bytes) -> None:
    cache, place = stored(tmp_path)
    place.write_bytes(content)
    assert cache.load(KEY, JOB) is None


def begin(folder: Path, cache: Path, method: str, enough: int) -> subprocess.Popen[bytes]:
    """A comparison in a process of its own that has kept at least so many runs."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", SCRIPT, str(folder), str(cache), here, method]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if cache.is_dir() and len(list(cache.glob("*.json"))) >= enough:
            return process
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate()[0].decode())


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def test_a_killed_comparison_resumes(folder: Path, tables: TaskTables, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = begin(folder, cache, SLOW, 4)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert gone(workers)
    kept = {name: stamp for name, stamp in contents(cache).items() if name.endswith(".json")}
    assert 4 <= len(kept) < RUNS
    seeds = list(range(12))
    hosting = Hosting(cache, jobs=2)
    played = play(folder, tables, cache, SLOW, tasks=TASKS, trials=6, seeds=seeds, hosting=hosting)
    after = contents(cache)
    assert len([name for name in after if name.endswith(".json")]) == RUNS
    assert {name: after[name] for name in kept} == kept  # none of them was played again
    assert played.failures == ()
    first = [[1, 2, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6], [0, 1, 3, 4, 5, 6]]
    np.testing.assert_array_equal(played.actions, np.repeat(np.array(first)[:, None], 12, axis=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_comparison_keeps_what_is_finished(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    process = begin(folder, cache, SLOW, 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, output
    assert "finished runs are kept" in output
    assert "Traceback" not in output
    assert gone(workers)
    assert 2 <= len(list(cache.glob("*.json"))) < RUNS
