"""Jobs that may take hours: run somewhere, each recorded once it has ended, none run twice.

A job is the name of a function and JSON-able arguments, so that any process on any machine can do it. Where
it is done is a `Runner`'s affair (`local`: processes on this machine; `on_ray`: a Ray cluster). Each ended
job leaves `NAME.json` in the folder of the jobs, written whole or not at all: a job with one is not run
again, with `retry` not unless it failed. A job that is stopped, or whose engine is killed, or whose record is
damaged, has none and is run again by the next call; what it keeps meanwhile, to go on from, is its own
affair. A job that fails, however (an exception, a kill, no memory), is recorded with one line and does not
stop the others.

The function of a job is called as `function(arguments, tell)`, where `tell(done, total, detail)` reports
progress; it answers a JSON-able dictionary, or raises `Stopped` if it was asked to stop (by SIGTERM) and has.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hyprl_jax.errors import InputError
from hyprl_jax.interrupts import StopSignal

__all__ = ["Event", "Job", "Runner", "Stopped", "Tally", "locked", "read_record", "run_jobs", "write_json"]

Tell = Callable[[int, int, str], None]
STARTED, PROGRESS, DONE, FAILED, STOPPED = "started", "progress", "done", "failed", "stopped"
_STOPPING = "stopping; what runs keeps a checkpoint first (once more to stop at once)"
_PART = ".writing-"
_LARGEST_RECORD = 256 * 2**20  # bytes
_LONGEST_REASON = 500


class Stopped(Exception):  # noqa: N818 - no error: the user stopped the job, which can go on
    """A job was asked to stop and left what it needs to go on."""


@dataclass(frozen=True)
class Job:
    """A piece of work: `call` is `package.module:function`, `name` fit for a file."""

    name: str
    call: str
    arguments: Mapping[str, Any]


class Event(NamedTuple):
    """What a runner tells of a job: `kind` is one of started, progress, done, failed, stopped."""

    kind: str
    name: str
    done: int = 0
    total: int = 0
    detail: str = ""
    """Of progress: how it goes; of a failure: why, in one line."""
    result: dict[str, Any] | None = None
    """Of a job that is done."""
    seconds: float = 0.0
    """Of a job that is done or failed."""


class Runner(Protocol):
    """Where jobs are done."""

    def run(self, jobs: Sequence[Job], logs: Path, stop: Callable[[], bool]) -> Iterator[Event]:
        """Does the jobs, each with a file NAME.log in `logs`; once `stop()` is true, asks those that run to
        stop, starts no more, and ends. Of every job that was started one event says how it ended."""
        ...


class Tally(NamedTuple):
    """How jobs ended, names in the order in which they were given."""

    done: tuple[str, ...]
    failed: dict[str, str]
    """Name -> reason."""
    left: tuple[str, ...]
    """Stopped, or never started."""


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    runner: Runner,
    retry: bool = False,
    watch: Callable[[Event], None] | None = None,
    stopping: str = _STOPPING,
) -> Tally:
    """Does every job that has no record yet (with `retry`, those that failed too); `watch` sees each event.

    Jobs of earlier calls count in the tally. The first Ctrl-C or SIGTERM asks running jobs to stop (which is
    said with the words `stopping`) and ends when they have; a second one stops at once by KeyboardInterrupt.
    InputError if two jobs have one name, or records cannot be read or written (a full disk).
    """
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise InputError("two jobs have the same name: give each its own")
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(f"{_PART}*"):  # of a process that was killed while it wrote
        part.unlink(missing_ok=True)
    records = {name: record for name in names if (record := read_record(folder, name)) is not None}
    if retry:
        for name in [name for name, record in records.items() if _failed(record)]:
            del records[name]
            (folder / f"{name}.json").unlink(missing_ok=True)
    missing = [job for job in jobs if job.name not in records]
    with StopSignal(stopping) as stop, contextlib.closing(_events(runner, missing, folder, stop)) as events:
        for event in events:
            if event.kind in (DONE, FAILED):
                records[event.name] = _record(event)
                write_json(folder / f"{event.name}.json", records[event.name])
            if watch is not None:
                watch(event)
    failed = {name: records[name]["reason"] for name in names if _failed(records.get(name))}
    done = tuple(name for name in names if name in records and name not in failed)
    return Tally(done, failed, tuple(name for name in names if name not in records))


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of an ended job, None if it has none or what is there is damaged; InputError if it cannot be
    read."""
    file = folder / f"{name}.json"
    try:
        if file.stat().st_size > _LARGEST_RECORD:
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise InputError(f"{file} cannot be read ({fault.strerror or fault}): make it readable") from None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("name") != name:
        return None
    sound = isinstance(found.get("reason"), str) if found.get("status") == FAILED else _is_done(found)
    return found if sound else None


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes out of a folder meanwhile; InputError if one is in it for longer than `patience`
    seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    message = f"another process is working on {folder}: wait for it or stop it"
                    raise InputError(message) from None
                time.sleep(0.1)
        yield


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a whole JSON file or leaves it as it was."""
    part = file.with_name(f"{_PART}{os.getpid()}-{file.name}")
    try:
        with open(part, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(value, allow_nan=False, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror or error}): free space, then go on") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def one_line(text: str) -> str:
    """`text` without line breaks, cut to what a record holds."""
    return " ".join(text.split())[:_LONGEST_REASON]


def _events(runner: Runner, jobs: Sequence[Job], logs: Path, stop: StopSignal) -> Any:
    return runner.run(jobs, logs, lambda: stop.requested)


def _record(event: Event) -> dict[str, Any]:
    record = {"name": event.name, "status": event.kind, "seconds": round(event.seconds, 3)}
    if event.kind == FAILED:
        return {**record, "reason": one_line(event.detail)}
    return {**record, "result": event.result}


def _failed(record: Mapping[str, Any] | None) -> bool:
    return record is not None and record["status"] == FAILED


def _is_done(record: Mapping[str, Any]) -> bool:
    return record.get("status") == DONE and isinstance(record.get("result"), dict)
