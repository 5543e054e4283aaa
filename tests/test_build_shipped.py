"""The collections that ship with the project: valid, small, varied, with cards, and really computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyprl_jax.surfaces import load_tables, read_collection, validate_path
from hyprl_jax.surfaces.build import RECIPES
from hyprl_jax.surfaces.build.engine import make_plan
from hyprl_jax.surfaces.build.pieces import train_piece
from hyprl_jax.surfaces.build.tasks import TASKS, load_task

MOST_BYTES = 12_000_000
names = pytest.mark.parametrize("name", sorted(RECIPES))


@pytest.fixture
def shipped(repository: Path) -> Path:
    return repository / "meta_data"


def test_they_are_small(shipped: Path) -> None:
    sizes = [
        path.stat().st_size for name in RECIPES for path in (shipped / name).rglob("*") if path.is_file()
    ]
    assert len(sizes) >= 6 * len(RECIPES)
    assert sum(sizes) <= MOST_BYTES


@names
def test_no_fault_and_enough_of_everything(shipped: Path, name: str) -> None:
    assert validate_path(shipped / name) == []
    collection = read_collection(shipped / name)
    assert len(collection.tasks) >= 40
    assert collection.tasks["group"].nunique() >= 14
    assert len(collection.configs) >= 256
    assert len(collection.tasks.columns) >= 2 + 12
    assert collection.info.cost is not None and collection.evaluations["cost"].gt(0).all()
    assert (collection.info.fidelity is not None) == (name == "mlp")
    assert list(collection.tasks["group"]) == [TASKS[task].source for task in collection.tasks["task"]]


@names
def test_surfaces_are_neither_tied_nor_flat(shipped: Path, name: str) -> None:
    tables = load_tables(shipped / name)
    assert not np.isnan(tables.objective).any()
    best = tables.objective.min(axis=1, keepdims=True)
    spread = tables.objective.max(axis=1, keepdims=True) - best
    assert ((tables.objective <= best).mean(axis=1) <= 0.05).all()
    assert (spread > 0.1).all()
    assert len(set(tables.objective.argmin(axis=1))) >= 20  # no configuration is the answer to everything


@names
def test_the_card_says_what_it_must(shipped: Path, name: str) -> None:
    card = (shipped / name / "README.md").read_text(encoding="utf-8")
    assert f"surfaces build {name}" in card
    for words in (
        "--seed",
        "scikit-learn",
        "licence",
        "Known limits",
        "fidelity" if name == "mlp" else "cost",
    ):
        assert words in card
    for task in read_collection(shipped / name).tasks["task"]:
        assert f"| {task} |" in card


@names
def test_a_piece_computed_again_gives_the_shipped_numbers(shipped: Path, name: str) -> None:
    """Up to a few validation rows: another processor or library may round differently."""
    plan = make_plan(RECIPES[name], 0, ["moons-full"], None)
    piece = plan.pieces[0]
    rows = piece.config_ids if name == "mlp" else piece.config_ids[:6]
    found = train_piece(plan.recipe, "moons-full", [plan.configs[at] for at in rows], 0)
    tables = load_tables(shipped / name)
    np.testing.assert_array_equal(tables.config_ids, np.arange(len(plan.configs)))
    shipped_values = tables.objective[tables.tasks.index("moons-full")][list(rows)]
    again = found["objective"].reshape(len(rows), -1)[:, -1]
    assert np.median(np.abs(again - shipped_values)) < 0.01
    assert load_task("moons-full", 0).group == tables.groups[tables.tasks.index("moons-full")]
