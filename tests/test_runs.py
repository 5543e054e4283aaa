"""Run folders, progress and interrupts: what is left after a kill reads well, and nothing is written over."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax import runs
from hyprl_jax.errors import InputError
from hyprl_jax.interrupts import StopSignal
from hyprl_jax.progress import Progress
from hyprl_jax.runs import MetricsWriter, RunFolder, plot_metrics, read_metrics

CONFIG = {"name": "ä", "learner": {"rate": 1e-3, "layers": [64, 64]}, "resume": None}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "first", CONFIG)


def row(env_steps: int, **more: object) -> dict:
    return {"env_steps": env_steps, "loss": 1.0 / (1 + env_steps)} | more


def test_a_new_run_has_its_configuration_and_versions(run):
    assert run.read_config() == CONFIG
    versions = run.read_versions()
    assert versions["python"] == sys.version.split()[0]
    assert versions["numpy"] == np.__version__
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "git_commit", "device_kind"} <= set(
        versions
    )
    assert run.version_changes() == []
    (run.path / "versions.json").write_text(json.dumps(versions | {"numpy": "1.0"}))
    assert run.version_changes() == [f"numpy 1.0 -> {np.__version__}"]
    assert RunFolder(run.path).checkpoints == run.path / "checkpoints"


def test_nothing_is_ever_written_over(run, tmp_path):
    with pytest.raises(InputError, match="holds a run already: resume it or choose another folder"):
        RunFolder.create(run.path, CONFIG)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(InputError, match="not empty and is not a run"):
        RunFolder.create(tmp_path / "thesis", CONFIG)
    with pytest.raises(InputError, match="is not a run"):
        RunFolder(tmp_path / "thesis")
    with pytest.raises(InputError, match="cannot create the run"):
        RunFolder.create(tmp_path / "thesis" / "chapter.tex" / "run", CONFIG)
    with pytest.raises(TypeError):
        RunFolder.create(tmp_path / "other", {"rate": jnp.zeros(2)})
    assert not (tmp_path / "other").exists()


def test_a_creation_that_was_killed_half_way_can_be_done_again(tmp_path):
    (tmp_path / "versions.json").write_text("{}")
    (tmp_path / ".writing-17-config.json").write_text("{")
    assert RunFolder.create(tmp_path, CONFIG).read_config() == CONFIG


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_configuration_is_one_line(run, content):
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json is not .*restore it from a copy"):
        run.read_config()


def test_two_processes_cannot_write_to_one_run(run):
    code = f"from hyprl_jax.runs import RunFolder\nwith RunFolder({str(run.path)!r}).locked(): pass"
    command = [sys.executable, "-c", code]
    with run.locked():
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        with pytest.raises(InputError, match="another process is writing"), run.locked():
            pass
    assert "another process is writing" in other.stderr
    with run.locked():
        pass


def test_metrics_come_back_as_plain_numbers(run):
    with run.metrics_writer() as writer:
        writer.append(
            row(10, regret=jnp.float32(0.5), seeds=np.array([1.0, np.nan]), name="x", flag=np.True_)
        )
        writer.append(row(np.int64(20), regret=float("inf"), nested={"a": (1, np.float32(0.25))}))
        assert len(run.read_metrics()) == 2  # readable while it is being written
    first, second = run.read_metrics()
    assert first == row(10, regret=0.5, seeds=[1.0, None], name="x", flag=True)
    assert second == row(20, regret=None, nested={"a": [1, 0.25]})
    with pytest.raises(ValueError, match="closed"):
        writer.append(row(30))
    writer.close()


def test_a_row_needs_its_steps(run):
    with run.metrics_writer() as writer:
        for bad in ({"loss": 1.0}, {"env_steps": 1.5}, {"env_steps": True}):
            with pytest.raises(ValueError, match="integer env_steps"):
                writer.append(bad)
    assert run.read_metrics() == []


def test_a_resume_does_not_count_chunks_twice(run):
    with run.metrics_writer(after=0) as writer:
        for steps in (10, 20, 30):
            writer.append(row(steps))
    with run.metrics_writer(after=20) as writer:
        writer.append(row(30, again=1))
    assert run.read_metrics() == [row(10), row(20), row(30, again=1)]
    with run.metrics_writer(after=0):
        assert run.read_metrics() == []


def test_every_torn_last_line_is_repaired(tmp_path):
    file = tmp_path / "metrics.jsonl"
    with MetricsWriter(file) as writer:
        for steps in (1, 2, 3):
            writer.append(row(steps))
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with MetricsWriter(file) as writer:
            writer.append(row(9))
        lines = file.read_bytes().splitlines()
        # A last line that lacks nothing but its end is kept: it is whole.
        kept = whole[: length + 1].count(b"\n")
        assert [json.loads(line)["env_steps"] for line in lines] == [*[1, 2, 3][:kept], 9]


@given(
    st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b'{"env_steps": 5}', b"[" * 9999, b"{}"])))
)
def test_any_file_can_be_read_and_continued(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    file.write_bytes(b"\n".join(lines))
    before = read_metrics(file)
    assert before.count({"env_steps": 5}) == lines.count(b'{"env_steps": 5}')
    with MetricsWriter(file) as writer:
        writer.append(row(7))
    assert read_metrics(file) == [*before, row(7)]


def test_a_full_disk_leaves_whole_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsWriter(file) as writer:
        writer.append(row(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, before[1]))
        try:
            with pytest.raises(InputError, match="free space, then resume"):
                writer.append(row(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        writer.append(row(3))
    assert read_metrics(file) == [row(1), row(3)]


def events_of(file: Path) -> list:
    """The events in a TensorBoard file, read by the description of its format: length, CRC, bytes, CRC."""
    from tensorboardX.proto.event_pb2 import Event

    content, events = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def test_tensorboard_gets_every_finite_number(run):
    threads = threading.active_count()
    with run.metrics_writer() as writer:
        writer.append(row(1, regret=[0.25, 0.75, float("nan")], name="x", bad=float("nan"), flag=True))
        (file,) = run.events.iterdir()
        assert len(events_of(file)) == 2  # flushed at once
    with run.metrics_writer(after=0) as writer:
        writer.append(row(1))
    first, second = sorted(run.events.iterdir(), key=lambda path: path.name.rpartition(".")[2])
    values = {value.tag: value.simple_value for value in events_of(first)[1].summary.value}
    assert values == {"loss": 0.5, "regret": 0.5}
    assert events_of(second)[1].step == 1  # what older files say from here on is forgotten
    assert events_of(second)[1].HasField("session_log")
    assert threading.active_count() == threads


def test_learning_curves_are_drawn_even_of_odd_rows(run):
    assert plot_metrics(run).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"  # of no rows at all
    with run.metrics_writer(tensorboard=False) as writer:
        writer.append(row(1, regret_train=0.5, regret_validation=[0.4, None]))
        writer.append(row(2, regret_train=None, regret_validation=[0.3, 0.2]))
        writer.append(row(3, regret_train="nothing", regret_validation=[0.3]))
    path = plot_metrics(run)
    assert path == run.plots / "learning_curves.png"
    assert [entry.name for entry in run.plots.iterdir()] == [path.name]
    assert not run.events.exists()


def test_an_unwritable_run_is_one_line(run, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(runs, "_write_atomically", refuse)
    with pytest.raises(InputError, match=r"cannot write .*Read-only file system"):
        run.metrics_writer()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_prints_few_plain_lines_and_always_the_last():
    stream = io.StringIO()
    with Progress(4, "training", seconds=1000.0, stream=stream) as progress:
        for done in (1, 2, 3, 4):
            progress.update(done, f"regret {done}")
        progress.note("validation [better]")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("training: 1/4 (25%), 0 s, about 0 s left, regret 1")
    assert lines[1] == "validation [better]"
    assert lines[2].startswith("training: 4/4 (100%)")
    assert len(lines) == 3


def test_progress_without_steps_or_without_updates():
    stream = io.StringIO()
    with Progress(0, "nothing", stream=stream) as progress:
        progress.update(0)
    assert stream.getvalue() == "nothing: 0/0 (100%), 0 s\n"
    with Progress(10, "idle", stream=stream):
        pass
    assert "idle" not in stream.getvalue()


def test_silent_progress_prints_notes_only():
    for stream in (io.StringIO(), Terminal()):
        with Progress(2, "training", silent=True, stream=stream) as progress:
            progress.update(1)
            progress.note("a note")
        assert stream.getvalue() == "a note\n"


def test_progress_draws_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    before = set(threading.enumerate())
    stream = Terminal()
    with Progress(2, "training", stream=stream) as progress:
        progress.update(2, "regret [0.5]")
        progress.note("a [red]note[/red]")
    assert "100%" in stream.getvalue()
    assert "regret [0.5]" in stream.getvalue()
    assert "a [red]note[/red]" in stream.getvalue()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


def send_and_wait(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number, capfd):
    before = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    with StopSignal("finishing the chunk") as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.001)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            send_and_wait(number)
    assert {which: signal.getsignal(which) for which in before} == before
    assert capfd.readouterr().err == f"\n{number.name}: finishing the chunk\n"


def test_signals_are_left_alone_in_other_threads():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopSignal() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
