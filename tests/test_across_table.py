"""The page of the study across collections: sentences and figures that follow from the kept numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import across_table


def made_up(name: str, trials: int, **curves: list[float]) -> dict[str, Any]:
    """A unit in which every task has the same loss at all trials."""
    methods = {
        method: {"seeds": [0], "regret": [[loss] * trials for loss in losses]}
        for method, losses in curves.items()
    }
    tasks = [f"t{number}" for number in range(len(curves["policy"]))]
    facts = {"part": "cold", "collection": name, "candidates": trials, "trials": trials, "tasks": tasks}
    sides = {"left_out": 0, "not_trained": 0, "trained_on": {"x": 3}, "training_seconds": 1.0}
    return {"name": f"cold-{name}", "failure": None, **facts, **sides, "methods": methods}


def page_of(*units: dict[str, Any]) -> str:
    facts = {"collections": {"a": "", "b": ""}, "tasks": 0, "shared": 0.0, "updates": 1, "episodes": 16}
    facts |= {"train_trials": 4, "seeds": [0], "plays": 2}
    return across_table.make_table({"study": facts, "units": list(units)})


def test_sentences_say_what_the_numbers_are() -> None:
    one = made_up("a", 12, policy=[0.1, 0.2], better=[0.0, 0.1], worse=[0.3, 0.4], same=[0.1, 0.2])
    two = made_up("b", 6, policy=[0.3, 0.1], better=[0.3, 0.0], worse=[0.4, 0.3], same=[0.3, 0.1])
    for unit, losses in ((one, [0.0, 0.4]), (two, [0.4, 0.0])):
        unit["methods"]["like"] = {"seeds": [0], "regret": [[loss] * unit["trials"] for loss in losses]}
    page = page_of(one, two)
    assert "`policy` against `better`: above at trial 5 (+0.0750 [+0.0500, +0.1000]), 10 (+0.1000 [" in page
    assert "`policy` against `worse`: below at trial 5 (-0.1750 [-0.2000, -0.1500]), 10 (-0.2000 [" in page
    assert "`policy` against `same`: the same at trial 5 (+0.0000 [+0.0000, +0.0000])" in page
    assert "`policy` against `like`: not told apart at trial 5 (" in page
    assert "Trial 10 is without `b`, which has fewer configurations." in page
    lonely = page_of(made_up("a", 5, policy=[0.1], other=[0.2]))
    assert "`policy` against `other`: one task a collection, nothing can be said." in lonely


def test_every_collection_counts_the_same() -> None:
    mean, low, high = across_table.over_collections([np.zeros(1), np.full(9, 0.5)])
    assert (mean, low, high) == (0.25, 0.25, 0.25)
    values = np.asarray([0.0, 1.0] * 50)
    mean, low, high = across_table.over_collections([values, np.zeros(4)])
    # The mean of 100 fair coins has a standard deviation of 0.05, its half 0.025.
    assert mean == 0.25 and low == pytest.approx(0.25 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.25 + 1.96 * 0.025, abs=0.006)
