"""What the sections of the report page are made from, and what a section is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyprl_jax.evaluation.comparison import Comparison
from hyprl_jax.evaluation.findings import emphasised, focus_method, ordered_methods
from hyprl_jax.evaluation.page.charts import Line
from hyprl_jax.evaluation.page.markup import Content, Markup, element, joined, name_of


@dataclass(frozen=True)
class Section:
    """A part of the page under its own heading; `key` is its anchor, `short` its name in the contents."""

    key: str
    short: str
    heading: Markup
    body: Markup


@dataclass(frozen=True, eq=False)
class Material:
    """A checked summary and its trajectories; `focus` is the method whose losses are looked at."""

    summary: dict[str, Any]
    comparison: Comparison
    focus: str
    ordered: tuple[str, ...]  # methods, best first

    @property
    def trials(self) -> int:
        return int(self.summary["trials"])

    def figures(self, name: str) -> dict[str, Any]:
        """The figures of one method."""
        found: dict[str, Any] = self.summary["methods"][name]
        return found

    def style(self, name: str) -> int:
        """Number of a method's colour: its place in the summary, as in the other pictures."""
        return list(self.summary["methods"]).index(name)

    def period_words(self, period: str) -> str:
        """`last_trial` or `trial_mean` in words."""
        return f"trial {self.trials}" if period == "last_trial" else "mean over trials"

    def lines(self, figures: dict[str, Any], key: str, ends_key: str | None = None) -> list[Line]:
        """One line a method, best first, from `figures[method][key]`."""
        lines = []
        for name in self.ordered:
            values = np.asarray(figures[name][key], dtype=np.float64)
            ends = figures[name].get(ends_key) if ends_key else None
            ends = None if ends is None else np.asarray(ends, dtype=np.float64)
            lines.append(Line(name, values, self.style(name), emphasised(name), ends))
        return lines


def material(summary: dict[str, Any], comparison: Comparison) -> Material:
    """Gathers what the sections need."""
    return Material(summary, comparison, focus_method(summary), tuple(ordered_methods(summary)))


def figure(drawing: Markup, caption: Content | None = None) -> Markup:
    """A drawing with words below it."""
    return element("figure", drawing, *([] if caption is None else [element("figcaption", caption)]))


def pair(*parts: Markup) -> Markup:
    """Parts beside each other where there is room."""
    return element("div", *parts, class_="pair")


def beside(*tables: Markup) -> Markup:
    """Tables next to each other as far as they fit."""
    return element("div", *tables, class_="tables")


def block(title: Content, *parts: Markup) -> Markup:
    """Parts under a heading of their own within a section."""
    return element("div", element("h3", title), *parts)


def enumerated(names: Sequence[str], most: int = 6) -> Markup:
    """`a, b and c`, or the first names and how many more."""
    shown = [name_of(name) for name in names[: most if len(names) > most + 1 else len(names)]]
    rest = len(names) - len(shown)
    last: Content = f"{rest} more" if rest else shown.pop()
    return joined([joined(shown, ", "), " and ", last]) if shown else joined([last])


def counted(number: int, word: str) -> str:
    """`1 task`, `3 tasks`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
