"""The card of a built collection in words: what it holds, how it was computed, whose data, and what it is
not.

Everything in it is read from the plan and the tables, so that a card cannot disagree with its collection.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from hyprl_jax.surfaces.build.sources import SOURCES
from hyprl_jax.surfaces.build.tasks import TASKS

if TYPE_CHECKING:
    from hyprl_jax.surfaces.build.engine import Plan, Tables

_KNOWN_LIMITS = (
    "The data sets are small (48 to 384 training rows) and many are synthetic: good for pretraining and for "
    "tests of methods, not a benchmark of learning algorithms.",
    "Tasks of one group share rows or the draw they come from: split by `group`, never by task.",
    "Objectives come from a finite number of validation rows, so they come in steps of about one "
    "part in that number, and two configurations may tie. One training each: no repeats over training seeds.",
    "Patches of one photograph are spatially correlated, so their validation errors flatter the models; the "
    "comparison of configurations is not affected in kind.",
)


def card_text(plan: Plan, tables: Tables, name: str) -> str:
    """The Markdown text of `README.md`."""
    parts = [
        f"# {name}: {plan.recipe.title.lower()}",
        plan.recipe.description,
        _contents(plan, tables),
        _computed(plan),
        _columns(plan),
        _tasks(plan, tables),
        _sources(plan),
        _failures(tables),
        "## Known limits\n\n" + "\n".join(f"- {line}" for line in (*plan.recipe.notes, *_KNOWN_LIMITS)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _contents(plan: Plan, tables: Tables) -> str:
    rows = [
        ("tasks", len(plan.tasks)),
        ("groups (independent sources)", tables.tasks["group"].nunique()),
        ("configurations", len(plan.configs)),
        ("hyperparameters", len(list(plan.space))),
        ("evaluations", len(tables.evaluations)),
        ("trainings that failed", len(tables.failures)),
    ]
    return _table(("what", "number"), rows)


def _computed(plan: Plan) -> str:
    libraries = ", ".join(f"{key} {version(key)}" for key in ("numpy", "scikit-learn", "ConfigSpace", "jax"))
    return (
        "## How it was computed\n\n"
        f"```\npython -m hyprl_jax surfaces build {plan.recipe.name} --out DIR --seed {plan.seed}\n```\n\n"
        f"with {libraries}. Every number comes from a training that took place. The configurations are "
        "the default and a scrambled Sobol sample, the same for all tasks. With the same seed, machine and "
        "library versions a new build gives the same numbers, except measured seconds (so the hash differs)."
    )


def _columns(plan: Plan) -> str:
    recipe = plan.recipe
    rows = [
        ("objective", "", "minimize", "balanced validation error: mean over classes of their share of errors")
    ]
    rows += [("fidelity", recipe.fidelity.unit or "", "", recipe.fidelity.meaning)] if recipe.fidelity else []
    rows += [("cost", recipe.cost.unit or "", "", recipe.cost.meaning)]
    rows += [(one.name, one.unit or "", one.direction or "", one.meaning) for one in recipe.others]
    return "## Columns of evaluations.parquet\n\n" + _table(("column", "unit", "direction", "meaning"), rows)


def _tasks(plan: Plan, tables: Tables) -> str:
    top = tables.evaluations
    if "fidelity" in top:
        top = top[top["fidelity"] == top["fidelity"].max()]
    values = {task: rows.to_numpy() for task, rows in top.groupby("task")["objective"]}
    rows = []
    for name in plan.tasks:
        found = values.get(name, np.array([np.nan]))
        numbers = f"{np.nanmin(found):.3f} / {np.nanmedian(found):.3f} / {np.nanmax(found):.3f}"
        rows.append((name, TASKS[name].source, TASKS[name].describe(), numbers))
    heads = ("task", "group", "derivation", "best / median / worst")
    return "## Tasks\n\n" + _table(heads, rows)


def _sources(plan: Plan) -> str:
    used = dict.fromkeys(TASKS[name].source for name in plan.tasks)
    rows = [(SOURCES[name].name, SOURCES[name].origin, SOURCES[name].licence) for name in used]
    text = (
        "## Sources and licences of the data\n\n"
        "No row of any data set is in this folder, only what trained models scored. The group of a task is "
        "the name of its source.\n\n"
    )
    return text + _table(("source", "origin", "licence"), rows)


def _failures(tables: Tables) -> str:
    if not len(tables.failures):
        return ""
    shown = tables.failures.head(50)
    rows = [(row.task, row.config_id, row.error.replace("|", "/")) for row in shown.itertuples()]
    text = "## Trainings that failed\n\nTheir evaluations are missing. At most 50 are listed.\n\n"
    return text + _table(("task", "config_id", "error"), rows)


def _table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
