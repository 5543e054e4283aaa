"""A process that does one job: `python -m hyprl_jax.sweeps.worker`.

It reads one line of JSON from standard input, the `call` and `arguments` of a job, and writes lines of JSON
to standard output: progress, and in the end one `result`, `failure` or `stopped`. Whatever libraries print
goes to standard error. Its standard input stays open for as long as somebody waits for it: when that ends, so
does the process, so that it never outlives who started it, however that went.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from importlib import import_module
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.sweeps.engine import Stopped, one_line

_LARGEST_REQUEST = 64 * 2**20  # bytes


def main() -> int:
    """Does the job on standard input; exit code 0 whenever it has told how the job ended."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a stray print of a library must not come between the answers
    request = json.loads(sys.stdin.buffer.readline(_LARGEST_REQUEST))
    threading.Thread(target=_leave_with_reader, daemon=True).start()

    def answer(**words: Any) -> None:
        answers.write(json.dumps(words, allow_nan=False) + "\n")
        answers.flush()

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
        answer(failure=one_line(f"{type(error).__name__}: {error}"))
    return 0


def _leave_with_reader() -> None:
    """Ends the process once standard input is closed: nobody waits for it any more."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
