"""The page of a study across collections, made from its JSONs alone: tables, and what they say.

Every sentence is made from the numbers that stand beside it, so that none can contradict them; what cannot be
told apart is said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import studies_common as common
from studies_common import BUDGETS, SHOWN, Record

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import average_ranks
from hyprl_jax.evaluation.statistics import LEVEL, RESAMPLES

PARTS = ("cold", "prior")
OURS = "policy"
_TITLES = {
    "cold": "Nothing is known of the new space (`cold`)",
    "prior": "Tasks of the new space are prior data, without training on them (`prior`)",
}


def make_table(study: Record) -> str:
    """The Markdown page of a study; InputError without any unit."""
    facts = study["study"]
    if not study["units"]:
        raise InputError("no unit of the study is finished, so there is no table: run it without --table")
    done = [unit for unit in study["units"] if not unit["failure"]]
    lines = [f"# Across collections: {', '.join(facts['collections'])}", "", *_preface(facts), ""]
    for part in PARTS:
        mine = [unit for unit in done if unit["part"] == part]
        lines += _part(part, mine) if mine else []
    failed = [f"- `{unit['name']}`: {unit['failure']}" for unit in study["units"] if unit["failure"]]
    return "\n".join([*lines, *(["## Failed", "", *failed, ""] if failed else [])])


def _preface(facts: Record) -> list[str]:
    limit = f"at most {facts['tasks']} tasks of " if facts["tasks"] else ""
    shared = facts["shared"]
    rule = (
        f"of the groups that it has in common with others {shared:.0%} are played and do not train, the rest "
        "train and are not played"
        if shared
        else "its groups that occur in others too are not played"
    )
    return [
        "Made by `python benchmarks/across.py`. Each collection is held out in turn: the policy trains on "
        f"the others and plays {limit}the one it never saw. No source dataset "
        f"is on both sides: {rule}.",
        "",
        f"Trainings: {facts['updates']} updates of {facts['episodes']} episodes of {facts['train_trials']} "
        f"trials, seeds {', '.join(map(str, facts['seeds']))}; methods that draw are means over "
        f"{facts['plays']} plays.",
        "",
        "Normalized regret, lower is better, with 95% bootstrap intervals over tasks (seeds averaged within "
        "a task). In means over collections each counts the same, and intervals resample tasks within "
        "collections: they say nothing about further collections. Ranks are averages over all tasks. With so "
        "many comparisons about one in twenty differs by chance.",
    ]  # fmt: skip


def budgets_of(units: Sequence[Record]) -> list[int]:
    """The trials that are shown: those of `BUDGETS` that some collection has, else the last of the
    shortest."""
    found = [budget for budget in BUDGETS if any(budget <= unit["trials"] for unit in units)]
    return found or [min(unit["trials"] for unit in units)]


def at(unit: Record, method: str, budget: int) -> np.ndarray:
    """Regret `[D]` of a method at a trial."""
    return np.asarray(unit["methods"][method]["regret"], np.float64)[:, budget - 1]


def over_collections(values: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Mean over collections of their means over tasks, and its interval, of values `[D]` a collection."""
    draws = []
    for number, own in enumerate(values):
        count = len(own)
        random = np.random.default_rng([number, count])
        weights = random.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES)
        draws.append(weights @ own / count)
    tail = (1.0 - LEVEL) / 2.0
    mean = float(np.mean([own.mean() for own in values]))
    low, high = np.quantile(np.mean(draws, axis=0), [tail, 1.0 - tail])
    ends = (mean, min(float(low), mean), max(float(high), mean))
    return tuple(round(value, SHOWN) + 0.0 for value in ends)  # type: ignore[return-value]


def ranks(units: Sequence[Record], methods: Sequence[str], budget: int) -> np.ndarray:
    """Average rank `[M]` of the methods over all tasks of the units."""
    losses = [np.concatenate([at(unit, method, budget) for unit in units]) for method in methods]
    return average_ranks(np.asarray(losses)).mean(axis=1)


def _part(part: str, units: list[Record]) -> list[str]:
    budgets, methods = budgets_of(units), list(units[0]["methods"])
    heads = [f"trial {budget}" for budget in budgets]
    return [
        f"## {_TITLES[part]}",
        "",
        *_sides(units),
        "",
        *common.table(["collection", "method", *heads], _rows(units, methods, budgets)),
        "",
        f"### Mean over {len(units)} collection{'s' * (len(units) > 1)}, and rank",
        "",
        *common.table(
            ["method", *heads, *(f"rank at {b}" for b in budgets)], _means(units, methods, budgets)
        ),
        "",
        *_missing(units, budgets),
        *(f"- {_words(units, other, budgets)}" for other in methods if other != OURS),
        "",
    ]


def _sides(units: list[Record]) -> list[str]:
    head = [
        "held out",
        "tasks played",
        "left out",
        "candidates",
        "trained on (tasks)",
        "taken out",
        "seconds",
    ]
    rows = [
        [
            f"`{unit['collection']}`",
            str(len(unit["tasks"])),
            str(unit["left_out"]),
            str(unit["candidates"]),
            ", ".join(f"{name} ({tasks})" for name, tasks in unit["trained_on"].items()),
            str(unit["not_trained"]),
            f"{unit['training_seconds']:.0f}",
        ]
        for unit in units
    ]
    return [
        *common.table(head, rows),
        "",
        "*Left out* are tasks of the held-out collection whose dataset trains, *taken out* are tasks of the "
        "others whose dataset is played.",
    ]


def _rows(units: list[Record], methods: list[str], budgets: list[int]) -> list[list[str]]:
    return [
        [
            f"`{unit['collection']}`",
            f"`{method}`",
            *(common.cell(at(unit, method, b)) if b <= unit["trials"] else "" for b in budgets),
        ]
        for unit in units
        for method in methods
    ]


def _means(units: list[Record], methods: list[str], budgets: list[int]) -> list[list[str]]:
    enough = {budget: [unit for unit in units if budget <= unit["trials"]] for budget in budgets}
    places = {budget: ranks(enough[budget], methods, budget) for budget in budgets}
    rows = []
    for number, method in enumerate(methods):
        means = []
        for budget in budgets:
            mean, low, high = over_collections([at(unit, method, budget) for unit in enough[budget]])
            means.append(f"{mean:.4f} [{low:.4f}, {high:.4f}]")
        rows.append([f"`{method}`", *means, *(f"{places[budget][number]:.2f}" for budget in budgets)])
    return rows


def _missing(units: list[Record], budgets: list[int]) -> list[str]:
    """Which collections have no trial so late, and which have one task."""
    lines = []
    for budget in budgets:
        short = [f"`{unit['collection']}`" for unit in units if unit["trials"] < budget]
        if short:
            lines.append(f"Trial {budget} is without {', '.join(short)}, which has fewer configurations.")
    single = [f"`{unit['collection']}`" for unit in units if len(unit["tasks"]) == 1]
    if single:
        lines.append(f"One task alone of {', '.join(single)} was played: intervals do not see its spread.")
    return [*lines, ""] if lines else []


def _words(units: list[Record], other: str, budgets: list[int]) -> str:
    """At which trials the policy is below, above or not told apart from another method, on average over
    collections."""
    said: dict[str, list[str]] = {"below": [], "above": [], "the same": [], "not told apart": []}
    for budget in budgets:
        enough = [unit for unit in units if budget <= unit["trials"]]
        differences = [at(unit, OURS, budget) - at(unit, other, budget) for unit in enough]
        if all(len(one) < 2 for one in differences):
            return f"`{OURS}` against `{other}`: one task a collection, nothing can be said."
        mean, low, high = over_collections(differences)
        same = not any(one.any() for one in differences)
        which = "the same" if same else "below" if high < 0 else "above" if low > 0 else "not told apart"
        said[which].append(f"{budget} ({mean:+.4f} [{low:+.4f}, {high:+.4f}])")
    parts = [f"{which} at trial {', '.join(at_trials)}" for which, at_trials in said.items() if at_trials]
    return f"`{OURS}` against `{other}`: {'; '.join(parts)}."
