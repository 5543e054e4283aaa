"""Jobs for tests of the engine: each does one thing, and some leave a line in a file when they begin."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.interrupts import StopSignal
from hyprl_jax.jobs.engine import Stopped


def answer(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Answers its arguments, after a stray print."""
    _note(arguments)
    print("a stray line")
    tell(1, 2, "half")
    tell(2, 2, "all")
    return {"given": arguments["value"], "process": os.getpid(), "variable": os.environ.get("HYPRL_TEST")}


def nonsense(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Answers what JSON has no word for."""
    return {"given": float("nan")}


def fail(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Raises, in two lines, unless the file `mended` is there."""
    _note(arguments)
    if "mended" in arguments and Path(arguments["mended"]).exists():
        return {"given": "mended"}
    raise ValueError("nothing\nworks")


def mistake(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """What a mistake of the user looks like."""
    raise InputError("this is wrong: mend it")


def die(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Is killed as by a system without memory, unless `value` is `leave`: then it just ends."""
    _note(arguments)
    if arguments.get("value") == "leave":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def endless(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Goes on until it is asked to stop, and leaves the file `kept` then."""
    with StopSignal() as stop:
        _note(arguments)
        tell(0, 1, "running")
        while not stop.requested:
            time.sleep(0.01)
    Path(arguments["kept"]).write_text("checkpoint")
    raise Stopped


def once_interrupted(arguments: dict[str, Any], tell: Any) -> dict[str, Any]:
    """As `endless`, but goes on to the end where `kept` is there."""
    if Path(arguments["kept"]).exists():
        _note(arguments)
        return {"given": "resumed"}
    return endless(arguments, tell)


def _note(arguments: dict[str, Any]) -> None:
    if "log" in arguments:
        with open(arguments["log"], "a", encoding="utf-8") as file:
            file.write(f"{arguments.get('value')} {os.getpid()}\n")
