"""Import LCBench, multi-layer perceptrons on OpenML tasks, as sampled from the surrogates of YAHPO Gym.

One npz file: `X [1000, 7]` and `X_names`, the configurations, the same ones in all tasks; `val_accuracy` and
`time [34, 1000, 52]`, the validation accuracy in percent and the seconds since the start after each epoch;
`instances`, the OpenML task ids. The values come from a neural surrogate, so that the time of an epoch may
be a little less than that of the one before; they are taken as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter, UniformIntegerHyperparameter

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, Quantity
from hyprl_jax.surfaces.importers.arrays import (
    LARGEST,
    NUMBERS,
    TEXTS,
    check_configurations,
    curve_evaluations,
    load_arrays,
    select_columns,
)

__all__ = ["import_lcbench", "lcbench_space"]

_CURVES = ("tasks", "configurations", "epochs")
_ARRAYS = {
    "X": (NUMBERS, ("configurations", "hyperparameters")),
    "X_names": (TEXTS, ("hyperparameters",)),
    "val_accuracy": (NUMBERS, _CURVES),
    "time": (NUMBERS, _CURVES),
    "instances": (TEXTS, ("tasks",)),
}


def lcbench_space() -> ConfigurationSpace:
    """The search space: four integers and three numbers, none conditional."""
    space = ConfigurationSpace(name="lcbench")
    space.add(
        UniformIntegerHyperparameter("batch_size", 16, 512, log=True),
        UniformFloatHyperparameter("learning_rate", 1e-4, 1e-1, log=True),
        UniformFloatHyperparameter("momentum", 0.1, 0.99),
        UniformFloatHyperparameter("weight_decay", 1e-5, 1e-1),
        UniformIntegerHyperparameter("num_layers", 1, 5),
        UniformIntegerHyperparameter("max_units", 64, 1024, log=True),
        UniformFloatHyperparameter("max_dropout", 0.0, 1.0),
    )
    return space


def import_lcbench(path: str | Path, name: str = "lcbench", last_only: bool = False) -> Collection:
    """The collection in the npz file; the epoch is the fidelity, the objective counts at the last one.

    Args:
        path: the file.
        name: name of the collection.
        last_only: leave out all epochs but the last.

    Raises:
        InputError: the file is not of this form; the message names array and place.
    """
    file = Path(path).name
    arrays = load_arrays(path, _ARRAYS)
    space = lcbench_space()
    values = select_columns(file, arrays["X"], arrays["X_names"], list(space))
    configs = pd.DataFrame(values, columns=list(space))
    check_configurations(file, space, configs)
    configs.insert(0, "config_id", np.arange(len(configs)))
    accuracy, seconds, tasks = arrays["val_accuracy"], arrays["time"], arrays["instances"]
    _check_range(file, "val_accuracy", accuracy, 100.0)
    _check_range(file, "time", seconds, LARGEST)
    epochs = np.arange(1, accuracy.shape[2] + 1)
    if last_only:
        accuracy, seconds, epochs = accuracy[:, :, -1:], seconds[:, :, -1:], epochs[-1:]
    evaluations = curve_evaluations(tasks.tolist(), accuracy, epochs).assign(cost=seconds.ravel())
    frame = pd.DataFrame({"task": tasks.tolist(), "group": tasks.tolist()})
    return Collection(_info(name, accuracy.shape), space, frame, configs, evaluations)


def _check_range(file: str, name: str, values: np.ndarray, upper: float) -> None:
    """NaN is a missing evaluation; anything else must lie in [0, upper]."""
    wrong = np.argwhere((values < 0.0) | (values > upper))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise InputError(f"{file}: array '{name}' holds {values[place]:g} at {list(place)}")


def _info(name: str, shape: tuple[int, ...]) -> CollectionInfo:
    return CollectionInfo(
        name=name,
        description=(
            f"Validation accuracy of multi-layer perceptrons on {shape[0]} OpenML tasks (named by their ids),"
            f" {shape[1]} configurations each, by epoch. The values were sampled from neural surrogates that "
            "were fitted to the measurements of LCBench; so were the times, which need not grow everywhere."
        ),
        source="https://github.com/slds-lmu/yahpo_data, its surrogate of LCBench",
        licence="Apache-2.0",
        citation=(
            "Zimmer, Lindauer, Hutter: Auto-PyTorch Tabular: Multi-Fidelity MetaLearning for Efficient and "
            "Robust AutoDL. IEEE TPAMI, 2021; Pfisterer, Schneider, Moosbauer, Binder, Bischl: YAHPO Gym. "
            "AutoML Conference 2022"
        ),
        objective=Objective("validation accuracy", "maximize", "percent", 0.0, 100.0),
        fidelity=Quantity("epoch", "epochs"),
        cost=Quantity("training time", "seconds"),
    )
