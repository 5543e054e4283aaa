"""The smallest sweeps that train: seconds of compilation, milliseconds of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_runs import grid_collection

from hyprl_jax.surfaces import write_collection

COLLECTION = "grid"
FIELDS: dict[str, Any] = {
    "split": "kfold3",
    "folds": [0, 1],
    "seeds": [0, 1],
    "validation_fraction": 0.4,
    "validation_plays": 1,
    "updates_per_chunk": 2,
    "checkpoint_seconds": 0.0,
    "env": {"trials": 3},
    "augment": {"candidates": 7},
    "surrogate": {"fit": False, "prior": "constant"},
    "network": {"cell": "none", "context": 4, "hidden": 4, "shortlist": 3},
    "learner": {"episodes": 8, "plays": 2, "minibatches": 2, "updates": 6, "warmup": 1},
}


def write_grid(folder: Path) -> str:
    """Writes the collection into `folder`; its path."""
    return str(write_collection(grid_collection(), folder / COLLECTION))


def sweep_file(collection: str, **changes: Any) -> dict[str, Any]:
    """The values of a file without axes; tables among the `changes` are put into those above."""
    values: dict[str, Any] = {"collections": [collection], **FIELDS}
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = values[name] | value if both else value
    return values
