"""Jobs in processes on this machine, at most so many at once, each in a process of its own.

A job that eats all memory or crashes takes nobody along, and what it held is free again when it has ended.
Processes get no signals of the terminal: a stop is passed on to them as SIGTERM.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hyprl_jax.sweeps.engine import DONE, FAILED, PROGRESS, STARTED, STOPPED, Event, Job, one_line

__all__ = ["LocalRunner", "Worker"]

_POLL = 0.2  # seconds between two looks at whether to stop
_CHUNK = 1 << 16


class LocalRunner:
    """Runs at most `workers` jobs at once."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, jobs: Sequence[Job], logs: Path, stop: Callable[[], bool]) -> Iterator[Event]:
        """See `engine.Runner`."""
        waiting, running = list(reversed(jobs)), list[Worker]()
        selector = selectors.DefaultSelector()
        asked = False
        try:
            while (waiting and not stop()) or running:
                while waiting and len(running) < self.workers and not stop():
                    worker = Worker(waiting.pop(), logs, alone=self.workers == 1)
                    running.append(worker)
                    selector.register(worker.output, selectors.EVENT_READ, worker)
                    yield Event(STARTED, worker.job.name)
                if stop() and not asked:
                    asked = True
                    for worker in running:
                        worker.ask_to_stop()
                for key, _ in selector.select(_POLL):
                    yield from key.data.read()
                    if key.data.ended:
                        selector.unregister(key.fileobj)
                        running.remove(key.data)
                        yield key.data.end()
        finally:
            for worker in running:
                worker.kill()
            selector.close()


class Worker:
    """The process of one job."""

    def __init__(self, job: Job, logs: Path, alone: bool = True) -> None:
        self.job = job
        self.log = logs / f"{job.name}.log"
        self.ended = False
        self._answer: dict[str, Any] = {}
        self._rest = b""
        self._asked = False
        self._started = time.monotonic()
        # The same modules as here, wherever they were found.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": paths}
        if not alone:  # the first process must not take all memory of an accelerator
            environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hyprl_jax.sweeps.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.output = self._process.stdout
        self._send({"call": job.call, "arguments": job.arguments})

    def read(self) -> list[Event]:
        """The progress that has arrived; waits if there is nothing to read."""
        data = os.read(self.output.fileno(), _CHUNK)
        self.ended = not data
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
        return events

    def end(self) -> Event:
        """How the job ended, once there is nothing more to read."""
        code = self._process.wait()
        self._close()
        seconds = time.monotonic() - self._started
        if "result" in self._answer:
            return Event(DONE, self.job.name, result=self._answer["result"], seconds=seconds)
        if self._asked or "stopped" in self._answer:
            return Event(STOPPED, self.job.name)
        reason = self._answer.get("failure") or f"{_ending(code)}; see {self.log}"
        return Event(FAILED, self.job.name, detail=one_line(reason), seconds=seconds)

    def ask_to_stop(self) -> None:
        """Asks the job to leave what it needs to go on, and to end."""
        self._asked = True
        self._process.terminate()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which is found out by reading
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _ending(code: int) -> str:
    """What an exit code says about a process that has told nothing else."""
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"the process was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
