"""What the studies of this folder share: results kept as one small JSON a unit, training that goes on where
it was stopped, play, and figures with their intervals.

A study is a folder with `study.json` (what is the same for all units: collection, split, trials, ...), one
JSON a finished unit, and `runs/` with the training runs. A unit whose JSON is there is not run again; a unit
that failed leaves a JSON with the reason and does not stop the others. Tables are made from the JSONs alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyprl_jax import training
from hyprl_jax.cli.common import INPUT_MISTAKE, INTERRUPTED, SUCCESS
from hyprl_jax.config import TrainConfig, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import normalized_regret, table_bounds
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.evaluation.statistics import bootstrap_interval
from hyprl_jax.interrupts import StopSignal
from hyprl_jax.policies import TrainedPolicy, load_policy
from hyprl_jax.progress import Progress
from hyprl_jax.runs import RunFolder
from hyprl_jax.surfaces import Split, TaskTables
from hyprl_jax.versions import collect_versions

BUDGETS = (5, 10, 25, 50)
MEAN = "mean"
DIGITS = 5  # of what is kept
SHOWN = 4  # of what tables show and sentences compare
RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
_STUDY = "study.json"
_VERSIONS = ("hyprl_jax", "jax", "python")

Record = dict[str, Any]


class Stopped(Exception):  # noqa: N818 - no error: the user stopped a training run, which can go on
    """Training was interrupted and has left a checkpoint."""


class Study:
    """A folder of results; InputError if it holds those of another study."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        file = folder / _STUDY
        if file.is_file():
            before = _read(file)
            for name in settings:
                if before.get(name) != settings[name]:
                    raise InputError(
                        f"{folder} holds a study with {name} {before.get(name)}, not {settings[name]}: "
                        "choose another --out"
                    )
            return
        folder.mkdir(parents=True, exist_ok=True)
        versions = collect_versions()
        write_json(file, {**settings, "versions": {name: versions[name] for name in _VERSIONS}})

    def run(
        self, units: Mapping[str, Callable[[], Record]], retry: bool = False, silent: bool = False
    ) -> int:
        """Runs every unit without a JSON (with `retry`, those that failed too); the exit code.

        A unit answers its record; what it raises is recorded as `{"failure": one line}`. The first Ctrl-C
        ends with the unit at hand, or within its training at the next checkpoint.
        """
        missing = {name: unit for name, unit in units.items() if not self._done(name, retry)}
        with StopSignal() as stop, Progress(len(missing), "units", silent=silent, seconds=0.0) as progress:
            for number, (name, unit) in enumerate(missing.items()):
                try:
                    if stop.requested:
                        raise Stopped
                    record = {"failure": None, **unit()}
                except Stopped:
                    progress.note("stopped; the same command goes on")
                    return INTERRUPTED
                except Exception as error:
                    record = {"failure": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
                write_json(self.folder / f"{name}.json", {"name": name, **record})
                progress.update(number + 1, f"{name}: {record['failure'] or 'done'}")
        return SUCCESS

    def _done(self, name: str, retry: bool) -> bool:
        file = self.folder / f"{name}.json"
        return file.is_file() and not (retry and _read(file).get("failure"))


def read_study(path: Path, order: Sequence[str] = ()) -> Record:
    """`{"study": settings, "units": [records]}` of a folder, or of the one file that `keep` wrote; units in
    the given `order` of names, others behind it. InputError where there is none."""
    if path.is_file():
        found = _read(path)
        if not {"study", "units"} <= set(found):
            raise InputError(f"{path} is no study: name a folder of one, or a file under docs/results")
    elif (path / _STUDY).is_file():
        files = sorted(path.glob("*.json"))
        units = [_read(file) for file in files if file.name != _STUDY]
        found = {"study": _read(path / _STUDY), "units": units}
    else:
        raise InputError(f"{path} holds no study: run one first")
    place = {name: number for number, name in enumerate(order)}
    found["units"].sort(key=lambda unit: (place.get(unit["name"], len(place)), unit["name"]))
    return found


def keep(name: str, study: Record, text: str) -> None:
    """Writes NAME.json (all units, one a line) and NAME.md under docs/results."""
    compact = lambda value: json.dumps(value, separators=(",", ":"), allow_nan=False)
    lines = ",\n".join(compact(unit) for unit in study["units"])
    whole = f'{{"study":{compact(study["study"])},"units":[\n{lines}\n]}}\n'
    (RESULTS / f"{name}.json").write_text(whole, encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def add_options(parser: argparse.ArgumentParser, out: Path, kind: str) -> None:
    """The options that all studies have."""
    parser.add_argument("--out", type=Path, default=out, help="folder of the study")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--table", action="store_true", help="run nothing; --out may be a kept file too")
    parser.add_argument("--keep", metavar="NAME", help=f"write docs/results/{kind}-NAME.json and .md")


def show(
    given: argparse.Namespace, kind: str, make: Callable[[Record], str], order: Sequence[str] = ()
) -> None:
    """Prints the page of a study, writes it to OUT/table.md, and under docs/results if it is to be kept."""
    study = read_study(given.out, order)
    if study["study"].get("study") != kind:
        raise InputError(f"{given.out} holds a study of another kind: {study['study'].get('study')}")
    text = make(study)
    if given.out.is_dir():
        (given.out / "table.md").write_text(text, encoding="utf-8")
    if given.keep:
        keep(f"{kind}-{given.keep}", study, text)
    print(text)


def tells_mistakes(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """`main(words)` that tells a mistake in the input in one line and answers with its exit code."""

    @functools.wraps(main)
    def told(words: list[str] | None = None) -> int:
        try:
            return main(words)
        except InputError as mistake:
            print(f"error: {mistake}", file=sys.stderr)
            return INPUT_MISTAKE

    return told


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def numbers(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers; InputError for anything else."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} is no list of whole numbers: write it as 0,1,2") from None


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a whole JSON file or leaves it as it was."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(value, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _read(file: Path) -> Record:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise InputError(f"{file} cannot be read ({fault}): remove it to run it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{file} is not a JSON object: remove it to run it again")
    return found


def cheap(config: TrainConfig, updates: int | None, episodes: int | None) -> TrainConfig:
    """The configuration with other numbers of updates and of parallel episodes (None: as they are).

    Chunks are made equally long, so that no more is trained than asked for but for rounding.
    """
    if updates is not None:
        chunks = -(-updates // config.updates_per_chunk)
        each = -(-updates // chunks)
        learner = dataclasses.replace(config.learner, updates=chunks * each)
        config = dataclasses.replace(config, updates_per_chunk=each, learner=learner)
    if episodes is not None:
        config = dataclasses.replace(config, learner=dataclasses.replace(config.learner, episodes=episodes))
    return config


def trained(config: TrainConfig, folder: Path) -> tuple[TrainedPolicy, float]:
    """The policies of the run in `folder`, trained or trained to the end where need be, and the seconds that
    training took (compilation included).

    Raises Stopped if it was interrupted, InputError if the folder holds a run of another configuration.
    """
    if (folder / "config.json").is_file():
        wanted, found = to_dict(config), RunFolder(folder).read_config()
        for values in (wanted, found):  # a path is kept in full
            values["collections"] = [Path(name).name for name in values["collections"]]
        if wanted != found:
            raise InputError(f"{folder} holds a run of another configuration: remove it")
        result = training.resume(folder, silent=True)
    else:
        result = training.train(config, folder, silent=True)
    if result["interrupted"]:
        raise Stopped
    return load_policy(folder), round(float(RunFolder(folder).read_metrics()[-1]["seconds"]), 1)


def curves(
    methods: Sequence[str],
    tables: TaskTables,
    split: Split,
    trials: int,
    seeds: Sequence[int],
    policy: TrainedPolicy | None = None,
    seen: TaskTables | None = None,
) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    """Seeds and normalized regret `[D, S, T]` of each method on the test tasks, played on `seen` (the tables
    themselves if left out); RuntimeError if a method broke down."""
    shown = tables if seen is None else seen
    found = {}
    for played in play_methods(methods, shown, split, trials, seeds, policy):
        if played.failures:
            raise RuntimeError(f"{played.method}: {played.failures[0].reason}")
        found[played.method] = (played.seeds, regret_curves(played.actions, shown, tables, split.test))
    return found


def regret_curves(
    actions: np.ndarray, seen: TaskTables, truth: TaskTables, tasks: Sequence[str]
) -> np.ndarray:
    """Normalized regret `[D, S, T]` in the tables `truth` of the configuration that looks best in `seen`
    among those tried so far; `actions [D, S, T]`, -1 where nothing was left."""
    rows = np.asarray([truth.tasks.index(task) for task in tasks])
    task, column = np.arange(len(rows))[:, None, None], np.maximum(actions, 0)
    better = 1.0 if seen.direction == "maximize" else -1.0
    looks = np.where(actions < 0, -np.inf, better * seen.objective[rows][task, column])
    best = np.maximum.accumulate(looks, axis=-1)
    fresh = looks > np.concatenate([np.full_like(best[..., :1], -np.inf), best[..., :-1]], axis=-1)
    place = np.maximum.accumulate(np.where(fresh, np.arange(actions.shape[-1]), 0), axis=-1)
    objective = truth.objective[rows]
    incumbent = objective[task, np.take_along_axis(column, place, axis=-1)]
    return normalized_regret(incumbent, *table_bounds(objective, truth.direction))


def figures(regret: np.ndarray) -> dict[str, Any]:
    """Regret `[D, S, T]` at the budgets and its mean over trials, as `{"5": [D][S], ..., "mean": [D][S]}`."""
    trials = regret.shape[-1]
    budgets = [budget for budget in BUDGETS if budget <= trials] or [trials]
    parts = {str(budget): regret[..., budget - 1] for budget in budgets} | {MEAN: regret.mean(axis=-1)}
    return {name: np.round(values, DIGITS).tolist() for name, values in parts.items()}


def by_task(figure: Sequence[Sequence[float]]) -> np.ndarray:
    """`[D]` mean over seeds of `[D][S]`."""
    return np.asarray(figure, np.float64).mean(axis=1)


def cell(values: np.ndarray, sign: bool = False) -> str:
    """`mean [low, high]` of `values [D]`, with the 95% bootstrap interval over tasks."""
    mean, low, high = estimate(values)
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" if sign else f"{mean:.4f} [{low:.4f}, {high:.4f}]"


def estimate(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and interval of `values [D]`, to the digits that are shown."""
    low, high = bootstrap_interval(values)
    return tuple(round(float(value), SHOWN) + 0.0 for value in (values.mean(), low, high))  # type: ignore[return-value]


def seed_means(figure: Sequence[Sequence[float]]) -> np.ndarray:
    """`[S]` mean over tasks of `[D][S]`."""
    return np.asarray(figure, np.float64).mean(axis=0)


def compared(own: np.ndarray, other: np.ndarray, name: str) -> str:
    """What the paired differences of the losses `own [D]` to `other [D]` say, in words."""
    difference = own - other
    mean, low, high = estimate(difference)
    if len(difference) < 2:
        return f"{mean:+.4f} against {name} on one task: nothing can be said"
    if low > 0:
        return f"worse than {name} by {mean:.4f} [{low:.4f}, {high:.4f}]"
    if high < 0:
        return f"better than {name} by {-mean:.4f} [{-high:.4f}, {-low:.4f}]"
    return f"no difference from {name} beyond noise ({mean:+.4f} [{low:+.4f}, {high:+.4f}])"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the first column flush left."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]
