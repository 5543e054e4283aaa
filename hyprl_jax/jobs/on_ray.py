"""Jobs on a Ray cluster: each a task, which has them done by a process of its own (`local.Worker`) on
whatever machine it lands.

The folder of the jobs must be reachable under the same path from every machine, and the package installed on
them. Through that folder the tasks say how far they are (`NAME.progress`) and are asked to stop. A task whose
Ray worker or machine dies is given to another one twice; what its job has kept it goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import FAILED, PROGRESS, STARTED, STOPPED, Event, Job, one_line
from hyprl_jax.jobs.local import Worker, sharing_memory

__all__ = ["RayRunner", "do_job"]

_POLL = 0.5
_RETRIES = 2  # of a task whose Ray worker died
_idle: list[Worker] = []  # the process of earlier tasks of this Ray worker; it ends with it


class RayRunner:
    """Runs jobs on the cluster at `address` (`local`: one on this machine, for as long as the jobs last), or
    on the one that this process is connected to already.

    Raises InputError if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        address: str,
        cpus: float = 1.0,
        gpus: float = 0.0,
        fresh: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._ray = import_ray()
        self._cpus, self._gpus, self._fresh = cpus, gpus, fresh
        self._environment = dict(environment or {}) | (sharing_memory() if 0 < gpus < 1 else {})
        self._own = not self._ray.is_initialized()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "address": address}
        if address == "local":
            options["include_dashboard"] = False
        try:
            if self._own:
                self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as fault:
            raise InputError(
                f"there is no Ray cluster at {address} ({one_line(str(fault))}): give its address, or local"
            ) from None

    def close(self) -> None:
        """Leaves the cluster."""
        if self._own:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job], logs: Path, stop: Callable[[], bool]) -> Iterator[Event]:
        """See `engine.Runner`."""
        logs = logs.absolute()
        stop_file = logs / f".stop-{uuid.uuid4().hex}"
        pending = self._submit(jobs, logs, stop_file)
        told: dict[str, Any] = {}
        try:
            while pending:
                if stop() and not stop_file.exists():
                    stop_file.touch()
                ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=_POLL)
                names = {job.name for job in pending.values()}
                for name in sorted(names & {file.stem for file in logs.glob("*.progress")}):
                    yield from _progress(name, logs, told)
                for reference in ready:
                    job = pending.pop(reference)
                    event = self._ended(reference, job, stop_file.exists())
                    _progress_file(logs, job.name).unlink(missing_ok=True)
                    yield event
        finally:
            for reference, job in pending.items():
                self._ray.cancel(reference, force=True)
                _progress_file(logs, job.name).unlink(missing_ok=True)
            stop_file.unlink(missing_ok=True)

    def _submit(self, jobs: Sequence[Job], logs: Path, stop_file: Path) -> dict[Any, Job]:
        task = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=_RETRIES)(do_job)
        more = {"fresh": self._fresh, "environment": self._environment}
        more |= {"logs": str(logs), "stop": str(stop_file)}
        pending = {}
        for job in jobs:
            _progress_file(logs, job.name).unlink(missing_ok=True)
            request = {"name": job.name, "call": job.call, "arguments": job.arguments, **more}
            pending[task.remote(json.dumps(request))] = job
        return pending

    def _ended(self, reference: Any, job: Job, asked: bool) -> Event:
        try:
            kind, detail, result, seconds = json.loads(self._ray.get(reference))
        except Exception as fault:  # a node that died, for instance: Ray has many names for it
            if asked:
                return Event(STOPPED, job.name)
            return Event(FAILED, job.name, detail=one_line(f"{type(fault).__name__}: {fault}"))
        return Event(kind, job.name, detail=detail, result=result, seconds=seconds)


def do_job(request: str) -> str:
    """Has one job done and tells how it ended, `[kind, detail, result, seconds]`: the body of a task."""
    given = json.loads(request)
    job, logs, stop_file = Job(given["name"], given["call"], given["arguments"]), *_paths(given)
    if stop_file.exists():
        return json.dumps([STOPPED, "", None, 0.0])
    worker = Worker(given["fresh"], given["environment"])
    if _idle:
        kept = _idle.pop()
        if kept.environment == worker.environment:
            worker = kept
        else:
            kept.kill()
    asked = False
    try:
        worker.begin(job, logs)
        _write_progress(logs, job.name, [0, 0, "started"])
        while not worker.ended:
            if not asked and stop_file.exists():
                asked = True
                worker.ask_to_stop()
            if select.select([worker.output], [], [], _POLL)[0]:
                for event in worker.read()[-1:]:
                    _write_progress(logs, job.name, [event.done, event.total, event.detail])
        event = worker.end()
    except BaseException:
        worker.kill()
        raise
    if worker.is_alive:
        _idle.append(worker)
    return json.dumps([event.kind, event.detail, event.result, event.seconds])


def import_ray() -> Any:
    """The library; InputError, naming the extra, where it is not installed."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "Ray is not installed: pip install 'hyprl-jax[ray]', or use processes of this machine (--jobs N)"
        ) from None
    return ray


def _paths(given: Mapping[str, str]) -> tuple[Path, Path]:
    return Path(given["logs"]), Path(given["stop"])


def _progress(name: str, logs: Path, told: dict[str, Any]) -> Iterator[Event]:
    """What a job has said since it was asked last; its first word is that it has started."""
    try:
        found = json.loads(_progress_file(logs, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if name not in told:
        yield Event(STARTED, name)
    if told.get(name) != found and found[1]:
        yield Event(PROGRESS, name, *found)
    told[name] = found


def _write_progress(logs: Path, name: str, words: list[Any]) -> None:
    """Only for the eye: a disk that is full must not end the job."""
    part = logs / f".progress-{os.getpid()}-{name}"
    with contextlib.suppress(OSError):
        part.write_text(json.dumps(words), encoding="utf-8")
        os.replace(part, _progress_file(logs, name))


def _progress_file(logs: Path, name: str) -> Path:
    return logs / f"{name}.progress"
