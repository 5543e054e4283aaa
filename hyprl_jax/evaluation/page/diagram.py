"""The critical-difference diagram of the report page, as inline SVG.

After Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006, section 3.2.2:
methods on an axis of mean ranks, and bars that join those which Nemenyi's test does not tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hyprl_jax.evaluation.findings import RankDiagram
from hyprl_jax.evaluation.page.charts import FONT, MOST_NAME, NARROW, WIDE, Frame, Words, drawing, label, text
from hyprl_jax.evaluation.page.markup import Markup, element, joined, number
from hyprl_jax.evaluation.scales import text_width

ROW, BAR = 21.0, 8.0  # height of a name and of a bar
AXIS = 60.0  # where the axis lies
RANK = 44.0  # width of a mean rank and the air around it
LEAST_SIDE = 165.0  # room left of the axis for the words about the critical difference
TICK = 26.0  # least distance of two ticks


def rank_diagrams(diagram: RankDiagram, words: Words, frames: Sequence[Frame] = (WIDE, NARROW)) -> Markup:
    """The diagram in every frame; ranks grow to the right, so the best method is the leftmost."""
    return joined(_diagram(diagram, words, frame) for frame in frames)


def _diagram(diagram: RankDiagram, words: Words, frame: Frame) -> Markup:
    """Names on both sides where there is room for them, else all on the left, where no lines cross either."""
    names = min(max(text_width(name, FONT) for name in diagram.methods), MOST_NAME)
    left = diagram.left if frame.labels else len(diagram.methods)
    inner = (max(names + RANK + 12, LEAST_SIDE), frame.width - (names + RANK + 12 if frame.labels else 16))
    first = math.floor(diagram.ranks[0])
    last = max(math.ceil(diagram.ranks[-1]), first + 1)

    def x_of(rank: float) -> float:
        return inner[0] + (inner[1] - inner[0]) * (rank - first) / (last - first)

    parts = [text(4, 14, words.axis, "axis"), *_ruler(diagram, x_of, inner, (first, last))]
    bars_end = AXIS + 12 + BAR * max((bar.level + 1 for bar in diagram.bars), default=0)
    for bar in diagram.bars:
        y = AXIS + 12 + BAR * bar.level
        parts.append(
            element("line", x1=x_of(bar.low) - 3, x2=x_of(bar.high) + 3, y1=y, y2=y, class_="clique")
        )
    for place, (name, rank) in enumerate(zip(diagram.methods, diagram.ranks, strict=True)):
        on_left = place < left
        y = bars_end + 12 + ROW * (place if on_left else len(diagram.methods) - 1 - place)
        edge, step, anchor = (inner[0] - 4, -1, "end") if on_left else (inner[1] + 4, 1, "start")
        x = x_of(rank)
        stroke = f"M{number(x)},{number(AXIS)} V{number(y)} H{number(edge)}"
        parts.append(element("path", d=stroke, class_="connector"))
        parts.append(text(edge + 4 * step, y + 4, f"{rank:.2f}", "tick", anchor))
        parts.append(label(edge + (RANK + 4) * step, y + 4, name, names, "series", anchor))
    return drawing(frame, words, *parts, height=bars_end + 12 + ROW * left)


def _ruler(
    diagram: RankDiagram, x_of: Callable[[float], float], inner: tuple[float, float], ends: tuple[int, int]
) -> list[Markup]:
    """The axis with its ticks, and the critical difference as a length above it."""
    parts = [element("line", x1=inner[0], x2=inner[1], y1=AXIS, y2=AXIS, class_="axis-line")]
    step = math.ceil((ends[1] - ends[0]) / max((inner[1] - inner[0]) / TICK, 1.0))
    for rank in range(ends[0], ends[1] + 1, step):
        x = x_of(rank)
        parts.append(element("line", x1=x, x2=x, y1=AXIS - 5, y2=AXIS, class_="axis-line"))
        parts.append(text(x, AXIS - 9, str(rank), anchor="middle"))
    length = x_of(ends[0] + diagram.difference) - inner[0]
    words = f"critical difference {diagram.difference:.2f}"
    if length > inner[1] - inner[0]:
        return [*parts, text(4, 32, words + ", longer than the axis")]
    stroke = f"M{number(inner[0])},24 v8 m0,-4 h{number(length)} m0,-4 v8"
    return [*parts, text(4, 32, words), element("path", d=stroke, class_="axis-line")]
