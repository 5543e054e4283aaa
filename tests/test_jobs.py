"""The engine of jobs: every job once, failures recorded, nothing lost when something is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import Event, Job, Tally, locked, read_record, run_jobs, write_json
from hyprl_jax.jobs.local import LocalRunner

_SCRIPT = """
import json, sys
from pathlib import Path
from hyprl_jax.jobs.engine import Job, run_jobs
from hyprl_jax.jobs.local import LocalRunner
names, calls, arguments, folder, workers = json.loads(sys.argv[1])
jobs = [Job(n, c, a) for n, c, a in zip(names, calls, arguments)]
tally = run_jobs(jobs, Path(folder), LocalRunner(workers))
print(json.dumps([tally.done, tally.failed, tally.left]))
"""


def job(name: str, call: str, **arguments: Any) -> Job:
    return Job(name, f"example_jobs:{call}", {"value": name, **arguments})


def run(folder: Path, *jobs: Job, workers: int = 2, retry: bool = False) -> tuple[Tally, list[Event]]:
    events: list[Event] = []
    return run_jobs(jobs, folder / "jobs", LocalRunner(workers), retry, events.append), events


def begun(log: Path) -> list[str]:
    """The jobs that have begun, in order, each as often as it did."""
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def start(folder: Path, *jobs: Job, workers: int = 1) -> subprocess.Popen:
    """The same in a process of its own, which can be interrupted and killed."""
    columns = [list(column) for column in zip(*((j.name, j.call, j.arguments) for j in jobs), strict=True)]
    given = json.dumps([*columns, str(folder / "jobs"), workers])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", _SCRIPT, given]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Any, process: subprocess.Popen | None = None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        assert process is None or process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return b"\nState:\tZ" not in Path(f"/proc/{process}/status").read_bytes()


def test_every_job_is_done_once_and_in_a_process_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [job(name, "answer", log=str(log)) for name in "abcd"]
    tally, events = run(tmp_path, *jobs)
    assert tally == (("a", "b", "c", "d"), {}, ())
    records = [read_record(tmp_path / "jobs", name) for name in "abcd"]
    assert [record["result"]["given"] for record in records] == list("abcd")
    assert len({record["result"]["process"] for record in records} | {os.getpid()}) == 5
    for name in "abcd":
        mine = [event for event in events if event.name == name]
        assert [event.kind for event in mine] == ["started", "progress", "progress", "done"]
        assert (mine[1].done, mine[1].total, mine[1].detail) == (1, 2, "half")
        assert "a stray line" in (tmp_path / "jobs" / f"{name}.log").read_text()
    again, events = run(tmp_path, *jobs, job("e", "answer", log=str(log)))
    assert again.done == ("a", "b", "c", "d", "e")
    assert {event.name for event in events} == {"e"}
    assert sorted(begun(log)) == list("abcde")


def test_failures_are_recorded_in_one_line_and_stop_nobody(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [
        job("raises", "fail", log=str(log)), job("mistaken", "mistake"), job("killed", "die", log=str(log)),
        job("leaves", "die", value="leave"), Job("unknown", "example_jobs:nothing", {}),
        job("fine", "answer"),
    ]  # fmt: skip
    tally, _ = run(tmp_path, *jobs)
    assert tally.done == ("fine",)
    assert tally.left == ()
    assert tally.failed["raises"] == "ValueError: nothing works"
    assert tally.failed["mistaken"] == "this is wrong: mend it"
    assert tally.failed["killed"].startswith("the process was killed by SIGKILL (out of memory?); see ")
    assert tally.failed["leaves"].startswith("the process ended with exit code 3; see ")
    assert "nothing" in tally.failed["unknown"]
    assert "Traceback" in (tmp_path / "jobs" / "raises.log").read_text()
    assert run(tmp_path, *jobs)[0] == tally
    assert begun(log).count("raises") == 1


def test_failed_jobs_run_again_when_asked_to(tmp_path: Path) -> None:
    log, mended = tmp_path / "log", tmp_path / "mended"
    jobs = [job("a", "fail", log=str(log), mended=str(mended)), job("b", "answer", log=str(log))]
    assert run(tmp_path, *jobs)[0].failed.keys() == {"a"}
    mended.touch()
    assert run(tmp_path, *jobs)[0].failed.keys() == {"a"}
    tally, _ = run(tmp_path, *jobs, retry=True)
    assert tally == (("a", "b"), {}, ())
    assert sorted(begun(log)) == ["a", "a", "b"]


def test_a_worker_that_is_killed_from_outside_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    log, kept = tmp_path / "log", tmp_path / "kept"
    victim = job("victim", "endless", log=str(log), kept=str(kept))

    def watch(event: Event) -> None:
        if event.kind == "progress" and event.name == "victim":
            os.kill(int(log.read_text().split()[1]), signal.SIGKILL)

    jobs = [victim, job("other", "answer")]
    tally = run_jobs(jobs, tmp_path / "jobs", LocalRunner(1), watch=watch)
    assert tally.done == ("other",)
    assert "killed by SIGKILL" in tally.failed["victim"]
    assert not kept.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_running_jobs_leave_a_checkpoint_and_the_same_call_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    log, kept = tmp_path / "log", tmp_path / "kept"
    jobs = [
        job("first", "answer", log=str(log)), job("second", "once_interrupted", log=str(log), kept=str(kept)),
        job("third", "answer", log=str(log)),
    ]  # fmt: skip
    process = start(tmp_path, *jobs)
    wait_for(lambda: "second" in begun(log), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out) == [["first"], {}, ["second", "third"]]
    assert kept.read_text() == "checkpoint"
    assert "stopping" in err and "Traceback" not in err
    tally, _ = run(tmp_path, *jobs, workers=1)
    assert tally == (("first", "second", "third"), {}, ())
    assert read_record(tmp_path / "jobs", "second")["result"] == {"given": "resumed"}
    assert begun(log) == ["first", "second", "second", "third"]


def test_workers_do_not_outlive_an_engine_that_is_killed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [
        job("first", "answer", log=str(log)),
        *(job(f"long{n}", "once_interrupted", log=str(log), kept=str(tmp_path / f"kept{n}")) for n in (1, 2)),
    ]
    process = start(tmp_path, *jobs, workers=2)
    wait_for(lambda: {"first", "long1", "long2"} <= set(begun(log)), process)
    process.kill()
    process.communicate()
    workers = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("long")]
    wait_for(lambda: not any(map(is_running, workers)))
    assert not list(tmp_path.glob("kept*")), "they were not asked"
    assert {path.name for path in (tmp_path / "jobs").glob("*.json")} == {"first.json"}
    for number in (1, 2):
        (tmp_path / f"kept{number}").touch()
    tally, _ = run(tmp_path, *jobs)
    assert tally == (("first", "long1", "long2"), {}, ())
    assert sorted(begun(log)) == ["first", "long1", "long1", "long2", "long2"]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(tmp_path, job("deaf", "endless", log=str(log), kept="/nonexistent/kept"))
    wait_for(lambda: begun(log) == ["deaf"], process)
    worker = int(log.read_text().split()[1])
    os.kill(worker, signal.SIGSTOP)  # it hears nothing
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    wait_for(lambda: not is_running(worker))
    assert not list((tmp_path / "jobs").glob("*.json"))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"name": "a"}', '{"name": "b", "status": "done", "result": {}}', "[" * 10_000,
        '{"name": "a", "status": "failed"}', '{"name": "a", "status": "done", "result": 3}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_none_and_the_job_runs_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (tmp_path / ".writing-1-a.json").write_text("{")  # of an engine that was killed while it wrote
    assert read_record(tmp_path, "a") is None
    assert run_jobs([job("a", "answer")], tmp_path, LocalRunner(1)) == (("a",), {}, ())
    record = read_record(tmp_path, "a")
    assert record is not None and record["result"]["given"] == "a"
    assert not list(tmp_path.glob(".writing-*"))


def test_processes_do_one_job_after_another_if_asked_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = [*"abcdef"]
    jobs = [job(name, "answer", log=str(log)) for name in names]
    jobs[2] = job("c", "fail", log=str(log))
    jobs[3] = job("d", "die", log=str(log))
    runner = LocalRunner(1, fresh=False, environment={"HYPRL_TEST": "known"})
    events: list[Event] = []
    tally = run_jobs(jobs, tmp_path / "jobs", runner, watch=events.append)
    assert tally.done == ("a", "b", "e", "f")
    assert tally.failed["c"] == "ValueError: nothing works"
    assert "killed by SIGKILL" in tally.failed["d"]
    processes = dict(line.split() for line in log.read_text().splitlines())
    assert processes["a"] == processes["b"] == processes["c"] == processes["d"]  # until it died
    assert processes["e"] == processes["f"] != processes["a"]
    assert [event.kind for event in events if event.name == "e"] == [
        "started",
        "progress",
        "progress",
        "done",
    ]
    for name in "abef":  # each has a log of its own
        assert (tmp_path / "jobs" / f"{name}.log").read_text() == "a stray line\n"
        assert read_record(tmp_path / "jobs", name)["result"]["variable"] == "known"
    assert "Traceback" in (tmp_path / "jobs" / "c.log").read_text()
    wait_for(lambda: not any(is_running(int(process)) for process in processes.values()))


def test_a_job_that_answers_no_json_has_failed(tmp_path: Path) -> None:
    tally, _ = run(tmp_path, job("a", "nonsense"), job("b", "answer"))
    assert tally.done == ("b",)
    assert "not JSON compliant" in tally.failed["a"]


def test_a_retry_that_is_stopped_leaves_the_job_to_be_done(tmp_path: Path) -> None:
    log, kept = tmp_path / "log", tmp_path / "kept"
    write_json(tmp_path / "a.json", {"name": "a", "status": "failed", "seconds": 1.0, "reason": "no memory"})
    jobs = [job("a", "endless", log=str(log), kept=str(kept)), job("b", "answer")]

    def stop(event: Event) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_jobs(jobs, tmp_path, LocalRunner(1), True, stop) == ((), {}, ("a", "b"))
    assert kept.exists() and read_record(tmp_path, "a") is None


def test_two_jobs_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="same name"):
        run_jobs([job("a", "answer"), job("a", "fail")], tmp_path, LocalRunner(1))


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


_ON_RAY = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
from hyprl_jax.jobs.engine import Job, run_jobs
from hyprl_jax.jobs.on_ray import RayRunner
names, calls, arguments, folder, fresh, retries = json.loads(sys.argv[1])
runner = RayRunner("local", fresh=fresh, environment={"HYPRL_TEST": "known"})
jobs = [Job(n, c, a) for n, c, a in zip(names, calls, arguments)]
events = []
def watch(event):
    events.append([event.kind, event.name])
    print(json.dumps(events[-1]), file=sys.stderr, flush=True)
try:
    tallies = [run_jobs(jobs, Path(folder), runner, retry, watch) for retry in retries]
finally:
    runner.close()
print(json.dumps([[[tally.done, tally.failed, tally.left] for tally in tallies], events]))
"""


def start_on_ray(
    folder: Path, *jobs: Job, fresh: bool = True, retries: tuple[bool, ...] = (False,)
) -> subprocess.Popen:
    """The same on a Ray cluster of its own, as often as there are `retries`."""
    pytest.importorskip("ray")
    columns = [list(column) for column in zip(*((j.name, j.call, j.arguments) for j in jobs), strict=True)]
    given = json.dumps([*columns, str(folder / "jobs"), fresh, retries])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["RAY_worker_niceness"] = "0"  # as other processes, which may keep the machine busy
    return subprocess.Popen(
        [sys.executable, "-c", _ON_RAY, given], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end_on_ray(process: subprocess.Popen) -> tuple[list[Any], list[list[str]]]:
    """The tallies and all events."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    tallies, events = json.loads(out.splitlines()[-1])
    return tallies, events


@pytest.mark.slow
def test_jobs_run_on_a_ray_cluster(tmp_path: Path) -> None:
    log = tmp_path / "log"
    calls = {"a": "answer", "raises": "fail", "killed": "die", "b": "answer"}
    jobs = [job(name, call, log=str(log)) for name, call in calls.items()]
    (first, again, retried), events = end_on_ray(start_on_ray(tmp_path, *jobs, retries=(False, False, True)))
    assert first[0] == ["a", "b"]
    assert first[1]["raises"] == "ValueError: nothing works"
    assert "killed by SIGKILL" in first[1]["killed"]
    assert again == first and retried == first
    assert sorted(begun(log)) == ["a", "b", "killed", "killed", "raises", "raises"]
    assert read_record(tmp_path / "jobs", "a")["result"]["given"] == "a"
    assert read_record(tmp_path / "jobs", "a")["result"]["variable"] == "known"
    ended = [name for kind, name in events if kind in ("done", "failed")]
    assert sorted(ended) == sorted(begun(log))
    left = {path.name for path in (tmp_path / "jobs").iterdir() if path.suffix != ".log"}
    assert left == {f"{name}.json" for name in calls}, "nothing else is left behind"


@pytest.mark.slow
def test_tasks_of_a_ray_worker_share_a_process_if_asked_to(tmp_path: Path) -> None:
    jobs = [job(f"{number}", "answer", log=str(tmp_path / "log")) for number in range(12)]
    ((tally,), _) = end_on_ray(start_on_ray(tmp_path, *jobs, fresh=False))
    assert len(tally[0]) == 12
    processes = {line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}
    assert len(processes) < 12
    wait_for(lambda: not any(is_running(int(process)) for process in processes))


@pytest.mark.slow
def test_a_signal_lets_jobs_on_ray_leave_a_checkpoint(tmp_path: Path) -> None:
    log, kept = tmp_path / "log", tmp_path / "kept"
    jobs = [
        job("first", "answer", log=str(log)), job("second", "once_interrupted", log=str(log), kept=str(kept)),
        *(job(f"later{n}", "endless", log=str(log), kept=str(tmp_path / f"kept{n}")) for n in range(40)),
    ]  # fmt: skip
    process = start_on_ray(tmp_path, *jobs)
    wait_for(lambda: "second" in begun(log) and (tmp_path / "jobs" / "first.json").exists(), process, 300)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the processes of Ray too
    ((tally,), events) = end_on_ray(process)
    assert tally[0] == ["first"] and tally[1] == {} and len(tally[2]) == 41
    assert kept.read_text() == "checkpoint"
    assert len(begun(log)) < 42  # those that had not begun never did
    assert ["started", "second"] in events and ["stopped", "second"] in events


@pytest.mark.slow
def test_a_ray_worker_that_is_cut_off_costs_nothing_that_was_finished(tmp_path: Path) -> None:
    log, kept = tmp_path / "log", tmp_path / "kept"
    jobs = [
        job("first", "answer", log=str(log)), job("second", "once_interrupted", log=str(log), kept=str(kept)),
        job("third", "answer", log=str(log)),
    ]  # fmt: skip
    process = start_on_ray(tmp_path, *jobs)
    wait_for(lambda: "second" in begun(log) and (tmp_path / "jobs" / "first.json").exists(), process, 300)
    first = (tmp_path / "jobs" / "first.json").read_bytes()
    worker = int(next(line for line in log.read_text().splitlines() if line.startswith("second")).split()[1])
    kept.touch()  # what the job has kept until then
    os.kill(parent_of(worker), signal.SIGKILL)
    ((tally,), events) = end_on_ray(process)
    assert tally == [["first", "second", "third"], {}, []]
    assert not is_running(worker), "it does not outlive who waited for it"
    assert sorted(begun(log)) == ["first", "second", "second", "third"]
    assert (tmp_path / "jobs" / "first.json").read_bytes() == first
    assert read_record(tmp_path / "jobs", "second")["result"] == {"given": "resumed"}
    assert sorted(name for kind, name in events if kind == "done") == ["first", "second", "third"]


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyprl_jax.jobs.on_ray import RayRunner

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'hyprl-jax\[ray\]'"):
        RayRunner("local")
