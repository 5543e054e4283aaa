"""A sweep from start to end: its folder, its jobs, its report.

sweep.json     the plan, complete; a folder with it is a sweep, and it can be given as a FILE again
jobs/          one record and one log a job; checkpoints of groups that are being trained
settings/      one run folder a setting
table.md  results.csv  plots/  best.json     see hyprl_jax.sweeps.report
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import Event, Job, Runner, Tally, locked, read_record, run_jobs, write_json
from hyprl_jax.sweeps.jobs import evaluation_job, training_job
from hyprl_jax.sweeps.plan import Group, Plan
from hyprl_jax.sweeps.report import Result, write_report

__all__ = ["Swept", "run_sweep"]

_PLAN = "sweep.json"
Watch = Callable[[Event], None]
Show = Callable[[str, Sequence[Job]], AbstractContextManager[Watch]]


class Swept(NamedTuple):
    """How a sweep stands after a call."""

    results: list[Result]
    """Of the settings that are trained, best first."""
    failed: dict[str, str]
    """Job -> reason."""
    left: tuple[str, ...]
    """Jobs that were stopped or not started."""


def run_sweep(
    plan: Plan,
    out: Path,
    runner: Runner,
    cores: int | None = None,
    retry: bool = False,
    show: Show | None = None,
) -> Swept:
    """Trains what is not trained yet, plays what is not played yet, and writes the report of what there is.

    Each job uses at most `cores` cores (None: all of its machine). Raises InputError if `out` holds something
    else, or another process is working on it.
    """
    _check_data(plan)
    _claim(plan, out)
    with locked(out):
        if not (out / _PLAN).exists():
            write_json(out / _PLAN, plan.as_json())
        groups, folder = plan.groups(), out / "jobs"
        (out / "settings").mkdir(exist_ok=True)
        tally = _round(
            [training_job(group, out, cores or 0) for group in groups], folder, runner, retry, show
        )
        for group in groups:
            if group.name in tally.done:
                shutil.rmtree(folder / group.name / "checkpoints", ignore_errors=True)
        failed, left = dict(tally.failed), tally.left
        if plan.evaluate is not None and not left:
            trained = [group for group in groups if group.name in tally.done]
            jobs = [evaluation_job(group, out, plan.evaluate, cores or 0) for group in trained]
            played = _round(jobs, folder, runner, retry, show, "playing test tasks")
            failed, left = failed | played.failed, played.left
        return Swept(write_report(plan, _results(groups, folder), out, failed, left), failed, left)


def _round(
    jobs: Sequence[Job], folder: Path, runner: Runner, retry: bool, show: Show | None, what: str = "training"
) -> Tally:
    if show is None:
        return run_jobs(jobs, folder, runner, retry)
    with show(what, jobs) as watch:
        return run_jobs(jobs, folder, runner, retry, watch)


def _results(groups: Sequence[Group], folder: Path) -> dict[str, dict[str, Any]]:
    """What is known of each setting that is trained: the record of its job, with `test` if it was played."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        trained, played = (read_record(folder, name) for name in (group.name, f"evaluate-{group.name}"))
        if trained is None or "result" not in trained:
            continue
        tested = (played or {}).get("result", {}).get("settings", {})
        for setting in group.settings:
            found[setting.name] = {
                **trained["result"]["settings"][setting.name],
                "test": tested.get(setting.name),
            }
    return found


def _check_data(plan: Plan) -> None:
    """InputError if a collection, a fold, or a method is not there: known now, not after the first job."""
    from hyprl_jax.surfaces import load_tables, make_split

    if plan.base.stream.tasks:
        raise InputError("a sweep trains its settings side by side in memory: set stream.tasks to 0")
    for name in plan.base.collections:
        tables = load_tables(name)
        for fold in plan.base.folds:
            make_split(tables, plan.base.split, fold, plan.base.validation_fraction)
    if plan.evaluate is not None:
        from hyprl_jax.evaluation.studies import Study, check_methods

        one = plan.evaluate
        check_methods(
            Study(plan.base.collections, plan.base.split, one.methods, 1, run=Path("of each setting"))
        )


def _claim(plan: Plan, out: Path) -> None:
    """InputError if `out` holds anything but this sweep."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose another --out")
    if (out / _PLAN).is_file():
        try:
            before = json.loads((out / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as fault:
            raise InputError(f"{out / _PLAN} cannot be read ({fault}): choose another --out") from None
        wanted = json.loads(json.dumps(plan.as_json()))
        if before != wanted:
            raise InputError(f"{out} holds another sweep{_difference(before, wanted)}: choose another --out")
    elif out.exists() and {entry.name for entry in out.iterdir()} - {".lock"}:
        raise InputError(f"{out} is not empty and holds no sweep: choose another --out")


def _difference(before: Any, wanted: dict[str, Any], path: str = "") -> str:
    """`, with learner.gamma 0.9 and not 0.8` of the first field that differs."""
    if isinstance(before, dict):
        for name in {**before, **wanted}:
            one, other = before.get(name), wanted.get(name)
            if isinstance(one, dict) and isinstance(other, dict) and one != other:
                return _difference(one, other, f"{path}{name}.")
            if one != other:
                return f", with {path}{name} {str(one)[:60]} and not {str(other)[:60]}"
    return ""
