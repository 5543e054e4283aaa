"""Playing test tasks with optimizers from outside: Optuna, SMAC3, BoTorch, or a user's own class.

    played = play_hosted(["optuna_tpe", "my.module:Mine"], "mlp", tables, split.test, 25, seeds=range(5))

Every run (method, task, seed) is a job for a worker process. A method that raises, proposes what it may not,
ends its process or takes too long for one suggestion has failed on that task and seed, and everything else
goes on. Finished runs are kept in a cache, so that a comparison that was stopped or killed resumes. Two
comparisons agree to the last digit, whatever the number of processes (same machine, same versions).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.baselines.libraries import check_installed, is_users, library_versions
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.hosted_cache import RunCache
from hyprl_jax.evaluation.hosted_pool import Job, Outcome, Pool
from hyprl_jax.evaluation.protocol import NOTHING_LEFT, Failure, Played
from hyprl_jax.interrupts import StopSignal
from hyprl_jax.progress import Progress
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces import TaskTables, find_collection
from hyprl_jax.surfaces.reading import SPACE, read_parquet
from hyprl_jax.surfaces.space_json import read_space, space_to_json

KEY_FORMAT = 1
STOPPING = "stopping; finished runs are kept in the cache (once more to stop at once)"

__all__ = ["Hosting", "default_cache", "play_hosted"]


@dataclass(frozen=True)
class Hosting:
    """How optimizers from outside are run; none of it changes what they propose.

    Attributes:
        cache: folder where finished runs are kept; None to keep none.
        jobs: worker processes, each of one thread; all cores if None.
        time_limit: seconds that making an optimizer, one `ask` or one `tell` may take.
    """

    cache: Path | None = None
    jobs: int | None = None
    time_limit: float = 300.0


def default_cache() -> Path:
    """Where finished runs are kept if nobody says otherwise: in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "hyprl_jax" / "hosted"


def play_hosted(
    methods: Sequence[str],
    collection: str | Path,
    tables: TaskTables,
    tasks: Sequence[str],
    trials: int,
    seeds: Sequence[int],
    starts: np.ndarray | None = None,
    hosting: Hosting | None = None,
    silent: bool = False,
) -> list[Played]:
    """What each method does on `tasks` (`D` of them) with every one of `seeds` (`S`), in order of `methods`.

    Args:
        methods: names of `baselines.libraries.LIBRARIES`, or `package.module:Name`.
        collection: name or folder of the collection that `tables` are of, for its search space.
        tables: may hold fewer configurations than the collection; only these are used.
        starts: `[D, S, I]` columns that every run tests first; the methods are only told their results.
        silent: print no progress.

    Raises:
        InputError: an unknown method, a library that is not installed (`MissingExtraError`), a user's method
            that cannot be imported, a task without results, or starts that are not legal.
        KeyboardInterrupt: SIGINT or SIGTERM came; finished runs are in the cache.
    """
    hosting = hosting or Hosting()
    _check(methods, trials, seeds, hosting)
    for method in methods:
        check_installed(method)
    first = _starts(starts, tables, tasks, seeds, trials)
    table, fingerprint = _table(collection, tables)
    cache = None if hosting.cache is None else RunCache(Path(hosting.cache))
    jobs = [
        _job(method, tables, task, seed, trials, first[row][place])
        for method in methods
        for row, task in enumerate(tasks)
        for place, seed in enumerate(seeds)
    ]
    with Pool(table, _processes(hosting, len(jobs)), hosting.time_limit) as pool:
        versions = {
            method: _user_version(pool, method) if is_users(method) else library_versions(method)
            for method in methods
        }
        keys = {job.name: _key(job, versions[job.method], fingerprint) for job in jobs}
        outcomes = _run(pool, jobs, keys, cache, silent)
    return [_played(method, outcomes, tasks, seeds, trials) for method in methods]


def _run(
    pool: Pool,
    jobs: list[Job],
    keys: dict[Any, dict[str, Any] | None],
    cache: RunCache | None,
    silent: bool,
) -> dict[Any, Outcome]:
    """The outcome of every job by its name, from the cache where it has it."""
    outcomes: dict[Any, Outcome] = {}
    for job in jobs:
        key = keys[job.name]
        found = cache.load(key, job) if cache is not None and key is not None else None
        if found is not None:
            outcomes[job.name] = found
    missing = [job for job in jobs if job.name not in outcomes]
    told: set[str] = set()
    with StopSignal(STOPPING) as stop, Progress(len(jobs), "hosted methods", silent=silent) as progress:
        for job, outcome in pool.run(missing, lambda: stop.requested):
            outcomes[job.name] = outcome
            key = keys[job.name]
            if cache is not None and key is not None:
                cache.store(key, outcome)
            _, task, seed = job.name
            if outcome.failed_trial is not None and job.method not in told and not silent:
                told.add(job.method)
                where = f"task {task}, seed {seed}, trial {outcome.failed_trial}"
                progress.note(f"{job.method} failed on {where}: {outcome.reason}")
            progress.update(len(outcomes), f"{job.method}, task {task}")
        if stop.requested:
            raise KeyboardInterrupt
    return outcomes


def _played(
    method: str, outcomes: dict[Any, Outcome], tasks: Sequence[str], seeds: Sequence[int], trials: int
) -> Played:
    shape = (len(tasks), len(seeds), trials)
    actions = np.full(shape, NOTHING_LEFT, dtype=np.int64)
    seconds = np.full(shape, np.nan)
    failures = []
    for row, task in enumerate(tasks):
        for place, seed in enumerate(seeds):
            outcome = outcomes[method, task, seed]
            tested = len(outcome.columns)
            actions[row, place, :tested] = outcome.columns
            seconds[row, place, :tested] = [np.nan if s is None else s for s in outcome.seconds]
            if outcome.failed_trial is not None:
                failures.append(Failure(task, seed, outcome.failed_trial, outcome.reason))
    return Played(method, actions, tuple(seeds), seconds, tuple(failures))


def _job(method: str, tables: TaskTables, task: str, seed: int, trials: int, starts: tuple[int, ...]) -> Job:
    """The seed of a run depends on collection, task and seed: tasks do not share their random numbers."""
    text = json.dumps([tables.content_hash, task, seed]).encode()
    own_seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1
    objective = tables.objective[tables.tasks.index(task)]
    return Job((method, task, seed), method, objective, trials, own_seed, starts)


def _key(job: Job, versions: dict[str, str] | None, fingerprint: dict[str, str]) -> dict[str, Any] | None:
    """All that decides what a run does; None for a run that must not be kept."""
    if versions is None:
        return None
    _, task, seed = job.name
    return {
        "format": KEY_FORMAT,
        "method": job.method,
        "versions": versions,
        **fingerprint,
        "objective": hashlib.sha256(np.ascontiguousarray(job.objective).tobytes()).hexdigest(),
        "task": task,
        "seed": seed,
        "trials": job.trials,
        "starts": list(job.starts),
    }


def _user_version(pool: Pool, method: str) -> dict[str, str] | None:
    version = pool.version_of(method)
    return None if version is None else {"method": version}


def _table(collection: str | Path, tables: TaskTables) -> tuple[tuple[bytes, ...], dict[str, str]]:
    """What workers are told of the table, and what it is known by in the cache."""
    folder = find_collection(collection)
    space = read_space(folder / SPACE)
    configs = read_parquet(folder / "configs.parquet").replace_schema_metadata(None).to_pandas()
    if "config_id" not in configs.columns:
        raise InputError(f"{folder}: configs.parquet has no config_id; run `surfaces validate` on it")
    rows = pd.Index(configs["config_id"]).get_indexer(pd.Index(tables.config_ids))
    encoding = SpaceEncoding(space)
    configs = configs.iloc[rows].reset_index(drop=True)
    same = (rows >= 0).all() and encoding.feature_names == tables.feature_names
    if not same or not np.array_equal(encoding.encode(configs)[0], tables.encodings):
        raise InputError(
            f"{folder}: its configurations are not those of the tables of {tables.collection!r}: "
            "name the collection that the tables were read from"
        )
    about = {"space": space_to_json(space), "direction": tables.direction, "configurations": len(configs)}
    codes = np.ascontiguousarray(encoding.codes(configs), dtype=np.float64).tobytes()
    encodings = np.ascontiguousarray(tables.encodings, dtype=np.float32).tobytes()
    table = (json.dumps(about).encode(), codes, encodings)
    known_by = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in table)).hexdigest()
    return table, {"collection": tables.content_hash, "configurations": known_by}


def _starts(
    starts: np.ndarray | None, tables: TaskTables, tasks: Sequence[str], seeds: Sequence[int], trials: int
) -> list[list[tuple[int, ...]]]:
    """Starting columns by task and seed; checks tasks and starts."""
    legal = []
    for task in tasks:
        if task not in tables.tasks:
            raise InputError(f"task {task!r} is not in collection {tables.collection!r}: check the split")
        legal.append(np.flatnonzero(np.isfinite(tables.objective[tables.tasks.index(task)])))
        if not len(legal[-1]):
            raise InputError(f"task {task!r}: no configuration has a result; leave it out of the split")
    if starts is None:
        return [[() for _ in seeds] for _ in tasks]
    given = np.asarray(starts)
    whole = given.ndim == 3 and np.issubdtype(given.dtype, np.integer)
    if not whole or given.shape[:2] != (len(tasks), len(seeds)) or given.shape[2] > trials:
        expected = f"[{len(tasks)} tasks, {len(seeds)} seeds, at most {trials}]"
        raise InputError(f"starts of shape {list(given.shape)} are no integers of shape {expected}")
    for row, task in enumerate(tasks):
        for place, seed in enumerate(seeds):
            columns = given[row, place]
            if not np.isin(columns, legal[row]).all() or len(set(columns.tolist())) < len(columns):
                where = f"task {task!r}, seed {seed}"
                raise InputError(f"{where}: starts must be different columns that have a result on the task")
    return [[tuple(columns.tolist()) for columns in row] for row in given]


def _check(methods: Sequence[str], trials: int, seeds: Sequence[int], hosting: Hosting) -> None:
    if trials < 1:
        raise InputError(f"{trials} trials: give at least 1")
    for what, given in (("methods", list(methods)), ("seeds", list(seeds))):
        if len(set(given)) != len(given):
            raise InputError(f"{what} {given} must be different")
    if not seeds:
        raise InputError("no seeds: give at least one")
    if hosting.time_limit <= 0:
        raise InputError(f"the time limit is {hosting.time_limit:g} s: give more than 0")
    if hosting.jobs is not None and hosting.jobs < 1:
        raise InputError(f"{hosting.jobs} jobs: give at least 1")


def _processes(hosting: Hosting, jobs: int) -> int:
    from hyprl_jax.devices import cores

    return max(1, min(cores() if hosting.jobs is None else hosting.jobs, jobs))
