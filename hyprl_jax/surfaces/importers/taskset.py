"""Import twelve problems of TaskSet: hyperparameters of an optimizer for text classifiers.

One npz file: `X [1000, 8]` and `X_names`, the configurations, the same ones in all tasks; `valid [12, 1000,
51]`, the validation loss along training, whose first point is before any training; `tasks`, their names.
(`train` and `test`, the same of the other parts of the data, are not used.)

Up to a quarter of the runs diverge, to NaN or to losses of 1e34. By the rule `diverged-becomes-worst` a
loss that is not finite, or is more than `WORSE_THAN_UNTRAINED` times the task's loss before training (the
median over configurations), becomes the worst loss of the other runs at the same point. A model that is
twice as bad as an untrained one has learned nothing, however bad it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, Quantity
from hyprl_jax.surfaces.importers.arrays import (
    NUMBERS,
    TEXTS,
    check_configurations,
    curve_evaluations,
    load_arrays,
    select_columns,
)
from hyprl_jax.surfaces.importers.diverged import diverged_become_worst, is_finite

WORSE_THAN_UNTRAINED = 2.0

__all__ = ["WORSE_THAN_UNTRAINED", "import_taskset", "taskset_space"]

_ARRAYS = {
    "X": (NUMBERS, ("configurations", "hyperparameters")),
    "X_names": (TEXTS, ("hyperparameters",)),
    "valid": (NUMBERS, ("tasks", "configurations", "points")),
    "tasks": (TEXTS, ("tasks",)),
}
_RANGES = {
    "learning_rate": (1e-8, 1e1),
    "beta1": (1e-4, 1.0),
    "beta2": (1e-6, 1.0),
    "epsilon": (1e-10, 1e3),
    "l1": (1e-8, 1e1),
    "l2": (1e-8, 1e1),
    "linear_decay": (1e-7, 1e-4),
    "exponential_decay": (1e-6, 1e-3),
}
# Sampled on the log scale of their distance to one, on which they are close to each other or not.
_FROM_ONE = {"beta1": "one_minus_beta1", "beta2": "one_minus_beta2"}


def taskset_space() -> ConfigurationSpace:
    """The search space: eight numbers, all on the log scale; the betas as their distance to one."""
    space = ConfigurationSpace(name="taskset")
    for name, (lower, upper) in _RANGES.items():
        space.add(UniformFloatHyperparameter(_FROM_ONE.get(name, name), lower, upper, log=True))
    return space


def import_taskset(path: str | Path, name: str = "taskset", last_only: bool = False) -> Collection:
    """The collection in the npz file; the point of the curve is the fidelity, the last one counts.

    Args:
        path: the file.
        name: name of the collection.
        last_only: leave out all points of the curves but the last.

    Raises:
        InputError: the file is not of this form; the message names array and place.
    """
    file = Path(path).name
    arrays = load_arrays(path, _ARRAYS)
    space = taskset_space()
    values = select_columns(file, arrays["X"], arrays["X_names"], list(_RANGES))
    columns = {
        _FROM_ONE.get(name, name): 1.0 - values[:, i] if name in _FROM_ONE else values[:, i]
        for i, name in enumerate(_RANGES)
    }
    configs = pd.DataFrame(columns)
    check_configurations(file, space, configs)
    configs.insert(0, "config_id", np.arange(len(configs)))
    tasks = arrays["tasks"].tolist()
    points = np.arange(arrays["valid"].shape[2])
    losses, repairs = _mended(file, tasks, arrays["valid"], last_only)
    if last_only:
        points = points[-1:]
    evaluations = curve_evaluations(tasks, losses, points)
    info = _info(name, losses.shape, repairs)
    return Collection(info, space, pd.DataFrame({"task": tasks, "group": tasks}), configs, evaluations)


def _mended(
    file: str, tasks: list[str], losses: np.ndarray, last_only: bool
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Losses `[T, C, points]`, or of the last point only, without diverged ones, and what was done."""
    mended, repairs = [], []
    for task, curves in zip(tasks, losses, strict=True):
        start = curves[:, 0][is_finite(curves[:, 0])]
        untrained = float(np.median(start)) if len(start) else 0.0
        if untrained <= 0.0:
            raise InputError(f"{file}: array 'valid', task '{task}': no positive loss before training")
        bound = WORSE_THAN_UNTRAINED * untrained
        result = diverged_become_worst(curves[:, -1:] if last_only else curves, "minimize", bound)
        mended.append(result.values)
        words = f"above {bound:.4g}, {WORSE_THAN_UNTRAINED:g} times the median loss before training"
        repairs += result.record(file, task, words)
    return np.stack(mended), repairs


def _info(name: str, shape: tuple[int, ...], repairs: list[dict[str, Any]]) -> CollectionInfo:
    return CollectionInfo(
        name=name,
        description=(
            f"Validation loss of recurrent text classifiers on {shape[0]} problems of TaskSet, {shape[1]} "
            "configurations of the optimizer each, along the learning curve. All problems classify the same "
            "texts (IMDB) with other networks and batches; each is a group of its own."
        ),
        source="the copy of TaskSet's curves in the repository of DyHPO",
        licence="Apache-2.0",
        citation=(
            "Metz, Maheswaranathan, Sun, Freeman, Poole, Sohl-Dickstein: Using a Thousand Optimization Tasks "
            "to Learn Hyperparameter Search Strategies. arXiv:2002.11887, 2020; Wistuba, Kadra, Grabocka: "
            "Supervising the Multi-Fidelity Race of Hyperparameter Configurations. NeurIPS 2022"
        ),
        objective=Objective("validation loss", "minimize", "nats"),
        fidelity=Quantity("point of the learning curve"),
        repairs=tuple(repairs),
    )
