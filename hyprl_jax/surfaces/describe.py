"""Collections in words and numbers: what is there, and what one of them holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import Parameter, SpaceEncoding, choice_text
from hyprl_jax.surfaces.collection import Collection, Quantity
from hyprl_jax.surfaces.reading import CARD, TABLES, collection_folders, read_info
from hyprl_jax.surfaces.tables import TaskTables, task_tables

__all__ = ["describe", "list_collections"]


def list_collections(root: str | Path | None = None) -> list[dict[str, Any]]:
    """Name, sizes, objective, description and path of every collection under `root` (default: `meta_data/`).

    Only cards and the headers of the tables are read. One that cannot be read is listed with the reason as
    its description and None for what is unknown.

    Raises:
        InputError: `root` is given and is no folder.
    """
    if root is not None and not Path(root).is_dir():
        raise InputError(f"{root}: there is no such folder")
    found = []
    for folder in collection_folders(root):
        item: dict[str, Any] = {"name": folder.name}
        try:
            info = read_info(folder / CARD)
            rows = [pq.read_metadata(folder / table).num_rows for table in TABLES]
            item |= dict(zip(("tasks", "configurations", "evaluations"), rows, strict=True))
            item |= {"objective": f"{info.objective.direction} {info.objective.name}"}
            item |= {"description": info.description}
        except (InputError, OSError, pa.ArrowException) as error:
            item |= dict.fromkeys(("tasks", "configurations", "evaluations", "objective"))
            item |= {"description": f"damaged: {' '.join(str(error).split())[:200]}"}
        found.append({**item, "path": str(folder)})
    return found


def describe(collection: Collection) -> dict[str, Any]:
    """A checked collection in words and numbers, as plain values that JSON can hold (None where unknown)."""
    info, tables = collection.info, task_tables(collection)
    sizes = _group_sizes(tables)
    present = ~np.isnan(tables.objective)
    evaluations = collection.evaluations
    return {
        "name": info.name,
        "version": info.version,
        "description": info.description,
        "source": info.source,
        "licence": info.licence,
        "citation": info.citation,
        "content_hash": info.content_hash,
        "objective": dataclasses.asdict(info.objective),
        "fidelity": _with_levels(info.fidelity, collection, "fidelity"),
        "cost": _with_total(info.cost, collection),
        "other_objectives": [dataclasses.asdict(quantity) for quantity in info.other_objectives],
        "tasks": {
            "number": len(tables.tasks),
            "groups": len(sizes),
            "groups_of_several": {group: size for group, size in sorted(sizes.items()) if size > 1},
            "metafeatures": list(tables.metafeature_names),
        },
        "configurations": {"number": len(tables.config_ids), "features": len(tables.feature_names)},
        "hyperparameters": [
            _hyperparameter(collection.space, parameter)
            for parameter in SpaceEncoding(collection.space).parameters
        ],
        "evaluations": {
            "rows": len(evaluations),
            "repeats": int(evaluations["repeat"].nunique()) if "repeat" in evaluations.columns else 1,
            "missing": int((~present).sum()),
            "missing_share": float((~present).mean()),
            "fewest_of_a_task": int(present.sum(axis=1).min()),
            "most_of_a_task": int(present.sum(axis=1).max()),
        },
        "surfaces": _surfaces(tables),
        "repairs": [dict(repair) for repair in info.repairs],
    }


def _group_sizes(tables: TaskTables) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for group in tables.groups:
        sizes[group] = sizes.get(group, 0) + 1
    return sizes


def _with_levels(quantity: Quantity | None, collection: Collection, column: str) -> dict[str, Any] | None:
    if quantity is None:
        return None
    levels = sorted(float(level) for level in collection.evaluations[column].unique())
    shown = levels if len(levels) <= 12 else [levels[0], levels[-1]]
    return {"name": quantity.name, "unit": quantity.unit, "levels": len(levels), "values": shown}


def _with_total(quantity: Quantity | None, collection: Collection) -> dict[str, Any] | None:
    if quantity is None:
        return None
    cost = collection.evaluations["cost"].dropna().to_numpy()
    words: dict[str, Any] = {"name": quantity.name, "unit": quantity.unit}
    if len(cost):
        words |= {"total": float(cost.sum()), "median": float(np.median(cost)), "largest": float(cost.max())}
    return words


def _hyperparameter(space: ConfigSpace.ConfigurationSpace, parameter: Parameter) -> dict[str, Any]:
    conditions = [str(condition) for condition in space.parent_conditions_of[parameter.name]]
    words: dict[str, Any] = {"name": parameter.name, "kind": parameter.kind}
    if parameter.is_number:
        words |= {"lower": parameter.lower, "upper": parameter.upper, "log": parameter.log}
    else:
        words |= {"choices": [choice_text(choice) for choice in parameter.choices]}
    return {**words, "active_if": " and ".join(conditions) or None}


def _surfaces(tables: TaskTables) -> dict[str, Any]:
    """How the surfaces look: ranges, ties at the optimum, and how far off a random configuration is."""
    sign = 1.0 if tables.direction == "maximize" else -1.0
    values = sign * tables.objective
    best, worst = np.nanmax(values, axis=1, keepdims=True), np.nanmin(values, axis=1, keepdims=True)
    regret = (best - values) / (best - worst)
    optima = (values == best).sum(axis=1)
    tied = int(np.argmax(optima))
    return {
        "best_median_over_tasks": float(sign * np.median(best)),
        "worst_median_over_tasks": float(sign * np.median(worst)),
        "mean_normalized_regret_of_a_random_configuration": float(np.nanmean(np.nanmean(regret, axis=1))),
        "best_single_configuration_mean_normalized_regret": _best_column(regret),
        "tasks_with_one_optimum": int((optima == 1).sum()),
        "most_tied_optima": {"task": tables.tasks[tied], "configurations": int(optima[tied])},
    }


def _best_column(regret: np.ndarray) -> float | None:
    """Lowest mean over tasks of one configuration's regret, among those evaluated on every task."""
    complete = ~np.isnan(regret).any(axis=0)
    return float(regret[:, complete].mean(axis=0).min()) if complete.any() else None
