"""What is exported: the members of one fold of a run, and the tasks that this fold was allowed to know.

The run's weights are read from its `policy/`, its collections anew from where they lie, and these must be
what the run was trained on. Test tasks of the fold take part in nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hyprl_jax.checkpoints import CheckpointStore
from hyprl_jax.config import TrainConfig
from hyprl_jax.errors import InputError
from hyprl_jax.policies import TrainedPolicy, load_policy
from hyprl_jax.program import Program
from hyprl_jax.runs import RunFolder
from hyprl_jax.runtime.belief import Beliefs
from hyprl_jax.runtime.metafeatures import LARGEST
from hyprl_jax.runtime.network import Architecture
from hyprl_jax.runtime.prior import EarlierTasks
from hyprl_jax.runtime.space import Space
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces import Collection, TaskTables, read_collection
from hyprl_jax.training import TrainingData, load_data

__all__ = ["Known", "Selection", "named_leaves", "select"]


class Known(NamedTuple):
    """One training collection as the fold knows it."""

    collection: Collection
    tables: TaskTables
    """Of the configurations that the split is about."""
    rows: np.ndarray
    """Rows of `tables` with the training and the validation tasks."""
    trained: int
    """The first so many of them are training tasks."""
    drawn: int
    """Training tasks of the fold: more than are known if the run was streamed."""
    space: Space

    @property
    def name(self) -> str:
        return self.tables.collection

    def earlier_tasks(self) -> EarlierTasks:
        """The known tasks as `prior.safetensors` holds them: codes `[n, P]` float64, and the objective
        `[K, n]`, higher is better, NaN where missing: float32, or float64 where that would blur a task;
        metafeatures `[K, M]` float32, NaN where unknown (None if the collection has none).

        Raises:
            InputError: the configurations are not those of the tables.
        """
        frame = self.collection.configs.set_index("config_id").loc[self.tables.config_ids].reset_index()
        codes = SpaceEncoding(self.collection.space).codes(frame)
        if not np.array_equal(self.space.features(codes), self.tables.encodings):
            raise InputError(
                f"collection '{self.name}' has configurations that the exported space cannot express: "
                "export without the known tasks (--no-prior)"
            )
        sign = 1.0 if self.tables.direction == "maximize" else -1.0
        objective = sign * self.tables.objective[self.rows]
        span = np.nanmax(objective, axis=1) - np.nanmin(objective, axis=1)
        with np.errstate(over="ignore"):
            narrow = objective.astype(np.float32)
        blur = np.nanmax(np.abs(narrow - objective), axis=1)
        sharp = bool((blur <= 1e-6 * span).all())
        return EarlierTasks(codes, narrow if sharp else objective, self.metafeatures())

    def metafeatures(self) -> np.ndarray | None:
        """The metafeatures of the known tasks, `[K, M]` float32, NaN where unknown; None if there are
        none."""
        with np.errstate(over="ignore"):
            values = self.tables.metafeatures[self.rows].astype(np.float32)
        return np.where(np.abs(values) <= LARGEST, values, np.float32(np.nan)) if values.size else None


class Selection(NamedTuple):
    """Everything that an export is made from; parameters have a leading axis of the S members."""

    run: Path
    config: TrainConfig
    architecture: Architecture
    fold: int
    seeds: tuple[int, ...]
    params: Any
    """Pytree of float32 NumPy arrays `[S, ...]`."""
    encodings: int
    """Width of the encodings that the network reads, 0 if it reads none."""
    metafeatures: int
    """Width of the metafeatures that the network reads, 0 if it reads none."""
    metafeature_offsets: dict[str, int]
    numbers: dict[str, Beliefs]
    """What the surrogate learned for each collection."""
    groups: tuple[str, ...]
    known: tuple[Known, ...]
    steps: int
    """Environment steps of all members of the run when the weights were kept."""
    validation: tuple[float, ...] | None
    """Best validation regret of each member, None if the run's checkpoints do not tell."""

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight `[S, ...]` by its name, as `runtime.network.shapes` lists them."""
        return dict(named_leaves(self.params))


def select(path: Path, fold: int | None = None, seeds: Sequence[int] | None = None) -> Selection:
    """The members of one fold of the run in `path`.

    Raises:
        InputError: a policy that the runtime cannot play, no such fold or seeds, several folds and none is
            named, no policy yet, or collections that are not there or have changed since the run.
    """
    run, policy = RunFolder(path), load_policy(path)
    config = policy.config
    _check_exportable(config, path)
    place = _place_of(config.folds, fold, path)
    chosen, members = _members_of(config.seeds, seeds, path)
    data = load_data(config)
    _check_unchanged(run, data)
    reads = config.network
    params = jax.tree.map(lambda leaf: np.asarray(leaf[place])[members], policy.params)
    return Selection(
        run=run.path,
        config=config,
        architecture=Architecture(**{name: getattr(reads, name) for name in Architecture._fields}),
        fold=config.folds[place],
        seeds=chosen,
        params=params,
        encodings=policy.encoding_features if reads.candidates != "surrogate" else 0,
        metafeatures=policy.metafeatures if reads.metafeatures else 0,
        metafeature_offsets=policy.metafeature_offsets,
        numbers=_numbers(policy, place, members, data.names.tables),
        groups=tuple(sorted(policy.groups[place])),
        known=tuple(_known(config, data, place)),
        steps=CheckpointStore(run.path / "policy").read_metadata()[0],
        validation=_validation(run, config, data, place, members),
    )


def _check_exportable(config: TrainConfig, path: Path) -> None:
    """InputError for a policy that the runtime could not play as it was trained."""
    network = config.network
    if network.cell == "attention":
        what = "the cell attention"
    elif network.head == "fixed":
        what = "the fixed head"
    elif config.env.late_results:
        what = "late results"
    else:
        return
    raise InputError(
        f"{path} was trained with {what}, an ablation that is not exported: `hyprl evaluate` plays it"
    )


def named_leaves(params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of nested dicts with their paths, `cell/hz/kernel`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        yield "/".join(str(key.key) for key in path), np.ascontiguousarray(leaf)


def _place_of(folds: tuple[int, ...], fold: int | None, path: Path) -> int:
    listed = ", ".join(map(str, folds))
    if fold is None and len(folds) > 1:
        raise InputError(f"{path} has the folds {listed}: name the one to export (--fold {folds[0]})")
    if fold is not None and fold not in folds:
        raise InputError(f"{path} has no fold {fold}: it has {listed}")
    return 0 if fold is None else folds.index(fold)


def _members_of(
    there: tuple[int, ...], seeds: Sequence[int] | None, path: Path
) -> tuple[tuple[int, ...], list[int]]:
    """Seeds, and their places, in the order of the run."""
    wanted = there if seeds is None else tuple(seeds)
    unknown = [seed for seed in wanted if seed not in there]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        fault = f"there is no seed {unknown[0]}" if unknown else "name each seed once, and at least one"
        raise InputError(f"{path} has the seeds {', '.join(map(str, there))}: {fault}")
    places = sorted(there.index(seed) for seed in wanted)
    return tuple(there[place] for place in places), places


def _check_unchanged(run: RunFolder, data: TrainingData) -> None:
    store = CheckpointStore(run.checkpoints)
    if store.steps() and store.read_metadata()[1].get("collections") != data.hashes:
        raise InputError(
            f"the collections have changed since {run.path} was trained: restore them, or train anew"
        )


def _numbers(
    policy: TrainedPolicy, place: int, members: list[int], tables: Sequence[TaskTables]
) -> dict[str, Beliefs]:
    """What the surrogate learned in the fold, without the padding of narrower collections."""
    given = policy.config.surrogate
    leaves = {name: np.asarray(leaf)[place][members] for name, leaf in policy.numbers._asdict().items()}
    if any((leaf != leaf[:1]).any() for leaf in leaves.values()):
        raise InputError(
            "the seeds of this fold do not share what their surrogate learned: export one (--seeds)"
        )
    found = {}
    for row, table in enumerate(tables):
        width = len(table.feature_names)
        floor = min(float(leaves["similarity_floor"][0, row]), 1.0) if given.similarity else 1.0
        scales = leaves["lengthscale"][0, row, :width].tolist()
        found[table.collection] = Beliefs(
            prior=given.prior,
            encoding_variance=float(leaves["encoding_variance"][0, row]),
            learned_variance=float(leaves["learned_variance"][0, row]),
            lengthscale=tuple(scales) if scales else given.lengthscale,
            noise=float(leaves["noise"][0, row]),
            sharpness_low=given.sharpness_low,
            sharpness_high=given.sharpness_high,
            gain_weight=float(leaves["gain_weight"][0, row]),
            freedom=given.freedom,
            similarity_width=float(leaves["similarity_width"][0, row]),
            similarity_floor=floor,
            mean_variance=given.mean_variance,
            additive=given.additive,
            guard_share=given.guard_share if given.guard else 0.0,
            guard_variance=given.guard_variance,
            denoise=float(leaves["denoise"][0, row]),
        )
    return found


def _known(config: TrainConfig, data: TrainingData, place: int) -> Iterator[Known]:
    fold = jax.tree.map(lambda leaf: np.asarray(leaf[place]), data.folds)
    names = [data.names.tasks[row] for row in fold.known[fold.usable]]
    trained = set(names[: int(fold.trained)])
    for given, table in zip(config.collections, data.names.tables, strict=True):
        stream = data.stream
        collection = read_collection(given) if stream is None else stream.pack.description()
        mine = [task for name, task in names if name == table.collection]
        known = sum((table.collection, task) in trained for task in mine)
        yield Known(
            collection,
            table,
            np.asarray([table.tasks.index(task) for task in mine], np.int64),
            trained=known,
            drawn=known if stream is None else len(stream.sides[place].train),
            space=Space.from_configspace(collection.space),
        )


def _validation(
    run: RunFolder, config: TrainConfig, data: TrainingData, place: int, members: list[int]
) -> tuple[float, ...] | None:
    """Best validation regret of the members, from the checkpoint that was written with the policy."""
    store = CheckpointStore(run.checkpoints)
    if not store.steps() or store.steps()[-1:] != CheckpointStore(run.path / "policy").steps()[-1:]:
        return None
    try:
        state = store.restore(jax.eval_shape(Program(config).start, data.bank, data.folds)).state
    except InputError:  # a checkpoint is not needed to export, and may have been deleted in part
        return None
    return tuple(float(score) for score in np.asarray(state.best_score, np.float64)[place][members])
