"""The processes in which optimizers from outside play, seen from the side that holds the tables.

A `Pool` keeps a few worker processes (`baselines.libraries.worker`), gives each one job after another, looks
up every result, and checks every proposal. A worker that dies or exceeds the time limit in one step costs the
job that it was playing and is replaced; workers cannot outlive this process. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError

LOADING_SECONDS = 300.0  # for imports and the toy that a method warms up on, if the time limit is shorter
_TICK_SECONDS = 0.2  # between two looks at whether to stop
_MOST_MESSAGE_BYTES = 10**6
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from hyprl_jax.baselines.libraries.worker import main; main(int(sys.argv[1]))"
)

__all__ = ["Job", "Outcome", "Pool"]


@dataclass(frozen=True, eq=False)
class Job:
    """One run: a method on one task with one seed.

    `objective` `[C]` float64 holds the results of the task, NaN where there is none; `starts` are the columns
    that are tested first; `name` is whatever the caller wants to know it by.
    """

    name: Any
    method: str
    objective: np.ndarray
    trials: int
    seed: int
    starts: tuple[int, ...] = ()

    @property
    def play(self) -> int:
        """Trials that the table has configurations for."""
        return min(self.trials, int(np.isfinite(self.objective).sum()))


@dataclass
class Outcome:
    """What a run did: columns in order, and seconds of each suggestion (None where a start was given).

    A failed run has `failed_trial` (1-based; `columns` ends before it) and a `reason`; `lasting` tells
    whether it would fail in the same way again.
    """

    columns: list[int] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    failed_trial: int | None = None
    reason: str = ""
    lasting: bool = True

    def fail(self, trial: int, reason: str, lasting: bool = True) -> None:
        """Ends the run before this trial."""
        del self.columns[trial - 1 :], self.seconds[trial - 1 :]
        self.failed_trial, self.reason, self.lasting = trial, reason, lasting


class Pool:
    """Worker processes that know one table. A context: its processes end with it.

    Args:
        table: the messages that `worker.Worker` begins with: header, codes, encodings.
        size: how many processes at most.
        time_limit: seconds that making an optimizer, one `ask` or one `tell` may take.
    """

    def __init__(self, table: Sequence[bytes], size: int, time_limit: float) -> None:
        self._seats = [_Seat(table, time_limit) for _ in range(size)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for seat in self._seats:
            seat.clear()

    def version_of(self, method: str) -> str | None:
        """The `version` of a user's method; InputError where it cannot be imported."""
        return self._seats[0].describe(method)

    def run(self, jobs: Sequence[Job], stopped: Callable[[], bool]) -> Iterator[tuple[Job, Outcome]]:
        """Plays all jobs and yields each when it has ended; begins no more and drops what is under way as
        soon as `stopped()`.
        """
        waiting = deque(jobs)
        while waiting or any(seat.job for seat in self._seats):
            if stopped():
                return
            for seat in self._seats:
                if seat.job is None and waiting:
                    seat.begin(waiting.popleft())
            busy = [seat for seat in self._seats if seat.job is not None]
            ready = wait([seat.connection for seat in busy], timeout=_TICK_SECONDS)
            for seat in busy:
                job = seat.job
                assert job is not None
                outcome = seat.advance(seat.connection in ready)
                if outcome is not None:
                    yield job, outcome


class _Seat:
    """A place for one worker process, and the job that it plays."""

    job: Job | None = None
    connection: Connection

    def __init__(self, table: Sequence[bytes], time_limit: float) -> None:
        self._table, self._limit = table, time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._outcome = Outcome()
        self._at, self._trial, self._deadline = "load", 1, math.inf

    def begin(self, job: Job) -> None:
        """Give the worker a job; start the process if there is none."""
        self._ensure()
        self.job, self._outcome = job, Outcome(list(job.starts), [None] * len(job.starts))
        self._enter("load", 1)
        self._say(
            method=job.method,
            legal=np.flatnonzero(np.isfinite(job.objective)).tolist(),
            trials=job.trials,
            play=job.play,
            seed=job.seed,
            starts=[[column, float(job.objective[column])] for column in job.starts],
        )

    def advance(self, ready: bool) -> Outcome | None:
        """Deals with a message if one is ready, else with the time limit; the outcome if the job has
        ended.
        """
        if not ready:
            return self._late() if time.monotonic() > self._deadline else None
        try:
            message = json.loads(self.connection.recv_bytes(_MOST_MESSAGE_BYTES))
        except (EOFError, OSError, ValueError):
            return self._died()
        if "at" in message:
            self._enter(message["at"], message["trial"])
        elif "column" in message:
            self._proposed(message["column"], message["seconds"])
        elif "failed" in message:
            if self._outcome.failed_trial is None:
                self._outcome.fail(message["trial"], message["failed"], message["lasting"])
            return self._ended()
        elif "done" in message:
            return self._ended()
        return None

    def describe(self, method: str) -> str | None:
        self._ensure()
        self._say(describe=method)
        message: dict[str, Any] = {"failed": "its import took too long"}
        if self.connection.poll(max(self._limit, LOADING_SECONDS)):
            try:
                message = json.loads(self.connection.recv_bytes(_MOST_MESSAGE_BYTES))
            except (EOFError, OSError, ValueError):
                message = {"failed": "its import ended the process"}
        if "failed" in message:
            self.clear()
            raise InputError(f"method {method!r} cannot be used: {message['failed']}")
        version: str | None = message["version"]
        return version

    def clear(self) -> None:
        """End the process and all that it started."""
        self.job = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self.connection.close()
            self._process = None

    def _proposed(self, column: int, seconds: float) -> None:
        assert self.job is not None
        trial, objective = len(self._outcome.columns) + 1, self.job.objective
        if not 0 <= column < len(objective):
            reason = f"proposed column {column}, out of range: there are 0 to {len(objective) - 1}"
        elif not np.isfinite(objective[column]):
            reason = f"proposed column {column}, which has no result on this task"
        elif column in self._outcome.columns:
            first = self._outcome.columns.index(column) + 1
            reason = f"proposed column {column} again, first tested at trial {first}"
        else:
            self._outcome.columns.append(column)
            self._outcome.seconds.append(seconds)
            self._enter("tell", trial)
            self._say(objective=float(objective[column]))
            return
        self._outcome.fail(trial, reason)
        self._say()

    def _ended(self) -> Outcome:
        self.job = None
        return self._outcome

    def _late(self) -> Outcome:
        steps = {"load": "its import", "build": "making the optimizer"}
        step = steps.get(self._at, f"{self._at}()")
        seconds = max(self._limit, LOADING_SECONDS) if self._at == "load" else self._limit
        if self._outcome.failed_trial is None:
            reason = f"{step} took longer than the time limit of {seconds:g} s"
            self._outcome.fail(self._trial, reason, lasting=False)
        self.clear()
        return self._ended()

    def _died(self) -> Outcome:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        code = self._process.returncode
        how = "broke its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by signal {-code}"
        if self._outcome.failed_trial is None:
            self._outcome.fail(self._trial, f"its process {how}", lasting=False)
        self.clear()
        return self._ended()

    def _enter(self, at: str, trial: int) -> None:
        self._at, self._trial = at, trial
        limit = max(self._limit, LOADING_SECONDS) if at == "load" else self._limit
        self._deadline = time.monotonic() + limit

    def _ensure(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.clear()
        self.connection, theirs = Pipe()
        command = [sys.executable, "-c", _START, str(theirs.fileno()), *_module_path()]
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for this process; and all that a worker started can be ended
        )
        theirs.close()
        for message in self._table:
            self._send(message)

    def _say(self, **message: Any) -> None:
        self._send(json.dumps(message).encode())

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is noticed when reading
            self.connection.send_bytes(message)


def _module_path() -> list[str]:
    """Where modules are imported from here, and the current folder: a user's method may lie there."""
    here = os.getcwd()
    return list(dict.fromkeys([entry or here for entry in sys.path] + [here]))


def _environment() -> dict[str, str]:
    """One numerical thread, no accelerator, and the same order of sets in every process."""
    threads = {f"{name}_NUM_THREADS": "1" for name in _THREADS}
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    fixed = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **threads, **fixed}
