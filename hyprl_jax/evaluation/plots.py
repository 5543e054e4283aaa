"""Regret and rank over trials as figures: PNG for documents, SVG for the web.

Lines carry their names at their right end, so no legend has to be matched by colour alone; colours are those
of Okabe and Ito, which people with colour vision deficiencies can tell apart, and repeat with another dash
after eight methods. Methods called `policy...` are drawn heavier and on top. Figures are built from
matplotlib's objects, without pyplot and its global state; matplotlib is imported when the first figure is
drawn.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from hyprl_jax.evaluation.findings import emphasised
from hyprl_jax.evaluation.scales import log_range, log_ticks, shortened, spread
from hyprl_jax.evaluation.table import interval_words, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design"; the yellow is darkened to stand out from white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#9A8B00")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
SIZE = (8.0, 4.8)  # inches
DPI = 150
INK, FAINT = "#333333", "#D9D9D9"
_LABEL_HEIGHT = 13.0  # points between the baselines of two labels


def regret_figure(summary: dict[str, Any]) -> Figure:
    """Mean normalized regret on a log axis, one line a method, with its 95% interval as a band."""
    figure, axes = _canvas(summary, "Mean normalized regret (log scale, lower is better)")
    curves = {
        name: np.asarray(m["normalized_regret"], dtype=np.float64) for name, m in summary["methods"].items()
    }
    bottom, top, floor_label = log_range(np.concatenate(list(curves.values())))
    axes.set_yscale("log")
    trials = np.arange(1, summary["trials"] + 1)
    for index, (name, curve) in enumerate(curves.items()):
        ends = np.maximum(np.asarray(summary["methods"][name]["ci95"], dtype=np.float64), bottom)
        _band(axes, index, name, trials, ends)
        _line(axes, index, name, trials, np.maximum(curve, bottom))
    axes.set_ylim(bottom, top)
    _plain_log_ticks(axes, floor_label)
    _footnote(figure, f"bands: {interval_words(summary)}")
    _label_ends(axes, {name: max(curve[-1], bottom) for name, curve in curves.items()})
    return figure


def rank_figure(summary: dict[str, Any]) -> Figure:
    """Mean tie-averaged rank among the methods, one line a method; rank 1 is at the top."""
    figure, axes = _canvas(summary, f"Average rank among {len(summary['methods'])} (1 is best)")
    trials = np.arange(1, summary["trials"] + 1)
    ranks = {name: np.asarray(m["rank"], dtype=np.float64) for name, m in summary["methods"].items()}
    for index, (name, curve) in enumerate(ranks.items()):
        _line(axes, index, name, trials, curve)
    values = np.concatenate(list(ranks.values()))
    margin = max(0.06 * float(np.ptp(values)), 0.2)
    axes.set_ylim(values.max() + margin, values.min() - margin)
    _label_ends(axes, {name: curve[-1] for name, curve in ranks.items()})
    return figure


def render(figure: Figure) -> dict[str, bytes]:
    """The figure as `{"png": bytes, "svg": bytes}`; the same figure gives the same bytes every time."""
    import matplotlib as mpl

    images = {}
    with mpl.rc_context({"svg.hashsalt": "hyprl-jax", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is shown instead
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
            images[kind] = buffer.getvalue()
    return images


def _canvas(summary: dict[str, Any], label: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, facecolor="white")
    FigureCanvasAgg(figure)
    longest = max(len(shortened(name)) for name in summary["methods"])
    names_width = (longest * 6.7 + 26) / 72  # inches: letters, leader line and margin
    axes = figure.add_axes((0.095, 0.125, 0.905 - names_width / SIZE[0], 0.775))
    axes.set_title(plain(title(summary)), loc="left", fontsize=11, color=INK, pad=10)
    axes.set_xlabel("Trial", color=INK)
    axes.set_ylabel(label, color=INK)
    axes.grid(True, which="major", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=INK, which="both", length=3)
    trials = summary["trials"]
    axes.set_xlim((1, trials) if trials > 1 else (0.5, 1.5))
    inner = MaxNLocator(nbins=10, integer=True, min_n_ticks=1).tick_values(1, trials)
    axes.set_xticks([1, *(tick for tick in inner if 1 + 0.03 * trials < tick <= trials)])
    return figure, axes


def _footnote(figure: Figure, text: str) -> None:
    figure.text(0.985, 0.028, text, ha="right", fontsize=8, color="#777777")


def _band(axes: Axes, index: int, name: str, trials: np.ndarray, ends: np.ndarray) -> None:
    """Interval `[T, 2]` of a method; a single trial gets a bar, since a band would have no width."""
    colour, strong = PALETTE[index % len(PALETTE)], emphasised(name)
    if len(trials) == 1:
        axes.vlines(trials, ends[:, 0], ends[:, 1], color=colour, linewidth=5, alpha=0.35)
    else:
        alpha = 0.18 if strong else 0.09
        axes.fill_between(trials, ends[:, 0], ends[:, 1], color=colour, alpha=alpha, linewidth=0)


def _line(axes: Axes, index: int, name: str, trials: np.ndarray, curve: np.ndarray) -> None:
    colour = PALETTE[index % len(PALETTE)]
    dash = DASHES[(index // len(PALETTE)) % len(DASHES)]
    strong = emphasised(name)
    marker = "o" if len(trials) == 1 else None
    axes.plot(
        trials,
        curve,
        color=colour,
        linestyle=dash,
        linewidth=2.6 if strong else 1.5,
        marker=marker,
        zorder=4 if strong else 3,
        label=plain(name),
        solid_capstyle="round",
    )


def _label_ends(axes: Axes, ends: dict[str, float]) -> None:
    """Names right of the lines' ends, moved apart where they would overlap, with thin leader lines."""
    height = SIZE[1] * 72 * axes.get_position().height  # of the axes, in points
    leader = 0.25 / (SIZE[0] * axes.get_position().width)  # a quarter of an inch
    names = list(ends)
    wanted = np.asarray([axes.transData.transform((1.0, ends[name]))[1] for name in names])
    bottom, top = axes.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    wanted = (wanted - bottom) / (top - bottom) * height
    placed = spread(wanted, min(_LABEL_HEIGHT, height / max(len(names), 1)), height)
    for index, name in enumerate(names):
        colour = PALETTE[index % len(PALETTE)]
        axes.annotate(
            plain(shortened(name)),
            xy=(1.0, wanted[index] / height),
            xycoords="axes fraction",
            xytext=(1.0 + leader, placed[index] / height),
            textcoords="axes fraction",
            color=colour,
            fontsize=9.5,
            va="center",
            ha="left",
            annotation_clip=False,
            fontweight="bold" if emphasised(name) else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )


def _plain_log_ticks(axes: Axes, floor_label: str | None) -> None:
    from matplotlib.ticker import NullLocator

    marks = log_ticks(*axes.get_ylim(), floor_label)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(list(marks), labels=list(marks.values()))


def plain(text: str) -> str:
    """Text without a dollar's meaning of mathematics to matplotlib."""
    return text.replace("$", r"\$")
