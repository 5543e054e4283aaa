"""The report: one HTML page with everything about an evaluation, to be read, printed, sent and kept.

    page = html_page(trajectories, summary)

The page loads nothing: style, drawings and the small script that sorts tables are inside it, and a security
policy in its head makes the browser refuse anything else. All text from files is escaped. The same input
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from hyprl_jax.evaluation.comparison import compare
from hyprl_jax.evaluation.page import details, overview, pairs
from hyprl_jax.evaluation.page.markup import NEW_LINE, Markup, element, joined, paragraph
from hyprl_jax.evaluation.page.material import Material, Section, material
from hyprl_jax.evaluation.page.style import SCRIPT, security_policy, style_sheet
from hyprl_jax.evaluation.schema import check_summary
from hyprl_jax.evaluation.table import title

__all__ = ["html_page"]


def html_page(trajectories: pd.DataFrame | Sequence[pd.DataFrame], summary: dict[str, Any]) -> str:
    """The report as HTML text (to be written as UTF-8), from trajectories and the summary made from them.

    Sections for which the summary holds nothing (one method, an earlier version) are left out.
    """
    found = material(check_summary(summary), compare(trajectories))
    sections = [section for section in _sections(found) if section is not None]
    links = [element("li", element("a", one.short, href=f"#{one.key}")) for one in sections]
    name = title(summary)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=security_policy()),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("meta", name_="referrer", content="no-referrer"),
        element("title", f"{name} – evaluation"),
        element("style", Markup(style_sheet())),
    )
    top = element(
        "header",
        element("h1", name),
        overview.verdict(found),
        overview.facts(found),
        element("nav", element("ul", *links), aria_label="Contents"),
    )
    body = [_shown(section) for section in sections]
    page = element(
        "html",
        head,
        element("body", top, element("main", *body), _footer(), element("script", Markup(SCRIPT))),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _sections(found: Material) -> list[Section | None]:
    return [
        overview.curves(found),
        pairs.diagrams(found),
        details.losses(found),
        details.tasks(found),
        pairs.against(found),
        details.targets(found),
        details.speed(found),
        details.collections(found),
        details.failures(found),
        details.provenance(found),
    ]


def _shown(section: Section) -> Markup:
    heading = element("h2", section.heading, id=f"{section.key}-heading")
    inner = joined([heading, section.body], NEW_LINE)
    return element("section", inner, id=section.key, aria_labelledby=f"{section.key}-heading")


def _footer() -> Markup:
    words = (
        "Normalized regret is (best possible − incumbent) / (best possible − worst possible) over the task's "
        "own table: 0 means that the best configuration has been found. A method's figure is the mean over "
        "tasks and seeds; ranks are taken among the methods of each task, seed and trial. Seeds are averaged "
        "before any interval or test, because more seeds say nothing about further tasks."
    )
    return element("footer", paragraph(words))
