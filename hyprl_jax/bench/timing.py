"""Two ways to do the same work, timed in turns: the machine's mood hits both alike.

Each side runs alone for a while, then the other, several times over; ratios are taken within a turn and their
median is reported with their range. Compilation happens before the first turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Figures = dict[str, Any]


class Side(NamedTuple):
    """One way to do the work."""

    run: Callable[[], None]
    """Does it once, and returns when it is done."""
    steps: int
    """Environment steps of one run."""


def compare(batched: Side, loop: Side, turns: int, seconds: float) -> Figures:
    """Speeds of both sides and their ratio, over `turns` turns of at least `seconds` a side."""
    for side in (batched, loop):
        side.run()
        side.run()  # what is restored or donated may compile once more
    pairs = [(speed(batched, seconds), speed(loop, seconds)) for _ in range(turns)]
    ratios = [fast / slow for fast, slow in pairs]
    return {
        "env_steps_per_second": float(np.median([fast for fast, _ in pairs])),
        "loop_steps_per_second": float(np.median([slow for _, slow in pairs])),
        "ratio_to_loop": float(np.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
    }


def speed(side: Side, seconds: float) -> float:
    """Environment steps per second over at least `seconds`."""
    runs, start = 0, time.perf_counter()
    while True:
        side.run()
        runs += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return runs * side.steps / elapsed
