"""Jobs on a Ray cluster: each a task, which does it in a process of its own on whatever machine it lands.

The folder of the sweep must be reachable under the same path from every machine, and the package installed on
them. A stop is passed on; progress of single jobs is not told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.sweeps.engine import DONE, FAILED, STARTED, STOPPED, Event, Job, one_line
from hyprl_jax.sweeps.local import Worker

__all__ = ["RayRunner", "do_job"]

_POLL = 0.5


class RayRunner:
    """Runs jobs on the cluster at `address` (`local`: one on this machine, for as long as the jobs last).

    Raises InputError if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self._ray = import_ray()
        self._cpus, self._gpus = cpus, gpus
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {"address": "local", "include_dashboard": False}
        else:
            options |= {"address": address}
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as fault:
            raise InputError(
                f"there is no Ray cluster at {address} ({one_line(str(fault))}): give its address, or local"
            ) from None

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()

    def run(self, jobs: Sequence[Job], logs: Path, stop: Callable[[], bool]) -> Iterator[Event]:
        """See `engine.Runner`."""
        ray = self._ray
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(do_job)
        pending: dict[Any, Job] = {}
        asked = False
        try:
            for job in jobs:
                request = {"name": job.name, "call": job.call, "arguments": job.arguments}
                pending[task.remote(json.dumps(request), str(logs.absolute()))] = job
                yield Event(STARTED, job.name)
            while pending:
                if stop() and not asked:
                    asked = True
                    for reference in pending:
                        ray.cancel(reference, force=False)
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=_POLL)
                for reference in ready:
                    yield self._ended(reference, pending.pop(reference), asked)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _ended(self, reference: Any, job: Job, asked: bool) -> Event:
        try:
            kind, detail, result, seconds = json.loads(self._ray.get(reference))
        except Exception as fault:  # a node that died, a task that was cancelled: Ray has many names for it
            if asked:
                return Event(STOPPED, job.name)
            return Event(FAILED, job.name, detail=one_line(f"{type(fault).__name__}: {fault}"))
        if kind not in (DONE, FAILED):
            return Event(STOPPED, job.name)
        return Event(kind, job.name, detail=detail, result=result, seconds=seconds)


def do_job(request: str, logs: str) -> str:
    """Does one job in a process of its own and tells how it ended: the body of a task.

    A cancelled task is interrupted, which is passed on; the process then has time for a checkpoint.
    """
    given = json.loads(request)
    worker = Worker(Job(given["name"], given["call"], given["arguments"]), Path(logs))
    while not worker.ended:
        try:
            worker.read()
        except KeyboardInterrupt:
            worker.ask_to_stop()
    event = worker.end()
    return json.dumps([event.kind, event.detail, event.result, event.seconds])


def import_ray() -> Any:
    """The library; InputError, naming the extra, where it is not installed."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "Ray is not installed: pip install 'hyprl-jax[ray]', or run the sweep here with --jobs N"
        ) from None
    return ray
