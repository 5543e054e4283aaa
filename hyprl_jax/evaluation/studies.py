"""A whole comparison: methods on all folds of a split of some collections, from names to figures.

`play_study` brings together what the other modules do: splits and their restrictions, shared starting points,
methods that play on the device (`evaluation.play`), libraries and classes of the user's own in worker
processes (`evaluation.hosted`), and figures that others published. Methods are checked before anything is
played. The same study with the same seeds gives the same regrets and ranks to the last digit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.baselines import DEVICE_BASELINES
from hyprl_jax.baselines.libraries import LIBRARIES, check_installed, is_users, library_versions
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.hosted import Hosting, play_hosted
from hyprl_jax.evaluation.play import POLICIES, paired_seeds, play_methods
from hyprl_jax.evaluation.protocol import Played, trajectories
from hyprl_jax.evaluation.published import (
    Published,
    hpob_space,
    published_trajectories,
    read_published,
)
from hyprl_jax.evaluation.starts import starts_for
from hyprl_jax.evaluation.summary import combine_folds, failure_records, summarize
from hyprl_jax.policies import TrainedPolicy, load_policy
from hyprl_jax.progress import Progress
from hyprl_jax.surfaces import Split, TaskTables, load_tables, make_split, number_of_folds, restrict
from hyprl_jax.versions import collect_versions


@dataclass(frozen=True)
class Study:
    """What is compared, and how."""

    collections: tuple[str, ...]
    split: str
    methods: tuple[str, ...]
    trials: int
    folds: tuple[int, ...] | None = None
    """None for all folds of the split."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    run: Path | None = None
    """The run folder of `policy` and `policy_ensemble`."""
    starts: str | None = None
    """What all methods test first: a number of random configurations, `published`, or a file (see
    `starts_for`)."""
    published: tuple[tuple[str, Path], ...] = ()
    """Names and files of figures that others published."""
    by_groups: bool = False
    """Groups of tasks are what intervals and tests resample and count."""
    hosting: Hosting = field(default_factory=Hosting)


@dataclass(frozen=True)
class _Part:
    """One fold of one collection."""

    path: str
    tables: TaskTables
    split: Split
    starts: np.ndarray | None


def play_study(
    study: Study, command: str = "", silent: bool = True
) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """The trajectories, one frame a fold with all its methods and collections, and the summary of all, which
    names the `command` that asked for it.

    Raises InputError for whatever does not exist or does not fit together, before anything is played where
    that can be known. Faults of a method while it plays are recorded, not raised.
    """
    check_methods(study)
    policy = load_policy(study.run) if set(POLICIES) & set(study.methods) and study.run else None
    seeds = study.seeds if study.starts is not None else paired_seeds(study.seeds, policy)
    folds = _parts(study, seeds)
    published = [(name, read_published(file)) for name, file in study.published]
    hosted = _play_hosted(study, [part for parts in folds.values() for part in parts], seeds, silent)
    frames, failures = [], []
    device = [method for method in study.methods if not is_hosted(method)]
    with Progress(len(folds), "folds", silent=silent or not device) as progress:
        for number, (fold, parts) in enumerate(folds.items()):
            pieces = []
            for part in parts:
                played = _play_part(study, part, device, seeds, policy) if device else []
                both = {one.method: one for one in (*played, *hosted.get((fold, part.path), ()))}
                pieces.append(trajectories(part.tables, part.split.test, [both[m] for m in study.methods]))
                failures += _failures(part, both.values(), several=len(study.collections) > 1)
                pieces += [_published(name, one, part, seeds, study.trials) for name, one in published]
            frames.append(pd.concat(pieces, ignore_index=True))
            progress.update(number + 1)
    return frames, _summary(study, folds, frames, failures, command)


def is_hosted(method: str) -> bool:
    """Whether a method is played in worker processes: a library, or a class of the user's."""
    return method in LIBRARIES or is_users(method)


def check_methods(study: Study) -> None:
    """InputError for a method that does not exist, cannot be loaded, stands twice, or lacks its run."""
    named = (*study.methods, *(name for name, _ in study.published))
    if not study.methods:
        raise InputError("nothing to compare: name at least one method")
    twice = [name for place, name in enumerate(named) if name in named[:place]]
    if twice:
        raise InputError(f"the method {twice[0]!r} stands twice: name each once")
    for method in study.methods:
        if method in POLICIES:
            if study.run is None:
                raise InputError(f"the method {method!r} needs a run: name its folder")
        elif is_hosted(method):
            check_installed(method)
        elif method not in DEVICE_BASELINES:
            known = ", ".join((*POLICIES, *DEVICE_BASELINES, *LIBRARIES))
            raise InputError(f"unknown method {method!r}: use {known}, or package.module:Name")


def _parts(study: Study, seeds: tuple[int, ...]) -> dict[int, list[_Part]]:
    """Fold -> what is played in it, one part a collection."""
    every = [(name, load_tables(name)) for name in study.collections]
    if study.folds is not None:
        folds: Sequence[int] = study.folds
    else:
        folds = range(min(number_of_folds(tables, study.split) for _, tables in every))
    found: dict[int, list[_Part]] = {}
    for fold in folds:
        for path, tables in every:
            split = make_split(tables, study.split, fold)
            fewer = restrict(tables, split)
            starts = None
            if study.starts is not None:
                starts = starts_for(study.starts, path, fewer, split.test, seeds, study.trials)
            found.setdefault(fold, []).append(_Part(path, fewer, split, starts))
    return found


def _play_part(
    study: Study, part: _Part, methods: Sequence[str], seeds: tuple[int, ...], policy: TrainedPolicy | None
) -> list[Played]:
    return play_methods(methods, part.tables, part.split, study.trials, seeds, policy, part.starts)


def _play_hosted(
    study: Study, parts: Sequence[_Part], seeds: tuple[int, ...], silent: bool
) -> dict[tuple[int, str], list[Played]]:
    """What hosted methods do, for each (fold, collection): they learn nothing from other tasks, so that all
    folds of a collection are played at once."""
    methods = [method for method in study.methods if is_hosted(method)]
    found: dict[tuple[int, str], list[Played]] = {}
    if not methods:
        return found
    for path in dict.fromkeys(part.path for part in parts):
        mine = [part for part in parts if part.path == path]
        # Folds whose splits keep the same configurations go together.
        while mine:
            ids = mine[0].tables.config_ids
            same = [part for part in mine if np.array_equal(part.tables.config_ids, ids)]
            mine = [part for part in mine if not np.array_equal(part.tables.config_ids, ids)]
            tasks = [task for part in same for task in part.split.test]
            starts = None if same[0].starts is None else np.concatenate([part.starts for part in same])
            played = play_hosted(
                methods,
                path,
                same[0].tables,
                tasks,
                study.trials,
                seeds,
                starts=starts,
                hosting=study.hosting,
                silent=silent,
            )
            for part in same:
                found[part.split.fold, path] = [_taken(one, tasks, part.split.test) for one in played]
    return found


def _published(name: str, results: Published, part: _Part, seeds: Sequence[int], trials: int) -> pd.DataFrame:
    space = hpob_space(part.path)
    return published_trajectories(
        results, name, part.tables, part.split.test, seeds, part.starts, trials, space
    )


def _taken(played: Played, tasks: Sequence[str], chosen: Sequence[str]) -> Played:
    """What a method did on the `chosen` of the `tasks` it played."""
    rows = [list(tasks).index(task) for task in chosen]
    seconds = np.broadcast_to(np.asarray(played.suggest_seconds, np.float64), played.actions.shape)
    failures = tuple(failure for failure in played.failures if failure.task in chosen)
    return Played(played.method, played.actions[rows], played.seeds, seconds[rows], failures)


def _failures(part: _Part, played: Iterable[Played], several: bool) -> list[dict[str, Any]]:
    """The failures of a part, with the tasks named as in the summary."""
    records = failure_records(played)
    prefix = f"{part.tables.collection}/" if several else ""
    return [{**record, "task": prefix + record["task"]} for record in records]


def _summary(
    study: Study,
    folds: dict[int, list[_Part]],
    frames: list[pd.DataFrame],
    failures: list[dict[str, Any]],
    command: str,
) -> dict[str, Any]:
    tables = {part.tables.collection: part.tables for parts in folds.values() for part in parts}
    groups = None
    if study.by_groups:
        groups = {
            f"{name}/{task}": group
            for name, one in tables.items()
            for task, group in zip(one.tasks, one.groups, strict=True)
        }
    numbers = list(folds)
    given: dict[str, Any] = {
        "groups": groups,
        "failures": failures,
        "provenance": _provenance(study, folds, tables, command),
    }
    if len(numbers) == 1:
        return summarize(frames, study.split, numbers[0], **given)
    return combine_folds(frames, study.split, numbers, **given)


def _provenance(
    study: Study, folds: dict[int, list[_Part]], tables: dict[str, TaskTables], command: str
) -> dict[str, Any]:
    """Where the figures come from: enough to make them again, and no time of day, so that the same study
    gives the same file on the same machine."""
    versions = collect_versions()
    machine = [f"{versions[key]}" for key in ("platform", "backend", "device_kind")]
    for method in study.methods:
        if method in LIBRARIES:
            versions |= {name: text for name, text in library_versions(method).items() if name != "adapter"}
    notes = {part.split.note for parts in folds.values() for part in parts if part.split.note}
    return {
        "command": command,
        "versions": {name: text for name, text in versions.items() if isinstance(text, str)},
        "collections": {name: one.content_hash for name, one in tables.items()},
        "seeds": list(study.seeds),
        "starts": study.starts,
        "notes": "; ".join(sorted(notes)),
        "machine": ", ".join([*machine, f"{os.cpu_count()} cores"]),
    }
