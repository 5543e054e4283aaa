"""Charts of the report page as inline SVG: lines over trials, and spans on a log axis.

Every chart is drawn twice from the same numbers, for wide and for narrow screens; the style sheet shows one
of them. Colours are classes (`s0` to `s7`, dashes `d0` to `d3`), so the page's dark colours reach them too. A
chart has a title and a description for those who cannot see it; the numbers stand in the page's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hyprl_jax.evaluation.page.markup import LONGEST_NAME, Markup, clean, element, joined, number
from hyprl_jax.evaluation.scales import (
    LOWEST_REGRET,
    NANOSECOND,
    duration,
    fitted,
    log_range,
    log_ticks,
    shortened,
    spread,
    text_width,
    trial_ticks,
)

COLOURS, DASHES = 8, 4
FONT = 12.5  # size of names, as in the style sheet
MOST_NAME = 150.0  # width of names at the lines' ends
MOST_POINTS = 400  # of one line: more could not be told apart on any screen


@dataclass(frozen=True)
class Frame:
    """Size of a drawing, and whether it is for narrow screens; units are CSS pixels at its natural size."""

    name: str
    width: float
    height: float
    labels: bool = True  # names at the lines' ends; else the legend alone tells


WIDE = Frame("wide", 640.0, 400.0)
NARROW = Frame("narrow", 340.0, 290.0, labels=False)
SMALL = Frame("small", 300.0, 210.0, labels=False)


@dataclass(frozen=True, eq=False)
class Line:
    """A method's values `[T]`, with the ends `[T, 2]` of their intervals if known; `style` counts colours."""

    name: str
    values: np.ndarray
    style: int
    strong: bool = False
    ends: np.ndarray | None = None


@dataclass(frozen=True)
class Span:
    """A point, and how far the values around it reach."""

    name: str
    value: float
    high: float | None
    style: int


@dataclass(frozen=True)
class Words:
    """What a chart is called: its key for ids, title, description and the label of the vertical axis."""

    key: str
    title: str
    description: str
    axis: str


def style_class(line: Line) -> str:
    """Classes of a method's line: colours repeat with another dash, strong lines are solid."""
    dash = 0 if line.strong else (line.style // COLOURS) % DASHES
    return f"line s{line.style % COLOURS} d{dash}{' strong' if line.strong else ''}"


def drawing(frame: Frame, words: Words, *content: Markup, height: float | None = None) -> Markup:
    """An SVG element of the frame's size that scales with the page, with title and description."""
    key = f"{words.key}-{frame.name}"
    return element(
        "svg",
        element("title", words.title, id=f"{key}-title"),
        element("desc", words.description, id=f"{key}-desc"),
        *content,
        class_=f"chart {frame.name}",
        viewBox=f"0 0 {number(frame.width)} {number(frame.height if height is None else height)}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def line_charts(
    lines: Sequence[Line], words: Words, log: bool, frames: Sequence[Frame] = (WIDE, NARROW)
) -> Markup:
    """Lines over trials, in every frame: regrets on a log axis, or ranks with 1 at the top."""
    return joined(_line_chart(lines, words, log, frame) for frame in frames)


def text(x: float, y: float, words: str, class_: str = "tick", anchor: str = "start") -> Markup:
    """Words in a drawing, `anchor` being start, middle or end."""
    return element("text", words, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def label(x: float, y: float, name: str, width: float, class_: str, anchor: str = "start") -> Markup:
    """A name in a drawing, cut where it would be wider than `width`, with all of it as a tooltip then."""
    words = fitted(clean(name), width, FONT)
    tip = [element("title", name)] if words != name else []
    return element(
        "text", *tip, words, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor
    )


def _line_chart(lines: Sequence[Line], words: Words, log: bool, frame: Frame) -> Markup:
    names = min(max(text_width(line.name, FONT) for line in lines), MOST_NAME)
    right = 20 + names if frame.labels else 12.0
    left, top, bottom = 50.0, 26.0, frame.height - 38.0
    trials = len(lines[0].values)
    x_of = _positions(trials, left, frame.width - right)
    ticks, y_of = _log_axis(lines, top, bottom) if log else _rank_axis(lines, top, bottom)
    shown = _shown_trials(trials)
    parts = [text(4, 14, words.axis, "axis")]
    for value, mark in ticks.items():
        y = y_of(np.asarray([value]))[0]
        parts.append(element("line", x1=left, x2=frame.width - right, y1=y, y2=y, class_="grid"))
        parts.append(text(left - 6, y + 4, mark, anchor="end"))
    for trial in trial_ticks(trials, 8 if frame.labels else 5):
        x = x_of(np.asarray([trial]))[0]
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis-line"))
        parts.append(text(x, bottom + 18, str(trial), anchor="middle"))
    parts.append(element("line", x1=left, x2=frame.width - right, y1=bottom, y2=bottom, class_="axis-line"))
    parts.append(text((left + frame.width - right) / 2, bottom + 34, "trial", anchor="middle"))
    xs = x_of(shown + 1)
    order = sorted(lines, key=lambda line: line.strong)  # the strong ones on top
    wanted = with_bands(lines)
    bands = [_band(one, xs, y_of(one.ends[shown])) for one in order if one in wanted and one.ends is not None]
    parts += [*bands, *(_curve(line, xs, y_of(line.values[shown])) for line in order)]
    if frame.labels:
        parts.append(_end_labels(lines, y_of, (frame.width - right, names), (top, bottom)))
    return drawing(frame, words, *parts)


def with_bands(lines: Sequence[Line]) -> list[Line]:
    """Which lines (best first) show their intervals: all, or of many the three best and the strong ones."""
    return [line for place, line in enumerate(lines) if len(lines) <= COLOURS or place < 3 or line.strong]


def _positions(trials: int, left: float, right: float) -> Callable[[np.ndarray], np.ndarray]:
    """From trials (1-based) to horizontal positions; a single trial stands in the middle."""
    if trials == 1:
        return lambda trial: np.full(len(trial), (left + right) / 2)
    return lambda trial: left + (right - left) * (np.asarray(trial) - 1) / (trials - 1)


def _log_axis(
    lines: Sequence[Line], top: float, bottom: float
) -> tuple[dict[float, str], Callable[[np.ndarray], np.ndarray]]:
    low, high, floor = log_range(np.concatenate([line.values for line in lines]))

    def y_of(values: np.ndarray) -> np.ndarray:
        share = np.log(np.clip(values, low, high) / low) / np.log(high / low)
        return bottom - (bottom - top) * share

    return log_ticks(low, high, floor), y_of


def _rank_axis(
    lines: Sequence[Line], top: float, bottom: float
) -> tuple[dict[float, str], Callable[[np.ndarray], np.ndarray]]:
    ends = [line.ends.ravel() for line in lines if line.ends is not None]
    values = np.concatenate([*(line.values for line in lines), *ends])
    margin = max(0.06 * float(np.ptp(values)), 0.2)
    low, high = float(values.min()) - margin, float(values.max()) + margin
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if (high - low) / s <= 8)
    marks = np.arange(np.ceil(low / step) * step, high, step)
    ticks = {float(mark): f"{mark:g}" for mark in marks if mark >= 1 - 1e-9}
    return ticks, lambda ranks: top + (bottom - top) * (np.asarray(ranks) - low) / (high - low)


def _shown_trials(trials: int) -> np.ndarray:
    """Indices of the trials whose points are drawn: all, or evenly spread ones with both ends."""
    if trials <= MOST_POINTS:
        return np.arange(trials)
    return np.unique(np.round(np.linspace(0, trials - 1, MOST_POINTS)).astype(np.int64))


def _points(xs: np.ndarray, ys: np.ndarray) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in zip(xs, ys, strict=True))


def _band(line: Line, xs: np.ndarray, ends: np.ndarray) -> Markup:
    """The interval `[points, 2]` (vertical positions) as an area, as a bar where there is one trial only."""
    strength = "band strong" if line.strong else "band"
    if len(xs) == 1:
        return element(
            "line",
            x1=xs[0],
            x2=xs[0],
            y1=ends[0, 0],
            y2=ends[0, 1],
            class_=f"whisker s{line.style % COLOURS}",
        )
    outline = f"{_points(xs, ends[:, 0])} {_points(xs[::-1], ends[::-1, 1])}"
    return element("polygon", points=outline, class_=f"{strength} s{line.style % COLOURS}")


def _curve(line: Line, xs: np.ndarray, ys: np.ndarray) -> Markup:
    kind = style_class(line)
    tip = element("title", line.name)
    if len(xs) == 1:
        return element("circle", tip, cx=xs[0], cy=ys[0], r=5 if line.strong else 4, class_=f"dot {kind}")
    return element("path", tip, d=f"M{_points(xs, ys)}", class_=kind)


def _end_labels(
    lines: Sequence[Line],
    y_of: Callable[[np.ndarray], np.ndarray],
    across: tuple[float, float],
    down: tuple[float, float],
) -> Markup:
    """Names right of the lines' ends, moved apart where they would overlap, with thin leader lines.

    `across` is where the lines end and how wide names may be, `down` the ends of the vertical axis.
    """
    (x, width), (top, bottom) = across, down
    wanted = y_of(np.asarray([line.values[-1] for line in lines])) - top
    gap = min(15.0, (bottom - top) / len(lines))
    placed = spread(wanted, gap, bottom - top)
    parts = []
    for line, start, end in zip(lines, wanted + top, placed + top, strict=True):
        leader = f"M{number(x + 2)},{number(start)} L{number(x + 14)},{number(end)}"
        parts.append(element("path", d=leader, class_=f"leader s{line.style % COLOURS}"))
        parts.append(label(x + 17, end + 4, line.name, width, "series strong" if line.strong else "series"))
    return element("g", *parts)


def legend(lines: Sequence[Line]) -> Markup:
    """The names with their colours and dashes, as a list that wraps."""
    items = []
    for line in lines:
        stroke = element("path", d="M1,6 L25,6", class_=style_class(line))
        swatch = element("svg", stroke, viewBox="0 0 26 12", class_="swatch", aria_hidden="true")
        short = shortened(line.name, LONGEST_NAME)
        kind, tip = "strong" if line.strong else None, line.name if short != line.name else None
        name = element("bdi", short, class_=kind, title=tip)
        items.append(element("li", swatch, name))
    return element("ul", *items, class_="legend")


def span_charts(spans: Sequence[Span], words: Words, frames: Sequence[Frame] = (WIDE, NARROW)) -> Markup:
    """One row a method: a dot at its value in milliseconds and a line up to `high`, on a log axis."""
    return joined(_span_chart(spans, words, frame) for frame in frames)


def _span_chart(spans: Sequence[Span], words: Words, frame: Frame) -> Markup:
    names = min(
        max(text_width(span.name, FONT) for span in spans), 1.2 * MOST_NAME if frame.labels else 105.0
    )
    left = 16 + names
    right, row, top = 14.0, 24.0, 24.0
    bottom = top + row * len(spans) + 4
    values = np.asarray([max(v, NANOSECOND) for s in spans for v in (s.value, s.high) if v is not None])
    low, high = 10.0 ** np.floor(np.log10(values.min())), 10.0 ** np.ceil(np.log10(values.max()) + 1e-9)

    def x_of(value: float) -> float:
        share = np.log(max(value, low) / low) / np.log(high / low)
        return float(left + (frame.width - left - right) * share)

    parts = [text(4, 14, words.axis, "axis")]
    powers = np.arange(np.log10(low), np.log10(high) + 0.5)
    every = int(np.ceil(len(powers) / (9 if frame.labels else 5)))
    for power in powers[::every]:
        x = x_of(10.0**power)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        anchor = "end" if x > frame.width - 40 else "middle"
        parts.append(text(x, bottom + 16, duration(10.0**power), anchor=anchor))
    for place, span in enumerate(spans):
        y = top + row * (place + 0.5)
        parts.append(label(left - 8, y + 4, span.name, names, "series", "end"))
        colour = f"s{span.style % COLOURS}"
        if span.high is not None:
            parts.append(
                element("line", x1=x_of(span.value), x2=x_of(span.high), y1=y, y2=y, class_=f"reach {colour}")
            )
        parts.append(element("circle", cx=x_of(span.value), cy=y, r=5, class_=f"dot {colour}"))
    return drawing(frame, words, *parts, height=bottom + 24)


def lowest_words() -> str:
    """What a reader must know of the lower end of a log axis."""
    return f"Regrets below {LOWEST_REGRET:g} lie on the lower end of the axis."
