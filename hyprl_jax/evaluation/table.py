"""Summaries as tables for people: Markdown for files, rich for the console.

Both show methods in order of their regret averaged over trials (best first), at a few trials that everybody
quotes. The best figure of a column is bold; it is the best one that was measured, the interval beside it says
how sure that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hyprl_jax.evaluation.findings import middle_trial, ordered_methods, quoted_trials

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

MOST_NAME_WIDTH = 24  # of the console's first column, where columns of figures need the room


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
    lines += _target_lines(summary, names) + _collection_lines(summary, names)
    lines += ["", "## Tests", "", *[f"- {_escape(sentence)}" for sentence in describe_tests(summary)]]
    lines += _origin_lines(summary)
    return "\n".join(lines) + "\n"


class ConsoleTable:
    """Regret and rank at quoted trials, best first, best figures bold; prints as wide as the console allows.

    Where not all columns fit, the last trial, the mean, the time of a suggestion and one trial in the first
    half are kept longest.
    """

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary = summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        yield _console_table(self.summary, options.max_width)


def console_table(summary: dict[str, Any]) -> ConsoleTable:
    """A table for `rich` to print, made to fit the console: normalized regret, rank and speed."""
    return ConsoleTable(summary)


def _console_table(summary: dict[str, Any], width: int) -> Table:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    names, trials = ordered_methods(summary), quoted_trials(summary["trials"])
    regret_rows, rank_rows = _rows(summary, names, trials, interval=False, bold="*{}")
    heads = [*(f"trial {trial}" for trial in trials), "mean", "ms"]
    columns: list[list[Text]] = [[] for _ in heads]
    for regret_row, rank_row in zip(regret_rows, rank_rows, strict=True):
        for column, regret, rank in zip(columns, regret_row[1:-1], rank_row[1:], strict=False):
            pair = ((regret, "{}"), (rank, "({})"))
            styled = [
                Text(form.format(c.lstrip("*")), style="bold green" if "*" in c else "") for c, form in pair
            ]
            column.append(Text(" ").join(styled))
        columns[-1].append(Text(regret_row[-1]))
    widths = [max(len(head), *map(len, column)) for head, column in zip(heads, columns, strict=True)]
    longest = max(cell_len(name) for name in [*names, "method"])
    shown = _fitting_columns(widths, trials, width - min(longest, MOST_NAME_WIDTH) - 4)
    table = Table(title=Text(title(summary)), caption=Text("normalized regret (rank); lower is better"))
    most = max(width - 4 - sum(widths[place] + 3 for place in shown), 6)
    table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=most)
    for place in shown:
        table.add_column(heads[place], justify="right", no_wrap=True)
    for row, name in enumerate(names):
        table.add_row(Text(name), *(columns[place][row] for place in shown))
    return table


def _fitting_columns(widths: list[int], trials: list[int], room: int) -> list[int]:
    """Places of the columns (trials, then mean and ms) that fit into `room` characters, in their order."""
    last, mean, speed = len(trials) - 1, len(trials), len(trials) + 1
    order = [last, mean, speed]
    middle = trials.index(middle_trial(trials[-1]))
    left = [place for place in range(last) if place != middle]
    order += [middle] if middle != last else []
    while left:  # next the trial that lies farthest from those shown
        order.append(max(left, key=lambda place: min(_steps(trials, place, o) for o in order if o <= last)))
        left.remove(order[-1])
    shown = [last]
    for place in order[1:]:
        if sum(widths[p] + 3 for p in [*shown, place]) <= room:
            shown.append(place)
    return sorted(shown)


def _steps(trials: list[int], first: int, second: int) -> float:
    """Distance of two of the trials, as their ratio."""
    low, high = sorted((trials[first], trials[second]))
    return high / low


def title(summary: dict[str, Any]) -> str:
    """Collection, split, fold and sizes in one line."""
    fold = summary["fold"]
    folds = fold if isinstance(fold, list) else [fold]
    where = f"fold {folds[0]}" if len(folds) == 1 else f"{len(folds)} folds"
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


def _target_lines(summary: dict[str, Any], names: list[str]) -> list[str]:
    """Trials until a regret is reached, and the share of runs that reach it; nothing in earlier summaries."""
    targets = {name: summary["methods"][name].get("targets", {}) for name in names}
    goals = sorted({goal for own in targets.values() for goal in own}, key=float, reverse=True)
    if not goals:
        return []
    rows = []
    for name in names:
        cells = []
        for goal in goals:
            found = targets[name].get(goal)
            median = None if found is None else found["trials"]
            words = f"> {summary['trials']}" if median is None else f"{median:g}"
            cells.append("–" if found is None else f"{words} ({found['reached']:.0%})")
        rows.append([name, *cells])
    words = "Median trials until a regret is reached, and the share of runs that reach it."
    head = ["method", *(f"regret ≤ {goal}" for goal in goals)]
    return ["", "## Time to target", "", words, "", *_markdown(head, rows)]


def _collection_lines(summary: dict[str, Any], names: list[str]) -> list[str]:
    """Regret at the last trial by collection, where there are several."""
    parts = summary.get("collections", {})
    if len(parts) < 2:
        return []
    rows = []
    for collection, part in parts.items():
        values = [part["methods"][name]["normalized_regret"][-1] for name in names]
        best = min(values) + 1e-12
        cells = [f"**{value:.4f}**" if value <= best else f"{value:.4f}" for value in values]
        rows.append([collection, str(part["tasks"]), *cells])
    words = f"Normalized regret at trial {summary['trials']}."
    head = ["collection", "tasks", *(_escape(name) for name in names)]
    return ["", "## Collections", "", words, "", *_markdown(head, rows)]


def _origin_lines(summary: dict[str, Any]) -> list[str]:
    """How many runs failed, and the command that made the evaluation."""
    lines = []
    counts = Counter(failure["method"] for failure in summary.get("failures", []))
    if counts:
        words = ", ".join(f"{_escape(name)} {number}" for name, number in sorted(counts.items()))
        lines += ["", "## Failures", "", f"Runs that did not finish: {words}; see `summary.json`."]
    command = summary.get("provenance", {}).get("command")
    if command:
        lines += ["", "## Command", "", f"    {command}"]
    return lines


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
