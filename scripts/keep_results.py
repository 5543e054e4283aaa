#!/usr/bin/env python
"""Keeps the summary of an evaluation under docs/results, compactly, and rebuilds the table in README.md.

    python scripts/keep_results.py runs/mlp/evaluation mlp      # docs/results/mlp.json and mlp.md
    python scripts/keep_results.py                              # only the table in README.md

The table in README.md between its two marks is made from the kept summaries and from nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from hyprl_jax.evaluation import markdown_table
from hyprl_jax.evaluation.report import read_summary
from hyprl_jax.evaluation.summary import check_summary

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- results: made by scripts/keep_results.py -->", "<!-- end of results -->"
DIGITS = 6  # significant; intervals stay around their means

# Study -> words of the README, and the trials to quote.
STUDIES = {
    "svm288-loo": ("SVM-288, leave one group out", (5, 10, 20, 50)),
    "metabo": ("SVM, MetaBO's protocol", (3, 5, 10, 20)),
    "mlp": ("`mlp`, 5 folds", (5, 10, 25)),
    "svm": ("`svm`, 5 folds", (5, 10, 25)),
    "boosting": ("`boosting`, 5 folds", (5, 10, 25)),
}


def keep(folder: Path, name: str) -> None:
    """Writes docs/results/NAME.json and NAME.md from an evaluation folder."""
    summary = check_summary(_tidy(read_summary(folder / "summary.json")))
    text = json.dumps(summary, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A line for each method and test keeps differences between versions readable.
    text = re.sub(r'("[^"]+":\{"(?:normalized_regret|blocks))', r"\n\1", text)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    (RESULTS / f"{name}.md").write_text(markdown_table(summary))


def readme_table() -> str:
    """The table of the README: mean normalized regret at some trials and over all, a row a method."""
    studies = {name: RESULTS / f"{name}.json" for name in STUDIES}
    found = {name: read_summary(path)["methods"] for name, path in studies.items() if path.is_file()}
    heads = [f"{STUDIES[name][0]}: {', '.join(map(str, STUDIES[name][1]))}, mean" for name in found]
    columns = {name: _figures(name, methods) for name, methods in found.items()}
    methods = sorted(
        {method for figures in columns.values() for method in figures},
        key=lambda method: _place(method, list(columns.values())),
    )
    lines = ["| method | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for method in methods:
        cells = [_cell(method, figures) for figures in columns.values()]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(name: str, methods: dict[str, Any]) -> dict[str, list[float]]:
    curves = {method: figures["normalized_regret"] for method, figures in methods.items()}
    return {
        method: [*(curve[trial - 1] for trial in STUDIES[name][1]), sum(curve) / len(curve)]
        for method, curve in curves.items()
    }


def _place(method: str, columns: list[dict[str, list[float]]]) -> float:
    """Mean over the studies of the regret over all trials, relative to the best method of the study."""
    shares = [
        figures[method][-1] / min(each[-1] for each in figures.values())
        for figures in columns
        if method in figures
    ]
    return sum(shares) / len(shares)


def rebuild_readme() -> None:
    """Puts the table between the marks of the README."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n\n{readme_table()}\n\n{END}{rest.split(END)[1]}")


def _cell(method: str, figures: dict[str, list[float]]) -> str:
    if method not in figures:
        return "–"
    best = [f"{min(values):.3f}" for values in zip(*figures.values(), strict=True)]
    texts = [f"{value:.3f}" for value in figures[method]]
    return ", ".join(f"**{text}**" if text == low else text for text, low in zip(texts, best, strict=True))


def _tidy(value: Any) -> Any:
    """`value` with fewer digits, and with only the last name of absolute paths in its words: folders are
    those of one machine."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, str):
        return re.sub(r"(?<![^\s,=])/(?:[^\s,/]+/)*(?=[^\s,/])", "./", value)
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items()}
    return value


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit(__doc__)
    if len(sys.argv) == 3:
        keep(Path(sys.argv[1]), sys.argv[2])
    rebuild_readme()
