"""The verb `suggest`: ask and tell over standard input and output, for programs in any language.

Every line of input is one request and gets one line of output; a line that is mistaken gets an error there
and changes nothing. With `--ask` it answers once from a table of results instead. docs/suggest.md has the
protocol.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import tyro

from hyprl_jax.cli.common import (
    INTERRUPTED,
    Command,
    JsonFlag,
    Outcome,
    UsageError,
    one_line,
    plain,
    read_options,
)
from hyprl_jax.errors import InputError

if TYPE_CHECKING:
    from hyprl_jax.runtime import Result, Tuner

MOST_LINE = 2**20
MOST_ASKED = 1000
_LONGEST_COMPLAINT = 500
_ROUNDED = 1e-6  # of the range: six digits of a number are enough to know it again
_REQUESTS = ("ask", "tell", "best", "forget", "state", "quit")


@dataclass(frozen=True, kw_only=True)
class SuggestOptions:
    """Suggest configurations to a program in any language: JSON lines over standard input and output.

    Examples:
      echo '{"ask": 1}' | hyprl suggest --space space.json --state search.json
      hyprl suggest --space space.json --history results.csv --ask 3

    Requests: {"ask": 1}, {"tell": {"config": {..}, "value": 0.3}} (null: failed), {"best": true},
    {"forget": {..}}, {"state": true}, {"quit": true}; an "id" comes back in the answer.
    """

    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The search space: ConfigSpace JSON, a collection's space.json, or that of `Space.to_dict`."""
    candidates: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The only configurations to choose from: CSV or JSON lines. Without --space they make the space."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Whether small or large values are good."""
    trials: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """How many results are planned, if that is known."""
    policy: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """An exported policy; left out, the one that ships with the package."""
    seed: int = 0
    """Of whatever is drawn at random."""
    state: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Keeps the search here after every change, and goes on with it if it is there."""
    earlier: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Results of earlier tasks in the same space: as --history, with a column `task`."""
    metafeatures: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Of the dataset that is tuned for: JSON, name to number. Tasks on similar ones count the more."""
    history: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """With --ask: results so far, CSV or JSON lines with one column a hyperparameter and `value`."""
    ask: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Print N suggestions and end, instead of reading requests."""
    json: JsonFlag = False


class Conversation:
    """Answers requests about one search; `keep` is called after each that changed it."""

    def __init__(self, tuner: Tuner, keep: Callable[[Tuner], None]) -> None:
        self.tuner = tuner
        self.ended = False
        self._keep = keep

    def answer(self, line: bytes | None) -> dict[str, Any]:
        """The answer to one line of input (None: it was too long), `{"error": ...}` if it is mistaken."""
        name = {}
        try:
            request = _read_request(line)
            if "id" in request:
                name = {"id": _checked_id(request.pop("id"))}
            return {**name, **self._obey(request)}
        except InputError as mistake:
            return {**name, "error": one_line(str(mistake))[:_LONGEST_COMPLAINT]}
        except OverflowError:
            return {**name, "error": "a number is too large"}

    def _obey(self, request: dict[str, Any]) -> dict[str, Any]:
        if len(request) != 1 or next(iter(request)) not in _REQUESTS:
            raise InputError(f"a request has one of {', '.join(_REQUESTS)}, and may have an id; nothing else")
        kind, content = next(iter(request.items()))
        if kind in ("best", "state", "quit") and content is not True:
            raise InputError(f"write {{{json.dumps(kind)}: true}}")
        if kind == "ask":
            return self._ask(content)
        if kind == "tell":
            return self._tell(content)
        if kind == "forget":
            return self._forget(content)
        if kind == "best":
            return {"best": best_of(self.tuner)}
        if kind == "state":
            return {"state": self.tuner.state()}
        self.ended = True
        return {"ok": True}

    def _ask(self, count: Any) -> dict[str, Any]:
        if type(count) is not int or not 1 <= count <= MOST_ASKED:
            raise InputError(f"'ask' takes how many: a whole number from 1 to {MOST_ASKED}")
        begin = time.perf_counter()
        configs = self.tuner.ask_many(count)
        seconds = time.perf_counter() - begin
        self._keep(self.tuner)
        return {"configs": configs, "nothing_left": len(configs) < count, "seconds": round(seconds, 6)}

    def _tell(self, content: Any) -> dict[str, Any]:
        if not isinstance(content, dict) or set(content) != {"config", "value"}:
            raise InputError("'tell' takes an object with config and value (null: the trial failed)")
        config, value = _checked_config(content["config"]), content["value"]
        if value is not None and type(value) not in (int, float):
            raise InputError("the value is a number, or null if the trial failed")
        number = None if value is None else float(value)
        self.tuner.tell(self._as_asked(config), number)
        self._keep(self.tuner)
        return {"ok": True, "best": best_of(self.tuner)}

    def _forget(self, content: Any) -> dict[str, Any]:
        lost = self.tuner.pending if content is True else [self._as_asked(_checked_config(content))]
        for config in lost:
            self.tuner.forget(config)
        self._keep(self.tuner)
        return {"ok": True, "forgotten": len(lost)}

    def _as_asked(self, config: dict[str, Any]) -> dict[str, Any]:
        """The pending configuration that `config` is but for the digits that another language dropped."""
        import numpy as np

        space, pending = self.tuner.space, self.tuner.pending
        code, others = space.codes([config]), space.codes(pending)
        same = (code == others) | (np.isnan(code) & np.isnan(others))
        apart = np.abs(space.positions(code) - space.positions(others))
        rounded = np.array([parameter.kind == "float" for parameter in space.parameters]) & (apart < _ROUNDED)
        alike = (same | (rounded & ~np.isnan(code) & ~np.isnan(others))).all(axis=1)
        if not alike.any():
            return config
        return pending[int(np.argmin(np.where(alike, apart.max(axis=1), np.inf)))]


class Listener:
    """Lines of input until it ends, or SIGINT or SIGTERM arrives: while waiting at once, else after the
    answer."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting = False
        self.stopped_by = ""

    def lines(self) -> Iterator[bytes | None]:
        """The lines; None in the place of one that is longer than `MOST_LINE` bytes."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            while not self.stopped_by:
                line = self._next()
                if line == b"":
                    return
                yield line
        except _StopWaiting:
            return
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _next(self) -> bytes | None:
        self._waiting = True
        try:
            if self.stopped_by:
                return b""
            line = self._stream.readline(MOST_LINE + 1)
            if len(line) <= MOST_LINE:
                return line
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(MOST_LINE)
            return None
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: Any) -> None:
        self.stopped_by = signal.Signals(number).name
        if self._waiting:
            raise _StopWaiting


class _StopWaiting(BaseException):
    """A signal arrived while waiting for input."""


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_suggest(options: SuggestOptions) -> Outcome:
    """Answers once (`--ask`), or request by request until the input ends."""
    if options.ask is not None:
        return _answer_once(options)
    if options.history is not None:
        raise UsageError("--history needs --ask N; without it, tell the results one by one")
    from hyprl_jax.cli.suggest_files import alone_with

    with contextlib.nullcontext() if options.state is None else alone_with(options.state):
        tuner = _resumed(options, _make_tuner(options))
        return _converse(options, tuner)


def _converse(options: SuggestOptions, tuner: Tuner) -> Outcome:
    stream = getattr(sys.stdin, "buffer", None)  # a closed input is None
    if stream is None:
        return Outcome({})
    if stream.isatty():
        print('one JSON object a line, such as {"ask": 1}; Ctrl-D ends', file=sys.stderr)

    def keep(changed: Tuner) -> None:
        if options.state is not None:
            changed.save(options.state)

    conversation, listener = Conversation(tuner, keep), Listener(stream)
    for line in listener.lines():
        sys.stdout.write(json.dumps(plain(conversation.answer(line)), allow_nan=False) + "\n")
        sys.stdout.flush()
        if conversation.ended:
            break
    if not listener.stopped_by:
        return Outcome({})
    kept = f"; the search is kept in {options.state}" if options.state is not None else ""
    print(f"stopped by {listener.stopped_by} after {len(tuner.results)} results{kept}", file=sys.stderr)
    return Outcome({}, code=INTERRUPTED)


def _answer_once(options: SuggestOptions) -> Outcome:
    from hyprl_jax.cli.suggest_files import read_results

    if options.state is not None:
        raise UsageError("--ask and --state do not go together: ask over standard input, or give --history")
    count = options.ask or 0
    if not 1 <= count <= MOST_ASKED:
        raise UsageError(f"--ask {count}: give a whole number from 1 to {MOST_ASKED}")
    tuner = _make_tuner(options)
    if options.history is not None:
        for config, value in read_results(options.history, tuner.space):
            tuner.tell(config, value)
    configs = tuner.ask_many(count)
    result = {
        "configs": configs,
        "nothing_left": len(configs) < count,
        "results": len(tuner.results),
        "best": best_of(tuner),
    }
    if not options.json:
        # Not through rich, which would change what looks like markup.
        sys.stdout.writelines(json.dumps(config) + "\n" for config in configs)
    return Outcome(result)


def _make_tuner(options: SuggestOptions) -> Tuner:
    from hyprl_jax.cli.suggest_files import read_candidates, read_metafeatures, read_space_file, read_tasks
    from hyprl_jax.runtime import Space, Tuner

    if options.space is None and options.candidates is None:
        raise UsageError("nothing to choose from: give --space FILE, --candidates FILE, or both")
    space = None if options.space is None else read_space_file(options.space)
    listed = None if options.candidates is None else read_candidates(options.candidates, space)
    if space is None:
        space = Space.infer(listed or [])
    return Tuner(
        space,
        candidates=listed,
        direction=options.direction,
        trials=options.trials,
        policy=options.policy,
        earlier=() if options.earlier is None else read_tasks(options.earlier, space),
        metafeatures=None if options.metafeatures is None else read_metafeatures(options.metafeatures),
        seed=options.seed,
    )


def _resumed(options: SuggestOptions, fresh: Tuner) -> Tuner:
    """The search that `--state` holds, which must have begun with the same options; else `fresh`."""
    from hyprl_jax.cli.suggest_files import blaming
    from hyprl_jax.runtime import Tuner
    from hyprl_jax.runtime import state as states

    path = options.state
    if path is None or not path.exists():
        return fresh
    with blaming(path):
        state = states.read(path)
    mine = json.loads(json.dumps(fresh.state()))
    for name in ("space", "candidates", "direction", "seed", "earlier", "metafeatures"):
        if state[name] != mine[name]:
            raise InputError(f"{path}: the search began with another --{name}: use that, or another --state")
    with blaming(path):
        # A state is JSON and cannot hold the function that forbids configurations: it comes from the space.
        return Tuner.from_state({**state, "trials": options.trials}, fresh.policy, fresh.space)


def best_of(tuner: Tuner) -> dict[str, Any] | None:
    """The best result as JSON has it."""
    best: Result | None = tuner.best
    return None if best is None else {"config": best.config, "value": best.value}


def _read_request(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise InputError(f"a line has at most {MOST_LINE} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError('not JSON: write one object a line, such as {"ask": 1}') from None
    if not isinstance(request, dict):
        raise InputError('no JSON object: write for instance {"ask": 1}')
    return request


def _checked_id(name: Any) -> Any:
    finite = not isinstance(name, float) or math.isfinite(name)
    if not (name is None or isinstance(name, str | int | float)) or not finite:
        raise InputError("an id is a text or a number")
    return name


def _checked_config(config: Any) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise InputError("a configuration is an object: hyperparameter to value")
    return config


def _read(words: list[str], program: str) -> SuggestOptions:
    options = read_options(SuggestOptions, words, program)
    # Requests are answered in JSON anyway, line by line.
    return options if options.ask is not None else dataclasses.replace(options, json=False)


SUGGEST = Command(SuggestOptions, run_suggest, read=_read)
