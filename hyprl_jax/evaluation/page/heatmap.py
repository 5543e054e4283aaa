"""Tasks by methods as a coloured table: how far each method is behind the best one of each task.

A table and not a picture, so that it can be read aloud, searched, sorted and copied. Colour repeats what the
numbers say, from blue (the best) to dark orange.
"""

from __future__ import annotations

from hyprl_jax.evaluation.findings import EQUAL, TaskRegrets
from hyprl_jax.evaluation.page.markup import Cell, Content, Markup, element, table

MOST_TASKS = 200
# Behind the best by less than ... : the level of the colour.
LIMITS = (EQUAL, 0.005, 0.02, 0.05, 0.1, 0.2)


def heat_level(behind: float) -> int:
    """0 for the best method of a task, up to 6 for those more than 0.2 behind."""
    return sum(behind >= limit for limit in LIMITS)


def heat_table(regrets: TaskRegrets, focus: str, caption: str) -> Markup:
    """One row a task, those first where `focus` is farthest behind; only the `MOST_TASKS` most different."""
    behind = regrets.behind()
    kept = set(regrets.most_different(MOST_TASKS).tolist())
    rows: list[list[Content | Cell]] = []
    for task in regrets.order(focus).tolist():
        if task in kept:
            best = float(regrets.values[:, task].min())
            cells = [_cell(float(value)) for value in behind[:, task]]
            rows.append([regrets.tasks[task], *cells, Cell(f"{best:.4f}", "none", best)])
    return table(caption, ["task", *regrets.methods, "best regret"], rows, class_="heat")


def heat_keys() -> Markup:
    """What the colours mean."""
    words = ["best", *(f"< {limit:g} behind" for limit in LIMITS[1:]), f"{LIMITS[-1]:g} or more behind"]
    return element(
        "ul", *(element("li", word, class_=f"h{level}") for level, word in enumerate(words)), class_="keys"
    )


def _cell(behind: float) -> Cell:
    level = heat_level(behind)
    words = "best" if level == 0 else "<0.001" if behind < 0.0005 else f"{behind:.3f}"
    return Cell(words, f"h{level}", behind)
