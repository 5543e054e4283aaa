"""Training end to end on small collections: what a run leaves behind, and how it survives interruptions."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
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
from tiny_runs import NAMES, TRIALS, Compilations, timeless_metrics, tiny_config

from hyprl_jax import training
from hyprl_jax.checkpoints import CheckpointStore
from hyprl_jax.cli.common import INTERRUPTED
from hyprl_jax.config import from_dict, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.policies import load_policy
from hyprl_jax.runs import RunFolder
from hyprl_jax.surfaces import load_tables, make_split, read_collection, write_collection

CHUNKS = 6
STEPS_PER_CHUNK = 2 * 16 * TRIALS * 4  # updates, episodes, trials, members
PROGRAMS = ("jit(all_members)", "jit(_learn)")
MOMENT = 300.0  # seconds after which a process that does not answer has failed


@pytest.fixture(scope="module", autouse=True)
def _shared_programs() -> Iterator[None]:
    with tiny_runs.shared_programs():
        yield


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_runs.write_collections(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def finished(collections: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run on all three collections with a checkpoint after every chunk, never interrupted."""
    config = tiny_config(*collections.values())
    path = tmp_path_factory.mktemp("runs") / "finished"
    return SimpleNamespace(config=config, path=path, result=training.train(config, path, silent=True))


def copy_of(finished: SimpleNamespace, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.path, tmp_path / "run"))


def change_config(run: Path, **changes: Any) -> None:
    """Other values in a run's config.json; `part=dict(..)` for fields of a part."""
    config = RunFolder(run).read_config()
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (run / "config.json").write_text(json.dumps(config))


def checkpoints_of(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").iterdir() if not path.name.startswith("."))


def final_state(run: Path) -> list[np.ndarray]:
    """Every leaf of the state in the newest checkpoint, `[folds, seeds, ...]`."""
    config = from_dict(RunFolder(run).read_config())
    data = training.load_data(config)
    target = jax.eval_shape(tiny_runs.program_of(config).start, data.bank, data.folds)
    leaves = jax.tree.leaves(CheckpointStore(run / "checkpoints").restore(target).state)
    keys = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.asarray(jax.random.key_data(leaf) if key else leaf) for leaf, key in zip(leaves, keys, strict=True)
    ]


def truncate_newest(run: Path) -> Path:
    """Cuts the largest file of the newest checkpoint in half."""
    newest = checkpoints_of(run)[-1]
    largest = max(
        (path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    os.truncate(largest, largest.stat().st_size // 2)
    return newest


# --- what a run is ---------------------------------------------------------------------------------------


def test_result_tells_what_was_done(finished: SimpleNamespace) -> None:
    result = finished.result
    assert set(result) == {"run", "env_steps", "weights_sha256", "best_validation", "interrupted"}
    assert result["run"] == str(finished.path)
    assert result["env_steps"] == CHUNKS * STEPS_PER_CHUNK
    assert result["interrupted"] is False
    assert np.asarray(result["best_validation"]).shape == (2, 2)
    assert len(result["weights_sha256"]) == 64
    json.dumps(result)


def test_run_folder_has_all_that_is_promised(finished: SimpleNamespace) -> None:
    run = RunFolder(finished.path)
    assert from_dict(run.read_config()) == finished.config
    assert run.read_versions()["jax"] == jax.__version__
    assert list(run.events.iterdir())
    assert (run.plots / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(checkpoints_of(finished.path)) == 2
    assert load_policy(finished.path).config == finished.config
    leftovers = [
        path.name for path in finished.path.rglob("*") if path.name.startswith((".saving", ".writing"))
    ]
    assert not leftovers


def test_metrics_have_a_complete_row_for_every_chunk(finished: SimpleNamespace) -> None:
    rows = RunFolder(finished.path).read_metrics()
    assert [row["env_steps"] for row in rows] == [STEPS_PER_CHUNK * (n + 1) for n in range(CHUNKS)]
    wanted = {"episodes", "seconds", "env_steps_per_second", "loss", "regret_train", "regret_validation"}
    for row in rows:
        assert wanted <= set(row)
        assert row["episodes"] * TRIALS == row["env_steps"]
        assert all(np.isfinite(value).all() for value in row.values())
        assert 0.0 <= row["regret_validation"] <= 1.0
        members = np.asarray(row["regret_validation_members"])
        assert members.shape == (2, 2)
        assert members.mean() == pytest.approx(row["regret_validation"], rel=1e-5)
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_best_validation_is_the_least_regret_that_was_no_luck(finished: SimpleNamespace) -> None:
    data = training.load_data(finished.config)
    start = tiny_runs.program_of(finished.config).start(data.bank, data.folds)
    rows = RunFolder(finished.path).read_metrics()
    seen = [np.asarray(start.best_score)] + [np.asarray(row["best_validation_members"]) for row in rows]
    np.testing.assert_allclose(finished.result["best_validation"], np.min(seen, axis=0), atol=1e-6)
    assert (np.diff(np.asarray(seen), axis=0) <= 0).all(), "it never gets worse"


def test_training_is_deterministic_and_compiles_nothing_twice(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    with Compilations() as compiled:
        again = training.train(finished.config, tmp_path / "again", silent=True)
    assert not compiled.names
    assert again["weights_sha256"] == finished.result["weights_sha256"]
    assert timeless_metrics(tmp_path / "again") == timeless_metrics(finished.path)


def test_no_program_is_traced_twice(finished: SimpleNamespace) -> None:
    program = tiny_runs.program_of(finished.config)
    assert program._chunk._cache_size() == 1
    assert program._start._cache_size() == 1


@pytest.mark.slow
def test_members_alone_are_those_together(finished: SimpleNamespace, tmp_path: Path) -> None:
    """A seed of a fold gives bitwise the same policy, whatever is trained beside it."""
    alone = dataclasses.replace(finished.config, folds=(1,), seeds=(1,))
    with Compilations() as compiled:
        result = training.train(alone, tmp_path / "alone", silent=True)
    assert sorted(set(PROGRAMS) & set(compiled.names)) == sorted(PROGRAMS)  # so they can be counted
    assert result["best_validation"] == [[finished.result["best_validation"][1][1]]]
    together, single = final_state(finished.path), final_state(tmp_path / "alone")
    one = [leaf[1:, 1:] for leaf in together]
    jax.tree.map(np.testing.assert_array_equal, one, single)
    rows = zip(timeless_metrics(finished.path), timeless_metrics(tmp_path / "alone"), strict=True)
    for both, own in rows:
        assert own["regret_train_members"] == [[both["regret_train_members"][1][1]]]


def test_test_tasks_leave_no_trace_in_training(finished: SimpleNamespace, tmp_path: Path) -> None:
    """Collections that differ in the test tasks of fold 0 alone: fold 0 learns the same, fold 1 does not."""
    changed = []
    for name in finished.config.collections:
        collection = read_collection(name)
        split = make_split(load_tables(name), finished.config.split, 0)
        tasks, evaluations = collection.tasks.copy(), collection.evaluations.copy()
        rows = evaluations["task"].isin(split.test).to_numpy()
        noise = np.random.default_rng(0).uniform(0.2, 0.8, rows.sum())
        evaluations.loc[rows, "objective"] = np.where(evaluations["objective"][rows].isna(), np.nan, noise)
        for column in tasks.columns.difference(["task", "group"]):
            tasks.loc[tasks["task"].isin(split.test), column] += 1.0
        other = dataclasses.replace(collection, tasks=tasks, evaluations=evaluations)
        changed.append(str(write_collection(other, tmp_path / Path(name).name)))
    config = dataclasses.replace(finished.config, collections=tuple(changed), checkpoint_seconds=1e6)
    result = training.train(config, tmp_path / "run", silent=True)
    assert result["best_validation"][0] == finished.result["best_validation"][0]
    before, after = final_state(finished.path), final_state(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, [leaf[0] for leaf in before], [leaf[0] for leaf in after])
    assert any((ours[1] != theirs[1]).any() for ours, theirs in zip(before, after, strict=True))


# --- interruptions ---------------------------------------------------------------------------------------


def test_resume_of_a_finished_run_changes_nothing(finished: SimpleNamespace, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    kept = ("checkpoints", "policy", "config.json", "metrics.jsonl", "versions.json")
    before = {path: path.read_bytes() for name in kept for path in files_in(run / name)}
    with Compilations() as compiled:
        result = training.resume(run, silent=True)
    assert not set(PROGRAMS) & set(compiled.names)
    assert result == {**finished.result, "run": str(run)}
    assert {path: path.read_bytes() for name in kept for path in files_in(run / name)} == before


def files_in(path: Path) -> list[Path]:
    return [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_cleanly_and_the_run_goes_on(
    finished: SimpleNamespace, tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("only the main thread can receive signals")
    run = tmp_path / "run"
    sender = threading.Thread(target=signal_after_first_row, args=(run, number))
    sender.start()
    stopped = training.train(finished.config, run, silent=True)
    sender.join()
    assert number.name in capfd.readouterr().err
    assert stopped["interrupted"] is True
    assert 0 < stopped["env_steps"] < finished.result["env_steps"]
    assert load_policy(run).config == finished.config
    with Compilations() as compiled:
        result = training.resume(run, silent=True)
    assert not set(PROGRAMS) & set(compiled.names)
    assert result == {**finished.result, "run": str(run)}
    assert timeless_metrics(run) == timeless_metrics(finished.path)


def signal_after_first_row(run: Path, number: signal.Signals) -> None:
    wait_for_rows(run, 1)
    os.kill(os.getpid(), number)


def wait_for_rows(run: Path, rows: int, process: subprocess.Popen | None = None) -> None:
    """Returns as soon as the run has so many rows of metrics, or `process` has ended."""
    give_up = time.monotonic() + MOMENT
    file = run / "metrics.jsonl"
    while not file.is_file() or file.read_bytes().count(b"\n") < rows:
        if time.monotonic() > give_up or (process is not None and process.poll() is not None):
            break
        time.sleep(0.002)


def start_process(*words: str, devices: int = 1) -> subprocess.Popen:
    """The command line in a process of its own, on a machine of so many cores: as many devices."""
    begin = (
        "import sys; from hyprl_jax import __main__, devices; "
        f"devices.cores = lambda: {devices}; sys.exit(__main__.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-W", "error", "-c", begin, *words, "--json"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_kill_leaves_a_run_that_ends_with_the_same_weights(finished: SimpleNamespace, tmp_path: Path) -> None:
    """SIGKILL at a random moment between the first chunk and the last."""
    run, file = tmp_path / "run", tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(finished.config)))
    chance = random.Random()
    process = start_process("train", "--config", str(file), "--out", str(run))
    wait_for_rows(run, chance.randint(1, CHUNKS - 1), process)
    time.sleep(chance.uniform(0.0, 0.3))
    process.kill()
    process.communicate()
    result = training.resume(run, silent=True)
    assert result == {**finished.result, "run": str(run)}
    assert timeless_metrics(run) == timeless_metrics(finished.path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment_and_again_while_resuming(
    finished: SimpleNamespace, tmp_path: Path, seed: int
) -> None:
    """SIGKILL anywhere from the start of the process on, compilation included, time after time."""
    run, file = tmp_path / "run", tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(finished.config)))
    chance = random.Random(seed)
    for _ in range(4):
        begun = (run / "config.json").is_file()
        words = ("--resume", str(run)) if begun else ("--config", str(file), "--out", str(run))
        process = start_process("train", *words)
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0.0, 40.0))
        else:
            wait_for_rows(run, len(RunFolder(run).read_metrics()) + 1 if begun else 1, process)
            time.sleep(chance.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
    if not (run / "config.json").is_file():
        training.train(finished.config, run, silent=True)
    result = training.resume(run, silent=True)
    assert result == {**finished.result, "run": str(run)}
    assert timeless_metrics(run) == timeless_metrics(finished.path)


@pytest.mark.slow
def test_sigterm_ends_the_process_with_a_checkpoint_and_its_own_exit_code(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(finished.config)))
    process = start_process("train", "--config", str(file), "--out", str(run))
    wait_for_rows(run, 1, process)
    process.terminate()
    out, err = process.communicate(timeout=MOMENT)
    assert process.returncode == INTERRUPTED, err
    assert json.loads(out)["interrupted"] is True
    assert "Traceback" not in err
    assert training.resume(run, silent=True) == {**finished.result, "run": str(run)}


def answer_of(process: subprocess.Popen) -> dict[str, Any]:
    out, err = process.communicate(timeout=MOMENT)
    assert process.returncode == 0, err
    return json.loads(out)


def loosened(result: dict[str, Any]) -> dict[str, Any]:
    """What another rounding may not change."""
    return {name: result[name] for name in ("run", "env_steps", "interrupted")}


@pytest.mark.slow
def test_a_run_goes_on_with_more_or_fewer_devices(finished: SimpleNamespace, tmp_path: Path) -> None:
    """With as many as before it ends with bitwise the same weights; with other numbers of devices, for which
    XLA compiles other programs, up to rounding."""
    file, run = tmp_path / "config.json", tmp_path / "run"
    file.write_text(json.dumps(to_dict(finished.config)))
    on_two = answer_of(start_process("train", "--config", str(file), "--out", str(run), devices=2))
    state = final_state(run)
    compare = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(compare, state, final_state(finished.path))
    shutil.copytree(run, tmp_path / "other")
    truncate_newest(run)
    assert answer_of(start_process("train", "--resume", str(run), devices=2)) == on_two
    jax.tree.map(np.testing.assert_array_equal, state, final_state(run))
    truncate_newest(tmp_path / "other")
    with_one = training.resume(tmp_path / "other", silent=True)
    assert loosened(with_one) == {**loosened(on_two), "run": str(tmp_path / "other")}
    jax.tree.map(compare, state, final_state(tmp_path / "other"))
    copy = copy_of(finished, tmp_path / "third")
    truncate_newest(copy)
    with_two = answer_of(start_process("train", "--resume", str(copy), devices=2))
    assert loosened(with_two) == {**loosened(finished.result), "run": str(copy)}
    jax.tree.map(compare, final_state(copy), final_state(finished.path))


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "policy")
    result = training.resume(run, silent=True)
    assert result == {**finished.result, "run": str(run)}
    assert timeless_metrics(run) == timeless_metrics(finished.path)


def test_truncated_newest_checkpoint_gives_way_to_the_one_before(
    finished: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    damaged = truncate_newest(run)
    result = training.resume(run, silent=True)
    assert damaged.name in capfd.readouterr().err
    assert result == {**finished.result, "run": str(run)}
    assert timeless_metrics(run) == timeless_metrics(finished.path)


def test_a_policy_is_kept_whenever_a_checkpoint_is(finished: SimpleNamespace, tmp_path: Path) -> None:
    """However a run was cut off: once it has its last checkpoint, its policy can be loaded."""
    run = copy_of(finished, tmp_path)
    steps = [path.name.rpartition("_")[2] for path in checkpoints_of(run)]
    policies = [path.name.rpartition("_")[2] for path in sorted((run / "policy").iterdir())]
    assert steps == policies
    stamps = [path.stat().st_ctime_ns for path in (checkpoints_of(finished.path)[-1],)]
    newest_policy = sorted((finished.path / "policy").iterdir())[-1]
    assert newest_policy.stat().st_ctime_ns < stamps[0]


# --- refusals --------------------------------------------------------------------------------------------


def test_two_writers_are_refused(finished: SimpleNamespace, tmp_path: Path) -> None:
    run = RunFolder(copy_of(finished, tmp_path))
    with run.locked(), pytest.raises(InputError, match="another process"):
        training.resume(run.path, silent=True)


def test_changed_collection_is_refused(finished: SimpleNamespace, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    collection = read_collection(finished.config.collections[0])
    evaluations = collection.evaluations.copy()
    evaluations.loc[0, "objective"] += 0.25
    changed = dataclasses.replace(collection, evaluations=evaluations)
    path = str(write_collection(changed, tmp_path / "grid"))
    change_config(run, collections=[path, *finished.config.collections[1:]])
    with pytest.raises(InputError, match="collections have changed"):
        training.resume(run, silent=True)


def test_another_architecture_is_refused_by_the_name_of_the_leaf(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path)
    change_config(run, network={"hidden": 16})
    with pytest.raises(
        InputError, match=r"does not fit at .*expected float32\[2, 2, .*found float32\[2, 2, "
    ):
        training.resume(run, silent=True)


def test_another_length_of_chunks_is_refused(finished: SimpleNamespace, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    change_config(run, learner={"episodes": 32})
    with pytest.raises(InputError, match="does not fit the configuration"):
        training.resume(run, silent=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collections": []}, "name at least one"),
        ({"collections": ["no-such-collection"]}, "no-such-collection"),
        ({"split": "kfold9"}, "kfold9"),
        ({"folds": [7]}, "fold 7"),
    ],
)
def test_mistakes_are_told_before_a_folder_is_made(
    finished: SimpleNamespace, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = from_dict({**to_dict(finished.config), **changes})
    with pytest.raises(InputError, match=message):
        training.train(config, tmp_path / "run", silent=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(finished: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a run already"):
        training.train(finished.config, finished.path, silent=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        training.train(finished.config, tmp_path, silent=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run"):
        training.resume(tmp_path, silent=True)


def test_a_relative_path_to_a_collection_is_remembered_absolute(
    collections: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(collections["grid"]).parent)
    config = tiny_config(*(f"./{name}" for name in NAMES))
    training.train(config, tmp_path / "run", silent=True)
    monkeypatch.chdir(tmp_path)
    assert training.resume(tmp_path / "run", silent=True)["interrupted"] is False
