"""The published splits: MetaBO's on the real SVM surfaces, HPO-B's on small files of its form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import hpob_examples
import numpy as np
import pytest
from hpob_examples import TEST, TRAIN, VALIDATION, source, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import (
    Split,
    TaskTables,
    import_collection,
    import_hpob_spaces,
    load_tables,
    make_split,
    read_collection,
    restrict,
    task_tables,
)
from hyprl_jax.surfaces.importers.ecml2016 import import_ecml2016
from hyprl_jax.surfaces.importers.hpob_starts import read_initializations
from hyprl_jax.surfaces.protocols import METABO_TEST, METABO_TRAIN, STARTS_FILE

# MetaBO


@pytest.fixture(scope="module")
def svm(shared_data: Path) -> TaskTables:
    return task_tables(import_ecml2016(shared_data / "ecml2016-svm.tar.xz", name="anything"))


def test_metabo_split(svm: TaskTables) -> None:
    split = make_split(svm, "metabo", 0)
    assert set(split.test) == set(METABO_TEST)
    assert {*split.train, *split.validation} == set(METABO_TRAIN) - {"breast-cancer"}
    assert len(split.validation) == 7
    assert split.note == "left out of training, the same data as a test task: breast-cancer (as wisconsin)"
    assert split.config_ids is not None
    assert len(split.config_ids) == 143
    groups = dict(zip(svm.tasks, svm.groups, strict=True))
    known = {groups[task] for task in (*split.train, *split.validation)}
    assert not known & {groups[task] for task in split.test}
    as_published = make_split(svm, "metabo:published", 0, validation_fraction=0.0)
    assert set(as_published.train) == set(METABO_TRAIN)
    assert (as_published.test, as_published.config_ids) == (split.test, split.config_ids)
    assert "trained on the same data as a test task: breast-cancer" in as_published.note
    with pytest.raises(InputError, match="no fold 1"):
        make_split(svm, "metabo", 1)


def test_metabo_configurations_are_those_whose_logarithms_are_written(
    svm: TaskTables, shared_data: Path
) -> None:
    """The authors of MetaBO take the rows that write both index 3 and index 4, 11 values times 13."""
    configs = import_ecml2016(shared_data / "ecml2016-svm.tar.xz").configs.set_index("config_id")
    taken = configs.loc[list(make_split(svm, "metabo", 0).config_ids or ())]
    assert set(taken["kernel"]) == {"rbf"}
    assert len(taken[["C", "gamma"]].drop_duplicates()) == len(taken) == 143
    assert (taken["C"].nunique(), taken["gamma"].nunique()) == (11, 13)
    assert not (taken["C"] == 1.0).any()
    assert not (taken["gamma"] == 1.0).any()


def test_metabo_portfolio_has_the_known_regret(svm: TaskTables) -> None:
    """A greedy portfolio over the 35 known tasks, computed here from scratch, on the restricted tables: its
    regret is known to be 0.109, 0.056, 0.044, 0.012 at trials 1, 3, 5, 10."""
    split = make_split(svm, "metabo:published", 0)
    tables = restrict(svm, split)
    low, high = tables.objective.min(1, keepdims=True), tables.objective.max(1, keepdims=True)
    score = (tables.objective - low) / (high - low)
    row = {task: number for number, task in enumerate(tables.tasks)}
    known = score[[row[task] for task in METABO_TRAIN]]
    chosen: list[int] = []
    for _ in range(10):
        reached = known[:, chosen].max(1, keepdims=True) if chosen else np.zeros((len(known), 1))
        gain = np.maximum(known, reached).mean(0) + 1e-9 * known.mean(0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
    test = score[[row[task] for task in split.test]]
    regret = [1.0 - test[:, chosen[:trials]].max(1).mean() for trials in (1, 3, 5, 10)]
    np.testing.assert_allclose(regret, [0.109, 0.056, 0.044, 0.012], atol=6e-4)


def test_metabo_is_for_its_table_only(svm: TaskTables) -> None:
    fewer = dataclasses.replace(svm, tasks=tuple(f"{task}x" for task in svm.tasks))
    with pytest.raises(InputError, match="'anything' has other tasks"):
        make_split(fewer, "metabo", 0)
    first = Split("s", 0, (), (), (), tuple(svm.config_ids[::2].tolist()))
    with pytest.raises(InputError, match="of which collection 'anything' has"):
        make_split(restrict(svm, first), "metabo", 0)
    renamed = dataclasses.replace(svm, feature_names=tuple(f"x{number}" for number in range(8)))
    with pytest.raises(InputError, match="has 0"):
        make_split(renamed, "metabo", 0)


# Splits of some of the configurations


def small_tables() -> TaskTables:
    objective = np.array([[0.0, 1.0, 2.0, 3.0], [5.0, 4.0, 3.0, 2.0], [1.0, np.nan, np.nan, 2.0]])
    return TaskTables(
        collection="c",
        content_hash="0",
        direction="minimize",
        tasks=("a", "b", "c"),
        groups=("a", "b", "c"),
        config_ids=np.array([3, 1, 7, 5]),
        encodings=np.arange(8, dtype=np.float32).reshape(4, 2),
        feature_names=("x", "y"),
        objective=objective,
        cost=objective + 10,
        metafeatures=np.arange(3.0)[:, None],
        metafeature_names=("m",),
    )


def split_file(folder: Path, **content: Any) -> str:
    path = folder / "split.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_restricted_tables(tmp_path: Path) -> None:
    tables = small_tables()
    split = make_split(
        tables, split_file(tmp_path, train=["a"], test=["b"], config_ids=[7, 1], validation=[]), 0
    )
    assert split.config_ids == (1, 7)
    fewer = restrict(tables, split)
    assert fewer.tasks == fewer.groups == ("a", "b")  # c has no value left and is on no side
    assert fewer.config_ids.tolist() == [1, 7]
    np.testing.assert_array_equal(fewer.objective, [[1.0, 2.0], [4.0, 3.0]])
    np.testing.assert_array_equal(fewer.cost, [[11.0, 12.0], [14.0, 13.0]])
    np.testing.assert_array_equal(fewer.encodings, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(fewer.metafeatures, [[0.0], [1.0]])
    other = restrict(tables, dataclasses.replace(split, config_ids=(1, 5)))
    assert len({tables.content_hash, fewer.content_hash, other.content_hash}) == 3
    whole = dataclasses.replace(split, config_ids=None)
    assert restrict(tables, whole) is tables
    with pytest.raises(InputError, match="'c' has no value for any of its config_ids"):
        restrict(tables, dataclasses.replace(split, test=("c",)))
    with pytest.raises(InputError, match="configurations that collection 'c' does not have"):
        restrict(tables, dataclasses.replace(split, config_ids=(1, 2)))


@pytest.mark.parametrize(
    ("config_ids", "words"),
    [
        ("1", "must be a list of whole numbers"),
        ([1, 7.0], "must be a list of whole numbers"),
        ([True, 7], "must be a list of whole numbers"),
        ([1, 2], "unknown configuration 2"),
        ([1, 10**400], "unknown configuration 10000"),
        ([1, 1, 7], "different configurations, at least 2"),
        ([1], "at least 2"),
        ([], "at least 2"),
    ],
)
def test_bad_config_ids(tmp_path: Path, config_ids: Any, words: str) -> None:
    name = split_file(tmp_path, train=["a", "c"], test=["b"], config_ids=config_ids)
    with pytest.raises(InputError, match=words):
        make_split(small_tables(), name, 0)


# HPO-B


def test_hpob_split_and_starts_of_an_import(tmp_path: Path) -> None:
    path = import_collection("hpob", source(tmp_path / "raw"), tmp_path / "out", space="6766")
    tables = load_tables(path)
    split = make_split(tables, "hpob", 0)
    assert (split.train, split.validation, split.test) == (TRAIN, VALIDATION, TEST)
    assert split == make_split(tables, "hpob", 0, validation_fraction=0.5, seed=3)
    starts = json.loads((path / STARTS_FILE).read_text())
    assert list(starts) == list(TEST)
    configs = read_collection(path).configs.set_index("config_id")
    content = hpob_examples.hpob_files()["meta-test-dataset.json"]["6766"]
    for dataset, given_rows in hpob_examples.initializations()["6766"].items():
        for seed, name in enumerate(hpob_examples.SEEDS):
            if dataset in TEST:
                encodings = configs.loc[starts[dataset][seed]].to_numpy()
                np.testing.assert_array_equal(encodings, [content[dataset]["X"][r] for r in given_rows[name]])


def test_hpob_without_validation_takes_it_from_training(tmp_path: Path) -> None:
    files = hpob_examples.hpob_files()
    del files["meta-validation-dataset.json"]
    path = import_collection("hpob", written(tmp_path / "raw", files), tmp_path / "out", space="5971")
    split = make_split(load_tables(path), "hpob", 0)
    assert len(split.validation) == 1
    assert {*split.train, *split.validation} == set(TRAIN)
    assert not (path / STARTS_FILE).exists()


def test_hpob_split_needs_the_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs tasks with the column 'part'"):
        make_split(small_tables(), "hpob", 0)
    odd = dataclasses.replace(
        small_tables(), metafeature_names=("part",), metafeatures=np.array([[0], [2], [5]])
    )
    with pytest.raises(InputError, match="'c' has part 5"):
        make_split(odd, "hpob", 0)
    odd = dataclasses.replace(odd, metafeatures=np.array([[0], [2], [1]]), groups=("a", "b", "b"))
    with pytest.raises(InputError, match=r"'c' \(validation\) and 'b' \(test\) are of the group 'b'"):
        make_split(odd, "hpob", 0)
    one = written(tmp_path, {"meta-test-dataset.json": hpob_examples.hpob_files()["meta-test-dataset.json"]})
    path = import_collection("hpob", one, tmp_path / "out", space="5971")
    with pytest.raises(InputError, match="no task on the train side"):
        make_split(load_tables(path), "hpob", 0, validation_fraction=0.0)


def test_all_spaces_at_once(tmp_path: Path) -> None:
    made = import_hpob_spaces(source(tmp_path / "raw"), tmp_path / "all")
    assert [path.name for path in made] == ["hpob_5971", "hpob_6766"]
    for path in made:
        alone = import_collection("hpob", tmp_path / "raw", tmp_path / path.name, space=path.name[5:])
        assert {file.name for file in path.iterdir()} == {file.name for file in alone.iterdir()}
        for file in alone.iterdir():
            assert file.read_bytes() == (path / file.name).read_bytes()
    with pytest.raises(InputError, match="hpob_5971 exists already"):
        import_hpob_spaces(tmp_path / "raw", tmp_path / "all")
    assert import_hpob_spaces(tmp_path / "raw", tmp_path / "all", overwrite=True) == made


def test_a_fault_in_one_space_leaves_nothing_behind(tmp_path: Path) -> None:
    files = hpob_examples.hpob_files()
    files["meta-train-dataset.json"]["6766"]["10"]["y"] = [[0.5]] * hpob_examples.ROWS
    folder = written(tmp_path / "raw", files)
    with pytest.raises(InputError, match=r"space '6766': .*constant surface"):
        import_hpob_spaces(folder, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    made = import_hpob_spaces(folder, tmp_path / "all", repair="uninformative-task-dropped")
    assert list(load_tables(made[1]).tasks) == [*TRAIN[1:], *VALIDATION, *TEST]
    files["meta-train-dataset.json"]["../out"] = files["meta-train-dataset.json"].pop("5971")
    with pytest.raises(InputError, match="must be 1-100 letters"):
        import_hpob_spaces(written(tmp_path / "raw", files), tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "the file must be an object"),
        ('{"5971": 1}', "space '5971' must be an object"),
        ('{"5971": {"37": [0]}}', "dataset '37' must be an object"),
        ('{"5971": {"37": {}}}', "test0, test1, .. without a gap"),
        ('{"5971": {"37": {"seed": [0]}}}', "'seed' is no seed"),
        ('{"5971": {"37": {"test1": [0]}}}', "without a gap"),
        ('{"5971": {"37": {"test0": [0], "test00": [0]}}}', "'test00' is no seed"),
        ('{"5971": {"37": {"test0": []}}}', "list of rows"),
        ('{"5971": {"37": {"test0": [0.5]}}}', "list of rows"),
        ('{"5971": {"37": {"test0": [-1]}}}', "list of rows"),
        ('{"5971": {"37": {"test0": [true]}}}', "list of rows"),
        ('{"5971": {"37": {"test0": [1, 1]}}}', "a row stands twice"),
        ('{"5971": {"37": {"test0": [25]}}}', "row 25, but the dataset has the rows 0 to 24"),
        ('{"5971": {"37": {"test0": [4, 24]}}}', "two rows are the same configuration"),
        ('{"5971": {"3": {"test0": [7]}}}', "row 7 has no value"),
        ('{"5971": {}} {', "more after the end"),
    ],
)
def test_bad_initializations(tmp_path: Path, content: str, words: str) -> None:
    folder = written(tmp_path / "raw", {**hpob_examples.hpob_files(), "bo-initializations.json": content})
    with pytest.raises(InputError, match=words):
        import_collection("hpob", folder, tmp_path / "out", space="5971")
    assert not (tmp_path / "out").exists()


def test_rows_may_be_lists_of_one(tmp_path: Path) -> None:
    content = '{"5971": {"37": {"test1": [[3], [0]], "test0": [2, 1]}}, "1": {}}'
    (tmp_path / "some.json").write_text(content)
    assert read_initializations(tmp_path / "some.json") == {"5971": {"37": ((2, 1), (3, 0))}, "1": {}}


_names = st.sampled_from(["5971", "37", "test0", "test1", "x"])
_leaves = st.none() | st.integers(-2, 30) | st.lists(st.integers(-2, 30), max_size=4) | st.text(max_size=3)
_nested = st.recursive(_leaves, lambda inner: st.dictionaries(_names, inner, max_size=3), max_leaves=8)


@settings(suppress_health_check=list(HealthCheck))
@given(st.text(max_size=100) | st.binary(max_size=50) | _nested.map(json.dumps))
def test_any_initializations_are_answered(tmp_path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    (tmp_path / "any.json").write_bytes(raw)
    try:
        spaces = read_initializations(tmp_path / "any.json")
    except InputError:
        return
    for rows in spaces.values():
        for seeds in rows.values():
            assert all(len(set(one)) == len(one) > 0 and min(one) >= 0 for one in seeds)
