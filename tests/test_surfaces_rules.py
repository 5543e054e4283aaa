"""Every fault that a table can have is found where it is, and mended only by a rule that was asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from surface_examples import small_collection

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import describe, import_collection, read_collection, validate_path, write_collection
from hyprl_jax.surfaces.checks import MOST_FAULTS_A_RULE, collection_faults
from hyprl_jax.surfaces.collection import canonical
from hyprl_jax.surfaces.repairs import REPAIRS

Frames = dict[str, pd.DataFrame]


def cell(table: str, row: int, column: str, value: object) -> Callable[[Frames], None]:
    def change(frames: Frames) -> None:
        frames[table].loc[row, column] = value

    return change


def repeat_row(table: str, row: int, at: int) -> Callable[[Frames], None]:
    def change(frames: Frames) -> None:
        frames[table].loc[at] = frames[table].loc[row]

    return change


def constant_task(frames: Frames) -> None:
    frames["evaluations"].loc[frames["evaluations"]["task"] == "task2", "objective"] = 0.25


def empty_task(frames: Frames) -> None:
    frames["evaluations"].loc[frames["evaluations"]["task"] == "task2", "objective"] = np.nan


def forbidden(frames: Frames) -> None:
    frames["configs"].loc[4, ["kernel", "gamma", "degree", "depth"]] = ["linear", np.nan, pd.NA, "deep"]


def inactive(frames: Frames) -> None:
    row = frames["configs"].index[frames["configs"]["kernel"] == "linear"][0]
    frames["configs"].loc[row, "gamma"] = 0.5


# what is done, then the place and the rule of the fault: file, task, row (None: not checked), rule, repair
FAULTS = {
    "no task name": (cell("tasks", 1, "task", ""), ("tasks", None, 1, "empty-task-name"), None),
    "null task name": (cell("tasks", 1, "task", None), ("tasks", None, 1, "empty-task-name"), None),
    "task twice": (repeat_row("tasks", 0, 1), ("tasks", "task0", 1, "duplicate-task"), None),
    "no group": (cell("tasks", 2, "group", None), ("tasks", "task2", 2, "empty-group"), None),
    "infinite metafeature": (
        cell("tasks", 2, "rows", np.inf),
        ("tasks", "task2", 2, "infinite-metafeature"),
        "infinite-metafeature-becomes-missing",
    ),
    "config_id twice": (
        cell("configs", 5, "config_id", 3),
        ("configs", None, 5, "duplicate-config-id"),
        None,
    ),
    "negative config_id": (
        cell("configs", 0, "config_id", -3),
        ("configs", None, 0, "negative-config-id"),
        None,
    ),
    "unknown choice": (
        cell("configs", 5, "kernel", "sigmoid"),
        ("configs", None, 5, "illegal-value"),
        "illegal-configuration-dropped",
    ),
    "no choice": (
        cell("configs", 5, "kernel", None),
        ("configs", None, 5, "active-without-value"),
        "illegal-configuration-dropped",
    ),
    "forbidden": (
        forbidden,
        ("configs", None, 4, "forbidden-configuration"),
        "illegal-configuration-dropped",
    ),
    "inactive": (inactive, ("configs", None, None, "inactive-with-value"), "inactive-value-becomes-null"),
    "infinite": (
        cell("evaluations", 90, "objective", -np.inf),
        ("evaluations", "task1", 90, "infinite-objective"),
        "infinite-becomes-missing",
    ),
    "infinite other": (
        cell("evaluations", 90, "log_loss", np.inf),
        ("evaluations", "task1", 90, "infinite-objective"),
        "infinite-becomes-missing",
    ),
    "below bounds": (
        cell("evaluations", 90, "objective", -0.01),
        ("evaluations", "task1", 90, "objective-out-of-bounds"),
        "out-of-bounds-becomes-missing",
    ),
    "above bounds": (
        cell("evaluations", 90, "objective", 1.01),
        ("evaluations", "task1", 90, "objective-out-of-bounds"),
        "out-of-bounds-becomes-missing",
    ),
    "unknown task": (
        cell("evaluations", 90, "task", "nobody"),
        ("evaluations", None, 90, "unknown-task"),
        "unknown-reference-dropped",
    ),
    "null task": (
        cell("evaluations", 90, "task", None),
        ("evaluations", None, 90, "unknown-task"),
        "unknown-reference-dropped",
    ),
    "unknown configuration": (
        cell("evaluations", 90, "config_id", 999_999),
        ("evaluations", "task1", 90, "unknown-config"),
        "unknown-reference-dropped",
    ),
    "evaluation twice": (
        repeat_row("evaluations", 90, 91),
        ("evaluations", "task1", 91, "duplicate-evaluation"),
        "duplicate-keeps-first",
    ),
    "null fidelity": (
        cell("evaluations", 90, "fidelity", np.nan),
        ("evaluations", "task1", 90, "bad-fidelity"),
        "bad-fidelity-dropped",
    ),
    "negative repeat": (
        cell("evaluations", 90, "repeat", -1),
        ("evaluations", "task1", 90, "bad-repeat"),
        None,
    ),
    "negative cost": (
        cell("evaluations", 90, "cost", -1.0),
        ("evaluations", "task1", 90, "bad-cost"),
        "bad-cost-becomes-missing",
    ),
    "infinite cost": (
        cell("evaluations", 90, "cost", np.inf),
        ("evaluations", "task1", 90, "bad-cost"),
        "bad-cost-becomes-missing",
    ),
    "constant": (
        constant_task,
        ("evaluations", "task2", None, "constant-surface"),
        "uninformative-task-dropped",
    ),
    "empty": (empty_task, ("evaluations", "task2", None, "empty-surface"), "uninformative-task-dropped"),
}


def damaged(tmp_path: Path, change: Callable[[Frames], None]) -> Path:
    """A collection on disk whose tables were changed behind its back, without a hash."""
    folder = write_collection(small_collection(), tmp_path / "damaged")
    collection = read_collection(folder)
    frames = {name: getattr(collection, name).copy() for name in ("tasks", "configs", "evaluations")}
    change(frames)
    for name, frame in frames.items():
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet")
    card = json.loads((folder / "collection.json").read_text())
    (folder / "collection.json").write_text(json.dumps(card | {"content_hash": ""}))
    return folder


@pytest.mark.parametrize(("change", "place", "repair"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_found_and_refused_or_repaired(
    tmp_path: Path,
    change: Callable[[Frames], None],
    place: tuple[str, str | None, int | None, str],
    repair: str | None,
) -> None:
    folder = damaged(tmp_path, change)
    file, task, row, rule = place
    found = [fault for fault in validate_path(folder) if fault.rule == rule]
    assert found, "the fault is found"
    assert found[0].file == f"{file}.parquet"
    assert found[0].task == task
    assert row is None or found[0].row == row
    with pytest.raises(InputError) as refused:
        read_collection(folder)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError):
        import_collection("collection", folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    if repair is None:
        with pytest.raises(InputError):
            import_collection("collection", folder, tmp_path / "copy", repair="all")
        return
    others = tuple(name for name in REPAIRS if rule not in REPAIRS[name].mends)
    with pytest.raises(InputError, match=repair):
        import_collection("collection", folder, tmp_path / "copy", repair=others)
    copy = import_collection("collection", folder, tmp_path / "copy", repair=repair)
    assert validate_path(copy) == []
    record = read_collection(copy).info.repairs[0]
    assert record["rule"] == repair
    assert record["file"] == f"{file}.parquet"
    assert row is None or record["row"] == row
    assert describe(read_collection(copy))["repairs"]


def test_repairs_change_nothing_else(tmp_path: Path) -> None:
    whole = canonical(small_collection())
    folder = damaged(tmp_path, cell("evaluations", 90, "objective", 7.0))
    copy = read_collection(import_collection("collection", folder, tmp_path / "copy", repair="all"))
    expected = whole.evaluations.copy()
    expected.loc[90, "objective"] = np.nan
    pd.testing.assert_frame_equal(copy.evaluations, expected)
    pd.testing.assert_frame_equal(copy.configs, whole.configs)
    assert [repair["rule"] for repair in copy.info.repairs] == ["out-of-bounds-becomes-missing"]


def test_repairs_may_lay_bare_what_other_rules_mend(tmp_path: Path) -> None:
    """All values of a task out of bounds: they become missing, so that the task is empty, so that it is
    dropped.
    """

    def change(frames: Frames) -> None:
        frames["evaluations"].loc[frames["evaluations"]["task"] == "task2", "objective"] = 5.0

    folder = damaged(tmp_path, change)
    with pytest.raises(InputError, match="task 'task2'"):
        import_collection("collection", folder, tmp_path / "copy", repair="out-of-bounds-becomes-missing")
    copy = read_collection(import_collection("collection", folder, tmp_path / "copy", repair="all"))
    assert "task2" not in set(copy.tasks["task"]) | set(copy.evaluations["task"])
    assert len(copy.tasks) == 5


def test_several_faults_are_all_listed(tmp_path: Path) -> None:
    def change(frames: Frames) -> None:
        for name in ("unknown choice", "negative cost", "above bounds", "no group"):
            FAULTS[name][0](frames)
        frames["evaluations"].loc[50, "objective"] = np.inf

    rules = [fault.rule for fault in validate_path(damaged(tmp_path, change))]
    assert sorted(rules) == [
        "bad-cost",
        "empty-group",
        "illegal-value",
        "infinite-objective",
        "objective-out-of-bounds",
    ]


def test_same_configuration_twice(tmp_path: Path) -> None:
    def change(frames: Frames) -> None:
        values = frames["configs"].columns[1:]
        frames["configs"].loc[7, values] = frames["configs"].loc[2, values]

    (fault,) = validate_path(damaged(tmp_path, change))
    assert (fault.file, fault.row, fault.rule) == ("configs.parquet", 7, "duplicate-configuration")


def test_reports_stay_finite() -> None:
    collection = canonical(small_collection(2, 5))
    rows = MOST_FAULTS_A_RULE + 10
    frame = pd.DataFrame(
        {"task": "nobody", "config_id": 3, "objective": 0.5, "fidelity": 1.0, "repeat": 0}, range(rows)
    )
    frame = frame.assign(cost=1.0, log_loss=0.0)
    faults = list(collection_faults(dataclasses.replace(collection, evaluations=frame)))
    unknown = [fault for fault in faults if fault.rule == "unknown-task"]
    assert len(unknown) == MOST_FAULTS_A_RULE + 1
    assert "10 more rows" in str(unknown[-1])


def test_constant_only_at_the_highest_fidelity_is_constant_all_the_same(tmp_path: Path) -> None:
    def change(frames: Frames) -> None:
        rows = (frames["evaluations"]["task"] == "task3") & (frames["evaluations"]["fidelity"] == 1.0)
        frames["evaluations"].loc[rows, "objective"] = 0.5

    (fault,) = validate_path(damaged(tmp_path, change))
    assert (fault.task, fault.rule) == ("task3", "constant-surface")


def test_repeats_of_a_single_configuration_are_a_constant_surface(tmp_path: Path) -> None:
    """The rows differ, but the surface, their mean, has a single point; so it has with means that agree."""

    def change(frames: Frames) -> None:
        rows = frames["evaluations"]
        others = (rows["task"] == "task3") & (rows["config_id"] != 13)
        rows.loc[others, "objective"] = np.nan
        rows.loc[(rows["task"] == "task3") & ~others, "objective"] = [0.1, 0.2, 0.3, 0.4]
        swapped = rows["task"] == "task4"
        rows.loc[swapped, "objective"] = np.where(rows["repeat"] == rows["config_id"] % 20 // 10, 0.25, 0.75)[
            swapped
        ]

    faults = validate_path(damaged(tmp_path, change))
    assert [(fault.task, fault.rule) for fault in faults] == [
        ("task3", "constant-surface"),
        ("task4", "constant-surface"),
    ]


def test_unknown_repair_rules_are_refused(tmp_path: Path) -> None:
    folder = write_collection(small_collection(), tmp_path / "small")
    with pytest.raises(InputError, match="no repair rule 'magic'"):
        import_collection("collection", folder, tmp_path / "copy", repair="magic")


def test_validate_wants_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        validate_path(tmp_path / "nowhere")
    assert {fault.rule for fault in validate_path(tmp_path)} == {"bad-card", "bad-space", "bad-parquet"}
