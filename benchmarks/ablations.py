"""What is each part of the agent worth? One table: the default agent, and the default with one part changed.

    python benchmarks/ablations.py --collection ./svm288 --split holdout:15:0 --trials 50 --out runs/ablations
    python benchmarks/ablations.py --collection mlp --split kfold5 --folds all --trials 25 \\
        --out runs/ablations-mlp --updates 20 --arms default,start,q
    python benchmarks/ablations.py --table --out runs/ablations --keep svm288    # no run, the table alone

Each arm trains all seeds side by side and plays the test tasks of the split. Finished arms are kept under OUT
as one small JSON each and are not run again; Ctrl-C stops at the next checkpoint, and the same command goes
on. An arm that fails is recorded and does not stop the others (`--retry` runs it again). `--updates` and
`--episodes` make training cheap; the table says so. `--list` names the arms.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import studies_common as common
from ablation_arms import ARMS, DEFAULT, NAMES, Arm
from studies_common import MEAN, Record

from hyprl_jax.cli.common import SUCCESS
from hyprl_jax.config import EnvConfig, TrainConfig, from_dict, to_dict
from hyprl_jax.devices import use_all_cores
from hyprl_jax.errors import InputError
from hyprl_jax.policies import TrainedPolicy
from hyprl_jax.runs import RunFolder
from hyprl_jax.surfaces import Split, TaskTables, load_tables, make_split, number_of_folds, restrict


class Plan(NamedTuple):
    """One study."""

    collection: str
    split: str
    folds: tuple[int, ...]
    trials: int
    seeds: tuple[int, ...]
    updates: int | None
    episodes: int | None
    out: Path


def configuration(arm: Arm, plan: Plan) -> TrainConfig:
    """The complete configuration of an arm; InputError if its fields do not fit together."""
    base = TrainConfig(
        collections=(plan.collection,),
        split=plan.split,
        folds=plan.folds,
        seeds=plan.seeds,
        env=EnvConfig(trials=plan.trials),
    )
    values = to_dict(common.cheap(base, plan.updates, plan.episodes))
    for dotted, value in arm.fields.items():
        part, field = dotted.split(".")
        if field not in values[part]:
            raise InputError(f"arm {arm.name!r}: there is no field {dotted!r}")
        values[part][field] = value
    if values["network"]["cell"] == "attention":
        values["network"]["memory"] = max(values["network"]["memory"], plan.trials)
    return from_dict(values)


def possible(arm: Arm, seeds: int) -> bool:
    """Whether there are as many training seeds as an ensemble has members."""
    return arm.members <= seeds


def settings(plan: Plan, tables: TaskTables) -> Record:
    """What all arms have in common."""
    learner, usual = configuration(ARMS[0], plan).learner, TrainConfig().learner
    return {
        "study": "ablations",
        "collection": tables.collection,
        "content_hash": tables.content_hash,
        "split": plan.split,
        "folds": list(plan.folds),
        "trials": plan.trials,
        "seeds": list(plan.seeds),
        "updates": learner.updates,
        "episodes": learner.episodes,
        "usual": [usual.updates, usual.episodes],
    }


def run_arm(arm: Arm, plan: Plan, tables: TaskTables) -> Record:
    """Trains (ensembles: nothing but the default, once) and plays the test tasks of all folds."""
    config = configuration(arm, plan)
    policy, seconds, gain = None, 0.0, None
    if arm.method != "start":
        folder = plan.out / "runs" / (DEFAULT if arm.members else arm.name)
        policy, seconds = common.trained(config, folder)
        gain = None if arm.members else final_gain(folder)
    names: list[str] = []
    parts = []
    for fold in plan.folds:
        split = make_split(tables, plan.split, fold, config.validation_fraction)
        seeds, regret = _play(arm, plan, restrict(tables, split), split, policy)
        names += split.test
        parts.append(regret)
    return {
        "part": arm.part,
        "fields": arm.fields,
        "asks": arm.asks,
        "against": arm.against,
        "method": arm.method,
        "tasks": names,
        "seeds": list(seeds),
        "regret": common.figures(np.concatenate(parts)),
        "training_seconds": 0.0 if arm.members else seconds,
        "learned": None if policy is None else learned(policy),
        "gain": gain,
    }


def final_gain(folder: Path) -> list[float] | None:
    """How much lower the regret of the last weights is on validation tasks than that of what training started
    from, and its standard error over tasks: means over the trainings of a run. None where that was not
    measured."""
    last = RunFolder(folder).read_metrics()[-1]
    found = [last.get("gain"), last.get("gain_error")]
    return None if None in found else [round(float(value), 6) for value in found]


def _play(
    arm: Arm, plan: Plan, tables: TaskTables, split: Split, policy: TrainedPolicy | None
) -> tuple[tuple[int, ...], np.ndarray]:
    """Seeds (ensembles: their numbers) and regret `[D, S, T]` on the test tasks of a fold."""
    if not arm.members:
        return common.curves((arm.method,), tables, split, plan.trials, plan.seeds, policy)[arm.method]
    assert policy is not None, "ensembles are trained"
    regrets = []
    for first in range(0, len(plan.seeds) - arm.members + 1, arm.members):
        group = some_members(policy, tuple(range(first, first + arm.members)))
        played = common.curves((arm.method,), tables, split, plan.trials, plan.seeds, group)
        regrets.append(played[arm.method][1])
    return tuple(range(len(regrets))), np.concatenate(regrets, axis=1)


def some_members(policy: TrainedPolicy, places: tuple[int, ...]) -> TrainedPolicy:
    """The policy with the training seeds at these places only."""
    import jax

    chosen = np.asarray(places)
    params, numbers = jax.tree.map(lambda leaf: leaf[:, chosen], (policy.params, policy.numbers))
    seeds = tuple(policy.config.seeds[place] for place in places)
    config = dataclasses.replace(policy.config, seeds=seeds)
    return dataclasses.replace(policy, config=config, params=params, numbers=numbers)


def learned(policy: TrainedPolicy) -> list[int] | None:
    """How many of the trainings (folds x seeds) kept other weights than they started from, and of how many.

    Weights are kept only where they are better on the known tasks; a correction that is zero everywhere is
    the start. None without a correction, where that cannot be told from the weights.
    """
    if not policy.config.network.residual:
        return None
    judge = np.asarray(policy.params["judge"]["kernel"])
    changed = np.abs(judge).reshape(judge.shape[0] * judge.shape[1], -1).max(axis=1) > 0
    return [int(changed.sum()), int(changed.size)]


def make_table(study: Record) -> str:
    """The Markdown page of a study, from its records alone."""
    facts, done = study["study"], [unit for unit in study["units"] if not unit["failure"]]
    found = {unit["name"]: unit for unit in done}
    budgets = [name for name in done[0]["regret"] if name != MEAN] if done else []
    head = ["arm", *(f"trial {budget}" for budget in budgets), "mean over trials", "minus the default"]
    head += ["between seeds", "validation gain", "improved", "training s"]
    rows = [_row(unit, budgets, found) for unit in done]
    return "\n".join(
        [
            f"# Ablations: {facts['collection']}, {facts['split']}",
            "",
            _preface(facts, done),
            "",
            *(common.table(head, rows) if rows else ["No arm is finished."]),
            "",
            "## What the rows say",
            "",
            *(f"- {_words(unit, found)}" for unit in done),
            *_failures(study["units"]),
            "",
        ]
    )


def _preface(facts: Record, done: list[Record]) -> str:
    tasks = len(done[0]["tasks"]) if done else 0
    folds = ", ".join(map(str, facts["folds"]))
    updates, episodes = facts["usual"]
    cheap = [facts["updates"], facts["episodes"]] != facts["usual"]
    without = [arm.name for arm in ARMS if not possible(arm, len(facts["seeds"]))]
    note = f" (**cheap training**: the default has {updates} of {episodes})" if cheap else ""
    lines = [
        f"Made by `python benchmarks/ablations.py`: fold {folds}, {tasks} test tasks, {facts['trials']} "
        f"trials, training seeds {', '.join(map(str, facts['seeds']))}, {facts['updates']} updates of "
        f"{facts['episodes']} episodes{note}.",
        "Normalized regret, lower is better, with 95% bootstrap intervals over tasks (seeds averaged within "
        "a task). *Minus the default* is paired by task, of the mean over trials; *between seeds* is the "
        "standard deviation of the means of single training seeds; *validation gain* is how much lower the "
        "regret of the last weights is on validation tasks than that of the start, and in brackets the "
        "standard error over these tasks; *improved* counts trainings (folds times seeds) that kept other "
        "weights than they started from. With so many rows, about one in twenty differs by chance.",
    ]
    if without:
        lines.append(f"Not possible with {len(facts['seeds'])} training seeds: {', '.join(without)}.")
    return "\n\n".join(lines)


def _row(unit: Record, budgets: list[str], found: dict[str, Record]) -> list[str]:
    regret, spread = unit["regret"], common.seed_means(unit["regret"][MEAN])
    cells = [common.cell(common.by_task(regret[name])) for name in (*budgets, MEAN)]
    difference = ""
    if unit["name"] != DEFAULT and DEFAULT in found:
        own, other = _paired(unit, found[DEFAULT])
        difference = common.cell(own - other, sign=True)
    gain = "{:+.4f} ({:.4f})".format(*unit["gain"]) if unit.get("gain") else ""
    learned_words = "{}/{}".format(*unit["learned"]) if unit["learned"] else ""
    return [
        f"`{unit['name']}`",
        *cells,
        difference,
        f"{spread.std(ddof=1):.4f}" if len(spread) > 1 else "",
        gain,
        learned_words,
        f"{unit['training_seconds']:.0f}" if unit["training_seconds"] else "",
    ]


def _words(unit: Record, found: dict[str, Record]) -> str:
    """What is asked, and what the numbers answer."""
    fields = ", ".join(f"{name}={value}" for name, value in unit["fields"].items())
    line = f"`{unit['name']}`" + (f" ({fields})" if fields else "") + f": {unit['asks']}"
    answers = [
        _answer(unit, found[name])
        for name in dict.fromkeys((DEFAULT, unit["against"]))
        if name != unit["name"] and name in found
    ]
    if unit["name"] != DEFAULT and DEFAULT not in found:
        answers.insert(0, "the default was not run")
    text = "; ".join(answers)
    return line + (f" {text[0].upper()}{text[1:]}." if text else "")


def _answer(unit: Record, other: Record) -> str:
    own, reference = _paired(unit, other)
    name = "the default" if other["name"] == DEFAULT else f"`{other['name']}`"
    text = common.compared(own, reference, name)
    if text.startswith("no difference"):
        return text
    errors = [_seed_error(record) for record in (unit, other)]
    if any(error is None for error in errors):
        return f"{text}, from one training each"
    within = 2.0 * float(np.hypot(*errors))  # type: ignore[arg-type]
    return text + (", no more than training seeds differ" if abs((own - reference).mean()) < within else "")


def _seed_error(unit: Record) -> float | None:
    """Standard error of the mean over training seeds; None with one training, 0 without training."""
    means = common.seed_means(unit["regret"][MEAN])
    if unit["method"] == "start":
        return 0.0
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None


def _paired(unit: Record, other: Record) -> tuple[np.ndarray, np.ndarray]:
    """Means over trials and seeds `[D]` of two arms on the same tasks."""
    if unit["tasks"] != other["tasks"]:
        raise InputError(f"{unit['name']} and {other['name']} were played on different tasks: run them again")
    return common.by_task(unit["regret"][MEAN]), common.by_task(other["regret"][MEAN])


def _failures(units: list[Record]) -> list[str]:
    failed = [f"- `{unit['name']}`: {unit['failure']}" for unit in units if unit["failure"]]
    return ["", "## Failed", "", *failed] if failed else []


def units(plan: Plan, tables: TaskTables, wanted: tuple[str, ...]) -> dict[str, Callable[[], Record]]:
    """Name -> what runs it, for the wanted arms (all that are possible if none is named)."""
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise InputError(f"there is no arm {unknown[0]!r}: use some of {', '.join(NAMES)}")
    chosen = [arm for arm in ARMS if arm.name in wanted or not wanted]
    short = [arm.name for arm in chosen if not possible(arm, len(plan.seeds))]
    if short and wanted:
        raise InputError(f"{short[0]} needs more than {len(plan.seeds)} seeds: give more with --seeds")
    return {arm.name: partial(run_arm, arm, plan, tables) for arm in chosen if arm.name not in short}


def read_plan(given: argparse.Namespace, tables: TaskTables) -> Plan:
    """The options as a plan."""
    if given.folds == "all":
        folds = tuple(range(number_of_folds(tables, given.split)))
    else:
        folds = common.numbers(given.folds)
    return Plan(
        given.collection,
        given.split,
        folds,
        given.trials,
        common.numbers(given.seeds),
        given.updates,
        given.episodes,
        given.out,
    )


@common.tells_mistakes
def main(words: list[str] | None = None) -> int:
    """Runs the study or makes its table; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collection", default="mlp", help="a folder under meta_data/ or a path")
    parser.add_argument("--split", default="kfold5")
    parser.add_argument("--folds", default="0", help="as 0,1,2, or all: their test tasks are pooled")
    parser.add_argument("--trials", type=common.positive, default=25)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="training seeds")
    parser.add_argument("--updates", type=common.positive, help="of a training (default: the agent's)")
    parser.add_argument("--episodes", type=common.positive, help="in parallel (default: the agent's)")
    parser.add_argument("--arms", default="", help="as default,start,q (default: all)")
    common.add_options(parser, Path("runs/ablations"), "ablations")
    parser.add_argument("--list", action="store_true", help="name the arms and what they ask")
    given = parser.parse_args(words)
    if given.list:
        print("\n".join(f"{arm.name:24} {arm.asks}" for arm in ARMS))
        return SUCCESS
    code = SUCCESS
    if not given.table:
        use_all_cores()
        tables = load_tables(given.collection)
        plan = read_plan(given, tables)
        wanted = tuple(name for name in given.arms.split(",") if name)
        work = units(plan, tables, wanted)
        code = common.Study(plan.out, settings(plan, tables)).run(work, given.retry)
    common.show(given, "ablations", make_table, NAMES)
    return code


if __name__ == "__main__":
    sys.exit(main())
