"""Pretraining: the thin loop around the compiled chunk, with metrics, checkpoints, exact resume and a clean
stop.

A run is fully determined by its configuration, its collections (checked by hash on a resume), the machine
and the number of devices: interrupted anywhere, `kill -9` included, and resumed, it ends with bitwise the
same weights. Several processes may train a run together (`hyprl_jax.hosts`): then all call the same
functions, and the first of them alone has the run folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import bank as banks
from hyprl_jax import hosts
from hyprl_jax.bank import BankIndex, Fold, SurfaceBank
from hyprl_jax.checkpoints import CheckpointStore, weights_sha256
from hyprl_jax.config import TrainConfig, from_saved, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.interrupts import StopSignal
from hyprl_jax.learner import candidate_width
from hyprl_jax.policies import save_policy
from hyprl_jax.program import Metrics, Program, TrainingState
from hyprl_jax.progress import Progress
from hyprl_jax.runs import RunFolder, plot_metrics
from hyprl_jax.streams import Pack, Stream, Streamed, StreamedProgram, giving_back, shards_ahead
from hyprl_jax.surfaces import TaskTables, load_tables, make_split, number_of_folds, restrict

Result = dict[str, Any]


class TrainingData(NamedTuple):
    """The surfaces of a run on the device, and the names of what they are; of a streamed run,
    those that it is judged on."""

    bank: SurfaceBank
    folds: Fold
    """Leaves `[folds, ...]`."""
    names: BankIndex
    known: list[frozenset[str]]
    """Groups of the known tasks of each fold."""
    stream: Stream | None = None
    """Where the shards of a streamed run come from."""

    @property
    def hashes(self) -> dict[str, str]:
        """Content hash of each collection."""
        return {table.collection: table.content_hash for table in self.names.tables}


def train(config: TrainConfig, out: Path, silent: bool = False) -> Result:
    """Pretrains from the start into the new folder `out`.

    Returns `{"run", "env_steps", "weights_sha256", "best_validation", "interrupted"}`, where
    `best_validation` is
    `[folds][seeds]`.

    Raises:
      InputError: a mistake in the configuration or the collections, an `out` that is not empty, a full disk.
    """
    if not config.collections:
        raise InputError("nothing to train on: name at least one collection")
    config = dataclasses.replace(config, collections=tuple(anchored(name) for name in config.collections))
    data = load_data(config)
    run = RunFolder.create(out, to_dict(config)) if hosts.is_first() else None
    return _run(config, data, run, silent)


def resume(path: Path, silent: bool = False) -> Result:
    """Goes on with the run in `path` from its newest undamaged checkpoint (from the start if it has none
    yet).

    A finished run is left as it is. Returns as `train`. Raises InputError if `path` is no run, its
    collections have changed, or its checkpoints do not fit.
    """
    run = RunFolder(path) if hosts.is_first() else None
    config = from_saved(hosts.from_first(lambda: run.read_config() if run else None))
    return _run(config, load_data(config), run, silent)


def load_data(config: TrainConfig) -> TrainingData:
    """The collections and folds of a configuration on the default device; of a streamed one, what
    it is judged on."""
    if config.stream.tasks:
        return _open_stream(config)
    tables = [load_tables(name) for name in config.collections]
    splits = [
        [make_split(table, config.split, fold, config.validation_fraction) for table in tables]
        for fold in config.folds
    ]
    # Splits that are about some of the configurations only have one fold, so the first stands for all.
    tables = [restrict(table, split) for table, split in zip(tables, splits[0], strict=True)]
    bank, index = banks.pack(tables)
    _check_candidates(config, index)
    sizes = [sum(len(split.train) + len(split.validation) for split in one) for one in splits]
    folds = [banks.make_fold(index, one, max(sizes)) for one in splits]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *folds)
    groups = [group for table in tables for group in table.groups]
    known = [frozenset(groups[row] for row in fold.known) for fold in folds]
    if config.surfaces == "replicated":  # sharded ones never are on one device as a whole
        bank = jax.tree.map(jnp.asarray, bank)
    return TrainingData(bank, stacked, index, known)


def _open_stream(config: TrainConfig) -> TrainingData:
    """The packed collection of a streamed run; it stays open, and goes with the last that refers to it."""
    if jax.process_count() > 1:
        raise InputError(
            "a streamed run is trained by one process: leave out the others, or set stream.tasks to 0"
        )
    pack = Pack(config.collections[0])
    splits = [make_split(pack.outline, config.split, k, config.validation_fraction) for k in config.folds]
    if any(split.config_ids is not None for split in splits):
        raise InputError(
            f"the split {config.split!r} is about some of the configurations: it cannot be streamed"
        )
    stream = Stream(pack, splits, config.stream)
    bank, folds, index = stream.reference()
    groups = dict(zip(pack.outline.tasks, pack.outline.groups, strict=True))
    known = [frozenset(groups[task] for task in (*one.train, *one.validation)) for one in splits]
    bank, folds = jax.tree.map(jnp.asarray, (bank, folds))
    return TrainingData(bank, folds, index, known, stream)


def _lessons(program: Program, data: TrainingData, first: int) -> AbstractContextManager[Callable[[], tuple]]:
    """What gives, chunk by chunk from the `first` on, the bank and the folds that the program is to use."""
    stream = data.stream
    if stream is None:
        return contextlib.nullcontext(lambda: (data.bank, data.folds))

    def read(chunk: int) -> tuple:
        bank, folds = program.place(*jax.tree.map(jnp.asarray, stream.read(chunk)))
        return Streamed(data.bank, bank), Streamed(data.folds, folds)

    return shards_ahead(read, first, program.chunks)


def _check_candidates(config: TrainConfig, index: BankIndex) -> None:
    """InputError if the subset of candidates that an episode is offered is too small in some collection.

    The subset is drawn from the columns of the bank, of which a small collection fills only a part.
    """
    sizes = {table.collection: len(table.config_ids) for table in index.tables}
    widest = max(sizes.values())
    offered = min(config.augment.candidates or widest, widest)
    smallest = min(sizes, key=lambda name: sizes[name])
    if len(sizes) > 1 and offered * sizes[smallest] < config.env.trials * widest:
        raise InputError(
            f"with augment.candidates {config.augment.candidates}, {smallest!r} would often offer fewer than "
            f"{config.env.trials} configurations an episode: raise it, or set it to 0 for all"
        )


def _run(config: TrainConfig, data: TrainingData, run: RunFolder | None, silent: bool) -> Result:
    hosts.check_same([to_dict(dataclasses.replace(config, collections=("any",))), data.hashes])
    streamed = StreamedProgram(config) if data.stream is not None else None
    program = streamed or Program(config)
    placed = program.place(data.bank, data.folds)
    data = data._replace(bank=placed[0], folds=placed[1])
    store = CheckpointStore(run.checkpoints) if run else None
    with contextlib.ExitStack() as stack:
        if run:
            stack.enter_context(run.locked())
        if data.stream is not None and streamed is not None:
            stack.enter_context(giving_back())
            streamed.prepare((data.bank, data.folds), data.stream.shapes(data.bank, data.folds))
        state, chunks, seconds = _begin(program, data, store)
        env_steps = chunks * program.steps_per_chunk
        total = program.chunks * program.steps_per_chunk
        interrupted = False
        with (
            StopSignal() as stop,
            run.metrics_writer(after=env_steps) if run else contextlib.nullcontext() as writer,
            Progress(total, "training", silent=silent or not run) as progress,
            _lessons(program, data, chunks) as lessons,
        ):
            saved_at = time.monotonic()
            while chunks < program.chunks:
                began = time.monotonic()
                state, metrics = program.chunk(state, *lessons())
                metrics = jax.device_get(hosts.fetch(jax.block_until_ready(metrics)))
                took = time.monotonic() - began
                chunks, seconds = chunks + 1, seconds + took
                env_steps = chunks * program.steps_per_chunk
                if writer:
                    writer.append(
                        metrics_row(config, env_steps, seconds, program.steps_per_chunk / took, metrics)
                    )
                progress.update(env_steps, _words(metrics))
                late = time.monotonic() - saved_at >= config.checkpoint_seconds
                stopping, due = hosts.any_of(stop.requested, late)
                interrupted = stopping and chunks < program.chunks
                if due or interrupted or chunks == program.chunks:
                    whole = hosts.fetch(state)
                    if run and store:
                        save(run, store, env_steps, whole, data, config, chunks, seconds)
                    saved_at = time.monotonic()
                if interrupted and run:
                    progress.note(f"stopped; go on with: hyprl train --resume {run.path}")
                if interrupted:
                    break
        if env_steps and run:
            plot_metrics(run)
    state = hosts.fetch(state)
    return {
        "run": hosts.from_first(lambda: str(run.path) if run else ""),
        "env_steps": env_steps,
        "weights_sha256": weights_sha256({"best": state.best, "last": state.learner.params}),
        "best_validation": np.asarray(state.best_score, np.float64).round(6).tolist(),
        "interrupted": interrupted,
    }


def _begin(
    program: Program, data: TrainingData, store: CheckpointStore | None
) -> tuple[TrainingState, int, float]:
    """The state to go on from, the chunks done and the seconds they took; the first process has a `store`."""
    if not hosts.from_first(lambda: bool(store and store.steps())):
        return program.start(data.bank, data.folds), 0, 0.0
    target = jax.eval_shape(program.start, data.bank, data.folds)
    state, chunks, seconds = _restored(program, data, store, target) if store else (None, 0, 0.0)
    chunks, seconds = hosts.from_first(lambda: (chunks, seconds))
    return hosts.arrays_from_first(state, target), chunks, seconds


def _restored(
    program: Program, data: TrainingData, store: CheckpointStore, target: Any
) -> tuple[TrainingState, int, float]:
    restored = store.restore(target)
    if restored.metadata.get("collections") != data.hashes:
        raise InputError("the collections have changed since the run was started: start a new run")
    chunks, seconds = restored.metadata.get("chunks"), restored.metadata.get("seconds")
    if (
        type(chunks) is not int
        or not isinstance(seconds, float)
        or chunks * program.steps_per_chunk != restored.step
    ):
        raise InputError("the newest checkpoint does not fit the configuration of the run: start a new run")
    return restored.state, chunks, seconds


def save(
    run: RunFolder,
    store: CheckpointStore,
    env_steps: int,
    state: TrainingState,
    data: TrainingData,
    config: TrainConfig,
    chunks: int,
    seconds: float,
) -> None:
    """Keeps the best policies of a run and a checkpoint from which `resume` goes on."""
    # The policy first: a run whose last checkpoint is there has nothing left to do.
    width = candidate_width(data.bank, config)
    save_policy(run, env_steps, state.best, state.numbers, data.names, data.bank, data.known, width)
    metadata = {"chunks": chunks, "seconds": float(seconds), "collections": data.hashes}
    store.save(env_steps, state, metadata)


def metrics_row(
    config: TrainConfig, env_steps: int, seconds: float, speed: float, metrics: Metrics
) -> dict[str, Any]:
    """A line of metrics: means over members, and what is wanted for each member as `[folds][seeds]`."""
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    members = {
        f"{name}_members": np.asarray(metrics[name], np.float64).tolist()
        for name in ("regret_train", "regret_validation", "best_validation")
    }
    return {
        "env_steps": env_steps,
        "episodes": env_steps // config.env.trials,
        "seconds": round(seconds, 3),
        "env_steps_per_second": round(speed, 1),
        **means,
        **members,
    }


def _words(metrics: Metrics) -> str:
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    return (
        f"regret {means['regret_train']:.4f} on training, {means['regret_validation']:.4f} on validation "
        f"tasks (best {means['best_validation']:.4f})"
    )


def every_fold(config: TrainConfig) -> tuple[int, ...]:
    """All folds of the split of a configuration; InputError if its collections differ in their number."""
    counts = {number_of_folds(outline(config, name), config.split) for name in config.collections}
    if len(counts) > 1:
        raise InputError("the collections have different numbers of folds: name the folds, `--fold 0,1,2`")
    return tuple(range(counts.pop()))


def with_outputs(config: TrainConfig) -> TrainConfig:
    """The configuration with the outputs of a fixed head, where they are left open: the configurations that
    the split is about."""
    if config.network.head != "fixed" or config.network.outputs:
        return config
    tables = outline(config, config.collections[0])
    split = make_split(tables, config.split, config.folds[0], config.validation_fraction)
    outputs = len(restrict(tables, split).config_ids)
    return dataclasses.replace(config, network=dataclasses.replace(config.network, outputs=outputs))


def outline(config: TrainConfig, name: str) -> TaskTables:
    """The tables of a collection; without their values if it is streamed."""
    if not config.stream.tasks:
        return load_tables(name)
    with Pack(name) as pack:
        return pack.outline


def anchored(name: str) -> str:
    """A collection's name as it is; a path made absolute, so that a run can be resumed from anywhere."""
    return os.path.abspath(name) if os.sep in name or name in (".", "..") else name
