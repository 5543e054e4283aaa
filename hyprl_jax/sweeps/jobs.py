"""What the processes of a sweep do: train a group of settings, play test tasks with the policies of a group.

A group is trained as a run is (`hyprl_jax.training`), with one checkpoint for all its settings, and goes on
from it after a kill at any moment. Once trained, each setting becomes an ordinary run folder under
`settings/`, which resumes (to find nothing left to do), evaluates and exports as any other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyprl_jax.config import TrainConfig, from_dict, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import Job, Stopped, locked
from hyprl_jax.sweeps.plan import Evaluate, Group, value_of

if TYPE_CHECKING:
    from hyprl_jax.checkpoints import CheckpointStore
    from hyprl_jax.sweeps.group import GroupProgram, GroupState
    from hyprl_jax.training import TrainingData

__all__ = ["evaluate_group", "evaluation_job", "settings_folder", "train_group", "training_job"]

Tell = Callable[[int, int, str], None]
Record = dict[str, Any]
_DIGITS = 6
_PATIENCE = 60.0  # seconds that a process of a killed sweep may take to find out that nobody waits for it


def settings_folder(sweep: Path) -> Path:
    """Where the run folders of the settings are."""
    return sweep / "settings"


def training_job(group: Group, sweep: Path, cores: int) -> Job:
    """The job that trains a group on at most so many cores."""
    settings = [{"name": one.name, "config": to_dict(one.config)} for one in group.settings]
    arguments = {"sweep": str(sweep.absolute()), "group": group.name, "fields": list(group.fields)}
    call = "hyprl_jax.sweeps.jobs:train_group"
    return Job(group.name, call, {**arguments, "settings": settings, "cores": cores})


def evaluation_job(group: Group, sweep: Path, evaluate: Evaluate, cores: int) -> Job:
    """The job that plays test tasks with every setting of a group."""
    arguments = {
        "sweep": str(sweep.absolute()),
        "settings": [one.name for one in group.settings],
        "methods": list(evaluate.methods),
        "trials": evaluate.trials,
        "seeds": list(evaluate.seeds),
        "cores": cores,
    }
    return Job(f"evaluate-{group.name}", "hyprl_jax.sweeps.jobs:evaluate_group", arguments)


def train_group(arguments: Record, tell: Tell) -> Record:
    """Trains the settings of a group and makes a run folder of each; what `results_of` says of them.

    Raises Stopped after a checkpoint if it was asked to stop.
    """
    from hyprl_jax import training
    from hyprl_jax.checkpoints import CheckpointStore
    from hyprl_jax.devices import use_all_cores
    from hyprl_jax.sweeps.group import GroupProgram

    use_all_cores(arguments["cores"])
    sweep = Path(arguments["sweep"])
    names = [one["name"] for one in arguments["settings"]]
    configs = [from_dict(one["config"]) for one in arguments["settings"]]
    values = np.asarray([[value_of(config, name) for name in arguments["fields"]] for config in configs])
    work = sweep / "jobs" / arguments["group"]
    with locked(work, patience=_PATIENCE):
        program = GroupProgram(configs[0], arguments["fields"], values)
        data = training.load_data(configs[0])
        placed = program.place(data.bank, data.folds)
        data = data._replace(bank=placed[0], folds=placed[1])
        store = CheckpointStore(work / "checkpoints")
        state, chunks, seconds = _train(program, data, store, work / "metrics.jsonl", tell)
        for place, (name, config) in enumerate(zip(names, configs, strict=True)):
            _write_run(
                settings_folder(sweep) / name, config, place, program, state, data, work, (chunks, seconds)
            )
    trained = np.asarray(data.folds.trained)
    return results_of(names, program, state, trained, work / "metrics.jsonl", seconds)


def _train(
    program: GroupProgram, data: TrainingData, store: CheckpointStore, metrics_file: Path, tell: Tell
) -> tuple[GroupState, int, float]:
    """The state of a group trained to its end, the chunks that took, and their seconds."""
    import jax

    from hyprl_jax.interrupts import StopSignal
    from hyprl_jax.runs import MetricsWriter

    config = program.config
    state, chunks, seconds = _begin(program, data, store)
    steps = program.steps_per_chunk
    tell(chunks, program.chunks, "going on" if chunks else "started")
    with StopSignal() as stop, MetricsWriter(metrics_file, None, after=chunks * steps) as writer:
        saved_at = time.monotonic()
        while chunks < program.chunks:
            began = time.monotonic()
            state, metrics = program.chunk(state, data.bank, data.folds)
            metrics = jax.device_get(metrics)
            took = time.monotonic() - began
            chunks, seconds = chunks + 1, seconds + took
            row = {"env_steps": chunks * steps, "chunk": chunks, "seconds": seconds, "took": took}
            writer.append({**row, **metrics})
            interrupted = stop.requested and chunks < program.chunks
            due = time.monotonic() - saved_at >= config.checkpoint_seconds
            if due or interrupted or chunks == program.chunks:
                facts = {"chunks": chunks, "seconds": float(seconds), "collections": data.hashes}
                store.save(chunks * steps, state, facts)
                saved_at = time.monotonic()
            best = np.asarray(state.training.best_score).reshape(-1, program.settings, len(config.seeds))
            tell(chunks, program.chunks, f"best validation regret {best.mean(axis=(0, 2)).min():.4f}")
            if interrupted:
                raise Stopped
    return state, chunks, seconds


def _begin(
    program: GroupProgram, data: TrainingData, store: CheckpointStore
) -> tuple[GroupState, int, float]:
    """The state to go on from, the chunks done and the seconds they took."""
    import jax

    if not store.steps():
        return program.start(data.bank, data.folds), 0, 0.0
    restored = store.restore(jax.eval_shape(program.start, data.bank, data.folds))
    facts = restored.metadata
    if facts.get("collections") != data.hashes:
        raise InputError("the collections have changed since the sweep was started: choose another --out")
    chunks, seconds = facts.get("chunks"), facts.get("seconds")
    if (
        type(chunks) is not int
        or not isinstance(seconds, float)
        or chunks * program.steps_per_chunk != restored.step
    ):
        raise InputError(f"the checkpoint in {store.folder} does not fit the group: remove it to train anew")
    carried = np.asarray(restored.state.values)[0, :: len(program.config.seeds)]
    if not np.array_equal(carried, program.values):
        raise InputError(f"the checkpoint in {store.folder} is of other settings: remove it to train anew")
    return restored.state, chunks, seconds


def _write_run(
    folder: Path, config: TrainConfig, place: int, program: GroupProgram, state: GroupState,
    data: TrainingData, work: Path, done: tuple[int, float],
) -> None:  # fmt: skip
    """Makes the run folder of a setting, whole or not at all: as if it had been trained alone, its seconds
    being its share of the group's."""
    from hyprl_jax import training
    from hyprl_jax.checkpoints import CheckpointStore
    from hyprl_jax.runs import RunFolder

    chunks, seconds = done
    part = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    run = RunFolder.create(part, to_dict(config))
    steps = program.steps_per_chunk // program.settings
    with run.metrics_writer(after=0) as writer:
        for row in _rows(work / "metrics.jsonl"):
            metrics = {
                name: _split(values, program)[place] for name, values in row.items() if _is_metric(name)
            }
            share = float(row["seconds"]) / program.settings
            speed = program.steps_per_chunk / max(float(row["took"]), 1e-9)
            writer.append(training.metrics_row(config, int(row["chunk"]) * steps, share, speed, metrics))
    own = program.setting(state, place)
    store = CheckpointStore(run.checkpoints)
    training.save(run, store, chunks * steps, own, data, config, chunks, seconds / program.settings)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def results_of(
    names: Sequence[str], program: GroupProgram, state: GroupState, trained: np.ndarray, metrics_file: Path,
    seconds: float,
) -> Record:  # fmt: skip
    """`{"settings": {name: {...}}}`: of the policies that are kept, `[folds][seeds]`, regret on validation
    and on training tasks, and after how many updates they were reached; the hash of the weights as `hyprl
    train` tells it, and the setting's share of the seconds of training. `trained [folds]` is the number of
    training tasks, which come first among the known ones."""
    from hyprl_jax.leaves import weights_sha256

    rows = {int(row["chunk"]): row for row in _rows(metrics_file)}
    each = program.config.updates_per_chunk
    found = {}
    for place, name in enumerate(names):
        own = program.setting(state, place)
        updates = np.asarray(own.best_updates)
        starts = np.asarray(own.start_scores, np.float64)
        train = np.stack([of[:, :tasks].mean(1) for of, tasks in zip(starts, trained, strict=True)])
        for member in np.argwhere(updates > 0):
            at = tuple(member)
            train[at] = _split(rows[int(updates[at]) // each]["regret_train"], program)[place][at]
        found[name] = {
            "best_validation": np.asarray(own.best_score, np.float64).round(_DIGITS).tolist(),
            "train": train.round(_DIGITS).tolist(),
            "best_updates": updates.tolist(),
            "weights_sha256": weights_sha256({"best": own.best, "last": own.learner.params}),
            "seconds": round(seconds / program.settings, 3),
        }
    return {"settings": found}


def evaluate_group(arguments: Record, tell: Tell) -> Record:
    """Plays the test tasks of all folds with every setting of a group, writes each evaluation into its run
    folder; `{"settings": {name: {method: {"regret", "low", "high"}}}}`, means over trials with their 95%
    interval over tasks."""
    from hyprl_jax.devices import use_all_cores
    from hyprl_jax.evaluation import write_evaluation
    from hyprl_jax.evaluation.studies import Study, play_study
    from hyprl_jax.interrupts import StopSignal
    from hyprl_jax.runs import RunFolder

    use_all_cores(arguments["cores"])
    found: dict[str, Any] = {}
    with StopSignal() as stop:
        for number, name in enumerate(arguments["settings"]):
            if stop.requested:
                raise Stopped
            tell(number, len(arguments["settings"]), name)
            run = RunFolder(settings_folder(Path(arguments["sweep"])) / name)
            config = from_dict(run.read_config())
            study = Study(
                collections=config.collections,
                split=config.split,
                methods=tuple(arguments["methods"]),
                trials=arguments["trials"] or config.env.trials,
                folds=config.folds,
                seeds=tuple(arguments["seeds"]),
                run=run.path,
            )
            frames, summary = play_study(study)
            write_evaluation(run.evaluation, frames, summary, plots=False)
            found[name] = _test_regrets(frames)
    return {"settings": found}


def _test_regrets(frames: Sequence[Any]) -> Record:
    import pandas as pd

    from hyprl_jax.evaluation.statistics import bootstrap_interval

    frame = pd.concat(frames, ignore_index=True)
    found = {}
    for method, part in frame.groupby("method", sort=False):
        by_task = part.groupby(["collection", "task"])["normalized_regret"].mean().to_numpy()
        low, high = bootstrap_interval(by_task).tolist()
        regret = {"regret": float(by_task.mean()), "low": low, "high": high}
        found[str(method)] = {key: round(value, _DIGITS) for key, value in regret.items()}
    return found


def _rows(file: Path) -> list[Record]:
    from hyprl_jax.runs import read_metrics

    return read_metrics(file)


def _is_metric(name: str) -> bool:
    return name not in ("env_steps", "chunk", "seconds", "took")


def _split(values: Any, program: GroupProgram) -> np.ndarray:
    """`[folds][settings * seeds]` as float64 `[settings, folds, seeds]`; null as NaN."""
    array = np.asarray(values, np.float64)
    return array.reshape(len(array), program.settings, -1).swapaxes(0, 1)
