"""Runs with made-up weights, their episodes on the device, and the ways to play an exported policy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from probes import quick_jit
from tiny_runs import grid_collection, tiny_config

from hyprl_jax import augment, explore, fitting, learner, players, policies, rollout
from hyprl_jax import bank as banks
from hyprl_jax.config import AugmentConfig, EnvConfig, NetworkConfig, TrainConfig, to_dict
from hyprl_jax.export import export_policy
from hyprl_jax.knowledge import Numbers
from hyprl_jax.networks import FlaxNetwork
from hyprl_jax.rollout import Choice
from hyprl_jax.runs import RunFolder
from hyprl_jax.runtime import load_policy
from hyprl_jax.runtime.belief import Posterior
from hyprl_jax.runtime.cold import ColdPosterior
from hyprl_jax.runtime.episode import Episode
from hyprl_jax.runtime.likeness import unlikeness
from hyprl_jax.surfaces import TaskTables, write_collection
from hyprl_jax.training import TrainingData, load_data


class Played(NamedTuple):
    """D episodes of T trials, one of every task of the bank, by the ensemble on the device."""

    action: np.ndarray
    objective: np.ndarray
    columns: np.ndarray
    """`[D, T, C]` the shortlist."""
    values: np.ndarray
    """`[D, T, S, C]` Q-values."""
    advantages: np.ndarray
    """`[D, T, S, C]`"""
    legal: np.ndarray
    """`[D, T, C]` bool."""
    context: np.ndarray
    features: np.ndarray
    start: np.ndarray
    top: np.ndarray
    metafeatures: np.ndarray
    """`[D, M]` standardised."""


def untrained_run(
    path: Path,
    *collections: str,
    network: NetworkConfig | None = None,
    trials: int = 4,
    calm: bool = False,
    **changes: Any,
) -> Path:
    """A run whose policies are random ones and whose surrogate learned random numbers, and, if `calm`, that
    known surfaces are better without their noise."""
    changes.setdefault("folds", (0,))
    config = tiny_config(*collections, env=EnvConfig(trials=trials), **changes)
    return save_untrained(
        path,
        dataclasses.replace(config, network=network or config.network, augment=AugmentConfig(candidates=0)),
        calm,
    )


def save_untrained(path: Path, config: TrainConfig, calm: bool = False) -> Path:
    """The same of a configuration."""
    data = load_data(config)
    folds, seeds = len(config.folds), len(config.seeds)
    width = learner.candidate_width(data.bank, config)
    fresh = FlaxNetwork(config.network).init(
        jax.random.key(0), data.bank.metafeatures.shape[1], len(rollout.CONTEXT_FEATURES), width
    )
    random = np.random.default_rng(0)

    def shaken(leaf: jax.Array) -> jax.Array:
        return leaf + 0.3 * jnp.asarray(random.normal(size=(folds, seeds, *leaf.shape)), jnp.float32)

    numbers = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[None, None] * jnp.exp(0.5 * _noise(random, leaf)), seeds, 1).repeat(
            folds, 0
        ),
        fitting.numbers_of(data.bank, config.surrogate),
    )
    numbers = numbers._replace(denoise=jnp.full_like(numbers.denoise, calm))
    run = RunFolder.create(path, to_dict(config))
    params = jax.tree.map(shaken, fresh)
    policies.save_policy(run, 96, params, numbers, data.names, data.bank, data.known, width)
    return path


READ = ("policy.json", "weights.safetensors", "prior.safetensors")  # what the runtime reads of an export


def collection_with_gaps(folder: Path) -> str:
    """A grid of ten tasks with four metafeatures: one is often unknown, one has ties, one is often the
    same."""
    random, collection = np.random.default_rng(3), grid_collection(tasks=10)
    rows = len(collection.tasks)
    gaps = np.where(random.uniform(size=rows) < 0.4, np.nan, random.normal(size=rows))
    described = collection.tasks.assign(
        gaps=gaps, ties=np.arange(rows) // 2 * 1.0, mostly=np.where(np.arange(rows) == 4, 7.0, 100.0)
    )
    return str(write_collection(dataclasses.replace(collection, tasks=described), folder / "grid"))


def metafeatures_of(table: TaskTables, task: str) -> dict[str, float]:
    """What a user would say of the dataset of a task."""
    values = table.metafeatures[table.tasks.index(task)]
    return dict(zip(table.metafeature_names, values.tolist(), strict=True))


def undamaged_export(folder: Path) -> Path:
    """The export of a run with random weights on one small grid."""
    export_policy(untrained_run(folder / "run", collection_with_gaps(folder)), folder / "policy")
    return folder / "policy"


def _noise(random: np.random.Generator, leaf: jax.Array) -> jax.Array:
    return jnp.asarray(random.normal(size=leaf.shape), jnp.float32)


class Device:
    """The ensemble of one fold of a run on the device."""

    def __init__(self, run: Path, place: int = 0, seeds: tuple[int, ...] | None = None) -> None:
        policy = policies.load_policy(run)
        self.config: TrainConfig = policy.config
        self.data: TrainingData = load_data(self.config)
        members = range(len(self.config.seeds)) if seeds is None else seeds
        self.members = jax.tree.map(lambda leaf: leaf[place][jnp.asarray(list(members))], policy.params)
        self.numbers: Numbers = jax.tree.map(lambda leaf: leaf[place, 0], policy.numbers)
        self.fold = jax.tree.map(lambda leaf: leaf[place], self.data.folds)
        self.network = FlaxNetwork(self.config.network)

    def first_carry(self, metafeatures: Any) -> Any:
        return jax.vmap(lambda params: self.network.initial_carry(params, metafeatures))(self.members)

    def play(self) -> Played:
        """One episode of every task, none of which informs itself."""
        config = self.config

        def act(memory: Any, view: rollout.View, key: jax.Array) -> tuple[Any, Choice]:
            columns = players.shortlist(view, config.network)
            inputs = players.candidate_inputs(view, config.network, columns)

            def judge(params: Any, carry: Any) -> Any:
                carry, hidden = self.network.advance(params, carry, view.context)
                values = self.network.values(params, hidden, inputs)
                return carry, values, self.network.advantages(params, hidden, inputs)

            memory, values, advantages = jax.vmap(judge)(self.members, memory)
            legal = view.observation.legal[columns]
            place = explore.masked_argmax(advantages.mean(0), legal)
            kept = (columns, values, advantages, legal, view.context, *inputs)
            return memory, Choice(columns[place], kept)

        def play_all(bank: Any, fold: Any, numbers: Any) -> Any:
            shared = rollout.background(bank, fold, numbers)
            metafeatures = banks.standardised_metafeatures(bank, fold)

            def one(row: jax.Array) -> Any:
                task = augment.real_task(bank, fold, metafeatures, row)
                memory = self.first_carry(task.metafeatures)
                return rollout.play(
                    act, memory, shared, task, jax.random.key(0), config.env, config.surrogate
                )

            return jax.vmap(one)(jnp.arange(bank.objective.shape[0])), metafeatures

        record, metafeatures = quick_jit(play_all)(self.data.bank, self.fold, self.numbers)
        record, metafeatures = jax.tree.map(np.asarray, (record, metafeatures))
        return Played(record.action, record.objective, *record.kept, metafeatures)

    def of_collection(self, row: int) -> np.ndarray:
        """`[K]` bool: known tasks of the same collection as task `row`."""
        bank, fold = jax.tree.map(np.asarray, (self.data.bank, self.fold))
        same: np.ndarray = fold.usable & (bank.collection[fold.known] == bank.collection[row])
        return same

    def unlikeness(self, row: int) -> np.ndarray:
        """How unlike all known tasks of the same collection are to task `row`, in NumPy."""
        bank, fold = jax.tree.map(np.asarray, (self.data.bank, self.fold))
        own, first = int(bank.collection[row]), np.flatnonzero(bank.collection == bank.collection[row])[0]
        raw = self.data.names.tables[own].metafeatures
        return unlikeness(raw[row - first], raw[fold.known[self.of_collection(row)] - first])

    def episode(self, exported: Path, row: int, metafeatures: np.ndarray) -> Episode:
        """The same episode for the exported policy in NumPy, with what the device knows beforehand."""
        policy = load_policy(exported)
        bank, fold = jax.tree.map(np.asarray, (self.data.bank, self.fold))
        place = int(bank.collection[row])
        table = self.data.names.tables[place]
        width = len(table.feature_names)
        peers = np.asarray(banks.peers(self.data.bank, self.fold, jnp.int32(row)))
        rows = fold.known[peers]
        span = (bank.best - bank.worst)[rows].astype(np.float64)
        own, beliefs = bank.encodings[place][:, :width].astype(np.float64), policy.numbers[table.collection]
        posterior: Posterior | ColdPosterior
        if beliefs.prior == "cold":
            posterior = ColdPosterior(own, beliefs)
        else:
            values = bank.unit[rows].astype(np.float64)
            if beliefs.denoise:
                calm = bank.smooth[rows].astype(np.float64)
                values = np.stack([0.5 * (values + calm), calm])
            known = values, bank.worst[rows].astype(np.float64)
            apart = self.unlikeness(row)[peers[self.of_collection(row)]]
            posterior = Posterior(own, *known, np.where(span > 0, span, 1.0), beliefs, apart)
        encodings = bank.encodings[place].astype(np.float64)
        episode = Episode(policy, posterior, encodings, self.config.env.trials, metafeatures)
        episode.legal = bank.legal[row].copy()
        return episode
