"""More pictures for documents, beside those of `plots`: rank diagrams, tasks by methods, speed.

Built from matplotlib's objects like `plots`, on white, as PNG and SVG through `plots.render`. The report page
has drawings of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hyprl_jax.evaluation.comparison import Comparison
from hyprl_jax.evaluation.findings import (
    PERIODS,
    RankDiagram,
    focus_method,
    ordered_methods,
    rank_diagram,
    task_regrets,
)
from hyprl_jax.evaluation.plots import INK, PALETTE, plain
from hyprl_jax.evaluation.scales import NANOSECOND, duration, shortened
from hyprl_jax.evaluation.table import title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TASKS = 80  # rows of the picture of tasks
LETTERS = 28
_MUTED = "#666666"


def document_figures(summary: dict[str, Any], comparison: Comparison) -> dict[str, Figure]:
    """The figures that can be drawn, by the stems of their files."""
    figures = {
        "critical_difference": critical_difference_figure(summary),
        "tasks": tasks_figure(summary, comparison),
        "speed": speed_figure(summary),
    }
    return {stem: figure for stem, figure in figures.items() if figure is not None}


def critical_difference_figure(summary: dict[str, Any]) -> Figure | None:
    """Demsar's diagrams, at the last trial above that of the mean over trials; None where there is none."""
    found = {period: rank_diagram(summary, period) for period in PERIODS}
    diagrams = {period: one for period, one in found.items() if isinstance(one, RankDiagram)}
    if not diagrams:
        return None
    heights = [_diagram_rows(one) * 0.24 for one in diagrams.values()]
    figure = _figure(8.0, sum(heights) + 0.35)
    top = sum(heights)
    figure.text(0.02, 1 - 0.24 / (top + 0.35), plain(title(summary)), fontsize=10.5, color=INK)
    for (period, diagram), height in zip(diagrams.items(), heights, strict=True):
        top -= height
        total = sum(heights) + 0.35
        axes = figure.add_axes((0.0, top / total, 1.0, height / total))
        words = f"trial {summary['trials']}" if period == "last_trial" else "mean over trials"
        _draw_diagram(axes, diagram, words)
    return figure


def tasks_figure(summary: dict[str, Any], comparison: Comparison) -> Figure | None:
    """How far each method is behind the best one of each task at the last trial; None for one method."""
    names = ordered_methods(summary)
    if len(names) < 2:
        return None
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    regrets = task_regrets(comparison, names, summary["trials"])
    kept = set(regrets.most_different(MOST_TASKS).tolist())
    rows = [task for task in regrets.order(focus_method(summary)).tolist() if task in kept]
    behind = regrets.behind()[:, rows].T  # [tasks, M]
    labels = [plain(shortened(name, 20)) for name in names]
    longest = max(len(label) for label in labels)
    left, right, bottom, above = 2.4, 1.0, 0.2, 0.65 + 0.055 * longest
    width, height = left + 0.62 * len(names) + right, bottom + 0.17 * len(rows) + above
    figure = _figure(max(width, 6.0), height)
    size = figure.get_size_inches()
    place = (left / size[0], bottom / size[1], 0.62 * len(names) / size[0], 0.17 * len(rows) / size[1])
    axes = figure.add_axes(place)
    ramp = ["#d4e6f5", "#f7f7f5", "#f9d296", "#d9713f", "#7a230a"]
    colours = LinearSegmentedColormap.from_list("behind", ramp)
    image = axes.imshow(
        behind, aspect="auto", cmap=colours, norm=PowerNorm(0.4, 0.0, max(behind.max(), 0.05))
    )
    axes.set_yticks(
        range(len(rows)), [plain(shortened(regrets.tasks[row], LETTERS)) for row in rows], fontsize=7.5
    )
    axes.set_xticks(range(len(names)), labels, rotation=40, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(behind < 1e-12):
        axes.text(column, row, "•", ha="center", va="center", fontsize=6, color="#0b5c94")
    tall = min(place[3], 2.2 / size[1])
    bar = figure.add_axes(
        (place[0] + place[2] + 0.2 / size[0], place[1] + place[3] - tall, 0.14 / size[0], tall)
    )
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7, colors=INK)
    hidden = f"; the {len(rows)} most different tasks" if len(rows) < len(regrets.tasks) else ""
    words = f"regret behind the best method of each task (•), trial {summary['trials']}{hidden}"
    figure.text(0.02, 1 - 0.22 / size[1], plain(title(summary)), fontsize=10, color=INK)
    figure.text(0.02, 1 - 0.42 / size[1], words, fontsize=8, color=_MUTED)
    return figure


def speed_figure(summary: dict[str, Any]) -> Figure | None:
    """Median time of a suggestion as dots, lines up to the 95th percentile; None if not measured."""
    rows = []
    for index, (name, figures) in enumerate(summary["methods"].items()):
        cost = figures.get("suggest")
        median = cost["median_ms"] if cost else figures["suggest_ms"]
        if median is not None:
            ends = np.maximum([median, cost["p95_ms"] if cost else median], NANOSECOND)
            rows.append((*ends.tolist(), name, PALETTE[index % len(PALETTE)]))
    if not rows:
        return None
    rows.sort(key=lambda row: -row[0])
    figure = _figure(8.0, 1.0 + 0.26 * len(rows))
    size = figure.get_size_inches()
    axes = figure.add_axes((0.27, 0.5 / size[1], 0.69, 0.26 * len(rows) / size[1]))
    for place, (median, high, _, colour) in enumerate(rows):
        axes.plot([median, max(high, median)], [place, place], color=colour, linewidth=2.5, alpha=0.55)
        axes.plot([median], [place], "o", color=colour, markersize=6)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [plain(shortened(row[2], LETTERS)) for row in rows], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    low, high = min(row[0] for row in rows), max(row[1] for row in rows)
    powers = range(int(np.floor(np.log10(low))), int(np.floor(np.log10(high))) + 2)
    axes.set_xlim(10.0 ** powers[0], 10.0 ** powers[-1])
    powers = powers[:: -(-len(powers) // 8)]
    axes.set_xticks(
        [10.0**power for power in powers], [duration(10.0**power) for power in powers], fontsize=8
    )
    axes.minorticks_off()
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    words = "time of one suggestion: median, line to the 95th percentile"
    axes.set_title(plain(f"{title(summary)}\n{words}"), loc="left", fontsize=9, color=INK, x=-0.36)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _diagram_rows(diagram: RankDiagram) -> float:
    """Height of a diagram in rows of text: axis, bars, names and air."""
    return 3.2 + 0.45 * max((bar.level + 1 for bar in diagram.bars), default=0) + diagram.left + 0.8


def _draw_diagram(axes: Axes, diagram: RankDiagram, words: str) -> None:
    """Rows of text are the vertical unit, downwards; ranks run from 0.3 to 0.7 of the width."""
    rows = _diagram_rows(diagram)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(rows, 0.0)
    axes.axis("off")
    first = int(np.floor(diagram.ranks[0]))
    last = max(int(np.ceil(diagram.ranks[-1])), first + 1)

    def x_of(rank: float) -> float:
        return 0.3 + 0.4 * (rank - first) / (last - first)

    axis = 2.6
    axes.text(0.02, 0.7, f"Mean rank, {words}", fontsize=9, color=INK, va="center")
    axes.plot([0.3, 0.7], [axis, axis], color=INK, linewidth=1)
    for rank in range(first, last + 1, int(np.ceil((last - first) / 12))):
        axes.plot([x_of(rank)] * 2, [axis - 0.25, axis], color=INK, linewidth=1)
        axes.text(x_of(rank), axis - 0.7, str(rank), fontsize=8, color=INK, ha="center", va="center")
    end = x_of(first + diagram.difference)
    if end <= 0.98:
        axes.plot([0.3, end], [0.7, 0.7], color=INK, linewidth=1, marker="|", markersize=6)
    axes.text(
        min(end, 0.7) + 0.015, 0.7, f"CD = {diagram.difference:.2f}", fontsize=8, color=INK, va="center"
    )
    for bar in diagram.bars:
        y = axis + 0.45 * (bar.level + 1)
        axes.plot([x_of(bar.low) - 0.004, x_of(bar.high) + 0.004], [y, y], color=INK, linewidth=3.5)
    start = axis + 0.45 * max((bar.level + 1 for bar in diagram.bars), default=0) + 0.7
    for place, (name, mean) in enumerate(zip(diagram.methods, diagram.ranks, strict=True)):
        on_left = place < diagram.left
        y = start + (place if on_left else len(diagram.methods) - 1 - place)
        edge = 0.29 if on_left else 0.71
        axes.plot([x_of(mean), x_of(mean), edge], [axis, y, y], color=INK, linewidth=0.9)
        label = (
            f"{shortened(name, LETTERS)}  {mean:.2f}"
            if on_left
            else f"{mean:.2f}  {shortened(name, LETTERS)}"
        )
        x, side = (edge - 0.008, "right") if on_left else (edge + 0.008, "left")
        axes.text(x, y, plain(label), fontsize=8.5, color=INK, ha=side, va="center")
