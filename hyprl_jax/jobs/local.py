"""Jobs in processes on this machine, at most so many at once.

A job that eats all memory or crashes takes nobody along. Processes get no signals of the terminal: a stop is
passed on to them as SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyprl_jax.jobs.engine import DONE, FAILED, PROGRESS, STARTED, STOPPED, Event, Job, one_line

__all__ = ["LocalRunner", "Worker", "sharing_memory"]

_POLL = 0.2  # seconds between two looks at whether to stop
_CHUNK = 1 << 16


class LocalRunner:
    """Runs at most `workers` jobs at once: each in a process of its own (`fresh`), which gives back all that
    the job held, or in processes that do one job after another, which is quicker for many short ones.

    `environment` are variables that the processes start with, beside those of this one.
    """

    def __init__(
        self, workers: int = 1, fresh: bool = True, environment: Mapping[str, str] | None = None
    ) -> None:
        self.workers, self.fresh = workers, fresh
        self._environment = dict(environment or {})
        if workers > 1:
            self._environment |= sharing_memory()

    def run(self, jobs: Sequence[Job], logs: Path, stop: Callable[[], bool]) -> Iterator[Event]:
        """See `engine.Runner`."""
        waiting, running, idle = deque(jobs), list[Worker](), list[Worker]()
        selector = selectors.DefaultSelector()
        asked = False
        try:
            while (waiting and not stop()) or running:
                while waiting and len(running) < self.workers and not stop():
                    worker = idle.pop() if idle else Worker(self.fresh, self._environment)
                    running.append(worker)
                    worker.begin(waiting.popleft(), logs)
                    selector.register(worker.output, selectors.EVENT_READ, worker)
                    yield Event(STARTED, worker.job.name)
                if stop() and not asked:
                    asked = True
                    for worker in running:
                        worker.ask_to_stop()
                for key, _ in selector.select(_POLL):
                    worker = key.data
                    yield from worker.read()
                    if worker.ended:
                        selector.unregister(key.fileobj)
                        running.remove(worker)
                        event = worker.end()
                        if worker.is_alive:
                            idle.append(worker)
                        yield event
        finally:
            for worker in (*running, *idle):
                worker.kill()
            selector.close()


class Worker:
    """A process that does one job (`fresh`), or one after another: `begin`, `read` until `ended`, `end`."""

    job: Job
    """What it does, or did last."""
    ended = False
    """Whether that has come to an end."""

    def __init__(self, fresh: bool = True, environment: Mapping[str, str] | None = None) -> None:
        self.environment = {**os.environ, **(environment or {})}
        self._fresh = fresh
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a process that can be given another job."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> Any:
        """The stream that `read` reads."""
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout

    def begin(self, job: Job, logs: Path) -> None:
        """Gives the process a job, starting it if there is none; prints go to NAME.log."""
        self.job, self.ended = job, False
        self._log = logs.absolute() / f"{job.name}.log"
        self._answer: dict[str, Any] = {}
        self._rest = b""
        self._asked = False
        self._started = time.monotonic()
        if not self.is_alive:
            self.kill()
            self._start()
        words = {"call": job.call, "arguments": job.arguments, "log": str(self._log), "last": self._fresh}
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which is found out by reading
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()

    def read(self) -> list[Event]:
        """The progress that has arrived; waits if there is nothing to read."""
        data = os.read(self.output.fileno(), _CHUNK)
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = []
        for line in lines:
            try:
                answer = json.loads(line)
                if "progress" in answer:
                    done, total, detail = answer["progress"]
                    events.append(Event(PROGRESS, self.job.name, done, total, detail))
                else:
                    self._answer = answer
            except (ValueError, TypeError):  # torn by a kill
                continue
        self.ended = not data or (bool(self._answer) and not self._fresh)
        return events

    def end(self) -> Event:
        """How the job ended."""
        code = None
        if self._fresh or not self._answer:  # the process has ended or is about to
            assert self._process is not None
            code = self._process.wait()
            self.kill()
        seconds = time.monotonic() - self._started
        if "result" in self._answer:
            with contextlib.suppress(OSError):
                if not self._log.stat().st_size:
                    self._log.unlink()
            return Event(DONE, self.job.name, result=self._answer["result"], seconds=seconds)
        if self._asked or "stopped" in self._answer:
            return Event(STOPPED, self.job.name)
        reason = self._answer.get("failure") or f"{_ending(code or 0)}; see {self._log}"
        return Event(FAILED, self.job.name, detail=one_line(reason), seconds=seconds)

    def ask_to_stop(self) -> None:
        """Asks the job to leave what it needs to go on, and to end."""
        self._asked = True
        assert self._process is not None
        self._process.terminate()

    def kill(self) -> None:
        """Ends the process at once, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process = None

    def _start(self) -> None:
        # The same modules as here, wherever they were found.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hyprl_jax.jobs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**self.environment, "PYTHONPATH": paths},
                start_new_session=True,
            )


def sharing_memory() -> dict[str, str]:
    """Variables with which the first of several processes does not take all memory of an accelerator; what
    the user has set stands."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    return {name: os.environ.get(name, "false")}


def _ending(code: int) -> str:
    """What an exit code says about a process that has told nothing else."""
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
