"""Results of earlier tasks in the same space: read from an export or given by the user, carried to any
candidates.

A task's surface over candidates that it never evaluated is filled in from its nearest evaluations, as
`hyprl_jax.bank` does for missing values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyprl_jax.encoding import allowed, illegal
from hyprl_jax.errors import InputError
from hyprl_jax.runtime.files import check_size
from hyprl_jax.runtime.metafeatures import LARGEST as LARGEST_METAFEATURE
from hyprl_jax.runtime.smoothing import smoothed
from hyprl_jax.runtime.space import Space

_NEIGHBOURS = 8
_MOST_BYTES = 256 * 2**20
_MOST_ENTRIES = 10**8
_LARGEST = 1e150  # of an objective: ranges and their squares must be finite
_FLOATS = {"F16", "F32", "F64"}
_SAME = 1e-12  # squared distance below which two configurations are one


class EarlierTasks(NamedTuple):
    """K tasks over n configurations of one space."""

    codes: np.ndarray
    """`[n, P]` float64, see `Space.codes`."""
    objective: np.ndarray
    """`[K, n]` float64 raw, higher is better; NaN where missing."""
    metafeatures: np.ndarray | None = None
    """`[K, M]` float64 of their datasets, NaN where unknown; None if nothing is known of them."""


class Surfaces:
    """The earlier tasks in units of their own range, at whatever candidates are asked for; `calm`: without
    their noise."""

    def __init__(self, tasks: EarlierTasks, space: Space, calm: bool = False) -> None:
        self._encodings = space.features(tasks.codes).astype(np.float64)
        known = np.isfinite(tasks.objective)
        self._known = known
        best = np.max(np.where(known, tasks.objective, -np.inf), axis=1)
        self.lower = np.min(np.where(known, tasks.objective, np.inf), axis=1)
        self.span = np.where(best > self.lower, best - self.lower, 1.0)
        self._unit = (
            np.where(known, tasks.objective, self.lower[:, None]) - self.lower[:, None]
        ) / self.span[:, None]
        # All tasks share their neighbours where none misses an evaluation.
        self._rows = [np.arange(len(known))] if known.all() else [np.asarray([k]) for k in range(len(known))]
        self._smooth: np.ndarray | None = None
        if calm:
            self._smooth = smoothed(self.at(self._encodings), self._encodings)

    def at(self, encodings: np.ndarray) -> np.ndarray:
        """Values at candidates with features `[M, F]`, `[K, M]`; if calm `[2, K, M]`: without half of the
        noise, as the process reads them, and without all of it, as retrieval does."""
        x = encodings.astype(np.float64)
        squares = (x**2).sum(1)[:, None] + (self._encodings**2).sum(1) - 2.0 * x @ self._encodings.T
        found = np.empty((len(self._unit), len(x)))
        for rows in self._rows:
            have = np.flatnonzero(self._known[rows[0]])
            found[rows] = _nearby(self._unit[rows][:, have], squares[:, have])
        if self._smooth is None:
            return found
        calm = _nearby(self._smooth, squares)
        return np.stack([0.5 * (found + calm), calm])


def _nearby(values: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """`[K, M]` means of `values [K, n]` over the nearest of n places, `squares [M, n]` apart squared."""
    distance = np.maximum(squares, 0.0)
    number = min(_NEIGHBOURS, distance.shape[1])
    nearest = np.argpartition(distance, number - 1, axis=1)[:, :number]
    apart = np.take_along_axis(distance, nearest, axis=1)
    weight = np.where(apart.min(1, keepdims=True) < _SAME, apart < _SAME, 1.0 / (1e-3 + apart))
    weight = weight / weight.sum(1, keepdims=True)
    found: np.ndarray = np.einsum("mj,kmj->km", weight, values[:, nearest])
    return found


def gather(
    space: Space, tasks: Sequence[Sequence[tuple[Mapping[str, Any], float | None]]], sign: float
) -> EarlierTasks:
    """Earlier tasks given as lists of (configuration, objective); `sign` is -1 where it is minimised.

    Raises:
        InputError: a task without any finite result, or a configuration that is not of the space.
    """
    places: dict[bytes, int] = {}
    codes: list[np.ndarray] = []
    entries: list[tuple[int, int, float]] = []
    for row, task in enumerate(tasks):
        results = list(task)
        mine = space.codes([config for config, _ in results])
        for code, (_, value) in zip(mine, results, strict=True):
            column = places.setdefault(code.tobytes(), len(codes))
            if column == len(codes):
                codes.append(code)
            if value is not None and math.isfinite(value):
                entries.append((row, column, sign * float(value)))
    objective = np.full((len(tasks), len(codes)), np.nan)
    for row, column, value in entries:
        objective[row, column] = value
    for row in range(len(tasks)):
        if not np.isfinite(objective[row]).any():
            raise InputError(f"earlier task {row} has no finite result: leave it out")
    return EarlierTasks(np.stack(codes), objective)


def fitting(tasks: EarlierTasks, space: Space) -> EarlierTasks:
    """The tasks that a policy carries, if their configurations are of `space`; InputError otherwise."""
    if tasks.codes.shape[1] != len(space.names):
        raise InputError("the earlier tasks that the policy carries are of another space; export it again")
    for parameter, codes in zip(space.parameters, tasks.codes.T, strict=True):
        if illegal(parameter, codes).any():
            raise InputError(
                f"the earlier tasks that the policy carries have a '{parameter.name}' that is not "
                f"{allowed(parameter)}; export it again"
            )
    return tasks


def read_prior(path: Path) -> dict[str, EarlierTasks]:
    """The tasks in a `prior.safetensors` by collection (none if there is no such file); InputError for a
    damaged one."""
    import safetensors

    if not path.exists():
        return {}
    check_size(path, _MOST_BYTES)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            for name in names:  # before NumPy meets a kind of number that it does not know
                if file.get_slice(name).get_dtype() not in _FLOATS:
                    raise InputError(f"{path}: array {name[:100]!a} holds something else than numbers")
            arrays = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); export the policy again") from None
    found = {}
    for collection in sorted({name.rpartition("/")[0] for name in names}):
        where = f"{path}: collection {collection[:100]!a}"
        codes, objective = (arrays.get(f"{collection}/{part}") for part in ("codes", "objective"))
        if codes is None or objective is None or codes.ndim != 2 or objective.ndim != 2:
            raise InputError(f"{where} needs codes [n, P] and objective [K, n]")
        if codes.shape[0] != objective.shape[1] or objective.size > _MOST_ENTRIES or not objective.size:
            raise InputError(f"{where} has arrays that do not fit each other")
        codes, objective = codes.astype(np.float64), objective.astype(np.float64)
        if np.isinf(codes).any() or (np.abs(objective) > _LARGEST).any():
            raise InputError(f"{where} holds numbers that are not finite or too large")
        if not np.isfinite(objective).any(axis=1).all():
            raise InputError(f"{where} has a task without any result")
        metafeatures = arrays.get(f"{collection}/metafeatures")
        found[collection] = EarlierTasks(codes, objective, _metafeatures(metafeatures, len(objective), where))
    return found


def _metafeatures(array: np.ndarray | None, tasks: int, where: str) -> np.ndarray | None:
    """The metafeatures `[tasks, M]` as float64, None if there are none; InputError for what they cannot
    be."""
    if array is None:
        return None
    if array.ndim != 2 or array.shape[0] != tasks or array.size > _MOST_ENTRIES:
        raise InputError(f"{where} needs metafeatures [K, M] of its K tasks")
    found = array.astype(np.float64)
    if (np.abs(found) > LARGEST_METAFEATURE).any():
        raise InputError(f"{where} has metafeatures that are not finite or too large")
    return found if found.size else None
