"""Tiny problems for tests: random banks of a few tasks, and probe tasks whose optimal Q-values are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import bank as banks
from hyprl_jax.bank import BankIndex, Fold, SurfaceBank
from hyprl_jax.config import (
    AugmentConfig,
    EnvConfig,
    LearnerConfig,
    NetworkConfig,
    SurrogateConfig,
    TrainConfig,
)
from hyprl_jax.env import Task
from hyprl_jax.surfaces import Split, TaskTables

PLAIN = AugmentConfig(candidates=0, mixture=0.0, warp=0.0, noise=0.0, rescale=0.0, forget=0.0)
"""Real surfaces over all their configurations, nothing forgotten."""
PROBE_NETWORK = NetworkConfig(
    context=16, hidden=16, candidates="both", residual=False, layer_norm=False, shortlist=0
)
"""Sees which candidate is which, and starts from nothing."""

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` for programs that take longer to compile than to run."""


def make_tables(
    name: str = "first",
    tasks: int = 6,
    configs: int = 9,
    features: int = 3,
    metafeatures: int = 2,
    *,
    seed: int = 0,
    missing: float = 0.0,
    direction: str = "minimize",
    tasks_a_group: int = 2,
) -> TaskTables:
    """Random tables; a share `missing` of the values is NaN, at least two values a task are there."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=configs)
    objective = 3.0 + 0.5 * shared + random.normal(size=(tasks, configs)) * random.uniform(0.3, 2, (tasks, 1))
    absent = random.uniform(size=objective.shape) < missing
    absent[:, :2] = False
    objective[absent] = np.nan
    return tables_of(
        name,
        objective,
        random.uniform(size=(configs, features)).astype(np.float32),
        direction=direction,
        groups=tuple(f"{name}-group{task // tasks_a_group}" for task in range(tasks)),
        metafeatures=random.normal(size=(tasks, metafeatures)),
    )


def tables_of(
    name: str,
    objective: np.ndarray,
    encodings: np.ndarray,
    *,
    direction: str = "maximize",
    groups: tuple[str, ...] | None = None,
    metafeatures: np.ndarray | None = None,
) -> TaskTables:
    """Tables around `objective [D, C]` and `encodings [C, F]`; every task is its own group unless told."""
    tasks, configs = objective.shape
    meta = np.zeros((tasks, 0)) if metafeatures is None else metafeatures
    return TaskTables(
        collection=name,
        content_hash="0" * 64,
        direction=direction,
        tasks=tuple(f"task{number}" for number in range(tasks)),
        groups=groups or tuple(f"{name}-{number}" for number in range(tasks)),
        config_ids=np.arange(configs),
        encodings=np.asarray(encodings, np.float32),
        feature_names=tuple(f"x{number}" for number in range(encodings.shape[1])),
        objective=np.asarray(objective, np.float64),
        cost=np.full(objective.shape, np.nan),
        metafeatures=meta,
        metafeature_names=tuple(f"m{number}" for number in range(meta.shape[1])),
    )


def split_of(tables: TaskTables, train: Sequence[int], validation: Sequence[int] = ()) -> Split:
    """A split by numbers of tasks; the rest is the test side."""
    names = tables.tasks
    rest = [number for number in range(len(names)) if number not in {*train, *validation}]
    sides = [tuple(names[number] for number in side) for side in (train, validation, rest)]
    return Split("probe", 0, sides[0], sides[1], sides[2])


def on_device(tree: Any) -> Any:
    """NumPy arrays as device arrays."""
    return jax.tree.map(jnp.asarray, tree)


def small_bank(**changes: Any) -> tuple[SurfaceBank, BankIndex, Fold]:
    """One collection of 6 tasks in 3 groups: tasks 0 to 3 known (0 to 2 training, 3 validation), 4 and 5
    for tests."""
    tables = make_tables(**changes)
    bank, index = banks.pack([tables])
    return on_device(bank), index, on_device(banks.make_fold(index, [split_of(tables, [0, 1, 2], [3])]))


def random_tasks(seed: int, episodes: int, candidates: int, known: int, metafeatures: int = 2) -> Task:
    """Tasks `[E, ...]` with random surfaces, legal masks (at least one legal) and peers, as NumPy arrays."""
    random = np.random.default_rng(seed)
    objective = random.normal(size=(episodes, candidates)).astype(np.float32)
    legal = random.uniform(size=objective.shape) < random.uniform(0.2, 1.1, (episodes, 1))
    legal[np.arange(episodes), random.integers(0, candidates, episodes)] = True
    return Task(
        objective=objective,
        legal=legal,
        best=np.max(np.where(legal, objective, -np.inf), axis=1),
        worst=np.min(np.where(legal, objective, np.inf), axis=1),
        peers=random.uniform(size=(episodes, known)) < 0.8,
        metafeatures=random.normal(size=(episodes, metafeatures)).astype(np.float32),
        collection=np.zeros(episodes, np.int32),
    )  # type: ignore[arg-type]


def probe_config(learner: dict[str, Any] | None = None, **parts: Any) -> TrainConfig:
    """A configuration for probe tasks: plain surfaces, a flat prior, a network that sees encodings and
    learns Q-values from
    nothing, constant exploration without baselines."""
    settings: dict[str, Any] = {
        "episodes": 32, "plays": 1, "minibatches": 1, "epochs": 4, "updates": 120, "gamma": 1.0,
        "lambda_": 0.0, "baseline": False, "exploration": "uniform", "epsilon_schedule": "constant",
        "epsilon_start": 1.0, "learning_rate": 1e-2, "reward_scale": 1.0, "average": 0.0, "warmup": 0,
        "max_gradient_norm": 10.0, "ordering": "q",
    }  # fmt: skip
    return TrainConfig(
        env=parts.pop("env", EnvConfig(trials=1, reward="raw")),
        augment=parts.pop("augment", PLAIN),
        surrogate=parts.pop("surrogate", SurrogateConfig(prior="constant")),
        network=parts.pop("network", PROBE_NETWORK),
        learner=LearnerConfig(**{**settings, **(learner or {})}),
        updates_per_chunk=20,
        **parts,
    )


def probe_bank(objective: Sequence[float]) -> tuple[SurfaceBank, Fold]:
    """A bank with the one task `objective [N]`, one-hot encodings, and the fold that trains on it."""
    values = np.asarray(objective, np.float64)[None, :]
    tables = tables_of("probe", values, np.eye(values.shape[1], dtype=np.float32))
    bank, index = banks.pack([tables])
    return on_device(bank), on_device(banks.make_fold(index, [split_of(tables, [0])]))


def with_learner(config: TrainConfig, **changes: Any) -> TrainConfig:
    """`config` with other fields of the learner."""
    return dataclasses.replace(config, learner=dataclasses.replace(config.learner, **changes))
