"""Import ARLBench, reinforcement-learning algorithms on many environments; one algorithm is one collection.

One npz file a task, called `ALGORITHM_ENVIRONMENT.npz`: `X [256, d]` and `X_names`, the configurations, NaN
where a hyperparameter is inactive; `returns [256, seeds, budgets]`, the mean return after each budget;
`budgets`, in environment steps or, in some files, in shares of the full training. Where all files of an
algorithm have steps, steps are the fidelity; where some have shares, all become shares of the largest
budget of their file (rule `budget-becomes-share`, which keeps the number of steps on the card).

A return that is NaN or infinite comes from a run that diverged. So does, by `diverged-becomes-worst`, one
that is negative and more than `BEYOND` times as large as both the best return of the task and the median:
no failure to learn is punished like that, a policy that runs away is. Configurations that are the same in
several tasks are one; batch and buffer sizes depend on the environment, so most are shared by some only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    EqualsCondition,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, Quantity
from hyprl_jax.surfaces.importers.arrays import (
    NUMBERS,
    TEXTS,
    check_configurations,
    load_arrays,
    plain_numbers,
    select_columns,
)
from hyprl_jax.surfaces.importers.diverged import diverged_become_worst, is_finite

BEYOND = 10.0
SHARE_RULE = "budget-becomes-share"

__all__ = ["BEYOND", "SHARE_RULE", "arlbench_space", "import_arlbench"]

_FILE = re.compile(r"([a-z0-9]+)_([A-Za-z0-9_.-]+)\.npz")
_MOST_FILES = 500
_ARRAYS = {
    "X": (NUMBERS, ("configurations", "hyperparameters")),
    "X_names": (TEXTS, ("hyperparameters",)),
    "returns": (NUMBERS, ("configurations", "seeds", "budgets")),
    "budgets": (NUMBERS, ("budgets",)),
}


def _dqn_space() -> ConfigurationSpace:
    space = ConfigurationSpace(name="arlbench-dqn")
    prioritized = CategoricalHyperparameter("buffer_prio_sampling", (False, True))
    target = CategoricalHyperparameter("use_target_network", (False, True))
    alpha = UniformFloatHyperparameter("buffer_alpha", 0.01, 1.0)
    beta = UniformFloatHyperparameter("buffer_beta", 0.01, 1.0)
    epsilon = UniformFloatHyperparameter("buffer_epsilon", 1e-7, 1e-3, log=True)
    interval = UniformIntegerHyperparameter("target_update_interval", 1, 2000, log=True)
    space.add(
        UniformIntegerHyperparameter("buffer_batch_size", 16, 256, log=True),
        UniformIntegerHyperparameter("buffer_size", 1024, 1_000_000, log=True),
        UniformFloatHyperparameter("initial_epsilon", 0.5, 1.0),
        UniformFloatHyperparameter("target_epsilon", 0.001, 0.2),
        UniformFloatHyperparameter("learning_rate", 1e-6, 0.1, log=True),
        UniformIntegerHyperparameter("learning_starts", 1, 32768, log=True),
        *(prioritized, alpha, beta, epsilon, target, interval),
    )
    space.add(*(EqualsCondition(child, prioritized, True) for child in (alpha, beta, epsilon)))
    space.add(EqualsCondition(interval, target, True))
    return space


def _ppo_space() -> ConfigurationSpace:
    space = ConfigurationSpace(name="arlbench-ppo")
    space.add(
        UniformFloatHyperparameter("clip_eps", 0.0, 0.5),
        UniformFloatHyperparameter("ent_coef", 0.0, 0.5),
        UniformFloatHyperparameter("gae_lambda", 0.8, 0.9999),
        UniformFloatHyperparameter("learning_rate", 1e-6, 0.1, log=True),
        UniformFloatHyperparameter("max_grad_norm", 0.0, 1.0),
        UniformIntegerHyperparameter("minibatch_size", 32, 512, log=True),
        CategoricalHyperparameter("normalize_advantage", (False, True)),
        UniformFloatHyperparameter("vf_clip_eps", 0.0, 0.5),
        UniformFloatHyperparameter("vf_coef", 0.0, 1.0),
    )
    return space


_SPACES = {"dqn": _dqn_space, "ppo": _ppo_space}


def arlbench_space(algorithm: str) -> ConfigurationSpace:
    """The search space of an algorithm, wide enough for all environments (`InputError` if none is known)."""
    if algorithm not in _SPACES:
        raise InputError(f"the search space of '{algorithm}' is not known; there are {', '.join(_SPACES)}")
    return _SPACES[algorithm]()


def import_arlbench(
    path: str | Path, name: str = "arlbench", algorithm: str | None = None, last_only: bool = False
) -> Collection:
    """The collection of one algorithm, from a folder of npz files or from one of them.

    Args:
        path: the folder, or the file.
        name: name of the collection.
        algorithm: which one; may be left out where there is one only.
        last_only: leave out all budgets but the largest of each task.

    Raises:
        InputError: a file is not of this form; the message names file and array.
    """
    files, algorithm = _files(Path(path).expanduser(), algorithm)
    space = arlbench_space(algorithm)
    contents = [_read(file, space) for file in files]
    budgets, unit, repairs = _common_budgets(contents)
    configs, ids = _shared_configurations(space, [content.configs for content in contents])
    evaluations = []
    for content, fidelity, config_ids in zip(contents, budgets, ids, strict=True):
        returns, repair = _mended(content, last_only)
        repairs += repair
        evaluations.append(_long(content.task, returns, fidelity[-returns.shape[2] :], config_ids))
    names = [content.task for content in contents]
    tasks = pd.DataFrame({"task": names, "group": [name.removeprefix(f"{algorithm}_") for name in names]})
    info = _info(name, algorithm, len(tasks), unit, repairs)
    return Collection(info, space, tasks, configs, pd.concat(evaluations, ignore_index=True))


def _files(path: Path, algorithm: str | None) -> tuple[list[Path], str]:
    """The files of one algorithm, sorted by name, and which one it is."""
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.npz")) if not file.name.startswith(".")]
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path}: there is no such file or folder")
    if not 0 < len(files) <= _MOST_FILES:
        raise InputError(f"{path}: {len(files)} npz files in it; between 1 and {_MOST_FILES} are read")
    owners = {}
    for file in files:
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise InputError(f"{file.name!r} is not called ALGORITHM_ENVIRONMENT.npz, as dqn_cc_acrobot.npz")
        owners[file] = match[1]
    there = sorted(set(owners.values()))
    if algorithm is None and len(there) > 1:
        raise InputError(
            f"{path}: holds several algorithms, {', '.join(there)}; choose one with the option algorithm"
        )
    algorithm = there[0] if algorithm is None else algorithm
    if algorithm not in there:
        raise InputError(f"{path}: no algorithm '{algorithm}' in it; there are {', '.join(there)}")
    return [file for file in files if owners[file] == algorithm], algorithm


@dataclass(frozen=True)
class _Content:
    """What one file holds: configurations `[C]`, returns `[C, S, L]` and budgets `[L]` in the file's unit."""

    file: str
    task: str
    configs: pd.DataFrame
    returns: np.ndarray
    budgets: np.ndarray


def _read(path: Path, space: ConfigurationSpace) -> _Content:
    arrays = load_arrays(path, _ARRAYS)
    values = select_columns(path.name, arrays["X"], arrays["X_names"], list(space))
    columns: dict[str, Any] = {}
    for name, column in zip(space, plain_numbers(values).T, strict=True):
        if isinstance(space[name], CategoricalHyperparameter):
            wrong = np.flatnonzero(~np.isin(column, (0.0, 1.0)))
            if len(wrong):
                row = wrong[0]
                words = f"array 'X', row {row}, hyperparameter '{name}': {column[row]:g} is neither 0 nor 1"
                raise InputError(f"{path.name}: {words}")
            columns[name] = column.astype(bool)
        else:
            columns[name] = column
    configs = pd.DataFrame(columns)
    check_configurations(path.name, space, configs)
    budgets = arrays["budgets"]
    if not (is_finite(budgets).all() and budgets[0] > 0.0 and (np.diff(budgets) > 0.0).all()):
        raise InputError(f"{path.name}: array 'budgets': not positive numbers that grow")
    return _Content(path.name, path.stem, configs, arrays["returns"], budgets)


def _common_budgets(contents: list[_Content]) -> tuple[list[np.ndarray], str, list[dict[str, Any]]]:
    """The budgets of each file `[L]` in one unit, that unit, and what was done to get there."""
    if all(content.budgets[-1] > 1.0 for content in contents):
        return [content.budgets for content in contents], "environment steps", []
    repairs, shares = [], []
    for content in contents:
        full = content.budgets[-1]
        shares.append(plain_numbers(content.budgets / full) if full > 1.0 else content.budgets)
        if full > 1.0:
            detail = f"budgets in environment steps become shares of the largest, {full:.12g} steps"
            record = {"rule": SHARE_RULE, "file": content.file, "task": content.task, "row": None}
            repairs.append({**record, "detail": detail})
    return shares, "share of the full training", repairs


def _shared_configurations(
    space: ConfigurationSpace, frames: list[pd.DataFrame]
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """All configurations, each once, numbered in the order they appear, and the numbers of each frame."""
    together = pd.concat(frames, ignore_index=True)
    codes = np.nan_to_num(SpaceEncoding(space).codes(together), nan=-1.0)
    _, first, same = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.argsort(order)[same.ravel()]
    configs = together.iloc[first[order]].reset_index(drop=True)
    configs.insert(0, "config_id", np.arange(len(configs)))
    return configs, np.split(numbers, np.cumsum([len(frame) for frame in frames])[:-1])


def _mended(content: _Content, last_only: bool) -> tuple[np.ndarray, list[dict[str, Any]]]:
    finite = content.returns[is_finite(content.returns)]
    if not len(finite):
        raise InputError(f"{content.file}: array 'returns': every run diverged")
    scale = BEYOND * max(abs(float(finite.max())), abs(float(np.median(finite))))
    bound = -scale if scale > 0.0 else None
    returns = content.returns[:, :, -1:] if last_only else content.returns
    result = diverged_become_worst(returns, "maximize", bound)
    words = f"below {-scale:.6g}, {BEYOND:g} times the best and the median return in magnitude"
    return result.values, result.record(content.file, content.task, words)


def _long(task: str, returns: np.ndarray, budgets: np.ndarray, config_ids: np.ndarray) -> pd.DataFrame:
    index = np.indices(returns.shape).reshape(3, -1)  # configuration, seed, budget of each row
    return pd.DataFrame(
        {
            "task": task,
            "config_id": config_ids[index[0]],
            "objective": returns.ravel(),
            "fidelity": budgets[index[2]],
            "repeat": index[1],
        }
    )


def _info(name: str, algorithm: str, tasks: int, unit: str, repairs: list[dict[str, Any]]) -> CollectionInfo:
    return CollectionInfo(
        name=name,
        description=(
            f"Returns of the reinforcement-learning algorithm {algorithm.upper()} on {tasks} environments, "
            "Sobol points of its hyperparameters, a repeat a seed, after growing budgets. Batch and buffer "
            "sizes depend on the environment, so not all configurations were evaluated on all of them."
        ),
        source="https://github.com/automl/arlbench, its data set of hyperparameter landscapes",
        licence="BSD-3-Clause",
        citation=(
            "Becktepe, Dierkes, Benjamins, Mohan, Salinas, Rajan, Hutter, Hoos, Lindauer, Eimer: ARLBench: "
            "Flexible and Efficient Benchmarking for Hyperparameter Optimization in Reinforcement Learning. "
            "arXiv:2409.18827, 2024"
        ),
        objective=Objective("return", "maximize"),
        fidelity=Quantity("budget", unit),
        repairs=tuple(repairs),
    )
