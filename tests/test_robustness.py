"""The robustness study: disturbed tables are what they say, known tasks stay as they are, results last."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import make_tables, tables_of
from tiny_runs import grid_collection, tiny_config

from hyprl_jax.cli.common import INPUT_MISTAKE, SUCCESS
from hyprl_jax.config import TrainConfig
from hyprl_jax.errors import InputError
from hyprl_jax.policies import TrainedPolicy
from hyprl_jax.surfaces import TaskTables, load_tables, make_split, write_collection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import robustness
import robustness_table
import studies_common as common
from robustness import CONDITIONS, disturbed
from study_examples import kept_page, quick_compilation, untrained

BY_NAME = {condition.name: condition for condition in CONDITIONS}
WIDE = make_tables("wide", tasks=6, configs=4000, features=2, missing=0.1, seed=3)
TESTED = ("task4", "task1")


def changed(name: str, tables: TaskTables = WIDE, seed: int = 0) -> TaskTables:
    return disturbed(tables, TESTED, BY_NAME[name].change, np.random.default_rng(seed))


def rows(tables: TaskTables) -> np.ndarray:
    return tables.objective[[tables.tasks.index(task) for task in TESTED]]


BEFORE = rows(WIDE)
RANGES = (np.nanmax(BEFORE, axis=1) - np.nanmin(BEFORE, axis=1))[:, None]


# What is done to the tables


@pytest.mark.parametrize("name", BY_NAME)
def test_known_tasks_and_all_else_stay_as_they_are(name: str) -> None:
    small = make_tables(tasks=6, configs=30, missing=0.2)
    objective = small.objective.copy()
    after = changed(name, small)
    assert np.array_equal(small.objective, objective, equal_nan=True)  # the tables given
    known = [row for row, task in enumerate(small.tasks) if task not in TESTED]
    assert np.array_equal(after.objective[known], objective[known], equal_nan=True)
    assert np.array_equal(np.isnan(after.objective), np.isnan(objective))
    for field in dataclasses.fields(TaskTables):
        if field.name != "objective":
            assert getattr(after, field.name) is getattr(small, field.name)
    same = np.array_equal(rows(after), rows(small), equal_nan=True)
    assert same == (name == "undisturbed")


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
def test_noise_has_the_deviation_that_it_says(share: float) -> None:
    errors = (rows(changed(f"noise_{share}")) - BEFORE) / RANGES
    assert np.nanstd(errors, axis=1) == pytest.approx(share, rel=0.05)
    assert np.abs(np.nanmean(errors, axis=1)) == pytest.approx(0.0, abs=4 * share / np.sqrt(3600))
    assert f"{share:.0%}" in BY_NAME[f"noise_{share}"].says and BY_NAME[f"noise_{share}"].true_score
    other = rows(changed(f"noise_{share}", seed=1))
    assert np.nanmax(np.abs(other - rows(changed(f"noise_{share}")))) > share


def test_units_and_signs_change_as_they_say() -> None:
    shift = rows(changed("shifted")) - BEFORE
    assert np.nanmin(shift / RANGES) == pytest.approx(3.0) and np.nanmax(shift / RANGES) == pytest.approx(3.0)
    for name, factor in (("times_10", 10.0), ("times_0.1", 0.1), ("wrong_sign", -1.0)):
        assert np.allclose(rows(changed(name)), factor * BEFORE, equal_nan=True)


def test_a_reversed_surface_keeps_its_range_and_turns_its_order() -> None:
    after = rows(changed("reversed"))
    assert np.allclose(np.nanmin(after, axis=1), np.nanmin(BEFORE, axis=1))
    assert np.allclose(np.nanmax(after, axis=1), np.nanmax(BEFORE, axis=1))
    assert np.array_equal(np.nanargmax(after, axis=1), np.nanargmin(BEFORE, axis=1))
    again = disturbed(changed("reversed"), TESTED, robustness.reverse, np.random.default_rng(0))
    assert np.allclose(rows(again), BEFORE, equal_nan=True)


def test_a_permuted_surface_has_the_same_values_elsewhere() -> None:
    after = rows(changed("permuted"))
    assert np.array_equal(np.sort(after, axis=1), np.sort(BEFORE, axis=1), equal_nan=True)
    for new, old in zip(after, BEFORE, strict=True):
        there = ~np.isnan(old)
        assert abs(np.corrcoef(new[there], old[there])[0, 1]) < 0.1
    assert not np.array_equal(rows(changed("permuted", seed=1)), after, equal_nan=True)


def test_a_smooth_surface_is_smooth_within_the_range_of_the_task() -> None:
    tables = make_tables("some", tasks=6, configs=300, features=2, missing=0.1)
    before, after = rows(tables), rows(changed("smooth", tables))
    assert np.allclose(np.nanmin(after, axis=1), np.nanmin(before, axis=1))
    assert np.allclose(np.nanmax(after, axis=1), np.nanmax(before, axis=1))
    distance = np.linalg.norm(tables.encodings[:, None] - tables.encodings[None], axis=-1)
    distance += np.where(np.isnan(after[0])[None], np.inf, 0.0) + 10.0 * np.eye(300)
    there = ~np.isnan(after[0])
    nearest = distance.argmin(axis=1)[there]
    steps = np.abs(after[0, there] - after[0, nearest]) / (np.nanmax(after[0]) - np.nanmin(after[0]))
    rough = np.abs(before[0, there] - before[0, nearest]) / (np.nanmax(before[0]) - np.nanmin(before[0]))
    assert np.nanmean(steps) < 0.05 < np.nanmean(rough)
    assert not np.allclose(after[0, there], rows(changed("smooth", tables, seed=1))[0, there])


def test_what_looks_best_is_scored_by_its_true_value() -> None:
    truth = tables_of("t", np.asarray([[0.0, 1.0, 4.0, 3.0]]), np.zeros((4, 1)), direction="maximize")
    seen = dataclasses.replace(truth, objective=np.asarray([[2.0, 5.0, 4.0, 6.0]]))
    actions = np.asarray([[[0, 1, 2, 3], [2, 0, -1, -1]]])
    regret = common.regret_curves(actions, seen, truth, ("task0",))
    assert regret.tolist() == [[[1.0, 0.75, 0.75, 0.25], [0.0, 0.0, 0.0, 0.0]]]
    lower = dataclasses.replace(truth, direction="minimize")
    down = dataclasses.replace(seen, direction="minimize")
    regret = common.regret_curves(actions[:, :1], down, lower, ("task0",))
    assert regret.tolist() == [[[0.0, 0.0, 0.0, 0.0]]]


# Subsets of the known tasks


def test_subsets_of_known_tasks_are_nested_and_keep_groups_together() -> None:
    tables = make_tables(tasks=20, tasks_a_group=2)
    known = tables.tasks[:16]
    subsets = [robustness.nested(tables, known, size, 0) for size in (3, 5, 10, 16)]
    for small, large in itertools.pairwise(subsets):
        assert large[: len(small)] == small
    assert [len(subset) for subset in subsets] == [3, 5, 10, 16] and set(subsets[-1]) == set(known)
    group = dict(zip(tables.tasks, tables.groups, strict=True))
    assert len({group[task] for task in subsets[2]}) == 5
    assert robustness.nested(tables, known, 5, 1) != subsets[1]
    assert robustness.nested(tables, known, 5, 0) == subsets[1]


# A study with an untrained policy


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_collection(grid_collection(), tmp_path_factory.mktemp("tables") / "grid"))


@pytest.fixture(scope="module")
def plan(grid: str, tmp_path_factory: pytest.TempPathFactory) -> robustness.Plan:
    config = tiny_config(grid, folds=(0, 1), seeds=(0, 1))
    return robustness.Plan(
        config=config,
        policy=untrained(config, load_tables(grid)),
        collection=grid,
        folds=(0, 1),
        trials=4,
        methods=("policy", "random", "gp_ei"),
        draws=2,
        sizes=(2, 3, 40),
        out=tmp_path_factory.mktemp("study"),
    )


@pytest.fixture(scope="module")
def study(plan: robustness.Plan, grid: str) -> Path:
    """All conditions, and trainings that are none; the size 3 fails."""
    tables = load_tables(grid)

    def trained(config: TrainConfig, folder: Path) -> tuple[TrainedPolicy, float]:
        if folder.name == "tasks_3-0":
            raise MemoryError("too large")
        return untrained(config, tables), 1.5

    with pytest.MonkeyPatch.context() as patch, quick_compilation():
        patch.setattr(common, "trained", trained)
        units = robustness.units(plan, tables, robustness.PARTS, 1)
        code = common.Study(plan.out, robustness.settings(plan, tables)).run(units, silent=True)
    assert code == SUCCESS
    return plan.out


def read(study: Path, name: str) -> dict[str, Any]:
    return json.loads((study / f"{name}.json").read_text())


def test_every_condition_is_played_by_every_method(study: Path, grid: str) -> None:
    tables = load_tables(grid)
    tested = [task for fold in (0, 1) for task in make_split(tables, "kfold3", fold).test]
    for condition in CONDITIONS:
        record = read(study, condition.name)
        assert record["failure"] is None and record["tasks"] == tested
        assert record["draws"] == (2 if condition.random else 1)
        assert list(record["methods"]) == ["policy", "random", "gp_ei"]
        for played in record["methods"].values():
            assert played["seeds"] == [0, 1]
            for figure in played["regret"].values():
                assert np.shape(figure) == (4, 2)
                assert np.all((np.asarray(figure) >= 0) & (np.asarray(figure) <= 1))


def test_random_search_does_not_see_the_objective(study: Path) -> None:
    plain, shifted, scaled, wrong, upside = (
        read(study, name)["methods"]["random"]["regret"]
        for name in ("undisturbed", "shifted", "times_10", "wrong_sign", "reversed")
    )
    assert plain == shifted == scaled and wrong == upside != plain


def test_only_what_is_not_there_is_run(
    study: Path, plan: robustness.Plan, grid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = load_tables(grid)
    calls: list[str] = []
    monkeypatch.setattr(
        robustness, "run_condition", lambda condition, *_: calls.append(condition.name) or {"part": "again"}
    )
    kept = (study / "shifted.json").read_bytes()
    (study / "shifted.json").unlink()
    units = robustness.units(plan, tables, ("seeds", "disturbed"), 1)
    assert common.Study(study, robustness.settings(plan, tables)).run(units, silent=True) == SUCCESS
    assert calls == ["shifted"] and read(study, "shifted")["part"] == "again"
    (study / "shifted.json").write_bytes(kept)


def test_trainings_get_subsets_of_the_known_tasks_and_the_same_test(study: Path, grid: str) -> None:
    tables = load_tables(grid)
    split = make_split(tables, "kfold3", 0)
    known = {*split.train, *split.validation}
    names = sorted(file.stem for file in study.glob("tasks_*.json"))
    assert names == ["tasks_2-0", "tasks_3-0", "tasks_4-0"]  # 40 are not there
    two, four = (json.loads((study / "splits" / f"{size}-0.json").read_text()) for size in (2, 4))
    assert set(two["train"]) < set(four["train"]) == known and len(two["train"]) == 2
    assert two["test"] == four["test"] == list(split.test)
    record = read(study, "tasks_2-0")
    assert record["size"] == 2 and record["training_seconds"] == 1.5 and record["tasks"] == two["test"]
    assert read(study, "tasks_3-0") == {"name": "tasks_3-0", "failure": "MemoryError: too large"}


def test_the_table_is_made_from_the_files_alone(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in study.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    page = kept_page(robustness.main, "robustness", folder, tmp_path, monkeypatch, capsys)
    assert page == (folder / "table.md").read_text()
    for title in ("Spread over seeds", "Disturbed", "Unlike", "Guard", "Number of known tasks", "Failed"):
        assert f"## {title}" in page
    mean = np.mean(read(study, "noise_0.1")["methods"]["policy"]["regret"]["mean"])
    row = next(line for line in page.splitlines() if line.startswith("| `noise_0.1` | `policy` |"))
    assert f" {mean:.4f} [" in row
    assert "- `tasks_3-0`: MemoryError: too large" in page
    assert "| 4 (1 subset) | `policy` |" in page


def test_what_does_not_fit_is_refused(plan: robustness.Plan, grid: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no part 'seed'"):
        robustness.units(plan, load_tables(grid), ("seed",), 1)
    assert robustness.main(["--out", str(tmp_path)]) == INPUT_MISTAKE
    (tmp_path / "study.json").write_text('{"study": "ablations"}')
    assert robustness.main(["--table", "--out", str(tmp_path)]) == INPUT_MISTAKE


# The guard


def guarded(own: list[float], cold: list[float]) -> str:
    figures = {"policy": own, "gp_ei": cold}
    methods = {
        name: {"regret": {trial: [[value] for value in values] for trial in ("10", "25", "50", "mean")}}
        for name, values in figures.items()
    }
    methods["policy"]["regret"]["50"] = methods["policy"]["regret"]["10"] = [[9.0]] * len(own)
    return robustness_table.guard_words("policy", {"methods": methods})


@pytest.mark.parametrize(
    ("own", "cold", "words"),
    [
        ([0.05] * 5, [0.10] * 5, "0.50 times `gp_ei` (0.1000): the guard holds, beyond noise"),
        ([0.11] * 5, [0.10] * 5, "1.10 times `gp_ei` (0.1000): the guard holds, not beyond noise"),
        ([0.12] * 5, [0.10] * 5, "1.20 times `gp_ei` (0.1000): the guard fails, beyond noise"),
        ([0.0, 0.5], [0.25, 0.1], "1.43 times `gp_ei` (0.1750): the guard fails, not beyond noise"),
        ([0.0] * 3, [0.0] * 3, "1.00 times `gp_ei` (0.0000): the guard holds, not beyond noise"),
        ([0.1] * 3, [0.0] * 3, "inf times `gp_ei` (0.0000): the guard fails, beyond noise"),
        ([0.3], [0.1], "3.00 times `gp_ei` (0.1000): the guard fails, not beyond noise"),
    ],
)
def test_the_guard_says_what_the_numbers_are(own: list[float], cold: list[float], words: str) -> None:
    assert f"at trial 25, {words}" in guarded(own, cold)


def test_the_guard_is_for_unlike_tasks_alone() -> None:
    assert [condition.name for condition in CONDITIONS if condition.guarded] == [
        "wrong_sign",
        "reversed",
        "permuted",
        "smooth",
    ]
