"""How jobs tell how far they are: a live table of its jobs on a terminal, plain lines anywhere else; on
standard error in both cases.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from hyprl_jax.jobs.engine import DONE, FAILED, PROGRESS, STARTED, STOPPED, Event, Job

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Board", "show_jobs"]

_SECONDS = 10.0  # least time between two lines about one job
_ROWS = 12  # jobs that the live table shows


class Board:
    """What is known of the jobs of a round, event by event."""

    def __init__(self, what: str, jobs: Sequence[Job], stream: TextIO | None = None) -> None:
        self.what = what
        self.total = len(jobs)
        self.running: dict[str, Event] = {}
        self.ended: list[Event] = []
        self._stream = stream or sys.stderr
        self._told_at: dict[str, float] = {}

    def watch(self, event: Event) -> None:
        """Takes note of an event."""
        if event.kind in (STARTED, PROGRESS):
            self.running[event.name] = event
            return
        self.running.pop(event.name, None)
        self.ended.append(event)

    def tell(self, event: Event) -> None:
        """Takes note of an event and prints a line of it, progress not more often than is readable."""
        self.watch(event)
        now = time.monotonic()
        recent = now - self._told_at.get(event.name, -_SECONDS) < _SECONDS
        if event.kind == PROGRESS and recent and event.done < event.total:
            return
        self._told_at[event.name] = now
        ended = sum(one.kind in (DONE, FAILED) for one in self.ended)
        count = f" ({ended} of {self.total} jobs ended)" if event.kind == DONE else ""
        print(f"{self.what}: {event.name} {self.words(event)}{count}", file=self._stream, flush=True)

    def words(self, event: Event) -> str:
        """How a job stands, in words."""
        if event.kind == PROGRESS:
            return f"{event.done}/{event.total} {event.detail}".rstrip()
        if event.kind == DONE:
            return f"done in {event.seconds:.0f} s"
        if event.kind == FAILED:
            return f"failed: {event.detail}"
        return "stopped" if event.kind == STOPPED else "started"

    def table(self) -> Any:
        """The live table: what runs, and what ended last."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        failed = sum(one.kind == FAILED for one in self.ended)
        done = sum(one.kind == DONE for one in self.ended)
        title = f"{self.what}: {done} of {self.total} jobs done" + (f", {failed} failed" if failed else "")
        table = Table()
        for column in ("job", "state"):
            table.add_column(column)
        last = self.ended[-max(0, _ROWS - len(self.running)) :] if len(self.running) < _ROWS else []
        for event in (*last, *list(self.running.values())[:_ROWS]):
            table.add_row(Text(event.name), Text(self.words(event)))
        return Group(Text(title, style="italic"), table)  # a title of the table would be as narrow as it


@contextmanager
def show_jobs(what: str, jobs: Sequence[Job]) -> Iterator[Callable[[Event], None]]:
    """A callback for the events of these jobs, shown for as long as the block lasts."""
    board = Board(what, jobs)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield board.tell
        return
    from rich.console import Console
    from rich.live import Live

    with Live(board.table(), console=Console(stderr=True), refresh_per_second=4) as live:

        def watch(event: Event) -> None:
            board.watch(event)
            live.update(board.table())

        yield watch
