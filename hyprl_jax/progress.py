"""How far long work has come: a bar on a terminal, a plain line now and then elsewhere, or nothing.

Everything goes to standard error, so that standard output stays free for results.

    with Progress(total=1000, what="training") as progress:
        progress.update(250, "regret 0.041")
        progress.note("validation has improved")
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """Progress of one piece of work with `total` steps.

    Args:
      total: steps until it is done.
      what: what is being done, a word or two.
      silent: print nothing at all, notes excepted.
      seconds: least time between two plain lines, where there is no terminal.
      stream: where to print; standard error if left out.
    """

    def __init__(
        self,
        total: int,
        what: str,
        *,
        silent: bool = False,
        seconds: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.total = total
        self.what = what
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._silent = silent
        self._seconds = seconds
        self._started = time.monotonic()
        self._printed_at = -float("inf")
        self._printed_line = ""
        self._line = ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        if not self._silent and _is_terminal(self._stream):
            self._bar = _rich_bar(self._stream)
            self._task = self._bar.add_task(self.what, total=self.total, detail="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif not self._silent and self._line != self._printed_line:
            self._print(self._line)

    def update(self, done: int, detail: str = "") -> None:
        """Says that `done` steps of the total are behind us, with a few words on how it goes."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, detail=detail)
            return
        self._line = self._plain_line(detail)
        now = time.monotonic()
        if not self._silent and now - self._printed_at >= self._seconds:
            self._printed_at = now
            self._print(self._line)

    def note(self, line: str) -> None:
        """Prints a line of its own, above the bar if there is one; a silent progress prints it too."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def _plain_line(self, detail: str) -> str:
        """`training: 250/1000 (25 %), 12 s, about 36 s left, regret 0.041`."""
        passed = time.monotonic() - self._started
        share = self.done / self.total if self.total else 1.0
        parts = [f"{self.what}: {self.done}/{self.total} ({share:.0%})", _duration(passed)]
        if 0 < share < 1:
            parts.append(f"about {_duration(passed * (1 - share) / share)} left")
        return ", ".join([*parts, detail] if detail else parts)

    def _print(self, line: str) -> None:
        self._printed_line = line
        print(line, file=self._stream, flush=True)


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar that moves can be drawn on it."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def _duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rich_bar(stream: TextIO) -> Any:
    """A bar by rich, which is only loaded where there is a terminal."""
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[detail]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )
