"""Dense tables against a plain oracle, and a packed cache that is never trusted."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from surface_examples import small_collection

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces import TaskTables, load_tables, read_collection, tables, task_tables, write_collection
from hyprl_jax.surfaces.collection import Collection, canonical


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_collection(small_collection(), tmp_path / "collections" / "small")


def assert_same(one: TaskTables, other: TaskTables) -> None:
    for field in dataclasses.fields(TaskTables):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right


def oracle(collection: Collection, column: str) -> np.ndarray:
    """Mean over repeats at the task's highest fidelity, one row of the long table after another."""
    tasks, ids = list(collection.tasks["task"]), list(collection.configs["config_id"])
    rows = collection.evaluations.to_dict("records")
    expected = np.full((len(tasks), len(ids)), np.nan)
    for d, task in enumerate(tasks):
        top = max((row["fidelity"] for row in rows if row["task"] == task), default=None)
        for c, config in enumerate(ids):
            values = [
                row[column]
                for row in rows
                if (row["task"], row["config_id"], row["fidelity"]) == (task, config, top)
                and row[column] == row[column]
            ]
            if values:
                expected[d, c] = sum(values) / len(values)
    return expected


@given(st.integers(1, 4), st.integers(2, 6), st.integers(0, 100), st.data())
def test_tables_agree_with_the_oracle(tasks: int, configs: int, seed: int, data: st.DataObject) -> None:
    collection = canonical(small_collection(tasks, configs, seed))
    kept = data.draw(
        st.lists(st.booleans(), min_size=len(collection.evaluations), max_size=len(collection.evaluations))
    )
    shuffled = collection.evaluations[kept].sample(frac=1, random_state=seed).reset_index(drop=True)
    ragged = dataclasses.replace(collection, evaluations=shuffled)
    dense = task_tables(ragged)
    np.testing.assert_allclose(dense.objective, oracle(ragged, "objective"), rtol=1e-12)
    np.testing.assert_allclose(dense.cost, oracle(ragged, "cost"), rtol=1e-12)
    np.testing.assert_array_equal(dense.config_ids, collection.configs["config_id"])
    assert dense.tasks == tuple(collection.tasks["task"])
    assert dense.groups == tuple(collection.tasks["group"])
    np.testing.assert_array_equal(dense.metafeatures[:, 0], collection.tasks["rows"])


def test_fields(folder: Path) -> None:
    collection = read_collection(folder)
    dense = task_tables(collection)
    encoding = SpaceEncoding(collection.space)
    np.testing.assert_array_equal(dense.encodings, encoding.encode(collection.configs)[0])
    assert dense.feature_names == encoding.feature_names
    assert (dense.collection, dense.direction, dense.metafeature_names) == ("small", "minimize", ("rows",))
    assert dense.content_hash == collection.info.content_hash
    assert (dense.objective.dtype, dense.encodings.dtype, dense.config_ids.dtype) == (
        np.float64,
        np.float32,
        np.int64,
    )


def test_too_many_cells_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_CELLS", 100)
    with pytest.raises(InputError, match="6 tasks x 20 configurations are more than 100 cells"):
        load_tables(folder)


def packed_files(folder: Path) -> list[Path]:
    return sorted((folder / ".packed").glob("*"))


def test_cache_gives_the_same_and_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = load_tables(folder)
    assert len(packed_files(folder)) == 1
    monkeypatch.setattr(tables, "read_collection", None)  # a second reading of Parquet would fail
    assert_same(load_tables(folder), cold)
    monkeypatch.undo()
    assert_same(load_tables(folder, cache=False), cold)
    assert_same(task_tables(read_collection(folder)), cold)


def test_cache_follows_the_files(folder: Path) -> None:
    before = load_tables(folder)
    write_collection(small_collection(seed=1), folder, overwrite=True)
    after = load_tables(folder)
    assert after.content_hash != before.content_hash
    assert_same(after, load_tables(folder, cache=False))
    (folder / "tasks.parquet").unlink()
    with pytest.raises(InputError, match=r"tasks.parquet cannot be read"):
        load_tables(folder)


def test_forged_cache_is_not_believed(folder: Path) -> None:
    """Arrays of another shape, dtype or content, or with names missing: made anew from the collection."""
    honest = load_tables(folder)
    (place,) = packed_files(folder)
    arrays = load_file(place)
    forgeries = [
        {"objective": arrays["objective"] * 2},
        {"objective": arrays["objective"].astype(np.float32)},
        {"objective": arrays["objective"][:, :-1]},
        {"encodings": arrays["encodings"][:-1]},
        {"config_ids": arrays["config_ids"][::-1].copy()},
    ]
    for forged in forgeries:
        save_file(arrays | forged, place)  # without the names and the checksum
        assert_same(load_tables(folder), honest)
    with tables.safe_open(place, framework="numpy") as file:
        metadata = file.metadata()
    for forged in forgeries:
        save_file(arrays | forged, place, metadata)
        assert_same(load_tables(folder), honest)
    checksum = tables._checksum(arrays | forgeries[2], {k: v for k, v in metadata.items() if k != "checksum"})
    save_file(arrays | forgeries[2], place, metadata | {"checksum": checksum})
    assert_same(load_tables(folder), honest)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_cache_is_made_anew(folder: Path, data: st.DataObject) -> None:
    honest = load_tables(folder)
    (place,) = packed_files(folder)
    content = bytearray(place.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
    place.write_bytes(bytes(content))
    assert_same(load_tables(folder), honest)


def test_unwritable_folder_uses_the_users_cache(folder: Path, tmp_path: Path) -> None:
    (folder / ".packed").write_text("in the way")
    honest = load_tables(folder, cache=False)
    assert_same(load_tables(folder), honest)
    elsewhere = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(elsewhere) == 1
    elsewhere[0].unlink()
    elsewhere[0].parent.rmdir()
    elsewhere[0].parent.write_text("in the way too")
    assert_same(load_tables(folder), honest)


def test_many_writers_at_once(folder: Path) -> None:
    honest = load_tables(folder, cache=False)
    found: list[TaskTables] = []
    threads = [threading.Thread(target=lambda: found.append(load_tables(folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for one in found:
        assert_same(one, honest)
    assert [path.suffix for path in packed_files(folder)] == [".safetensors"]


def test_interrupted_cache_leaves_no_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_tables(folder)
    assert packed_files(folder) == []
