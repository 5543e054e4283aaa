"""The build engine: plans the pieces of a recipe, computes what is missing, and assembles the collection at
the end.

Pieces are jobs (`hyprl_jax.jobs`). The collection appears at `out` whole or not at all. Until then its
finished pieces live in `<out>.work`, and the same call goes on from there after any interruption. For a seed,
everything but measured seconds is the same, however often the build was interrupted and however many workers
it had (same machine, same library versions).
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.jobs import open_runner, run_jobs
from hyprl_jax.jobs.engine import DONE, FAILED, Event
from hyprl_jax.surfaces.build.metafeatures import metafeatures
from hyprl_jax.surfaces.build.pieces import ENVIRONMENT, Piece, WorkFolder, open_work_folder, piece_job
from hyprl_jax.surfaces.build.progress import Progress
from hyprl_jax.surfaces.build.recipe import Recipe
from hyprl_jax.surfaces.build.sampling import sample_configs
from hyprl_jax.surfaces.build.tasks import TASKS, load_task

STOPPING = "stopping after this piece (once more to stop at once); build again to go on from here"
LIBRARIES = ("numpy", "scipy", "scikit-learn", "ConfigSpace", "jax")


class PiecesFailed(Exception):  # noqa: N818 - the build can go on: the other pieces are kept
    """Pieces that could not be computed, `failed` (name -> reason); all others are kept."""

    def __init__(self, failed: dict[str, str], total: int) -> None:
        name, reason = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} of {total} pieces failed ({name}: {reason}): build again with --retry to try "
            "them again, the others are kept"
        )
        self.failed = failed


@dataclass(frozen=True)
class Where:
    """Where pieces are computed, and whether those that failed are tried again.

    jobs: worker processes on this machine (None: one for each core). ray: instead, the address of a Ray
    cluster, or `local`.
    """

    jobs: int | None = None
    ray: str | None = None
    retry: bool = False


@dataclass(frozen=True)
class Plan:
    """What one build computes: its tasks, configurations (row number = config id) and pieces."""

    recipe: Recipe
    seed: int
    tasks: tuple[str, ...]
    space: Any
    configs: list[dict[str, Any]]
    pieces: tuple[Piece, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything that must be equal for pieces of two calls to belong together."""
        return {
            "recipe": self.recipe.name,
            "recipe_version": self.recipe.version,
            "seed": self.seed,
            "tasks": {name: TASKS[name].describe() for name in self.tasks},
            "configs": self.configs,
            "pieces": [[piece.task, piece.number, list(piece.config_ids)] for piece in self.pieces],
            "libraries": {name: version(name) for name in LIBRARIES},
        }


@dataclass(frozen=True)
class Tables:
    """The assembled tables of a build, and the trainings that failed (`task, config_id, error`)."""

    tasks: pd.DataFrame
    configs: pd.DataFrame
    evaluations: pd.DataFrame
    failures: pd.DataFrame


def make_plan(recipe: Recipe, seed: int, tasks: Iterable[str] | int | None, configs: int | None) -> Plan:
    """Choose tasks (all, the first so many, or by name) and sample configurations; InputError on unknown
    names.
    """
    chosen = _choose_tasks(tasks)
    count = recipe.configs if configs is None else configs
    if count < 2:
        raise InputError(f"a surface needs at least 2 configurations, not {count}: raise --configs")
    if seed < 0:
        raise InputError(f"the seed must not be negative, and {seed} is: choose --seed 0 or above")
    space = recipe.space()
    sample = sample_configs(space, count, seed)
    cut = recipe.pieces(sample)
    pieces = tuple(Piece(task, at, tuple(ids)) for task in chosen for at, ids in enumerate(cut))
    return Plan(recipe, seed, chosen, space, sample, pieces)


def run_plan(plan: Plan, out: Path, where: Where, progress: Progress | None) -> Path:
    """Compute what is missing of a plan and put the collection at `out`; returns `out`.

    Raises PiecesFailed where that cannot be; KeyboardInterrupt after Ctrl-C or SIGTERM.
    """
    from hyprl_jax.surfaces.build.publish import collection_info, publish

    if where.jobs is not None and where.jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {where.jobs}")
    if where.jobs is not None and where.ray is not None:
        raise InputError("--jobs is for this machine; with --ray the cluster says how many run: leave it out")
    if out.exists():
        raise InputError(f"{out} exists already: remove it or choose another --out")
    collection_info(plan, out.name)  # a name that cannot be used is known now, not after the last training
    with open_work_folder(out.with_name(out.name + ".work"), plan.as_json()) as work:
        _compute_missing(plan, work, where, progress)
        publish(plan, assemble(plan, work), out)
        shutil.rmtree(work.path)
    return out


def assemble(plan: Plan, work: WorkFolder) -> Tables:
    """Join the finished pieces into tables, in the order of tasks, configurations and fidelity."""
    frames = []
    for piece in plan.pieces:
        found = work.load(piece)
        if found is None:
            raise RuntimeError(f"the piece {piece.name} vanished during the build: build again")
        ids = np.asarray(piece.config_ids, dtype=np.int64)[found.pop("config_index").to_numpy()]
        found.insert(0, "task", piece.task)
        found.insert(1, "config_id", ids)
        frames.append(found)
    rows = pd.concat(frames, ignore_index=True)
    order = pd.Series({name: at for at, name in enumerate(plan.tasks)})
    keys = [rows["task"].map(order), rows["config_id"]]
    keys += [rows["fidelity"]] if "fidelity" in rows else []
    rows = rows.iloc[np.lexsort([key.to_numpy() for key in reversed(keys)])].reset_index(drop=True)
    failed = rows["error"] != ""
    failures = rows.loc[failed, ["task", "config_id", "error"]].drop_duplicates().reset_index(drop=True)
    evaluations = rows.loc[~failed].drop(columns="error").reset_index(drop=True)
    return Tables(_task_table(plan), config_table(plan.space, plan.configs), evaluations, failures)


def config_table(space: Any, configs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a configuration, one column a hyperparameter in its own unit, null where inactive."""
    columns: dict[str, Any] = {"config_id": np.arange(len(configs), dtype=np.int64)}
    for name in space:
        values = [config.get(name) for config in configs]
        kinds = {type(value) for value in values if value is not None}
        dtype = "Int64" if kinds == {int} else "Float64" if kinds <= {int, float} else "string"
        columns[name] = pd.array(values, dtype=dtype)
    return pd.DataFrame(columns)


def _choose_tasks(tasks: Iterable[str] | int | None) -> tuple[str, ...]:
    names = tuple(TASKS)
    if tasks is None:
        return names
    if isinstance(tasks, int):
        if not 1 <= tasks <= len(names):
            raise InputError(f"--tasks must be from 1 to {len(names)} or names, not {tasks}")
        return names[:tasks]
    wanted = tuple(dict.fromkeys([tasks] if isinstance(tasks, str) else tasks))
    for name in wanted:
        if name not in TASKS:
            near = difflib.get_close_matches(name, names, n=3) or list(names[:3])
            raise InputError(f"there is no task {name!r}: did you mean {' or '.join(near)}?")
    if not wanted:
        raise InputError("no task was chosen: name at least one or leave --tasks out")
    return wanted


def _compute_missing(plan: Plan, work: WorkFolder, where: Where, progress: Progress | None) -> None:
    from hyprl_jax.devices import cores

    work.forget_damaged(plan.pieces)
    total = len(plan.pieces)
    done = sum(work.load(piece) is not None for piece in plan.pieces)
    if progress is not None:
        progress(done, total, "kept from before" if done else "started")

    def watch(event: Event) -> None:
        nonlocal done
        done += event.kind == DONE
        if progress is not None and event.kind in (DONE, FAILED):
            words = f"failed: {event.detail}" if event.kind == FAILED else ""
            progress(done, total, f"{event.name.rpartition('.')[0]} {words}".rstrip())

    workers = where.jobs or cores()
    jobs = [piece_job(plan.recipe, piece, plan.configs, plan.seed) for piece in plan.pieces]
    with open_runner(where.ray, workers, fresh=False, environment=ENVIRONMENT) as runner:
        tally = run_jobs(jobs, work.pieces, runner, where.retry, watch, STOPPING)
    if tally.left:
        raise KeyboardInterrupt
    if tally.failed:
        raise PiecesFailed(tally.failed, total)


def _task_table(plan: Plan) -> pd.DataFrame:
    rows = []
    for name in plan.tasks:
        data = load_task(name, plan.seed)
        rows.append({"task": name, "group": data.group, **metafeatures(data)})
    return pd.DataFrame(rows)
