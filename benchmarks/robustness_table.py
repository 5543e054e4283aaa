"""The page of a robustness study, made from its JSONs alone: tables with intervals, and what they say.

Every sentence is made from the numbers that stand beside it, so that none can contradict them.
"""

from __future__ import annotations

import numpy as np
import studies_common as common
from studies_common import MEAN, Record

GUARDED, COLD, FACTOR, GUARD_TRIAL = ("policy", "policy_ensemble", "start"), "gp_ei", 1.10, "25"
PLAIN = "undisturbed"


def make_table(study: Record) -> str:
    """The Markdown page of a study."""
    units = [unit for unit in study["units"] if not unit["failure"]]
    plain = next((unit for unit in units if unit["name"] == PLAIN), None)
    facts = study["study"]
    lines = [f"# Robustness: {facts['collection']}, {facts['split']}", "", *_preface(facts), ""]
    lines += _seeds(plain) if plain else ["The test tasks as they are were not played.", ""]
    for part, title in (("disturbed", "Disturbed objectives"), ("unlike", "Unlike tasks")):
        mine = [unit for unit in units if unit["part"] == part]
        lines += _conditions(title, mine, plain) if mine else []
    guarded = [unit for unit in units if unit.get("guarded") and COLD in unit["methods"]]
    lines += _guard(guarded) if guarded else []
    sizes = [unit for unit in units if unit["part"] == "tasks"]
    lines += _sizes(sizes, facts) if sizes else []
    failed = [f"- `{unit['name']}`: {unit['failure']}" for unit in study["units"] if unit["failure"]]
    return "\n".join([*lines, *(["## Failed", "", *failed, ""] if failed else [])])


def _preface(facts: Record) -> list[str]:
    folds = ", ".join(map(str, facts["folds"]))
    return [
        f"Made by `python benchmarks/robustness.py`: fold {folds}, {facts['trials']} trials, training seeds "
        f"{', '.join(map(str, facts['seeds']))}; random conditions are means over {facts['draws']} draws. "
        f"The run was trained with {facts['run_updates']} updates of {facts['run_episodes']} episodes.",
        "",
        "Normalized regret, lower is better, with 95% bootstrap intervals over tasks (seeds and draws "
        "averaged within a task); differences are paired by task, of the mean over trials.",
    ]


def _seeds(plain: Record) -> list[str]:
    rows = []
    for method, played in plain["methods"].items():
        figure = played["regret"][MEAN]
        means = common.seed_means(figure)
        several = len(means) > 1
        rows.append(
            [
                f"`{method}`",
                common.cell(common.by_task(figure)),
                str(len(means)),
                f"{means.std(ddof=1):.4f}" if several else "",
                f"{means.min():.4f}" if several else "",
                f"{means.max():.4f}" if several else "",
            ]
        )
    head = ["method", "mean over trials", "seeds", "standard deviation", "lowest", "highest"]
    return [
        f"## Spread over seeds ({len(plain['tasks'])} test tasks as they are)",
        "",
        *common.table(head, rows),
        "",
    ]


def _conditions(title: str, units: list[Record], plain: Record | None) -> list[str]:
    """Rows of every condition and method, and what each condition does to each policy."""
    rows, words = [], []
    for unit in units:
        words.append(f"- `{unit['name']}`: {unit['says']}")
        for method, played in unit["methods"].items():
            other = plain["methods"].get(method) if plain else None
            rows.append(
                _row([f"`{unit['name']}`", f"`{method}`"], played["regret"], other and other["regret"])
            )
            if other and method in GUARDED:
                own, before = common.by_task(played["regret"][MEAN]), common.by_task(other["regret"][MEAN])
                words[-1] += f" `{method}`: {common.compared(own, before, 'the tasks as they are')}."
    head = ["condition", "method", *_heads(units[0]), "minus undisturbed"]
    return [f"## {title}", "", *common.table(head, rows), "", *words, ""]


def _row(labels: list[str], regret: Record, other: Record | None) -> list[str]:
    cells = [common.cell(common.by_task(figure)) for figure in regret.values()]
    difference = ""
    if other is not None:
        difference = common.cell(common.by_task(regret[MEAN]) - common.by_task(other[MEAN]), sign=True)
    return [*labels, *cells, difference]


def _heads(unit: Record) -> list[str]:
    regret = next(iter(unit["methods"].values()))["regret"]
    return ["mean over trials" if name == MEAN else f"trial {name}" for name in regret]


def _guard(units: list[Record]) -> list[str]:
    lines = [f"## Guard: at most {FACTOR:.2f} times `{COLD}` on tasks unlike all known ones", ""]
    for unit in units:
        lines += [
            f"- `{unit['name']}`: {guard_words(method, unit)}"
            for method in GUARDED
            if method in unit["methods"]
        ]
    return [*lines, ""]


def guard_words(method: str, unit: Record) -> str:
    """Whether a method keeps to the guard under a condition, and how sure that is."""
    regret = unit["methods"][method]["regret"]
    trial = GUARD_TRIAL if GUARD_TRIAL in regret else next(name for name in reversed(regret) if name != MEAN)
    own, cold = (common.by_task(unit["methods"][name]["regret"][trial]) for name in (method, COLD))
    if cold.mean() > 0:
        ratio = round(float(own.mean() / cold.mean()), 2)
    else:
        ratio = 1.0 if own.mean() == 0 else np.inf
    holds = ratio <= FACTOR
    text = f"`{method}` has {own.mean():.4f} at trial {trial}, {ratio:.2f} times `{COLD}` ({cold.mean():.4f})"
    mean, low, high = common.estimate(own - FACTOR * cold)
    beyond = len(own) > 1 and (high < 0 if holds else low > 0)
    sure = "beyond noise" if beyond else "not beyond noise"
    over = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}] over the limit"
    return f"{text}: the guard {'holds' if holds else 'fails'}, {sure} ({over})."


def _sizes(units: list[Record], facts: Record) -> list[str]:
    """Rows of every number of known tasks and method, subsets averaged; the policy against its start."""
    rows, words = [], []
    sizes = sorted({unit["size"] for unit in units})
    for size in sizes:
        mine = [unit for unit in units if unit["size"] == size]
        merged = {
            method: _merged([unit["methods"][method]["regret"] for unit in mine])
            for method in mine[0]["methods"]
        }
        start = merged.get("start")
        label = f"{size} ({len(mine)} subset{'s' * (len(mine) > 1)})"
        rows += [
            _row([label, f"`{method}`"], regret, start if method != "start" else None)
            for method, regret in merged.items()
        ]
        for method in ("policy", "policy_ensemble"):
            if method in merged and start:
                own, other = common.by_task(merged[method][MEAN]), common.by_task(start[MEAN])
                words.append(f"- {size} known tasks, `{method}`: {common.compared(own, other, '`start`')}.")
    head = ["known tasks", "method", *_heads(units[0]), "minus start"]
    return [
        f"## Number of known tasks (fold {facts['folds'][0]})",
        "",
        f"Trained anew with {facts['updates']} updates of {facts['episodes']} episodes on nested subsets of "
        "the known tasks, validation tasks included.",
        "",
        *common.table(head, rows),
        "",
        *words,
        "",
    ]  # fmt: skip


def _merged(regrets: list[Record]) -> Record:
    """The mean of the figures of several subsets, `{name: [D][1]}`."""
    return {
        name: np.mean([common.by_task(regret[name]) for regret in regrets], axis=0)[:, None]
        for name in regrets[0]
    }
