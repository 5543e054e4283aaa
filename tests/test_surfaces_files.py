"""Collections on disk: round trips, whole or nothing, and files that were damaged by anything at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from surface_examples import small_collection

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import (
    Collection,
    CollectionInfo,
    Objective,
    describe,
    find_collection,
    import_collection,
    list_collections,
    load_tables,
    read_collection,
    reading,
    validate_path,
    write_collection,
)
from hyprl_jax.surfaces.collection import canonical, content_hash
from hyprl_jax.surfaces.reading import TABLES

FILES = ("collection.json", "space.json", *TABLES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_collection(small_collection(), tmp_path / "small")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(small_collection(), tmp_path_factory.mktemp("collections") / "small")


def assert_same(one: Collection, other: Collection) -> None:
    for name in ("tasks", "configs", "evaluations"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert one.space == other.space


def rewrite(folder: Path, table: str, change: Any) -> None:
    """Change one table of a collection behind its back, and forget the hash."""
    path = folder / f"{table}.parquet"
    changed = change(pq.read_table(path))
    pq.write_table(changed, path)
    card = json.loads((folder / "collection.json").read_text())
    (folder / "collection.json").write_text(json.dumps(card | {"content_hash": ""}))


def test_round_trip(folder: Path) -> None:
    written = canonical(small_collection())
    read = read_collection(folder)
    assert_same(read, written)
    assert read.info.content_hash == content_hash(written)
    assert dataclasses.replace(read.info, content_hash="") == written.info
    assert validate_path(folder) == []


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 8), st.integers(3, 30), st.integers(0, 1000))
def test_round_trip_of_any_size(tmp_path: Path, tasks: int, configs: int, seed: int) -> None:
    collection = small_collection(tasks, configs, seed)
    path = write_collection(collection, tmp_path / "any", overwrite=True)
    assert_same(read_collection(path), canonical(collection))


def test_minimal_collection_round_trip(tmp_path: Path) -> None:
    """No fidelity, cost, repeat or metafeature; ragged: the two tasks share no configuration."""
    collection = small_collection(2, 4)
    first, second = collection.configs["config_id"][:2], collection.configs["config_id"][2:]
    evaluations = pd.DataFrame(
        {
            "task": ["task0"] * 2 + ["task1"] * 2,
            "config_id": [*first, *second],
            "objective": [1.0, 2.0, 3.0, 5.0],
        }
    )
    info = CollectionInfo("ragged", Objective("error", "minimize"))
    tasks = collection.tasks[["task", "group"]]
    ragged = dataclasses.replace(collection, info=info, tasks=tasks, evaluations=evaluations)
    path = write_collection(ragged, tmp_path / "ragged")
    assert_same(read_collection(path), canonical(ragged))
    tables = load_tables(path)
    np.testing.assert_array_equal(tables.objective, [[1.0, 2.0, np.nan, np.nan], [np.nan, np.nan, 3.0, 5.0]])
    assert np.isnan(tables.cost).all()
    assert tables.metafeatures.shape == (2, 0)
    json.dumps(describe(read_collection(path)), allow_nan=False)


def test_hash_depends_on_content_alone(folder: Path, tmp_path: Path) -> None:
    """Compression, row groups, dictionaries and the words of the card do not matter; one number does."""
    before = read_collection(folder).info.content_hash
    for name in TABLES:
        table = pq.read_table(folder / name)
        pq.write_table(table, folder / name, compression="none", row_group_size=7, use_dictionary=False)
    card = json.loads((folder / "collection.json").read_text())
    (folder / "collection.json").write_text(json.dumps(card | {"description": "other words"}))
    assert read_collection(folder).info.content_hash == before
    changed = small_collection()
    changed.evaluations.loc[5, "objective"] = 0.123
    assert read_collection(write_collection(changed, tmp_path / "changed")).info.content_hash != before
    flipped = dataclasses.replace(changed.info, objective=Objective("error", "maximize", None, 0.0, 1.0))
    other = write_collection(dataclasses.replace(changed, info=flipped), tmp_path / "flipped")
    assert read_collection(other).info.content_hash != read_collection(tmp_path / "changed").info.content_hash


def test_tables_that_changed_are_noticed(folder: Path) -> None:
    table = pq.read_table(folder / "evaluations.parquet").to_pandas()
    table.loc[0, "objective"] = 0.5
    table.to_parquet(folder / "evaluations.parquet", index=False)
    with pytest.raises(InputError, match="content-hash"):
        read_collection(folder)
    with pytest.raises(InputError, match="content-hash"):
        load_tables(folder)
    assert [fault.rule for fault in validate_path(folder)] == ["content-hash"]


def test_nothing_is_overwritten_by_accident(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        write_collection(small_collection(), folder)
    other = tmp_path / "home"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not a collection"):
        write_collection(small_collection(), other, overwrite=True)
    assert (other / "thesis.tex").read_text() == "years of work"
    write_collection(small_collection(seed=1), folder, overwrite=True)
    assert_same(read_collection(folder), canonical(small_collection(seed=1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "small"]


def test_faulty_collections_are_not_written(tmp_path: Path) -> None:
    collection = small_collection()
    collection.evaluations.loc[3, "objective"] = np.inf
    with pytest.raises(InputError, match=r"evaluations.parquet, task 'task0', row 3: objective is inf"):
        write_collection(collection, tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_extra_files(tmp_path: Path) -> None:
    path = write_collection(small_collection(), tmp_path / "small", extra_files={"README.md": "words"})
    assert (path / "README.md").read_text() == "words"
    for name in ("../README.md", "space.json", ".hidden"):
        with pytest.raises(InputError, match="not a name for a further file"):
            write_collection(small_collection(), tmp_path / "other", extra_files={name: ""})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError("disk full"), MemoryError])
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("point", range(9))
def test_interrupted_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, replaced: bool, point: int
) -> None:
    """Whatever happens at whatever step, the folder is absent, or what it was before, or complete."""
    target = tmp_path / "small"
    if replaced:
        write_collection(small_collection(seed=5), target)
    calls = iter(range(100))

    def failing(function: Any) -> Any:
        def wrapper(*args: Any, **options: Any) -> Any:
            if next(calls) == point:
                raise error
            return function(*args, **options)

        return wrapper

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    with contextlib.suppress(KeyboardInterrupt, SystemExit, MemoryError, InputError):
        write_collection(small_collection(seed=6), target, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["small"])
    if target.exists():
        hashes = [content_hash(canonical(small_collection(seed=seed))) for seed in (5, 6)]
        assert read_collection(target).info.content_hash in hashes
    assert target.exists() or not replaced


def test_find_by_name_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_collection(small_collection(), tmp_path / "meta_data" / "mine")
    assert find_collection("mine") == path.resolve()
    assert find_collection(path) == path.resolve()
    with pytest.raises(InputError, match=r"no collection 'theirs'.*mine"):
        find_collection("theirs")
    with pytest.raises(InputError, match=r"has no collection.json"):
        find_collection(tmp_path)
    assert "mine" in {item["name"] for item in list_collections()}


def test_list_names_damaged_collections(tmp_path: Path) -> None:
    write_collection(small_collection(), tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / "configs.parquet").write_bytes(b"PAR1")
    good, bad = sorted(list_collections(tmp_path), key=lambda item: item["name"] != "good")
    assert (good["tasks"], good["configurations"], good["objective"]) == (6, 20, "minimize error")
    assert bad["tasks"] is None
    assert bad["description"].startswith("damaged: ")
    assert set(good) == set(bad)
    with pytest.raises(InputError, match="no such folder"):
        list_collections(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_collection(folder)
    assert name in {fault.file for fault in validate_path(folder)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../etc"}, "name"),
        ({"name": 5}, "'name' must be text"),
        ({"objective": None}, "'objective' must be an object"),
        ({"objective": {"name": "x", "direction": "up"}}, "neither 'minimize' nor 'maximize'"),
        ({"objective": {"name": "x", "direction": "minimize", "lower": "low"}}, "lower must be a number"),
        ({"objective": {"name": "x", "direction": "minimize", "lower": 2, "upper": 1}}, "not below"),
        ({"fidelity": "epochs"}, "'fidelity' must hold an object"),
        ({"cost": {"name": "time", "unit": 5}}, "cost.unit"),
        ({"other_objectives": [{"name": "cost"}]}, "reserved"),
        ({"repairs": [1]}, "repairs"),
        ({"format_version": 99}, "format_version"),
        ({"licence": ["MIT"]}, "'licence' must be text"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_bad_cards_are_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    card = json.loads((folder / "collection.json").read_text())
    (folder / "collection.json").write_text(json.dumps(card | change))
    with pytest.raises(InputError, match=words):
        read_collection(folder)
    assert validate_path(folder)[0].file == "collection.json"


def test_nan_in_files_is_a_fault_with_its_place(folder: Path) -> None:
    def with_nan(table: pa.Table) -> pa.Table:
        values = table.column("objective").to_pylist()
        values[7] = float("nan")
        index = table.column_names.index("objective")
        return table.set_column(index, "objective", pa.array(values, pa.float64(), from_pandas=False))

    rewrite(folder, "evaluations", with_nan)
    with pytest.raises(InputError, match=r"evaluations.parquet, task 'task0', row 7: 'objective' is NaN"):
        read_collection(folder)
    copy = import_collection("collection", folder, folder.parent / "copy", repair="nan-becomes-missing")
    assert read_collection(copy).info.repairs[0]["row"] == 7
    assert np.isnan(read_collection(copy).evaluations["objective"][7])


def test_types_are_checked(folder: Path) -> None:
    def retyped(column: str, kind: pa.DataType) -> Any:
        def change(table: pa.Table) -> pa.Table:
            index = table.column_names.index(column)
            return table.set_column(index, column, pa.array([None] * table.num_rows, kind))

        return change

    for column, kind in (("objective", pa.list_(pa.float64())), ("task", pa.struct([("a", pa.int8())]))):
        copy = shutil.copytree(folder, folder.parent / f"bad_{column}")
        rewrite(copy, "evaluations", retyped(column, kind))
        with pytest.raises(InputError, match=f"column '{column}' is of the type"):
            read_collection(copy)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("evaluations", lambda t: t.drop_columns("objective"), "the column 'objective' is missing"),
        (
            "evaluations",
            lambda t: t.append_column("x", pa.array([1] * t.num_rows)),
            "'x' is declared nowhere",
        ),
        ("evaluations", lambda t: t.append_column("task", t.column("task")), "same name"),
        ("tasks", lambda t: t.append_column("x", pa.array(["a"] * t.num_rows)), "not numbers"),
        ("configs", lambda t: t.drop_columns("gamma"), "gamma"),
        ("configs", lambda t: t.append_column("x", pa.array([1] * t.num_rows)), "'x' is declared nowhere"),
        ("configs", lambda t: t.slice(0, 0), "no configuration"),
        ("tasks", lambda t: t.slice(0, 0), "no task"),
    ],
)
def test_columns_are_checked(folder: Path, table: str, change: Any, words: str) -> None:
    rewrite(folder, table, change)
    with pytest.raises(InputError, match=words):
        read_collection(folder)


def test_declared_sizes_are_checked_before_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million identical rows pack into a few kilobytes; the header alone tells that they are too many."""
    monkeypatch.setattr(reading, "MAX_TABLE_CELLS", 500_000)
    pq.write_table(pa.table({"objective": pa.array([0.5] * 1_000_000)}), folder / "evaluations.parquet")
    assert (folder / "evaluations.parquet").stat().st_size < 100_000
    faults = {fault.file: fault.message for fault in validate_path(folder)}
    assert faults["evaluations.parquet"].startswith("declares 1000000 rows")


def test_huge_files_are_not_read(folder: Path) -> None:
    with open(folder / "collection.json", "r+b") as file:
        file.truncate(2**40)
    with open(folder / "evaluations.parquet", "r+b") as file:
        file.truncate(2**40)
    faults = {fault.file: fault.message for fault in validate_path(folder)}
    assert "larger than" in faults["collection.json"]
    assert "larger than" in faults["evaluations.parquet"]


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_files_never_escape(shared_folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Flip, cut or insert bytes anywhere: the reader answers with a collection or an `InputError` of one
    line.
    """
    broken = tmp_path / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(shared_folder, broken)
    path = broken / data.draw(st.sampled_from(FILES))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        else:
            position = data.draw(st.integers(0, max(0, len(content) - 1)))
            content[position : position + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(bytes(content))
    faults = validate_path(broken)
    assert all("\n" not in str(fault) for fault in faults)
    try:
        collection = read_collection(broken)
    except InputError as error:
        assert "\n" not in str(error)
        assert faults
    else:
        assert not faults
        assert collection.info.content_hash == content_hash(collection)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_strange_tables_never_escape(shared_folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Columns of any type with any values, valid Parquet: a collection or faults, never another exception."""
    broken = tmp_path / "strange"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(shared_folder, broken)
    name = data.draw(st.sampled_from(["tasks", "configs", "evaluations"]))

    def change(table: pa.Table) -> pa.Table:
        index = data.draw(st.integers(0, table.num_columns - 1))
        cells = data.draw(
            st.sampled_from(
                [
                    st.floats() | st.none(),
                    st.integers(-(2**63), 2**63 - 1) | st.none(),
                    st.text(max_size=3) | st.none(),
                    st.booleans() | st.none(),
                    st.none(),
                ]
            )
        )
        few = data.draw(st.lists(cells, min_size=1, max_size=4))
        values = (few * (table.num_rows // len(few) + 1))[: table.num_rows]
        return table.set_column(index, table.column_names[index], pa.array(values, from_pandas=False))

    rewrite(broken, name, change)
    faults = validate_path(broken)
    try:
        read_collection(broken)
    except InputError:
        assert faults
    else:
        assert not faults
