"""The process in which an optimizer from outside runs: one job after another, asked from over a connection.

The process knows the configurations but no results: it proposes a column, and is told the objective. So
whoever started it checks every proposal, holds the results, and sees at which step an optimizer hangs.
Messages are JSON (see `Worker` for what is said when); nothing is unpickled. Before its first job of a method
the process plays a toy with it, so that imports and compilation are in nobody's seconds. It leaves, with all
that it started, as soon as the other end of the connection is gone.
"""

from __future__ import annotations

import json
import operator
import os
import queue
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from hyprl_jax.baselines.libraries import (
    LIBRARIES,
    TableOptimizer,
    TableProblem,
    configurations_of,
    find_optimizer,
    make_optimizer,
)
from hyprl_jax.baselines.libraries.toy import toy_problem
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.space_json import parse_space

TOY_TRIALS = 13  # beyond the random beginning of every adapter, so that each fits its model once
MOST_REASON = 200

__all__ = ["main", "one_line"]


def main(handle: int) -> None:
    """Serves the connection with this file handle until it closes; never returns."""
    warnings.simplefilter("ignore")
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    connection = Connection(handle)
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    table = [inbox.get() for _ in range(3)]
    worker = Worker(connection, inbox, *table)
    while True:
        worker.serve(worker.receive())


def one_line(error: BaseException) -> str:
    """Kind, message and place of an error, in one printable line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return "".join(c if c.isprintable() else "?" for c in text[:MOST_REASON] + place)


class Worker:
    """One process's side of the conversation.

    At the start it is given the table: a header, codes `[C, P]` and encodings `[C, F]`. Then, a job:
    `{"method", "legal", "trials", "play", "seed", "starts": [[column, objective], ...]}`, where `play` is for
    how many of its trials the table has configurations. It says
    `{"at": "load" | "build" | "tell" | "ask", "trial"}` before each step, and `{"column", "seconds"}` after
    each `ask`, to which the answer is `{"objective"}`, or `{}` to end the job. A job ends with `{"done"}` or
    with `{"failed", "trial", "lasting"}`. To `{"describe": method}` it says `{"version"}` or `{"failed"}`.
    """

    def __init__(
        self,
        connection: Connection,
        inbox: queue.SimpleQueue[bytes],
        header: bytes,
        codes: bytes,
        encodings: bytes,
    ) -> None:
        self._connection, self._inbox = connection, inbox
        about = json.loads(header)
        self._space, self._direction = about["space"], about["direction"]
        encoding = SpaceEncoding(parse_space(self._space))
        shape = (about["configurations"], len(encoding.parameters))
        values = np.frombuffer(codes, dtype=np.float64).reshape(shape)
        self._configurations = configurations_of(encoding, values)
        features = np.frombuffer(encodings, dtype=np.float32)
        self._encodings = features.reshape(shape[0], len(features) // max(shape[0], 1))
        self._warm: set[str] = set()

    def receive(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = json.loads(self._inbox.get())
        return message

    def serve(self, message: dict[str, Any]) -> None:
        """Answers one message, and plays one job to its end if that is what it asks for."""
        self._trial = 1
        try:
            if "describe" in message:
                version = getattr(find_optimizer(message["describe"]), "version", None)
                self._say(version=version if isinstance(version, str) else None)
            else:
                self._play(message)
                self._say(done=True)
        except (Exception, SystemExit) as error:
            lasting = not isinstance(error, MemoryError | OSError)
            self._say(failed=one_line(error), trial=self._trial, lasting=lasting)

    def _play(self, job: dict[str, Any]) -> None:
        self._step("load")
        self._warm_up(job["method"])
        _seed_everything(job["seed"])
        self._step("build")
        optimizer = make_optimizer(job["method"], self._problem(job))
        for column, objective in job["starts"]:
            self._tell(optimizer, column, objective)
        while self._trial <= job["play"]:
            self._step("ask")
            began = time.perf_counter()
            column = _whole(optimizer.ask())
            self._say(column=column, seconds=time.perf_counter() - began)
            answer = self.receive()
            if "objective" not in answer:
                return
            self._tell(optimizer, column, answer["objective"])

    def _tell(self, optimizer: TableOptimizer, column: int, objective: float) -> None:
        self._step("tell")
        optimizer.tell(column, objective)
        self._trial += 1

    def _problem(self, job: dict[str, Any]) -> TableProblem:
        """A problem of its own for every job: an optimizer may do with it what it likes."""
        return TableProblem(
            space=parse_space(self._space),
            configurations=tuple(dict(values) for values in self._configurations),
            encodings=self._encodings.copy(),
            direction=self._direction,
            legal=np.array(job["legal"], dtype=np.int64),
            trials=job["trials"],
            seed=job["seed"],
        )

    def _warm_up(self, method: str) -> None:
        if method in self._warm:
            return
        make: Callable[[TableProblem], TableOptimizer] = find_optimizer(method)
        if method in LIBRARIES:  # a user's method is only imported: who knows what else it does
            problem = toy_problem(TOY_TRIALS)
            optimizer = make(problem)
            for _ in range(TOY_TRIALS):
                column = optimizer.ask()
                optimizer.tell(column, float(np.sum((problem.encodings[column] - 0.3) ** 2)))
        self._warm.add(method)

    def _step(self, at: str) -> None:
        self._say(at=at, trial=self._trial)

    def _say(self, **message: Any) -> None:
        self._connection.send_bytes(json.dumps(message).encode())


def _listen(connection: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Passes on what comes in; when nothing can come any more, ends this process and what it started."""
    try:
        while True:
            inbox.put(connection.recv_bytes())
    except (EOFError, OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _whole(column: Any) -> int:
    """A proposal as a column number; TypeError where it is none."""
    if isinstance(column, bool | np.bool_):
        raise TypeError(f"ask() gave {column!r}, which is no column number")
    try:
        return operator.index(column)
    except TypeError:
        raise TypeError(f"ask() gave {str(column)[:60]!r}, which is no column number") from None


def _seed_everything(seed: int) -> None:
    """What a job draws must not depend on the jobs that the process played before."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the libraries' own global generator)
