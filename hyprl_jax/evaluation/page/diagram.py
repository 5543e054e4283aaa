"""The critical-difference diagram of the report page, as inline SVG.

After Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006, section 3.2.2:
methods on an axis of mean ranks, and bars that join those which Nemenyi's test does not tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hyprl_jax.evaluation.findings import RankDiagram
from hyprl_jax.evaluation.page.charts import NARROW, WIDE, Frame, Words, drawing, label, text
from hyprl_jax.evaluation.page.markup import Markup, element, joined, number

ROW, BAR = 21.0, 8.0  # height of a name and of a bar


def rank_diagrams(diagram: RankDiagram, words: Words, frames: Sequence[Frame] = (WIDE, NARROW)) -> Markup:
    """The diagram in every frame; ranks grow to the right, so the best method is the leftmost."""
    return joined(_diagram(diagram, words, frame) for frame in frames)


def _diagram(diagram: RankDiagram, words: Words, frame: Frame) -> Markup:
    letters = 24 if frame.labels else 11
    side = 8 + 6.6 * min(letters + 6, max(len(name) for name in diagram.methods) + 6)
    first, last = (
        math.floor(diagram.ranks[0]),
        max(math.ceil(diagram.ranks[-1]), math.floor(diagram.ranks[0]) + 1),
    )
    inner = (side, frame.width - side)

    def x_of(rank: float) -> float:
        return inner[0] + (inner[1] - inner[0]) * (rank - first) / (last - first)

    axis = 54.0
    parts = [text(4, 14, words.axis, "axis"), *_ruler(diagram, x_of, inner, axis, (first, last))]
    bars_end = axis + 12 + BAR * max((bar.level + 1 for bar in diagram.bars), default=0)
    for bar in diagram.bars:
        y = axis + 12 + BAR * bar.level
        parts.append(
            element("line", x1=x_of(bar.low) - 3, x2=x_of(bar.high) + 3, y1=y, y2=y, class_="clique")
        )
    left = diagram.left
    for place, (name, rank) in enumerate(zip(diagram.methods, diagram.ranks, strict=True)):
        on_left = place < left
        row = place if on_left else len(diagram.methods) - 1 - place
        y = bars_end + 12 + ROW * row
        x, edge = x_of(rank), inner[0] - 4 if on_left else inner[1] + 4
        stroke = f"M{number(x)},{number(axis)} L{number(x)},{number(y)} L{number(edge)},{number(y)}"
        parts.append(element("path", d=stroke, class_="connector"))
        words_x = edge - 4 if on_left else edge + 4
        parts += _named(words_x, y + 4, name, rank, letters, "end" if on_left else "start")
    return drawing(frame, words, *parts, height=bars_end + 12 + ROW * left)


def _named(x: float, y: float, name: str, rank: float, letters: int, anchor: str) -> list[Markup]:
    """The mean rank next to the line, and the name beyond it."""
    beyond = x - 34 if anchor == "end" else x + 34
    return [
        text(x, y, f"{rank:.2f}", "tick", anchor),
        label(beyond, y, name, letters, "series", anchor),
    ]


def _ruler(
    diagram: RankDiagram,
    x_of: Callable[[float], float],
    inner: tuple[float, float],
    axis: float,
    ends: tuple[int, int],
) -> list[Markup]:
    """The axis with its ticks, and the critical difference as a length above it."""
    parts = [element("line", x1=inner[0], x2=inner[1], y1=axis, y2=axis, class_="axis-line")]
    step = math.ceil((ends[1] - ends[0]) / 12)
    for rank in range(ends[0], ends[1] + 1, step):
        x = x_of(rank)
        parts.append(element("line", x1=x, x2=x, y1=axis - 5, y2=axis, class_="axis-line"))
        parts.append(text(x, axis - 9, str(rank), anchor="middle"))
    length = x_of(ends[0] + diagram.difference) - x_of(ends[0])
    words = f"critical difference {diagram.difference:.2f}"
    if length <= inner[1] - inner[0]:
        y = 24.0
        start = inner[0]
        stroke = f"M{number(start)},{y - 4} v8 M{number(start)},{y} h{number(length)} m0,-4 v8"
        parts.append(element("path", d=stroke, class_="axis-line"))
        parts.append(text(start + length + 8, y + 4, words, "tick"))
    else:
        parts.append(text(inner[0], 28, words + " (longer than the axis)", "tick"))
    return parts
