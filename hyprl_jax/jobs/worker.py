"""A process that does jobs, one after another: `python -m hyprl_jax.jobs.worker`.

It reads lines of JSON from standard input, each the `call` and `arguments` of a job and the file `log` that
what libraries print goes to, and writes lines of JSON to standard output: progress, and in the end of each
job one `result`, `failure` or `stopped`. After a job that says so with `last` it ends. Its standard input
stays open for as long as somebody waits for it: when that ends, so does the process, so that it never
outlives who started it, however that went.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from importlib import import_module
from queue import SimpleQueue
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import Stopped, one_line

_CHUNK = 1 << 16


def main() -> int:
    """Does the jobs of standard input; exit code 0 whenever it has told how the last one ended."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a stray print of a library must not come between the answers
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()

    def answer(**words: Any) -> None:
        # Made whole before a byte of it is written: what is no JSON is a failure of the job alone.
        text = json.dumps(words, allow_nan=False)
        answers.write(text + "\n")
        answers.flush()

    while True:
        request = json.loads(requests.get())
        _print_to(request["log"])
        _do(request, answer)
        if request["last"]:
            return 0


def _do(request: dict[str, Any], answer: Any) -> None:
    """Does one job and tells how it ended."""

    def tell(done: int, total: int, detail: str) -> None:
        answer(progress=[done, total, detail])

    try:
        module, _, name = request["call"].partition(":")
        answer(result=getattr(import_module(module), name)(request["arguments"], tell))
    except Stopped:
        answer(stopped=True)
    except InputError as mistake:
        answer(failure=one_line(str(mistake)))
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        answer(failure=one_line(f"{type(error).__name__}: {error}"))


def _print_to(log: str) -> None:
    """Lets standard output and standard error go to the end of a file, prints of other languages too."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def _listen(requests: SimpleQueue[bytes]) -> None:
    """Passes on each line of standard input; ends the process once it is closed: nobody waits any more."""
    rest = b""
    while data := os.read(0, _CHUNK):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            requests.put(line)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
