"""What all verbs share: options from frozen dataclasses, JSON or readable text, exit codes, clean endings.

A verb is a `Command`: a dataclass of its options and a function from these to an `Outcome`. Tuples are
written as one word with commas (`--seeds 0,1,2`). Messages and progress go to standard error; standard output
holds the answer alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import tyro

from hyprl_jax.errors import InputError, LostProcessError

if TYPE_CHECKING:
    from rich.console import RenderableType

SUCCESS, FAILURE, INPUT_MISTAKE, INTERRUPTED = 0, 1, 2, 130
_ENVIRONMENT_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
_BOX = str.maketrans("", "", "╭╮╰╯│─━┃┏┓┗┛")

T = TypeVar("T")

JsonFlag = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Print one JSON object instead of text.", help_behavior_hint=""),
]


class UsageError(InputError):
    """The command line itself is mistaken: an unknown verb or option, a missing or malformed value."""


@dataclass(frozen=True)
class Outcome:
    """What a verb has to say: `result` for `--json`, `text` (strings or rich renderables) for a reader."""

    result: dict[str, Any]
    text: Sequence[RenderableType] = ()
    code: int = SUCCESS


@dataclass(frozen=True)
class Command:
    """A verb: its options (a frozen dataclass with a field `json`) and what it does with them."""

    options: type[Any]
    run: Callable[[Any], Outcome]
    # Where the options need more than tyro to be read (defaults from a file): (words, program) -> options.
    read: Callable[[list[str], str], Any] | None = None


def run_command(command: Command, name: str, words: list[str]) -> int:
    """Reads the options of a verb, runs it, prints its outcome; returns the exit code."""
    read = command.read or (lambda given, program: read_options(command.options, given, program))
    options = read(words, f"hyprl {name}")
    if options.json:
        # A stray print of a library must not spoil the one object on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            outcome = command.run(options)
        print_json(outcome.result)
    else:
        outcome = command.run(options)
        print_text(outcome.text)
    return outcome.code


def run_guarded(action: Callable[[], int], as_json: bool) -> int:
    """Turns every way to fail into an exit code and a message; a reader that has gone away is no failure."""
    try:
        code = action()
        sys.stdout.flush()
        return code
    except SystemExit as exit_request:  # tyro after --help
        return _exit_code(exit_request)
    except BrokenPipeError:
        _silence_stdout()
        return SUCCESS
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, as_json)
    except InputError as mistake:
        return _fail(one_line(str(mistake)), INPUT_MISTAKE, as_json)
    except LostProcessError as loss:
        return _fail(one_line(str(loss)), FAILURE, as_json)
    except OSError as fault:
        if fault.errno not in _ENVIRONMENT_FAULTS:
            traceback.print_exc()
        return _fail(one_line(str(fault)), FAILURE, as_json)
    except Exception as fault:
        traceback.print_exc()
        return _fail(one_line(f"{type(fault).__name__}: {fault}"), FAILURE, as_json)


def read_options(options: type[T], words: Sequence[str], program: str, default: T | None = None) -> T:
    """The options in `words`, as tyro reads them; `UsageError` with one line where they are mistaken."""
    complaint = io.StringIO()
    more: dict[str, Any] = {} if default is None else {"default": default}
    # Given by hand, since tyro drops the examples from a docstring that it reads itself.
    more |= {"prog": program, "description": inspect.getdoc(options), "registry": _comma_tuples()}
    try:
        with contextlib.redirect_stderr(complaint):
            answer: T = tyro.cli(options, args=list(words), **more)
        return answer
    except SystemExit as exit_request:
        if _exit_code(exit_request) == SUCCESS:
            raise
        raise UsageError(_shorten_complaint(complaint.getvalue(), program)) from None


def print_json(result: dict[str, Any]) -> None:
    """Prints one JSON object on one line; what JSON cannot say (NaN, infinities) becomes null."""
    sys.stdout.write(json.dumps(plain(result), allow_nan=False) + "\n")


def print_text(text: Sequence[RenderableType]) -> None:
    """Prints what a reader sees, as wide as the terminal; where there is none, as wide as it is."""
    if not text:
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else 240
    console = Console(file=sys.stdout, width=width, highlight=False, soft_wrap=not sys.stdout.isatty())
    for part in text:
        console.print(part, markup=False)


def plain(value: Any) -> Any:
    """`value` with everything in it as JSON knows it: NumPy scalars and arrays, paths, dataclasses, NaN."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) else str(value)


def one_line(message: str) -> str:
    """`message` without line breaks and runs of spaces."""
    return " ".join(message.split())


def _comma_tuples() -> Any:
    """A tyro registry in which `tuple[X, ...]` is one word with commas."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def comma_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        inner = get_args(info.type)
        if get_origin(info.type) is not tuple or len(inner) != 2 or inner[1] is not Ellipsis:
            return None
        kind = inner[0]
        letter = {int: "N", float: "X", str: "NAME"}.get(kind)
        if letter is None:
            return None

        def read(given: list[str]) -> tuple[Any, ...]:
            return tuple(kind(word.strip()) for word in given[0].split(",") if word.strip())

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{letter}[,{letter}..]",
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [",".join(map(str, value))],
        )

    return registry


def _shorten_complaint(text: str, program: str) -> str:
    """tyro's box as one line: without frame, rulers and the pointer to the help, which is said our way."""
    lines = [line.translate(_BOX).strip() for line in text.splitlines()]
    message = one_line(" ".join(lines[1:]))  # the first line is the title of the box
    for start in ("For full helptext", "Argument helptext"):
        message = message.partition(start)[0]
    message, _, similar = message.partition("Perhaps you meant:")
    names = [word for word in similar.split() if word.startswith("--")]
    hint = f"did you mean {' or '.join(names)}? " if names else ""
    return f"{message.strip().rstrip('.')}: {hint}see `{program} --help`"


def _fail(message: str, code: int, as_json: bool) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {message}", file=sys.stderr)
        if as_json:
            print_json({"error": message, "code": code})
            sys.stdout.flush()
    return code


def _exit_code(request: SystemExit) -> int:
    if request.code is None:
        return SUCCESS
    return request.code if isinstance(request.code, int) else FAILURE


def _silence_stdout() -> None:
    """Points standard output at nothing, so that the interpreter's last flush does not complain either."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
