"""The figures of an evaluation as a LaTeX table for papers, in the style of the package booktabs.

One row a method, best first: mean regret with its interval at a few trials, averaged over trials, and the
average rank at the last trial; the best figure of a column is bold. Names from files are escaped, so none of
them can run a command.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyprl_jax.evaluation.findings import mean_regret, ordered_methods, quoted_trials
from hyprl_jax.evaluation.table import interval_words, title

MOST_TRIALS = 4  # columns of a page of paper
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after a line's end a bracket would be read as a distance
    "]": "{]}",
    "-": "{-}",  # no ligatures of several hyphens
}


def latex_table(summary: dict[str, Any]) -> str:
    r"""A `table` environment of its own; the document needs `\usepackage{booktabs}`.

    Quotes need `\usepackage[T1]{fontenc}` and `\usepackage{textcomp}`; names outside of Latin letters need
    XeLaTeX or LuaLaTeX with a font that has them.
    """
    names, trials = ordered_methods(summary), _columns(summary["trials"])
    head = [f"trial {trial}" for trial in trials]
    last = f"rank at trial {summary['trials']}"
    lines = [
        r"% \usepackage{booktabs}; for quotes in names \usepackage[T1]{fontenc} and \usepackage{textcomp}",
        r"\begin{table}",
        r"  \centering\small",
        f"  \\caption{{{_caption(summary)}}}",
        r"  \label{tab:regret}",
        f"  \\begin{{tabular}}{{l{'l' * len(trials)}rr}}",
        r"    \toprule",
        f"    {' & '.join(['method', *head, 'mean', last])} \\\\",
        r"    \midrule",
        *(f"    {row}" for row in _rows(summary, names, trials)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it, on one line; what does not print becomes a question mark."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return "".join(_SPECIAL.get(character, character) for character in plain)


def _columns(trials: int) -> list[int]:
    """At most `MOST_TRIALS` of the quoted trials: the last one and those that are spread most evenly."""
    quoted = quoted_trials(trials)
    if len(quoted) <= MOST_TRIALS:
        return quoted
    places = np.round(np.linspace(1, len(quoted) - 1, MOST_TRIALS)).astype(int)
    return [quoted[place] for place in places]


def _caption(summary: dict[str, Any]) -> str:
    words = (
        f"Mean normalized regret (lower is better) with the {interval_words(summary)}, averaged over trials, "
        "and average rank"
    )
    return f"{escaped(title(summary))}. {words.replace('%', chr(92) + '%')}."


def _rows(summary: dict[str, Any], names: list[str], trials: list[int]) -> list[str]:
    regrets = np.asarray(
        [
            [
                *(summary["methods"][name]["normalized_regret"][trial - 1] for trial in trials),
                mean_regret(summary, name),
                summary["methods"][name]["rank"][-1],
            ]
            for name in names
        ]
    )
    best = regrets <= regrets.min(axis=0) + 1e-12
    rows = []
    for name, values, marks in zip(names, regrets, best, strict=True):
        digits = [4] * (len(trials) + 1) + [2]
        words = [f"{value:.{places}f}" for value, places in zip(values, digits, strict=True)]
        cells = [f"\\textbf{{{word}}}" if mark else word for word, mark in zip(words, marks, strict=True)]
        for place, trial in enumerate(trials):
            low, high = summary["methods"][name]["ci95"][trial - 1]
            cells[place] += f" {{\\scriptsize[{low:.3f}, {high:.3f}]}}"
        rows.append(" & ".join([escaped(name), *cells]) + r" \\")
    return rows
