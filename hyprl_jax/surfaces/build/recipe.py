"""What a recipe is: a search space, a way to train configurations on a task, and the names of what comes out.

A recipe trains a *piece*: one task and a few configurations. Its result is a dict of columns of equal length
with at least `config_index` (position in the piece), `objective`, `cost` and `error` (empty, or why this
training failed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyprl_jax.surfaces.build.tasks import Split, TaskData

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A recorded figure beside the objective: name, unit, whether it is to be minimised, meaning."""

    name: str
    unit: str | None
    direction: str | None
    meaning: str


@dataclass(frozen=True)
class Recipe:
    """Everything the engine needs to compute one collection.

    evaluate(task, configs, seed): train `configs` on `task`. pieces(configs): row numbers that are trained
    together. version: raised whenever results would change, so that old pieces are never mixed with new ones.
    """

    name: str
    title: str
    description: str
    version: int
    space: Callable[[], Any]
    evaluate: Callable[[TaskData, list[dict[str, Any]], int], Columns]
    pieces: Callable[[Sequence[dict[str, Any]]], list[list[int]]]
    configs: int
    cost: Measure
    fidelity: Measure | None
    others: tuple[Measure, ...]
    notes: tuple[str, ...]


def equal_pieces(size: int) -> Callable[[Sequence[dict[str, Any]]], list[list[int]]]:
    """Pieces of `size` neighbouring configurations."""

    def cut(configs: Sequence[dict[str, Any]]) -> list[list[int]]:
        return [list(range(at, min(at + size, len(configs)))) for at in range(0, len(configs), size)]

    return cut


def evaluate_each(
    train: Callable[[TaskData, Split, dict[str, Any], int], dict[str, float]],
    task: TaskData,
    configs: list[dict[str, Any]],
    seed: int,
) -> Columns:
    """Call `train` for every configuration and split; mean over splits, but sums for `cost` and `work`.

    A training that raises becomes a row with an `error` and no numbers: the evaluation is missing, not
    invented.
    """
    rows = []
    for index, config in enumerate(configs):
        try:
            results = [train(task, split, config, seed) for split in task.splits]
        except (ArithmeticError, ValueError, MemoryError, np.linalg.LinAlgError) as error:
            rows.append({"config_index": index, "error": f"{type(error).__name__}: {error}"[:200]})
            continue
        merged = {name: np.array([result[name] for result in results]) for name in results[0]}
        means = {name: float(v.sum() if name in ("cost", "work") else v.mean()) for name, v in merged.items()}
        rows.append({"config_index": index, "error": "", **means})
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
