"""The sections that look closer: tasks, targets, time, collections, failures, and where it all comes from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from hyprl_jax.evaluation.findings import EQUAL, TaskRegrets, middle_trial, task_regrets
from hyprl_jax.evaluation.page.charts import SMALL, Span, Words, legend, line_charts, span_charts
from hyprl_jax.evaluation.page.heatmap import MOST_TASKS, heat_keys, heat_table
from hyprl_jax.evaluation.page.markup import Cell, Content, Markup, element, joined, name_of, paragraph, table
from hyprl_jax.evaluation.page.material import Material, Section, beside, block, counted, enumerated, figure
from hyprl_jax.evaluation.page.overview import definitions
from hyprl_jax.evaluation.scales import duration

WORST_TASKS = 15
MOST_FAILURES = 200
MOST_COLLECTIONS = 24


def losses(material: Material) -> Section | None:
    """Where the policy (or the best method, if there is none) loses, and by how much."""
    if len(material.ordered) < 2:
        return None
    focus = material.focus
    regrets = task_regrets(material.comparison, list(material.summary["methods"]), material.trials)
    behind = regrets.behind()[regrets.methods.index(focus)]
    worst = [task for task in regrets.order(focus).tolist() if behind[task] >= EQUAL]
    heading = joined(["Where ", name_of(focus), " loses"])
    tasks = len(regrets.tasks)
    intro: list[Content] = [
        name_of(focus),
        f" is the best method, or as good, on {tasks - len(worst)} of {counted(tasks, 'task')} at trial "
        f"{material.trials}; on {int((behind >= 0.01).sum())} it is 0.01 or more behind the best one. ",
    ]
    if len(worst) > 5:
        share = behind[worst[:5]].sum() / behind.sum()
        intro.append(f"The five worst tasks make up {share:.0%} of all that it is behind. ")
    intro.append(
        "The best method of each task is chosen with hindsight, so even equal methods lose to it by chance."
    )
    rows = [_worst_row(regrets, focus, task, float(behind[task])) for task in worst[:WORST_TASKS]]
    head = ["task", f"{focus}: regret", "best method", "its regret", "behind"]
    caption = f"Tasks on which {focus} is farthest behind at trial {material.trials}"
    shown = [table(caption, head, rows, text_columns=(0, 2))] if rows else []
    return Section("losses", "Where it loses", heading, joined([paragraph(*intro), *shown]))


def _worst_row(regrets: TaskRegrets, focus: str, task: int, behind: float) -> list[Content | Cell]:
    own, best = (
        float(regrets.values[regrets.methods.index(focus), task]),
        float(regrets.values[:, task].min()),
    )
    winners = [
        name for name, level in zip(regrets.methods, regrets.behind()[:, task], strict=True) if level < EQUAL
    ]
    return [
        regrets.tasks[task],
        f"{own:.4f}",
        enumerated(winners, 2),
        f"{best:.4f}",
        Cell(f"{behind:.4f}", None, behind),
    ]


def tasks(material: Material) -> Section | None:
    """Task by task: how far every method is behind the best, at a middle trial and at the last one."""
    if len(material.ordered) < 2:
        return None
    parts, shown = [heat_keys()], []
    number = len(material.summary["tasks"])
    if number > MOST_TASKS:
        words = f"Shown are the {MOST_TASKS} of {number} tasks on which the methods differ most."
        parts.append(paragraph(words, class_="note"))
    for trial in sorted({material.trials, middle_trial(material.trials)}, reverse=True):
        regrets = task_regrets(material.comparison, material.ordered, trial)
        caption = f"Distance to the best method of each task, trial {trial}"
        shown.append(heat_table(regrets, material.focus, caption))
    return Section("tasks", "Task by task", joined(["Task by task"]), joined([*parts, beside(*shown)]))


def targets(material: Material) -> Section | None:
    """After how many trials a regret is reached, and in how many of the runs."""
    found = {name: material.figures(name).get("targets", {}) for name in material.ordered}
    goals = sorted({goal for own in found.values() for goal in own}, key=float, reverse=True)
    if not goals:
        return None
    head = ["method", *(f"regret ≤ {goal}" for goal in goals)]
    rows: list[list[Content | Cell]] = [
        [name, *(_target_cell(found[name].get(goal), material.trials) for goal in goals)]
        for name in material.ordered
    ]
    caption = (
        f"Median trials until a regret is reached (share of runs that reach it within {material.trials})"
    )
    note = paragraph("A median exists where at least half of the runs reach the regret.", class_="note")
    return Section(
        "targets", "Time to target", joined(["Time to target"]), joined([table(caption, head, rows), note])
    )


def _target_cell(value: dict[str, Any] | None, trials: int) -> Cell:
    if value is None:
        return Cell("–", "none")
    share = element("small", f"({value['reached']:.0%})")
    if value["trials"] is None:
        return Cell(joined([f"> {trials} ", share]), None, trials + 2.0 - value["reached"])
    return Cell(joined([f"{value['trials']:g} ", share]), None, value["trials"])


def speed(material: Material) -> Section | None:
    """Time of a suggestion: a chart on a log axis and the figures."""
    spans: list[Span] = []
    rows: list[list[Content | Cell]] = []
    for name in material.ordered:
        figures = material.figures(name)
        cost = figures.get("suggest")
        median = cost["median_ms"] if cost else figures["suggest_ms"]
        if median is None:
            continue
        high = cost["p95_ms"] if cost else None
        spans.append(Span(name, median, high, material.style(name)))
        more = [(high, high), (cost["total_seconds"] * 1e3,) * 2] if cost else [(None, None)] * 2
        cells = [
            Cell("–", "none") if ms is None else Cell(duration(ms), None, ms)
            for ms in (median, *(m for m, _ in more))
        ]
        rows.append([name, *cells])
    if not spans:
        return None
    spans.sort(key=lambda span: span.value)
    words = Words(
        "speed",
        "Time of a suggestion by method",
        ", ".join(f"{span.name} {duration(span.value)}" for span in spans) + ".",
        "time of one suggestion (log scale)",
    )
    drawn = figure(
        span_charts(spans, words), "Dots: medians. Lines: up to the 95th percentile, where it was noted."
    )
    caption = "Wall time of a suggestion; methods that play on the device are timed over all runs at once"
    return Section(
        "speed",
        "Speed",
        joined(["Seconds per suggestion"]),
        joined([drawn, table(caption, ["method", "median", "95th percentile", "all together"], rows)]),
    )


def collections(material: Material) -> Section | None:
    """Regret over trials in every collection by itself, where there are several."""
    parts = material.summary.get("collections", {})
    if len(parts) < 2:
        return None
    charts = []
    for place, (name, part) in enumerate(list(parts.items())[:MOST_COLLECTIONS]):
        lines = material.lines(part["methods"], "normalized_regret")
        ends = ", ".join(f"{line.name} {line.values[-1]:.4f}" for line in lines)
        words = Words(
            f"collection-{place}",
            f"Mean normalized regret over trials on {name}",
            f"At the end: {ends}.",
            "regret (log)",
        )
        title = joined([name_of(name), f", {counted(part['tasks'], 'task')}"])
        charts.append(block(title, figure(line_charts(lines, words, log=True, frames=(SMALL,)))))
    lines = material.lines(next(iter(parts.values()))["methods"], "normalized_regret")
    grid = element("div", *charts, class_="small-multiples")
    tables = beside(*(_collection_table(material, key) for key in ("normalized_regret", "rank")))
    return Section(
        "collections",
        "Collections",
        joined(["Collection by collection"]),
        joined([legend(lines), grid, tables]),
    )


def _collection_table(material: Material, key: str) -> Markup:
    """One row a method, one column a collection, then the mean over collections."""
    parts = material.summary["collections"]
    figures = [part["methods"] for part in parts.values()]
    head: list[Content] = [
        "method",
        *(f"{name} ({counted(part['tasks'], 'task')})" for name, part in parts.items()),
    ]
    if "macro" in material.summary:
        figures.append(material.summary["macro"])
        head.append("mean of the collections")
    values = np.asarray([[float(one[name][key][-1]) for one in figures] for name in material.ordered])
    best = values <= values.min(axis=0) + 1e-12
    digits = 4 if key == "normalized_regret" else 2
    rows: list[list[Content | Cell]] = [
        [
            name,
            *(Cell(f"{v:.{digits}f}", "best" if b else None, v) for v, b in zip(shown, marks, strict=True)),
        ]
        for name, shown, marks in zip(material.ordered, values.tolist(), best, strict=True)
    ]
    words = "Mean normalized regret" if key == "normalized_regret" else "Average rank"
    return table(f"{words} at trial {material.trials} by collection", head, rows)


def failures(material: Material) -> Section | None:
    """Runs that a method did not finish; their later trials count with the regret reached before."""
    found = material.summary.get("failures", [])
    if not found:
        return None
    counts = Counter(failure["method"] for failure in found)
    words = ", ".join(f"{name}: {number}" for name, number in sorted(counts.items()))
    intro = (
        "These runs ended early: the method raised an error, proposed what may not be tested, or hung. "
        f"Their regret stays where it was, 1 if nothing had been tested. By method: {words}."
    )
    rows: list[list[Content | Cell]] = [
        [f["method"], f["task"], str(f["seed"]), str(f["trial"]), f["reason"]] for f in found[:MOST_FAILURES]
    ]
    caption = (
        f"The first {MOST_FAILURES} of {len(found)} failures" if len(found) > MOST_FAILURES else "Failures"
    )
    shown = table(caption, ["method", "task", "seed", "trial", "reason"], rows, text_columns=(0, 1, 4))
    return Section("failures", "Failures", joined(["Failures"]), joined([paragraph(intro), shown]))


def provenance(material: Material) -> Section:
    """The command, versions, content hashes, seeds and machine that made the evaluation."""
    found = material.summary.get("provenance")
    heading = joined(["Provenance"])
    if not found:
        words = "The evaluation does not say how it was made: no command, versions or hashes were noted."
        return Section("provenance", "Provenance", heading, paragraph(words, class_="note"))
    parts = []
    if found.get("command"):
        parts.append(element("pre", element("code", found["command"]), tabindex="0"))
    entries: list[tuple[str, Content]] = []
    for key, word in (("machine", "Machine"), ("starts", "Starting points")):
        if found.get(key):
            entries.append((word, found[key]))
    if found.get("seeds"):
        entries.append(("Seeds", ", ".join(map(str, found["seeds"]))))
    entries += [
        (f"Collection {name}", element("code", value)) for name, value in found.get("collections", {}).items()
    ]
    if found.get("versions"):
        entries.append(
            ("Versions", ", ".join(f"{name} {value}" for name, value in found["versions"].items()))
        )
    parts += [definitions(entries)] if entries else []
    return Section("provenance", "Provenance", heading, joined(parts))
