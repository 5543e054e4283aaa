"""Made-up studies for the tests of report pages, and a reader that checks HTML as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.evaluation import COLUMNS, summarize
from hyprl_jax.evaluation.page.markup import SHAPES, VOID

HOSTILE_METHODS = (
    "<script>alert(1)</script>",
    "policy & \"quoted\" 'twice' </td></table>",
    "-->]]><!--<![CDATA[" + "&lt;" * 4,
    "x" * 200,
    "方法 [bold] $a_b^c\\input{x}",
    'javascript:alert(1)" onmouseover="alert(2)',
)
HOSTILE_TASKS = (
    "</svg><img src=http://example.org/x.png onerror=alert(1)>",
    "a\x00b\x1b[31m\nnew line\u2028and \u202eturned",
    "long " * 60,
    "no_break_" * 30,
    "&amp; é ß 🙂",
)
PROVENANCE = {
    "command": "hyprl evaluate --collections <a> --out 'x y' && true",
    "versions": {"python": "3.11.2", "jax": "0.10.2"},
    "collections": {"c0": "sha256:" + "0123456789abcdef" * 4},
    "seeds": [0, 1, 2],
    "starts": "three published configurations <each>",
    "machine": "Linux x86_64, 2 CPUs, no accelerator",
}


def study(
    methods: Sequence[str] = ("random", "policy", "portfolio"),
    tasks: Sequence[str] = ("a", "b", "c", "d", "e", "f", "g"),
    trials: int = 12,
    collections: int = 1,
    seeds: int = 2,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Trajectories of falling regrets, later methods being better, and their summary."""
    rng = np.random.default_rng(0)
    parts = []
    for place, method in enumerate(methods):
        for collection in range(collections):
            lists = [list(tasks), range(seeds), range(1, trials + 1)]
            rows = pd.MultiIndex.from_product(lists, names=["task", "seed", "trial"]).to_frame(index=False)
            drawn = np.round(rng.random((len(tasks) * seeds, trials)) ** (1 + 0.3 * place), 2)
            regret = np.minimum.accumulate(drawn, axis=1).ravel()
            rows = rows.assign(method=method, collection=f"c{collection}", normalized_regret=regret)
            rows = rows.assign(config_id=1, objective=regret, incumbent=regret, cost=np.nan)
            parts.append(rows.assign(suggest_seconds=10.0 ** (place % 6 - 5) * (1 + rng.random(len(rows)))))
    frame = pd.concat(parts, ignore_index=True)[list(COLUMNS)].astype(COLUMNS)
    return frame, summarize(frame, split="kfold5", fold=1, resamples=50, **options)


def failure(method: str, task: str, reason: str = "ValueError: <b>no</b> value") -> dict[str, Any]:
    """A failed run as summaries note it."""
    return {"method": method, "task": task, "seed": 1, "trial": 3, "reason": reason}


def without_later_figures(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary as the first version of the program would have written it."""
    later = ("failures", "collections", "macro", "provenance")
    old = {key: value for key, value in summary.items() if key not in later}
    keep = ("normalized_regret", "rank", "ci95", "suggest_ms")
    old["methods"] = {m: {key: f[key] for key in keep} for m, f in summary["methods"].items()}
    first = ("blocks", "over", "friedman", "nemenyi", "wilcoxon_holm", "wins_ties_losses")
    tests = summary["tests"]
    old["tests"] = {"interval": tests["interval"]} | {
        period: {key: tests[period][key] for key in first} for period in ("last_trial", "trial_mean")
    }
    return old


class Reader(HTMLParser):
    """Reads a page; asserts that elements are closed in order, and gathers what tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[tuple[str, str]] = []  # the element around, the text
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, f"<{tag}/> is no shape"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "wbr" and self.words:
            tag, before = self.words.pop()
            self.words.append((tag, before + data))
        elif data.strip():
            self.words.append((self.stack[-1] if self.stack else "", data.strip()))

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment nobody wrote")

    def of(self, tag: str) -> list[dict[str, str]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        """All that a reader sees, script and style aside."""
        return " ".join(words for tag, words in self.words if tag not in ("script", "style"))
