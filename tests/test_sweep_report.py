"""The report of a sweep: its figures against an independent computation, its order, its files."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hyprl_jax.config import from_dict
from hyprl_jax.jobs.display import Board
from hyprl_jax.jobs.engine import Event, Job
from hyprl_jax.sweeps.plan import Plan, parse_plan
from hyprl_jax.sweeps.plots import is_logarithmic
from hyprl_jax.sweeps.report import (
    Estimate,
    csv_text,
    estimate,
    marginals,
    results_of,
    table_text,
    write_report,
)

RATES = [1e-4, 1e-3, 1e-2]
CELLS = ["gru", "none"]


@pytest.fixture
def plan() -> Plan:
    return parse_plan(
        {
            "collections": ["mlp"], "folds": [0, 1], "seeds": [5, 6, 7],
            "grid": {"learner.learning_rate": RATES, "network.cell": CELLS},
            "evaluate": {"methods": ["policy", "random"]},
        }
    )  # fmt: skip


def records_of(plan: Plan, seed: int = 0) -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(seed)
    shape = (len(plan.base.folds), len(plan.base.seeds))
    return {
        one.name: {
            "best_validation": random.uniform(0.01, 0.2, shape).tolist(),
            "train": random.uniform(0.01, 0.2, shape).tolist(),
            "best_updates": random.integers(0, 3, shape).tolist(),
            "seconds": float(random.uniform(1, 9)),
            "test": {
                method: dict(zip(("low", "regret", "high"), sorted(random.uniform(0, 1, 3)), strict=True))
                for method in ("policy", "random")
            },
        }
        for one in plan.settings
    }


def test_figures_are_those_of_an_independent_computation(plan: Plan) -> None:
    records = records_of(plan)
    results = results_of(plan, records)
    frame = pd.read_csv(io.StringIO(csv_text(plan, results))).set_index("setting")
    assert len(frame) == 6
    long = pd.DataFrame(
        [
            {"setting": name, "fold": fold, "seed": seed, "regret": regret}
            for name, record in records.items()
            for fold, row in enumerate(record["best_validation"])
            for seed, regret in zip((5, 6, 7), row, strict=True)
        ]
    )
    by_seed = long.groupby(["setting", "seed"])["regret"].mean().unstack()  # mean over folds
    order = by_seed.mean(axis=1).sort_values().index
    assert list(frame.index) == [one.setting.name for one in results] == list(order)
    for name in order:
        row, seeds = frame.loc[name], by_seed.loc[name]
        assert row["validation_regret"] == pytest.approx(seeds.mean())
        low, high = stats.t.interval(0.95, 2, loc=seeds.mean(), scale=stats.sem(seeds))
        assert (row["validation_low"], row["validation_high"]) == (pytest.approx(low), pytest.approx(high))
        assert row["training_regret"] == pytest.approx(np.mean(records[name]["train"]))
        assert row["best_seed"] == seeds.idxmin()
        assert (row["learned"], row["trainings"]) == (np.count_nonzero(records[name]["best_updates"]), 6)
        assert row["seconds"] == pytest.approx(records[name]["seconds"])
        assert row["test_regret"] == pytest.approx(records[name]["test"]["policy"]["regret"])
        assert row["test_regret_random_high"] == pytest.approx(records[name]["test"]["random"]["high"])
        paired = seeds - by_seed.loc[order[0]]
        assert row["difference"] == pytest.approx(paired.mean(), abs=1e-8)
        if name != order[0]:
            low, high = stats.t.interval(0.95, 2, loc=paired.mean(), scale=stats.sem(paired))
            assert (row["difference_low"], row["difference_high"]) == (
                pytest.approx(low),
                pytest.approx(high),
            )
    assert set(frame["learner.learning_rate"]) == set(RATES)
    assert frame["network.cell"].value_counts().to_dict() == {"gru": 3, "none": 3}


def test_an_axis_is_averaged_over_the_others_seed_by_seed(plan: Plan) -> None:
    records = records_of(plan, 1)
    found = marginals(results_of(plan, records), "learner.learning_rate")
    assert [one.value for one in found] == RATES
    assert [one.settings for one in found] == [2, 2, 2]
    for one in found:
        names = [s.name for s in plan.settings if s.config.learner.learning_rate == one.value]
        seeds = np.mean([records[name]["best_validation"] for name in names], axis=(0, 1))
        low, high = stats.t.interval(0.95, 2, loc=seeds.mean(), scale=stats.sem(seeds))
        assert one.regret == (pytest.approx(seeds.mean()), pytest.approx(low), pytest.approx(high))
    assert [one.value for one in marginals(results_of(plan, records), "network.cell")] == CELLS


def test_intervals_are_over_seeds_then_over_folds_then_unknown() -> None:
    values = np.asarray([[0.1, 0.2], [0.3, 0.6]])
    low, high = stats.t.interval(0.95, 1, loc=0.3, scale=stats.sem([0.2, 0.4]))
    assert estimate(values) == (pytest.approx(0.3), pytest.approx(low), pytest.approx(high))
    low, high = stats.t.interval(0.95, 1, loc=0.2, scale=stats.sem([0.1, 0.3]))
    assert estimate(values[:, :1]) == (pytest.approx(0.2), pytest.approx(low), pytest.approx(high))
    assert estimate(values[:1, :1]) == (0.1, None, None)
    assert str(Estimate(0.1, None, None)) == "0.1000"


def test_equal_settings_keep_the_order_of_the_plan(plan: Plan) -> None:
    records = records_of(plan)
    same = {name: {**record, "best_validation": [[0.1] * 3] * 2} for name, record in records.items()}
    results = results_of(plan, dict(reversed(same.items())))
    assert [one.setting.name for one in results] == [one.name for one in plan.settings]


def test_files_hold_the_best_setting_what_failed_and_what_is_left(plan: Plan, tmp_path: Path) -> None:
    records = records_of(plan)
    missing = plan.settings[4].name
    del records[missing]
    results = write_report(plan, records, tmp_path, {"group-1": "ValueError: no"}, ("group-2",))
    assert len(results) == 5
    best = json.loads((tmp_path / "best.json").read_text())
    assert from_dict(best) == results[0].setting.config
    table = (tmp_path / "table.md").read_text()
    assert "5 of 6 settings" in table
    assert "- `group-1`: ValueError: no" in table and "--retry" in table
    assert "Not finished yet: group-2" in table
    assert table.count("| gru |") == 2 + 1 and "## learner.learning_rate" in table
    frame = pd.read_csv(tmp_path / "results.csv")
    assert frame["setting"].iloc[-1] == missing
    assert frame.set_index("setting").loc[missing, "validation_regret":].isna().all()
    for field in plan.fields:
        assert (tmp_path / "plots" / f"{field}.png").read_bytes().startswith(b"\x89PNG")
    assert {entry.name for entry in tmp_path.iterdir()} == {"best.json", "table.md", "results.csv", "plots"}


def test_a_table_of_settings_that_all_kept_their_start_says_so(plan: Plan) -> None:
    records = records_of(plan)
    assert "no setting learned" not in table_text(plan, results_of(plan, records), {}, ()).lower()
    start = {name: {**record, "best_updates": [[0] * 3] * 2} for name, record in records.items()}
    assert "No setting learned anything better" in table_text(plan, results_of(plan, start), {}, ())


def test_nothing_trained_is_a_report_too(plan: Plan, tmp_path: Path) -> None:
    assert write_report(plan, {}, tmp_path, {"group-0": "gone"}) == []
    assert "0 of 6 settings" in (tmp_path / "table.md").read_text()
    assert len(pd.read_csv(tmp_path / "results.csv")) == 6
    assert not (tmp_path / "best.json").exists()


def test_every_line_of_the_table_has_the_columns_of_its_head(plan: Plan) -> None:
    lines = table_text(plan, results_of(plan, records_of(plan)), {}, ()).splitlines()
    first = lines.index(next(line for line in lines if line.startswith("| learning_rate | cell |")))
    assert len({line.count("|") for line in lines[first : first + 8]}) == 1


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5))
def test_values_that_span_a_decade_are_drawn_on_a_logarithmic_scale(values: list[float]) -> None:
    assert is_logarithmic(values) == (np.log10(max(values)) - np.log10(min(values)) >= 1.0 - 1e-15)
    assert not is_logarithmic([*values, 0.0])
    assert not is_logarithmic([*values, "gru"])


def test_one_training_is_drawn_without_intervals(tmp_path: Path) -> None:
    plan = parse_plan({"collections": ["mlp"], "grid": {"surrogate.guard": [True, False]}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(plan, records_of(plan), tmp_path, {})
    assert (tmp_path / "plots" / "surrogate.guard.png").stat().st_size > 1000
    assert "without intervals" in (tmp_path / "table.md").read_text()


def test_the_board_tells_every_end_and_progress_now_and_then() -> None:
    from rich.console import Console

    stream = io.StringIO()
    board = Board("training", [Job(name, "m:f", {}) for name in "ab"], stream)
    board.tell(Event("started", "a"))
    for chunk in range(1, 4):
        board.tell(Event("progress", "a", chunk, 3, "going"))
    board.tell(Event("failed", "a", detail="ValueError: no"))
    board.tell(Event("started", "b"))
    board.tell(Event("done", "b", result={}, seconds=3.0))
    assert stream.getvalue().splitlines() == [
        "training: a started", "training: a 3/3 going", "training: a failed: ValueError: no",
        "training: b started", "training: b done in 3 s (2 of 2 jobs ended)",
    ]  # fmt: skip
    board.watch(Event("progress", "c", 1, 9, "half"))
    console = Console(file=io.StringIO(), width=100)
    console.print(board.table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("1 of 2 jobs done, 1 failed", "ValueError: no", "1/9 half"):
        assert words in shown
    assert shown.splitlines()[0] == "training: 1 of 2 jobs done, 1 failed"
    assert "done in 3 s (" not in shown  # the count stands above
