"""How do policies stand what they were not trained for? Seeds, disturbed objectives, few and unlike tasks.

    hyprl train --collections mlp --split kfold5 --fold 0 --seed 0,1,2,3,4 --out runs/mlp
    python benchmarks/robustness.py runs/mlp --out runs/robustness-mlp
    python benchmarks/robustness.py runs/mlp --out runs/robustness-mlp --parts seeds,disturbed,unlike
    python benchmarks/robustness.py --table --out runs/robustness-mlp --keep mlp    # no run, the table alone

Parts: `seeds` (the spread over training seeds), `disturbed` (the objective of the test tasks with noise, in
another unit, or of the wrong sign), `tasks` (trained anew with 5, 10, 20 and 40 known tasks, nested subsets),
`unlike` (test tasks that no known task resembles; the guard against negative transfer: is the policy at most
1.10 times as far from the best as a cold `gp_ei` at trial 25?). Only test tasks are changed; known tasks and
metafeatures stay as they are. Finished conditions are kept under OUT as one small JSON each and are not run
again; Ctrl-C stops, and the same command goes on; a condition that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import studies_common as common
from robustness_table import PLAIN, make_table
from studies_common import Record

from hyprl_jax.baselines import make_baseline
from hyprl_jax.cli.common import SUCCESS
from hyprl_jax.config import TrainConfig
from hyprl_jax.devices import use_all_cores
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.play import POLICIES
from hyprl_jax.policies import TrainedPolicy, load_policy
from hyprl_jax.surfaces import TaskTables, load_tables, make_split, restrict

PARTS = ("seeds", "disturbed", "tasks", "unlike")
METHODS = ("policy", "policy_ensemble", "start", "gp_ei", "random", "portfolio")

Random = np.random.Generator
Change = Callable[[np.ndarray, np.ndarray, Random], np.ndarray]
"""`(values [C] with NaN where missing, encodings [C, F], random) -> values [C]` of one test task."""


class Condition(NamedTuple):
    """What is done to the test tasks."""

    name: str
    part: str
    says: str
    change: Change
    random: bool = False
    """Draws random numbers: done several times."""
    true_score: bool = False
    """What is revealed is disturbed, and what was chosen by it is scored by the values as they are."""
    guarded: bool = False
    """Like no known task: the guard against negative transfer applies."""


def spread(values: np.ndarray) -> float:
    """Range of a task: largest less smallest value."""
    return float(np.nanmax(values) - np.nanmin(values))


def noise(values: np.ndarray, encodings: np.ndarray, random: Random, share: float) -> np.ndarray:
    """Normal noise with a standard deviation of `share` of the task's range on every result."""
    return values + share * spread(values) * random.normal(size=values.shape)


def linear(
    values: np.ndarray, encodings: np.ndarray, random: Random, factor: float = 1.0, ranges: float = 0.0
) -> np.ndarray:
    """`factor` times the values, and `ranges` of their own ranges added."""
    return factor * values + ranges * spread(values)


def reverse(values: np.ndarray, encodings: np.ndarray, random: Random) -> np.ndarray:
    """The surface upside down within its own range."""
    return np.nanmin(values) + np.nanmax(values) - values


def permute(values: np.ndarray, encodings: np.ndarray, random: Random) -> np.ndarray:
    """The same values at other configurations, by chance; missing ones stay missing."""
    there = ~np.isnan(values)
    changed = values.copy()
    changed[there] = random.permutation(values[there])
    return changed


def smooth(values: np.ndarray, encodings: np.ndarray, random: Random) -> np.ndarray:
    """A draw of a rational quadratic process (exponent 2, lengthscale 1) over the encodings, stretched to the
    task's range; missing values stay missing."""
    places = np.asarray(encodings, np.float64)
    lengths = (places**2).sum(axis=1)
    squares = np.maximum(lengths[:, None] + lengths - 2.0 * places @ places.T, 0.0)
    covariance = (1.0 + squares / 4.0) ** -2 + 1e-6 * np.eye(len(places))
    drawn = np.linalg.cholesky(covariance) @ random.normal(size=len(places))
    drawn[np.isnan(values)] = np.nan
    unit = (drawn - np.nanmin(drawn)) / max(spread(drawn), 1e-12)
    return np.nanmin(values) + spread(values) * unit


CONDITIONS: tuple[Condition, ...] = (
    Condition(PLAIN, "seeds", "The test tasks as they are.", linear),
    *(
        Condition(
            f"noise_{share}",
            "disturbed",
            f"Noise of {share:.0%} of the task's range on every revealed result; scored is the true value of "
            "the configuration with the best noisy result.",
            partial(noise, share=share),
            random=True,
            true_score=True,
        )
        for share in (0.01, 0.03, 0.1)
    ),
    Condition("shifted", "disturbed", "Three ranges added to every value.", partial(linear, ranges=3.0)),
    Condition("times_10", "disturbed", "All values times 10.", partial(linear, factor=10.0)),
    Condition("times_0.1", "disturbed", "All values times 0.1.", partial(linear, factor=0.1)),
    Condition(
        "wrong_sign",
        "disturbed",
        "All values negated by mistake: best is what was worst.",
        partial(linear, factor=-1.0),
        guarded=True,
    ),
    Condition("reversed", "unlike", "Surfaces upside down within their ranges.", reverse, guarded=True),
    Condition(
        "permuted",
        "unlike",
        "Values of configurations exchanged at random.",
        permute,
        random=True,
        guarded=True,
    ),
    Condition(
        "smooth",
        "unlike",
        "Random smooth surfaces: a rational quadratic process with lengthscale 1.",
        smooth,
        random=True,
        guarded=True,
    ),
)


def disturbed(tables: TaskTables, tasks: Sequence[str], change: Change, random: Random) -> TaskTables:
    """The tables with `change` done to the objective of `tasks`, in their order, and to nothing else."""
    objective = tables.objective.copy()
    for task in tasks:
        row = tables.tasks.index(task)
        objective[row] = change(objective[row], tables.encodings, random)
    return dataclasses.replace(tables, objective=objective)


class Plan(NamedTuple):
    """One study."""

    config: TrainConfig
    """Of the run; its collection is `collection`."""
    policy: TrainedPolicy
    collection: str
    folds: tuple[int, ...]
    trials: int
    methods: tuple[str, ...]
    draws: int
    sizes: tuple[int, ...]
    out: Path


def run_condition(condition: Condition, plan: Plan, tables: TaskTables) -> Record:
    """Plays the test tasks of all folds under a condition, as often as it draws."""
    parts, names = [], list[str]()
    for fold in plan.folds:
        split = make_split(tables, plan.config.split, fold, plan.config.validation_fraction)
        mine, drawn = restrict(tables, split), []
        names += split.test
        for draw in range(plan.draws if condition.random else 1):
            seen = disturbed(mine, split.test, condition.change, np.random.default_rng([draw, fold]))
            truth = mine if condition.true_score else seen
            drawn.append(common.curves(plan.methods, truth, split, plan.trials, (0,), plan.policy, seen=seen))
        parts.append(drawn)
    return {
        "part": condition.part,
        "says": condition.says,
        "guarded": condition.guarded,
        "tasks": names,
        "draws": len(parts[0]),
        "methods": _pooled(parts),
    }


def _pooled(parts: list[list[dict[str, tuple[tuple[int, ...], np.ndarray]]]]) -> Record:
    """Figures of each method from `parts [folds][draws]`: tasks side by side, the mean over draws."""
    found = {}
    for method, (seeds, _) in parts[0][0].items():
        regret = np.concatenate([np.mean([one[method][1] for one in drawn], axis=0) for drawn in parts])
        found[method] = {"seeds": list(seeds), "regret": common.figures(regret)}
    return found


def nested(tables: TaskTables, known: Sequence[str], size: int, draw: int) -> list[str]:
    """`size` of the known tasks: the first of an order of whole groups that depends on `draw` alone, so that
    every subset holds all smaller ones."""
    group = dict(zip(tables.tasks, tables.groups, strict=True))
    names = sorted({group[task] for task in known})
    order = np.random.default_rng(draw).permutation(len(names))
    shuffled = [task for place in order for task in known if group[task] == names[place]]
    return shuffled[:size]


def run_size(size: int, draw: int, plan: Plan, tables: TaskTables) -> Record:
    """Trains with some of the known tasks of the first fold and plays its test tasks."""
    split = make_split(tables, plan.config.split, plan.folds[0], plan.config.validation_fraction)
    known = nested(tables, (*split.train, *split.validation), size, draw)
    file = plan.out / "splits" / f"{size}-{draw}.json"
    file.parent.mkdir(exist_ok=True)
    sides: dict[str, Any] = {"train": sorted(known), "test": list(split.test)}
    if split.config_ids is not None:
        sides["config_ids"] = list(split.config_ids)
    common.write_json(file, sides)
    config = dataclasses.replace(plan.config, split=str(file.resolve()), folds=(0,))
    policy, seconds = common.trained(config, plan.out / "runs" / f"tasks_{size}-{draw}")
    fewer = make_split(tables, config.split, 0, config.validation_fraction)
    mine = restrict(tables, fewer)
    found = common.curves(plan.methods, mine, fewer, plan.trials, (0,), policy)
    facts = {"part": "tasks", "says": f"Trained with {size} known tasks.", "tasks": list(fewer.test)}
    return {
        **facts,
        "size": size,
        "draw": draw,
        "draws": 1,
        "training_seconds": seconds,
        "methods": _pooled([[found]]),
    }


def units(
    plan: Plan, tables: TaskTables, parts: Sequence[str], subsets: int
) -> dict[str, Callable[[], Record]]:
    """Name -> what runs it. The test tasks as they are always belong to it."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"there is no part {unknown[0]!r}: use some of {', '.join(PARTS)}")
    found: dict[str, Callable[[], Record]] = {
        condition.name: partial(run_condition, condition, plan, tables)
        for condition in CONDITIONS
        if condition.part in (*parts, "seeds")
    }
    if "tasks" in parts:
        split = make_split(tables, plan.config.split, plan.folds[0], plan.config.validation_fraction)
        most = len(split.train) + len(split.validation)
        for size in sorted({min(size, most) for size in plan.sizes}):
            for draw in range(subsets):
                found[f"tasks_{size}-{draw}"] = partial(run_size, size, draw, plan, tables)
    return found


def read_plan(given: argparse.Namespace) -> tuple[Plan, TaskTables]:
    """The options as a plan, gaps filled from the run, and the tables of its collection."""
    if given.run is None:
        raise InputError("a study needs a run: name the folder that `hyprl train` wrote, or add --table")
    policy = load_policy(given.run)
    config = policy.config
    collection = given.collection or config.collections[0]
    tables = load_tables(collection)
    if tables.collection not in policy.collections:
        raise InputError(f"the run was not trained on {tables.collection!r}: name one of its collections")
    folds = common.numbers(given.folds) if given.folds else config.folds
    if not set(folds) <= set(config.folds):
        raise InputError(f"the run has the folds {list(config.folds)}: name some of them")
    several = len(config.seeds) > 1
    usual = tuple(method for method in METHODS if several or method != "policy_ensemble")
    methods = tuple(given.methods.split(",")) if given.methods else usual
    for method in methods:
        if method not in POLICIES:
            make_baseline(method, config.surrogate)  # refuses unknown ones
    anew = dataclasses.replace(config, collections=(collection,))
    plan = Plan(
        config=common.cheap(anew, given.updates, given.episodes),
        policy=policy,
        collection=collection,
        folds=folds,
        trials=given.trials or config.env.trials,
        methods=methods,
        draws=given.draws,
        sizes=common.numbers(given.sizes),
        out=given.out,
    )
    return plan, tables


def settings(plan: Plan, tables: TaskTables) -> Record:
    """What all conditions have in common."""
    run = plan.policy.config.learner
    return {
        "study": "robustness",
        "collection": tables.collection,
        "content_hash": tables.content_hash,
        "split": plan.config.split,
        "folds": list(plan.folds),
        "trials": plan.trials,
        "seeds": list(plan.config.seeds),
        "methods": list(plan.methods),
        "draws": plan.draws,
        "run_updates": run.updates,
        "run_episodes": run.episodes,
        "updates": plan.config.learner.updates,
        "episodes": plan.config.learner.episodes,
    }


@common.tells_mistakes
def main(words: list[str] | None = None) -> int:
    """Runs the study or makes its table; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a trained run")
    parser.add_argument("--collection", help="one of the run's (default: its first)")
    parser.add_argument("--folds", help="of the run, as 0,1 (default: all of them)")
    parser.add_argument("--trials", type=common.positive, help="default: those of the run")
    parser.add_argument("--methods", help=f"default: {','.join(METHODS)}")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--draws", type=common.positive, default=3, help="of the random conditions")
    parser.add_argument("--sizes", default="5,10,20,40", help="numbers of known tasks (at most all)")
    parser.add_argument("--subsets", type=common.positive, default=2, help="nested subsets of each size")
    parser.add_argument(
        "--updates", type=common.positive, help="of the trainings of `tasks` (default: the run's)"
    )
    parser.add_argument(
        "--episodes", type=common.positive, help="of the trainings of `tasks` (default: the run's)"
    )
    common.add_options(parser, Path("runs/robustness"), "robustness")
    given = parser.parse_args(words)
    code, order = SUCCESS, [condition.name for condition in CONDITIONS]
    if not given.table:
        use_all_cores()
        plan, tables = read_plan(given)
        work = units(plan, tables, given.parts.split(","), given.subsets)
        code = common.Study(plan.out, settings(plan, tables)).run(work, given.retry)
    common.show(given, "robustness", make_table, order)
    return code


if __name__ == "__main__":
    sys.exit(main())
