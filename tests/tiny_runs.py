"""Small collections of three kinds on disk, and configurations that train on them within seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ConfigSpace
import jax
import numpy as np
import pandas as pd
import pytest
from surface_examples import small_collection

from hyprl_jax import training
from hyprl_jax.config import AugmentConfig, EnvConfig, LearnerConfig, NetworkConfig, TrainConfig
from hyprl_jax.program import Program
from hyprl_jax.runs import RunFolder
from hyprl_jax.surfaces import Collection, CollectionInfo, Objective, write_collection

TRIALS = 4
NAMES = ("grid", "ragged", "conditional")


def write_collections(folder: Path) -> dict[str, str]:
    """Writes one collection of each kind into `folder`; their paths by name.

    `grid`: the same 8 configurations for every task, maximised. `ragged`: 7 to 12 of 12 configurations a
    task, another space, minimised. `conditional`: 14 configurations of a conditional space, with repeats,
    fidelities and missing values, minimised.
    """
    made = {"grid": grid_collection(), "ragged": ragged_collection(), "conditional": conditional_collection()}
    return {name: str(write_collection(made[name], folder / name)) for name in NAMES}


def grid_collection(seed: int = 0, tasks: int = 6, configs: int = 8) -> Collection:
    """Two numbers on a grid; each task is its own group."""
    random = np.random.default_rng(seed)
    space = ConfigSpace.ConfigurationSpace()
    space.add(
        ConfigSpace.UniformFloatHyperparameter("rate", 1e-3, 1.0, log=True),
        ConfigSpace.UniformIntegerHyperparameter("depth", 1, 4),
    )
    half = configs // 2
    table = pd.DataFrame(
        {
            "config_id": np.arange(configs),
            "rate": np.repeat([1e-2, 1e-1], half),
            "depth": np.tile(np.arange(1, half + 1), 2),
        }
    )
    common = random.normal(size=configs)
    values = 0.5 * common + random.normal(size=(tasks, configs)) + 3.0
    names = [f"t{number}" for number in range(tasks)]
    return _collection("grid", "maximize", space, table, values, random.normal(size=(tasks, 2)), names)


def ragged_collection(seed: int = 1, tasks: int = 6, configs: int = 12) -> Collection:
    """One category and one number; tasks lack up to half of the configurations; two tasks a group."""
    random = np.random.default_rng(seed)
    space = ConfigSpace.ConfigurationSpace()
    space.add(
        ConfigSpace.CategoricalHyperparameter("kind", ["a", "b", "c"]),
        ConfigSpace.UniformFloatHyperparameter("width", 0.0, 1.0),
    )
    table = pd.DataFrame(
        {
            "config_id": 5 * np.arange(configs),
            "kind": pd.Series(np.resize(["a", "b", "c"], configs), dtype="str"),
            "width": np.linspace(0.0, 1.0, configs),
        }
    )
    values = random.uniform(size=configs) + random.uniform(size=(tasks, configs))
    for task in range(tasks):
        values[task, random.permutation(configs)[: task % (configs // 2 + 1)]] = np.nan
    names = [f"r{number}" for number in range(tasks)]
    groups = [f"ragged-{number // 2}" for number in range(tasks)]
    return _collection("ragged", "minimize", space, table, values, np.zeros((tasks, 0)), names, groups)


def conditional_collection() -> Collection:
    """See `surface_examples.small_collection`."""
    collection = small_collection(tasks=6, configs=14)
    return dataclasses.replace(collection, info=dataclasses.replace(collection.info, name="conditional"))


def tiny_config(*collections: str, **changes: Any) -> TrainConfig:
    """Six chunks of two updates of 16 episodes with 4 trials, two folds and two seeds; fields of the learner
    go into `learner=`."""
    learner = {
        "episodes": 16, "plays": 4, "minibatches": 2, "epochs": 1, "updates": 12, "warmup": 1,
        **changes.pop("learner", {}),
    }  # fmt: skip
    settings: dict[str, Any] = {
        "collections": tuple(collections),
        "split": "kfold3",
        "folds": (0, 1),
        "seeds": (0, 1),
        "validation_fraction": 0.4,
        "validation_plays": 2,
        "updates_per_chunk": 2,
        "checkpoint_seconds": 0.0,
        "env": EnvConfig(trials=TRIALS),
        "augment": AugmentConfig(candidates=7),
        "network": NetworkConfig(context=8, hidden=8),
        "learner": LearnerConfig(**learner),
    }
    return TrainConfig(**(settings | changes))


@contextlib.contextmanager
def shared_programs() -> Iterator[None]:
    """Lets runs of one configuration share their compiled programs within this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Program", program_of)
        yield


def program_of(config: TrainConfig) -> Program:
    """The program of a configuration; where its collections lie and when it saves shapes no program."""
    return _compiled_once(dataclasses.replace(config, collections=("any",), checkpoint_seconds=0.0))


@functools.cache
def _compiled_once(config: TrainConfig) -> Program:
    return Program(config)


class Compilations:
    """Names of the functions that XLA compiles in this process while the `with` block runs."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __enter__(self) -> Compilations:
        _listen()
        self._before = len(_COMPILED)
        return self

    def __exit__(self, *_: object) -> None:
        self.names = _COMPILED[self._before :]


_COMPILED: list[str] = []


@functools.cache
def _listen() -> None:
    """Registers the one listener of this process: JAX has no public way to take one back."""

    def note(event: str, duration: float, **facts: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            _COMPILED.append(str(facts.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)


def timeless_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics without what depends on the clock."""
    rows = RunFolder(run).read_metrics()
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def _collection(
    name: str,
    direction: str,
    space: ConfigSpace.ConfigurationSpace,
    table: pd.DataFrame,
    values: np.ndarray,
    metafeatures: np.ndarray,
    tasks: list[str],
    groups: list[str] | None = None,
) -> Collection:
    """A collection around `values [D, C]`, NaN where a task lacks a configuration."""
    rows, columns = np.nonzero(np.isfinite(values))
    evaluations = pd.DataFrame(
        {
            "task": pd.Series(np.asarray(tasks)[rows], dtype="str"),
            "config_id": table["config_id"].to_numpy()[columns],
            "objective": values[rows, columns],
        }
    )
    described = pd.DataFrame({"task": tasks, "group": groups or [f"{name}-{task}" for task in tasks]})
    for number in range(metafeatures.shape[1]):
        described[f"m{number}"] = metafeatures[:, number]
    info = CollectionInfo(name=name, objective=Objective("score", direction, None, None, None))
    return Collection(info, space, described, table, evaluations)
