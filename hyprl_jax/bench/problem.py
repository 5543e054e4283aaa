"""The problem that all measurements share: tables of the size of a well-known SVM study, made from nothing.

Fifty tasks by 288 configurations, of which 35 tasks are known and 15 are held out. Speed does not depend on
the values, so the surfaces are random smooth functions and no data is needed.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import EnvConfig, TrainConfig
from hyprl_jax.surfaces import Split, TaskTables

_FEATURES = 9  # kernel (one-hot of 3), three parameters, and whether each is active
_WAVES = 4  # random waves that a surface is a sum of


class Problem(NamedTuple):
    """What is measured: surfaces and a fold on the device, and the configuration of the default agent."""

    bank: SurfaceBank
    fold: Fold
    config: TrainConfig


def make_problem(
    episodes: int = 1024, trials: int = 20, tasks: int = 50, candidates: int = 288, seed: int = 0
) -> Problem:
    """The default agent with `episodes` parallel episodes of `trials` trials, on random surfaces."""
    defaults = TrainConfig()
    config = dataclasses.replace(
        defaults,
        env=EnvConfig(trials=trials),
        learner=dataclasses.replace(defaults.learner, episodes=episodes),
    )
    tables = make_tables(tasks, candidates, seed)
    bank, index = banks.pack([tables])
    test = max(1, round(0.3 * tasks))
    validation = max(1, round(0.2 * (tasks - test)))
    names = tables.tasks
    split = Split(
        "bench",
        0,
        train=names[test + validation :],
        validation=names[test : test + validation],
        test=names[:test],
    )
    fold = banks.make_fold(index, [split])
    return Problem(jax.tree.map(jnp.asarray, bank), jax.tree.map(jnp.asarray, fold), config)


def make_tables(tasks: int, candidates: int, seed: int) -> TaskTables:
    """Random smooth surfaces over random configurations; what tasks share makes half of each."""
    random = np.random.default_rng(seed)
    encodings = random.random((candidates, _FEATURES)).astype(np.float32)

    def surface() -> np.ndarray:
        directions = random.normal(size=(_WAVES, _FEATURES))
        return np.cos(encodings @ directions.T + random.uniform(0, 6.3, _WAVES)).sum(1)

    common = surface()
    objective = np.stack([common + surface() for _ in range(tasks)])
    names = tuple(f"task{number:03d}" for number in range(tasks))
    return TaskTables(
        collection="bench",
        content_hash="0" * 64,
        direction="maximize",
        tasks=names,
        groups=names,
        config_ids=np.arange(candidates),
        encodings=encodings,
        feature_names=tuple(f"feature{number}" for number in range(_FEATURES)),
        objective=objective,
        cost=np.full(objective.shape, np.nan),
        metafeatures=random.normal(size=(tasks, 3)),
        metafeature_names=("first", "second", "third"),
    )
