"""What is a policy worth in a search space that it never saw? One collection is held out, others train.

    python benchmarks/across.py --collections mlp,svm,boosting,./svm288 --shared 0.5 --out runs/across
    python benchmarks/across.py --collections mlp,svm,boosting,./svm288 --shared 0.5 --list
    python benchmarks/across.py --table --out runs/across --keep all    # no run, the table alone

Parts: `cold` (nothing is known of the new space; trained from cold starts) and `prior` (the usual agent,
trained on the other collections, is given tasks of the new space as prior data, in five folds). No source
dataset stands on both sides: a group of the held-out collection that occurs in another one too is not played;
with `--shared S` a share S of such groups is played and taken out of the training instead. Finished units,
a part of one held-out collection each, are kept under OUT as one JSON and are not run again; Ctrl-C stops at
the next checkpoint, and the same command goes on; a unit that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import studies_common as common
from across_sides import SPLIT, Sides, sides, source
from across_table import PARTS, make_table
from studies_common import Record

from hyprl_jax import training
from hyprl_jax.baselines import TRANSFER, make_baseline
from hyprl_jax.cli.common import INTERRUPTED, SUCCESS
from hyprl_jax.config import AugmentConfig, EnvConfig, SurrogateConfig, TrainConfig
from hyprl_jax.devices import use_all_cores
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.hosted import Hosting, play_hosted
from hyprl_jax.evaluation.play import POLICIES
from hyprl_jax.evaluation.studies import is_hosted
from hyprl_jax.policies import TrainedPolicy
from hyprl_jax.surfaces import Split, TaskTables, find_collection, load_tables, make_split
from hyprl_jax.versions import collect_versions

METHODS = {
    "cold": ("policy", "start", "random", "gp_ei"),
    "prior": ("policy", "start", "prior_ei", "mean_list", "portfolio"),
}
NEEDS_TASKS = ("prior_ei", "mean_list", "portfolio", *TRANSFER)
"""Methods that are nothing without known tasks: left out of `cold`."""
COLD = SurrogateConfig(
    prior="cold", lengthscale=0.5, encoding_variance=1.0, noise=0.1, gain_weight=0.0, fit=False
)
"""As the policy that ships with the package is trained."""
NOTHING = "nothing is known"
FOLDS = 5


class Plan(NamedTuple):
    """One study."""

    paths: dict[str, str]
    """Name of each collection -> what it was given as."""
    tables: dict[str, TaskTables]
    """Of the collections that can be read."""
    broken: dict[str, str]
    """What is wrong with the others."""
    trials: int
    train_trials: int
    seeds: tuple[int, ...]
    plays: int
    tasks: int
    shared: float
    extra: tuple[str, ...]
    updates: int | None
    episodes: int | None
    out: Path


def configuration(part: str, names: Sequence[str], plan: Plan) -> TrainConfig:
    """How a policy is trained on these collections, as usual or, for `cold`, from cold starts.

    Episodes are offered as many candidates as the smallest collection needs beside the widest."""
    sizes = [len(plan.tables[name].config_ids) for name in names]
    needed = -(-plan.train_trials * max(sizes) // min(sizes))
    usual = 160 if part == "cold" else AugmentConfig().candidates
    config = TrainConfig(
        collections=tuple(plan.paths[name] for name in names),
        split=SPLIT,
        seeds=plan.seeds,
        env=EnvConfig(trials=plan.train_trials),
        augment=AugmentConfig(candidates=max(usual, needed)),
    )
    if part == "cold":
        config = dataclasses.replace(config, surrogate=COLD, updates_per_chunk=10, validation_plays=4)
    return common.cheap(config, plan.updates, plan.episodes)


def train_on_others(part: str, held: str, found: Sides, plan: Plan) -> tuple[TrainedPolicy, float]:
    """The policy of a part that never saw `held`, and the seconds that its training took.

    All tasks of the other collections train or validate. No split by name leaves the test side empty, so the
    training is given its sides here."""
    config = configuration(part, list(found.splits), plan)
    given = lambda tables, *_: found.splits[tables.collection]
    with mock.patch.object(training, "make_split", given):
        policy, seconds = common.trained(config, plan.out / "runs" / f"{part}-{held}")
    tested = zip(plan.tables[held].tasks, plan.tables[held].groups, strict=True)
    groups = {source(group) for task, group in tested if task in found.played}
    known = {source(group) for group in policy.groups[0]}
    if held in policy.collections or groups & known:
        raise InputError(f"the policy in {plan.out / 'runs'} was trained on what is played: remove it")
    return policy, seconds


def unknowing(tables: TaskTables) -> TaskTables:
    """The tables with one more task, which is the same everywhere: a known side that tells nothing."""
    one = lambda values, filler: np.concatenate([values, np.full((1, values.shape[1]), filler)])
    return dataclasses.replace(
        tables,
        tasks=(*tables.tasks, NOTHING),
        groups=(*tables.groups, NOTHING),
        objective=one(tables.objective, 0.0),
        cost=one(tables.cost, np.nan),
        metafeatures=one(tables.metafeatures, np.nan),
    )


def run_unit(part: str, held: str, plan: Plan) -> Record:
    """Trains on the other collections and plays the held-out one."""
    if held in plan.broken:
        raise InputError(plan.broken[held])
    found, tables = sides(held, plan.tables, plan.shared, plan.tasks), plan.tables[held]
    policy, training_seconds = train_on_others(part, held, found, plan)
    trials = min(plan.trials, len(tables.config_ids))
    began = time.perf_counter()
    pieces = []
    for mine, split in _folds(part, tables, found.played):
        pieces.append((split.test, _device(part, mine, split, trials, plan, policy)))
    tasks = [task for names, _ in pieces for task in names]
    methods = _joined([curves for _, curves in pieces])
    methods |= _hosted(plan.paths[held], tables, tasks, trials, plan)
    learner = policy.config.learner
    versions = collect_versions()
    return {
        "part": part,
        "collection": held,
        "content_hash": tables.content_hash,
        "candidates": len(tables.config_ids),
        "trials": trials,
        "tasks": tasks,
        "groups": [tables.groups[tables.tasks.index(task)] for task in tasks],
        "left_out": found.left_out,
        "trained_on": found.trained,
        "not_trained": found.not_trained,
        "updates": learner.updates,
        "episodes": learner.episodes,
        "offered": policy.config.augment.candidates,
        "training_seconds": training_seconds,
        "playing_seconds": round(time.perf_counter() - began, 1),
        "versions": {name: versions[name] for name in ("hyprl_jax", "jax", "python")},
        "methods": {name: _kept(methods[name]) for name in methods_of(part, plan.extra)},
    }


Curves = dict[str, tuple[tuple[int, ...], np.ndarray]]
"""Method -> seeds and regret `[D, S, T]`."""


def _folds(part: str, tables: TaskTables, played: Sequence[str]) -> Iterable[tuple[TaskTables, Split]]:
    """What is played with what is known: all tasks with nothing, or fold by fold with the other folds."""
    if part == "cold":
        yield unknowing(tables), Split(NOTHING, 0, (NOTHING,), (), tuple(played))
        return
    folds = min(FOLDS, len(set(tables.groups)))
    for fold in range(folds):
        split = make_split(tables, f"kfold{folds}", fold)
        test = tuple(task for task in split.test if task in played)
        if test:
            yield tables, dataclasses.replace(split, test=test)


def _device(
    part: str, tables: TaskTables, split: Split, trials: int, plan: Plan, policy: TrainedPolicy
) -> Curves:
    """Methods that play on the device. Those that draw play `plan.plays` seeds, by themselves: beside a
    policy they would play as many as it has training seeds."""
    device = [method for method in methods_of(part, plan.extra) if not is_hosted(method)]
    drawing = [
        method
        for method in device
        if method not in POLICIES and make_baseline(method, policy.config.surrogate).stochastic
    ]
    others = [method for method in device if method not in drawing]
    found = common.curves(others, tables, split, trials, (0,), policy)
    return found | (common.curves(drawing, tables, split, trials, range(plan.plays)) if drawing else {})


def _joined(folds: Sequence[Curves]) -> Curves:
    """The tasks of all folds side by side."""
    return {
        method: (seeds, np.concatenate([one[method][1] for one in folds]))
        for method, (seeds, _) in folds[0].items()
    }


def _hosted(path: str, tables: TaskTables, tasks: Sequence[str], trials: int, plan: Plan) -> Curves:
    """Libraries, which know no other task; RuntimeError if one broke down, Stopped on Ctrl-C."""
    methods = [method for method in plan.extra if is_hosted(method)]
    if not methods:
        return {}
    hosting = Hosting(cache=plan.out / "hosted")
    try:
        played = play_hosted(
            methods, path, tables, tasks, trials, range(plan.plays), hosting=hosting, silent=True
        )
    except KeyboardInterrupt:
        raise common.Stopped from None
    for one in played:
        if one.failures:
            raise RuntimeError(f"{one.method}: {one.failures[0].reason}")
    return {
        one.method: (one.seeds, common.regret_curves(one.actions, tables, tables, tasks)) for one in played
    }


def _kept(curves: tuple[tuple[int, ...], np.ndarray]) -> Record:
    seeds, regret = curves
    return {"seeds": list(seeds), "regret": np.round(regret.mean(axis=1), common.DIGITS).tolist()}


def methods_of(part: str, extra: Sequence[str]) -> tuple[str, ...]:
    """Methods of a part, those asked for beside its own last."""
    more = [method for method in extra if part != "cold" or method not in NEEDS_TASKS]
    return tuple(dict.fromkeys((*METHODS[part], *more)))


def units(plan: Plan, parts: Sequence[str], held: Sequence[str]) -> dict[str, Callable[[], Record]]:
    """Name -> what runs it, for every part and every collection that is to be held out (none: all)."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"there is no part {unknown[0]!r}: use some of {', '.join(PARTS)}")
    names = {path: name for name, path in plan.paths.items()} | {name: name for name in plan.paths}
    strange = [name for name in held if name not in names]
    if strange:
        raise InputError(f"{strange[0]!r} is not held: use some of {', '.join(plan.paths)}")
    chosen = [names[name] for name in held] or list(plan.paths)
    return {f"{part}-{name}": partial(run_unit, part, name, plan) for part in parts for name in chosen}


def read_plan(given: argparse.Namespace) -> Plan:
    """The options as a plan; InputError for collections that do not exist, or of which fewer than two can be
    read."""
    paths, tables, broken = dict[str, str](), dict[str, TaskTables](), dict[str, str]()
    for path in filter(None, (given.collections or "").split(",")):
        folder = find_collection(path)
        try:
            one = load_tables(path)
        except InputError as fault:
            name = folder.name
            broken[name] = str(fault)
        else:
            name = one.collection
            tables[name] = one
        if name in paths:
            raise InputError(f"collection {name!r} is given twice: name each collection once")
        paths[name] = path
    if len(tables) < 2:
        first = next(iter(broken.values()), None)
        reason = f" ({first})" if first else ""
        raise InputError(f"{len(tables)} collections can be read{reason}: name two or more")
    extra = tuple(filter(None, given.methods.split(",")))
    for method in extra:
        if method not in POLICIES and not is_hosted(method):
            make_baseline(method)  # refuses unknown ones
    if not 0.0 <= given.shared <= 1.0:
        raise InputError(f"--shared {given.shared} is no share: give a number from 0 to 1")
    return Plan(
        paths=paths,
        tables=tables,
        broken=broken,
        trials=given.trials,
        train_trials=given.train_trials,
        seeds=common.numbers(given.seeds),
        plays=given.plays,
        tasks=given.tasks,
        shared=given.shared,
        extra=extra,
        updates=given.updates,
        episodes=given.episodes,
        out=given.out,
    )


def settings(plan: Plan) -> Record:
    """What all units have in common."""
    learner = configuration("prior", list(plan.tables), plan).learner
    hashes = {name: plan.tables[name].content_hash if name in plan.tables else None for name in plan.paths}
    return {
        "study": "across",
        "collections": hashes,
        "trials": plan.trials,
        "train_trials": plan.train_trials,
        "seeds": list(plan.seeds),
        "plays": plan.plays,
        "tasks": plan.tasks,
        "shared": plan.shared,
        "methods": {part: list(methods_of(part, plan.extra)) for part in PARTS},
        "updates": plan.updates or learner.updates,
        "episodes": learner.episodes,
    }


def listing(plan: Plan, work: Iterable[str]) -> str:
    """Every unit with what it would play and train on."""
    lines = []
    for name in work:
        held = name.partition("-")[2]
        try:
            if held in plan.broken:
                raise InputError(plan.broken[held])
            found = sides(held, plan.tables, plan.shared, plan.tasks)
            train = sum(found.trained.values())
            says = f"{len(found.played)} tasks to play, {found.left_out} left out, {train} to train on"
        except InputError as mistake:
            says = f"cannot be run: {mistake}"
        state = " (there)" if (plan.out / f"{name}.json").is_file() else ""
        lines.append(f"{name:24} {says}{state}")
    return "\n".join(lines)


@common.tells_mistakes
def main(words: list[str] | None = None) -> int:
    """Runs the study or makes its table; the exit code."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--collections", help="two or more: as mlp,svm,./mine")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--held-out", default="", help="hold out these alone (default: each in turn)")
    parser.add_argument("--shared", type=float, default=0.0, help="share of the common groups that is played")
    parser.add_argument("--trials", type=common.positive, default=50)
    parser.add_argument("--tasks", type=int, default=0, help="play at most so many a collection (0: all)")
    parser.add_argument("--plays", type=common.positive, default=5, help="seeds of methods that draw")
    parser.add_argument("--methods", default="", help="further ones, as optuna_tpe,smac,optuna_gp")
    parser.add_argument("--seeds", default="0,1", help="training seeds")
    parser.add_argument("--train-trials", type=common.positive, default=40)
    parser.add_argument("--updates", type=common.positive, help="of a training (default: the agent's)")
    parser.add_argument("--episodes", type=common.positive, help="in parallel (default: the agent's)")
    common.add_options(parser, Path("runs/across"), "across")
    parser.add_argument("--list", action="store_true", help="run nothing, name the units")
    given = parser.parse_args(words)
    code = SUCCESS
    if not given.table:
        plan = read_plan(given)
        work = units(plan, given.parts.split(","), [name for name in given.held_out.split(",") if name])
        if given.list:
            print(listing(plan, work))
            return SUCCESS
        use_all_cores()
        code = common.Study(plan.out, settings(plan)).run(work, given.retry)
        if code == INTERRUPTED:
            return code
    common.show(given, "across", make_table)
    return code


if __name__ == "__main__":
    sys.exit(main())
