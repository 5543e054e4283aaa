"""How a build tells how far it is: a progress bar on a terminal, plain lines anywhere else, both on standard
error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, str], None]

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """A callback `progress(done, total, label)` for `build`, shown for as long as the block lasts."""
    if sys.stderr.isatty():
        with _bar(title) as callback:
            yield callback
    else:
        yield _lines(title)


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("", total=None)
        yield lambda done, total, label: bar.update(row, completed=done, total=total, description=label)


def _lines(title: str) -> Progress:
    last = -SECONDS_BETWEEN_LINES

    def callback(done: int, total: int, label: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            print(f"{title}: {done}/{total} {label}", file=sys.stderr, flush=True)

    return callback
