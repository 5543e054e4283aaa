"""Summaries as tables for people: Markdown for files, rich for the console.

Both show methods in order of their regret averaged over trials (best first), at a few trials that everybody
quotes. The best figure of a column is bold; it is the best one that was measured, the interval beside it says
how sure that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

QUOTED_TRIALS = (1, 5, 10, 20, 25, 50, 100, 200, 500, 1000)


def quoted_trials(trials: int) -> list[int]:
    """The trials to show: those of `QUOTED_TRIALS` that exist, and the last one."""
    return sorted({trial for trial in QUOTED_TRIALS if trial <= trials} | {trials})


def ordered_methods(summary: dict[str, Any]) -> list[str]:
    """Method names by regret averaged over trials, best first; ties keep their order."""
    return sorted(summary["methods"], key=lambda name: _mean(summary["methods"][name]["normalized_regret"]))


def markdown_table(summary: dict[str, Any]) -> str:
    """Two Markdown tables (regret with interval, rank), what was compared, and what the tests say."""
    names, trials = ordered_methods(summary), quoted_trials(summary["trials"])
    head = [f"trial {trial}" for trial in trials]
    regret_rows, rank_rows = _rows(summary, names, trials, interval=True, bold="**{}**")
    lines = [f"# {_escape(title(summary))}", "", "## Normalized regret", ""]
    lines += [
        f"Mean over tasks and seeds, lower is better; in brackets the {interval_words(summary)}.",
        "",
    ]
    lines += _markdown(["method", *head, "mean over trials", "ms a suggestion"], regret_rows)
    lines += [
        "",
        "## Average rank",
        "",
        f"Among the {len(names)} methods, ties averaged; lower is better.",
        "",
    ]
    lines += _markdown(["method", *head, "mean over trials"], rank_rows)
    lines += ["", "## Tests", "", *[f"- {_escape(sentence)}" for sentence in describe_tests(summary)]]
    return "\n".join(lines) + "\n"


def console_table(summary: dict[str, Any]) -> Table:
    """A `rich.table.Table` with regret and rank at the quoted trials, best first, best figures bold."""
    from rich.table import Table
    from rich.text import Text

    names, trials = ordered_methods(summary), quoted_trials(summary["trials"])
    regret_rows, rank_rows = _rows(summary, names, trials, interval=False, bold="*{}")
    table = Table(title=Text(title(summary)), caption=Text("normalized regret (rank); lower is better"))
    table.add_column("method", no_wrap=True)
    for trial in trials:
        table.add_column(f"trial {trial}", justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for regret_row, rank_row in zip(regret_rows, rank_rows, strict=True):
        cells = [Text(regret_row[0])]
        for regret, rank in zip(regret_row[1:-1], rank_row[1:], strict=True):
            pair = ((regret, "{}"), (rank, "({})"))
            styled = [
                Text(form.format(c.lstrip("*")), style="bold green" if "*" in c else "") for c, form in pair
            ]
            cells.append(Text(" ").join(styled))
        table.add_row(*cells, Text(regret_row[-1]))
    return table


def title(summary: dict[str, Any]) -> str:
    """Collection, split, fold and sizes in one line."""
    fold = summary["fold"]
    where = f"{len(fold)} folds" if isinstance(fold, list) else f"fold {fold}"
    split = f", {summary['split']}, {where}" if summary["split"] else ""
    sizes = ((len(summary["tasks"]), "task"), (summary["trials"], "trial"))
    words = ", ".join(f"{size} {word}{'s' if size > 1 else ''}" for size, word in sizes)
    return f"{summary['collection']}{split}: {words}"


def interval_words(summary: dict[str, Any]) -> str:
    """What the intervals are, in words."""
    return f"95% bootstrap interval over {summary['tests']['interval']['over']}"


def describe_tests(summary: dict[str, Any]) -> list[str]:
    """The tests in words: Friedman, and the best method against each other one (Wilcoxon, Holm-corrected)."""
    sentences = []
    names = ordered_methods(summary)
    for key, words in (("last_trial", f"trial {summary['trials']}"), ("trial_mean", "mean over trials")):
        result = summary["tests"][key]
        friedman, pairs = result["friedman"], result["wilcoxon_holm"]
        if friedman["p_value"] is None:
            sentences.append(f"{words}: no Friedman test ({friedman['reason']}).")
        else:
            sentences.append(
                f"{words}: Friedman p = {friedman['p_value']:.2g} over {result['blocks']} {result['over']}."
            )
        if pairs["p_values"] is None:
            sentences.append(f"{words}: no pairwise tests ({pairs['reason']}).")
            continue
        for other in names[1:]:
            wins, ties, defeats = result["wins_ties_losses"][names[0]][other]
            p_value = pairs["p_values"][names[0]][other]
            record = f"{wins} wins, {ties} ties, {defeats} losses"
            sentences.append(
                f"{words}: {names[0]} against {other}: {record}, Wilcoxon-Holm p = {p_value:.2g}."
            )
    return sentences


def _rows(
    summary: dict[str, Any], names: list[str], trials: list[int], interval: bool, bold: str
) -> tuple[list[list[str]], list[list[str]]]:
    """Cells of the regret table (method, trials, mean, speed) and the rank table (method, trials, mean)."""
    figures = [summary["methods"][name] for name in names]
    at = np.asarray(trials) - 1
    tables = []
    for key, digits in (("normalized_regret", 4), ("rank", 2)):
        curves = np.asarray([figure[key] for figure in figures], dtype=np.float64)  # [M, T]
        shown = np.concatenate([curves[:, at], curves.mean(axis=1, keepdims=True)], axis=1)
        best = shown <= shown.min(axis=0) + 1e-12
        cells = [[f"{value:.{digits}f}" for value in row] for row in shown]
        tables.append(
            [
                [bold.format(c) if b else c for c, b in zip(*row, strict=True)]
                for row in zip(cells, best, strict=True)
            ]
        )
    regrets, ranks = tables
    for figure, row in zip(figures, regrets, strict=True):
        if interval:
            ends = [figure["ci95"][index] for index in at]
            row[:-1] = [f"{c} [{low:.3f}, {high:.3f}]" for c, (low, high) in zip(row[:-1], ends, strict=True)]
        speed = figure["suggest_ms"]
        row.append("–" if speed is None else f"{speed:.3g}")
    return (
        [[name, *row] for name, row in zip(names, regrets, strict=True)],
        [[name, *row] for name, row in zip(names, ranks, strict=True)],
    )


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    line = "| " + " | ".join(head) + " |"
    rule = "| --- |" + " ---: |" * (len(head) - 1)
    return [line, rule, *("| " + " | ".join([_escape(row[0]), *row[1:]]) + " |" for row in rows)]


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, inside a table cell as well (underscores inside words are plain)."""
    for character in "\\|*`<[":
        text = text.replace(character, "\\" + character)
    return text


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
