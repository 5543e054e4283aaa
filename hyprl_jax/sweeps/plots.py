"""One picture an axis of a sweep: regret on validation tasks against the axis's values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyprl_jax.sweeps.report import is_number, shown

if TYPE_CHECKING:
    from hyprl_jax.sweeps.report import Marginal

__all__ = ["is_logarithmic", "plot_axis"]

_DECADE = 10.0


def is_logarithmic(values: Sequence[Any]) -> bool:
    """Whether the values are positive numbers that span a decade or more."""
    return all(map(is_number, values)) and min(values) > 0 and max(values) >= _DECADE * min(values)


def plot_axis(field: str, found: Sequence[Marginal], file: Path) -> None:
    """Draws means and 95% intervals into a PNG, written whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values, means = [one.value for one in found], [one.regret.mean for one in found]
    numeric = all(map(is_number, values))
    places = values if numeric else list(range(len(values)))
    lows = [one.regret.mean if one.regret.low is None else one.regret.low for one in found]
    highs = [one.regret.mean if one.regret.high is None else one.regret.high for one in found]
    axes.vlines(places, lows, highs, color="tab:blue", alpha=0.5, linewidth=2)
    axes.plot(places, means, marker="o", color="tab:blue", linestyle="-" if numeric else "none")
    if numeric and is_logarithmic(values):
        axes.set_xscale("log")
    if not numeric:
        axes.set_xticks(places, [shown(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set(xlabel=field, ylabel="validation regret")
    axes.grid(alpha=0.3)
    part = file.with_name(f".writing-{os.getpid()}-{file.name}")
    figure.savefig(part, dpi=150, format="png")
    os.replace(part, file)
