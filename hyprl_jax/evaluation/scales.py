"""Numbers behind the axes of every picture: where a log axis starts and ends, its ticks, where labels go.

Both the pictures for documents (`plots`, `diagrams`, drawn by matplotlib) and those inside the report page
(`page`, SVG written by hand) use these, so they agree. Nothing here knows about drawing.
"""

from __future__ import annotations

import math
import unicodedata

import numpy as np

LOWEST_REGRET = 1e-4  # what is below, zero above all, is drawn on the lower end of the log axis

NANOSECOND = 1e-6  # in milliseconds: no suggestion is drawn faster


def spread(wanted: np.ndarray, gap: float, height: float) -> np.ndarray:
    """Positions near `wanted` `[M]`, in the same order, at least `gap` apart and within 0 and `height`.

    Least squares with a minimum distance: after subtracting `gap * place` the positions only have to be in
    order, so neighbours out of order are pooled into their mean (pool adjacent violators).
    """
    order = np.argsort(wanted, kind="stable")
    shifted = wanted[order] - gap * np.arange(len(wanted))
    blocks: list[list[float]] = []  # sum, count
    for value in shifted:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    level = np.concatenate([np.full(int(count), total / count) for total, count in blocks])
    level = np.clip(level, 0.0, max(height - gap * (len(wanted) - 1), 0.0))
    placed = np.empty(len(wanted))
    placed[order] = level + gap * np.arange(len(wanted))
    return placed


def log_range(values: np.ndarray) -> tuple[float, float, str | None]:
    """Ends of a log axis for regrets `values`, and what its lower end stands for if some lie below it."""
    shown = values[values >= LOWEST_REGRET]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.1, 0.5)
    hidden = values[values < LOWEST_REGRET]
    top = max(high, 2.0 * low) * 1.25
    if hidden.size == 0:
        return low / 1.35, top, None
    return low / 3.0, top, "0" if (hidden == 0.0).all() else f"<{LOWEST_REGRET:g}"


def log_ticks(low: float, high: float, floor_label: str | None = None) -> dict[float, str]:
    """Ticks of a log axis with their words: 0.02 and 0.5, not powers of ten, and few enough to read.

    `floor_label` are words of their own for the lower end; no other tick then comes near them.
    """
    decades = math.log10(high / low)
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if decades < 1.2 else steps
    lowest = low if floor_label is None else low * 10 ** (0.07 * decades)  # room for the words
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    marks = {float(f"{value:.6g}"): f"{value:g}" for value in values if lowest <= value <= high}
    if floor_label is not None:
        marks[low] = floor_label
    return marks


def trial_ticks(trials: int, most: int = 8) -> list[int]:
    """Round trials to mark on an axis from 1 to `trials`: always 1, the last one where it has room."""
    if trials == 1:
        return [1]
    steps = (factor * 10**power for power in range(8) for factor in (1, 2, 5))
    step = next(step for step in steps if trials / step <= most)
    ticks = [tick for tick in range(step, trials + 1, step) if tick > 1 + 0.4 * step]
    if trials - (ticks[-1] if ticks else 1) > 0.6 * step:
        ticks.append(trials)
    return [1, *ticks]


def shortened(text: str, length: int = 24) -> str:
    """The text itself, or its beginning with an ellipsis: never longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def text_width(text: str, size: float) -> float:
    """About how wide a text becomes in a font of `size`, rather too wide: no font is known here."""
    return size * sum(_character_width(character) for character in text)


def fitted(text: str, width: float, size: float) -> str:
    """The text itself, or as much of its beginning as fits into `width`, with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    room, kept = width - size, []
    for character in text:
        room -= size * _character_width(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def _character_width(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF" or ord(character) > 0x2E80:
        return 1.1
    return 0.4 if character in " ilj.,:;'|!()[]" else 0.95 if character in "mwMW@%&—" else 0.65


def duration(milliseconds: float) -> str:
    """Three significant digits in the unit that suits them: `850 ns`, `12.3 µs`, `4.56 ms`, `1.2 s`."""
    units = (("h", 3.6e6), ("min", 6e4), ("s", 1e3), ("ms", 1.0), ("µs", 1e-3))
    for unit, size in units:
        if milliseconds >= size * (3.0 if unit in ("h", "min") else 1.0):
            return f"{_digits(milliseconds / size)} {unit}"
    return "0" if milliseconds == 0.0 else f"{_digits(milliseconds * 1e6)} ns"


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
