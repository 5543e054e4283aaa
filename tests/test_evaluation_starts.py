"""Starting points: the same draws everywhere, and files that are not trusted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hpob_examples import FIRST, TEST, initializations, source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.starts import random_starts, read_starts, starts_for
from hyprl_jax.surfaces import TaskTables, import_collection, load_tables
from hyprl_jax.surfaces.protocols import STARTS_FILE


def tables_of(objective: np.ndarray, config_ids: list[int] | None = None) -> TaskTables:
    tasks, configs = objective.shape
    return TaskTables(
        collection="c",
        content_hash="0",
        direction="maximize",
        tasks=tuple(f"t{number}" for number in range(tasks)),
        groups=tuple(f"t{number}" for number in range(tasks)),
        config_ids=np.array(config_ids if config_ids is not None else range(configs)),
        encodings=np.zeros((configs, 1), np.float32),
        feature_names=("x",),
        objective=objective,
        cost=np.full(objective.shape, np.nan),
        metafeatures=np.zeros((tasks, 0)),
        metafeature_names=(),
    )


PLAIN = tables_of(np.random.default_rng(0).random((3, 10)))
GAPS = tables_of(np.array([[0.0, np.nan, 1.0, 2.0], [np.nan, 1.0, 2.0, np.nan]]), [5, 6, 8, 2])

# Random ones


def test_draws_do_not_depend_on_the_machine() -> None:
    """Recorded figures: a change here would break the comparison with every earlier result."""
    assert random_starts(PLAIN, ["t0", "t2"], [0, 7], 3).tolist() == [
        [[7, 8, 4], [5, 4, 0]],
        [[9, 5, 7], [1, 5, 6]],
    ]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 20), st.data())
def test_starts_are_legal_and_distinct(seed: int, configs: int, number: int, data: st.DataObject) -> None:
    known = data.draw(st.lists(st.booleans(), min_size=configs, max_size=configs))
    ids = data.draw(st.permutations(range(configs)))
    values = np.where(known, np.arange(float(configs)), np.nan)[None]
    tables = tables_of(values, ids)
    if sum(known) < number:
        with pytest.raises(InputError, match=rf"'t0' has {sum(known)} configurations, so no {number}"):
            random_starts(tables, ["t0"], [seed], number)
        return
    starts = random_starts(tables, ["t0"], [seed, seed + 1], number)
    assert starts.shape == (1, 2, number)
    for run in starts[0]:
        assert len(set(run.tolist())) == number
        assert not np.isnan(values[0, run]).any()
    fewer = random_starts(tables, ["t0"], [seed, seed + 1], max(1, number // 2))
    np.testing.assert_array_equal(fewer, starts[..., : fewer.shape[2]])
    order = np.argsort(ids)  # the same configurations in another order of columns
    sorted_tables = tables_of(values[:, order], sorted(ids))
    again = random_starts(sorted_tables, ["t0"], [seed, seed + 1], number)
    np.testing.assert_array_equal(tables.config_ids[starts], sorted_tables.config_ids[again])


def test_other_tasks_and_seeds_do_not_matter() -> None:
    some = random_starts(PLAIN, ["t2"], [3], 4)
    np.testing.assert_array_equal(random_starts(PLAIN, ["t0", "t2"], [1, 3], 4)[1:, 1:], some)
    assert random_starts(PLAIN, ["t0"], [3], 4).tolist() != some.tolist()


def test_draws_are_uniform() -> None:
    """Every pair of 5 configurations in each order about equally often: 20 pairs, 4000 draws."""
    tables = tables_of(np.zeros((1, 5)) + np.arange(5))
    drawn = random_starts(tables, ["t0"], range(4000), 2)[0]
    counts = np.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25)
    assert (counts[::6] == 0).all()
    others = np.delete(counts, np.arange(0, 25, 6))
    assert abs(others - 200).max() < 75  # five standard deviations


def test_bad_wishes_for_random_starts() -> None:
    with pytest.raises(InputError, match="give at least 1"):
        random_starts(PLAIN, ["t0"], [0], 0)
    with pytest.raises(InputError, match="'nobody' is not in collection 'c'"):
        random_starts(PLAIN, ["nobody"], [0], 1)


# Files


def written(folder: Path, content: Any) -> Path:
    path = folder / "starts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_starts_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"t1": [[6, 8], [8, 6]], "t0": [[5, 2], [2, 8]], "other": 3})
    starts = read_starts(path, GAPS, ["t0", "t1"], [0, 1])
    assert starts.tolist() == [[[0, 3], [3, 2]], [[1, 2], [2, 1]]]
    assert read_starts(path, GAPS, ["t1"], [1]).tolist() == [[[2, 1]]]
    assert starts_for(str(path), "c", GAPS, ["t1"], [1], 2).tolist() == [[[2, 1]]]
    with pytest.raises(InputError, match="2 starting points do not fit into 1 trials"):
        starts_for(str(path), "c", GAPS, ["t1"], [1], 1)
    assert starts_for("3", "c", PLAIN, ["t0"], [0]).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ([], "must be an object"),
        ({}, "no list of starting points for the task 't0'"),
        ({"t0": 1}, "no list of starting points"),
        ({"t0": [[5]]}, "seeds 0 to 0, not for 1"),
        ({"t0": []}, "not for 0"),
        ({"t0": [5, 8]}, "list of config ids"),
        ({"t0": [[5], [True]]}, "list of config ids"),
        ({"t0": [[5], [5.0]]}, "list of config ids"),
        ({"t0": [[5], []]}, "list of config ids"),
        ({"t0": [[5], [5, 5]]}, "stands twice"),
        ({"t0": [[5], [7]]}, "configuration 7 is none of those"),
        ({"t0": [[5], [10**500]]}, "is none of those"),
        ({"t0": [[5], [6]]}, "configuration 6 has no result on this task"),
        ({"t0": [[5], [5, 8]]}, "lists of 1 to 2 configurations"),
        ({"5971": {"37": {"test0": [1]}}}, "this is the file of HPO-B"),
    ],
)
def test_bad_files_of_starts(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_starts(written(tmp_path, content), GAPS, ["t0"], [0, 1])


def test_missing_and_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_starts(tmp_path / "none.json", GAPS, ["t0"], [0])
    with pytest.raises(InputError, match="seeds 0 to 0, not for -1"):
        read_starts(written(tmp_path, {"t0": [[5]]}), GAPS, ["t0"], [-1])
    monkeypatch.setattr("hyprl_jax.evaluation.starts.MAX_BYTES", 5)
    with pytest.raises(InputError, match="too large"):
        read_starts(tmp_path / "starts.json", GAPS, ["t0"], [0])


_ids = st.lists(st.sampled_from([5, 6, 8, 2, 9]) | st.none() | st.floats(), max_size=3)
_files = st.dictionaries(st.sampled_from(["t0", "t1", "x"]), st.lists(_ids, max_size=3) | st.integers())


@settings(suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60) | _files.map(lambda content: json.dumps(content).encode()))
def test_any_file_of_starts_is_answered(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.json").write_bytes(content)
    try:
        starts = read_starts(tmp_path / "any.json", GAPS, ["t0", "t1"], [0, 1])
    except InputError:
        return
    assert starts.shape[:2] == (2, 2)
    assert not np.isnan(GAPS.objective[np.arange(2)[:, None, None], starts]).any()


# HPO-B


def test_published_starts_of_an_imported_space(tmp_path: Path) -> None:
    path = import_collection("hpob", source(tmp_path / "raw"), tmp_path / "out", space="5971")
    tables = load_tables(path)
    starts = starts_for("published", path, tables, TEST, (0, 1, 4))
    assert starts.shape == (len(TEST), 3, FIRST)
    content = json.loads((tmp_path / "raw" / "meta-test-dataset.json").read_text())["5971"]
    for place, task in enumerate(TEST):
        for run, seed in enumerate((0, 1, 4)):
            rows = initializations()["5971"][task][f"test{seed}"]
            values = [content[task]["y"][row][0] for row in rows]
            row = tables.tasks.index(task)
            np.testing.assert_array_equal(tables.objective[row, starts[place, run]], values)
    with pytest.raises(InputError, match="no list of starting points for the task '10'"):
        starts_for("published", path, tables, ["10"], [0])
    with pytest.raises(InputError, match="seeds 0 to 4, not for 5"):
        starts_for("published", path, tables, TEST, [5])
    (path / STARTS_FILE).unlink()
    with pytest.raises(InputError, match="no published starting points"):
        starts_for("published", path, dataclasses.replace(tables), TEST, [0])
