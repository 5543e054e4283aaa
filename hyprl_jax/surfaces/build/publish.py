"""The last step of a build: the tables become a collection on disk, together with its card in words
(`README.md`).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hyprl_jax.surfaces.build.card import card_text
from hyprl_jax.surfaces.build.recipe import Measure
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, Quantity
from hyprl_jax.surfaces.writing import write_collection

if TYPE_CHECKING:
    from hyprl_jax.surfaces.build.engine import Plan, Tables

OBJECTIVE = Objective("balanced_error", "minimize", None, 0.0, 1.0)
LICENCE = "MIT for the tables; the data that the models were trained on: see README.md"
SOURCE = (
    "computed by this project: models trained on data that scikit-learn ships and on draws of its generators"
)


def publish(plan: Plan, tables: Tables, out: Path) -> Path:
    """Write the collection and its card at `out`, whole or not at all; returns `out`."""
    info = collection_info(plan, out.name)
    collection = Collection(info, plan.space, tables.tasks, tables.configs, tables.evaluations)
    return write_collection(collection, out, extra_files={"README.md": card_text(plan, tables, out.name)})


def collection_info(plan: Plan, name: str) -> CollectionInfo:
    """What `collection.json` will say; InputError if the folder's name is none for a collection."""
    recipe = plan.recipe
    info = CollectionInfo(
        name=name,
        objective=OBJECTIVE,
        version=f"{recipe.version}",
        description=recipe.description,
        source=f"{SOURCE} (recipe {recipe.name}, seed {plan.seed}, scikit-learn {version('scikit-learn')})",
        licence=LICENCE,
        fidelity=None if recipe.fidelity is None else _quantity(recipe.fidelity, with_direction=False),
        cost=_quantity(recipe.cost, with_direction=False),
        other_objectives=tuple(_quantity(measure, with_direction=True) for measure in recipe.others),
    )
    info.check()
    return info


def _quantity(measure: Measure, with_direction: bool) -> Quantity:
    return Quantity(measure.name, measure.unit, measure.direction if with_direction else None)
