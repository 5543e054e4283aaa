"""Published results: the way from HPO-B's files to ranks beside our own, and files that are not trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hpob_examples
import numpy as np
import pandas as pd
import pytest
from hpob_examples import FIRST, TEST, chosen_rows, hpob_files, results, source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import COLUMNS, Played, compare, summarize, trajectories
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.evaluation.published import hpob_space, published_trajectories, read_published
from hyprl_jax.evaluation.starts import random_starts, starts_for
from hyprl_jax.surfaces import TaskTables, import_hpob_spaces, load_tables, make_split

TRIALS = 12  # after the starting points
SEEDS = (0, 1, 2, 3, 4)
SPACES = ("5971", "6766")


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hpob")
    made = import_hpob_spaces(source(folder / "raw"), folder / "collections")
    return dict(zip(SPACES, made, strict=True))


def begun(path: Path) -> tuple[TaskTables, np.ndarray]:
    tables = load_tables(path)
    return tables, starts_for("published", path, tables, TEST, SEEDS)


def saved(folder: Path, content: Any, name: str = "results.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def played(tables: TaskTables, space: str, method: int, trials: int = TRIALS) -> Played:
    """The method of `chosen_rows`, as our own evaluation would have it."""
    place = {tuple(row): column for column, row in enumerate(tables.encodings.tolist())}
    content = hpob_files()["meta-test-dataset.json"][space]
    encodings = {task: np.array(content[task]["X"], np.float32) for task in TEST}
    runs = [
        [
            [
                place[tuple(encodings[task][row].tolist())]
                for row in chosen_rows(space, task, f"test{seed}", trials, method)
            ]
            for seed in SEEDS
        ]
        for task in TEST
    ]
    return Played("ours", np.array(runs), SEEDS)


@pytest.mark.parametrize("space", SPACES)
def test_a_published_curve_is_that_of_the_same_trials_played_here(
    collections: dict[str, Path], tmp_path: Path, space: str
) -> None:
    tables, starts = begun(collections[space])
    own = trajectories(tables, TEST, played(tables, space, 0))
    published = read_published(saved(tmp_path, results(TRIALS)))
    frame = published_trajectories(published, "theirs", tables, TEST, SEEDS, starts, space=space)
    assert list(frame.columns) == list(COLUMNS)
    assert frame.dtypes.astype(str).to_dict() == {name: str(own.dtypes[name]) for name in COLUMNS}
    assert frame["config_id"].isna().all()
    assert frame["objective"].isna().all()
    assert frame["suggest_seconds"].isna().all()
    for column in ("collection", "task", "seed", "trial", "normalized_regret"):
        assert frame[column].tolist() == own[column].tolist(), column  # ties must be ties, to the last bit
    np.testing.assert_allclose(frame["incumbent"], own["incumbent"], rtol=1e-12)
    shorter = published_trajectories(published, "theirs", tables, TEST, SEEDS, starts, FIRST + 3, space)
    longer = frame[frame["trial"] <= FIRST + 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(shorter, longer)


def test_ranks_of_published_and_own_methods_over_all_spaces(
    collections: dict[str, Path], tmp_path: Path
) -> None:
    """Import, split, starts, our methods, published ones, ranks."""
    files = {"same": saved(tmp_path, results(TRIALS)), "other": saved(tmp_path, results(TRIALS, 1), "b.json")}
    frames = []
    for space, path in collections.items():
        tables, starts = begun(path)
        split = make_split(tables, "hpob", 0)
        assert split.test == TEST
        assert hpob_space(path) == space
        mine = play_methods(["mean_list", "random"], tables, split, FIRST + TRIALS, SEEDS, starts=starts)
        np.testing.assert_array_equal([one.actions[..., :FIRST] for one in mine], [starts, starts])
        frames.append(trajectories(tables, split.test, [*mine, played(tables, space, 0)]))
        for name, file in files.items():
            parts = (read_published(file), name, tables, TEST, SEEDS, starts, FIRST + TRIALS, space)
            frames.append(published_trajectories(*parts))
    comparison = compare(frames)
    assert comparison.methods == ("mean_list", "random", "ours", "same", "other")
    assert (len(comparison.tasks), comparison.trials) == (4, FIRST + TRIALS)
    summary = summarize(frames, "hpob")["methods"]
    assert summary["ours"]["rank"] == summary["same"]["rank"]
    assert [summary[name]["rank"][:FIRST] for name in summary] == [[3.0] * FIRST] * 5  # all start alike
    assert summary["other"]["rank"][-1] != 3.0


def test_what_does_not_belong_together_is_refused(collections: dict[str, Path], tmp_path: Path) -> None:
    tables, starts = begun(collections["5971"])
    published = read_published(saved(tmp_path, results(TRIALS)))

    def refused(words: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {"tasks": TEST, "seeds": SEEDS, "starts": starts, "space": "5971"}
        with pytest.raises(InputError, match=words):
            published_trajectories(published, "theirs", tables, **{**arguments, **changes})

    refused("play with starting points", starts=None)
    refused(r"shape \[2, 5, 5\], not \[1 tasks", tasks=TEST[:1])
    refused("have the shape", starts=starts[0])
    refused("belongs to other starting points", starts=random_starts(tables, TEST, [9] * 5, FIRST))
    refused("belongs to other starting points", starts=starts[:, ::-1])
    refused("belongs to other starting points|begins with a regret", space="6766")
    refused("the spaces 5971, 6766 have these tasks; say which", space=None)
    refused("no search space '1'; there are 5971, 6766", space="1")
    refused("no result for the task 'x' in space '5971'", tasks=("37", "x"))
    refused(r"no result for seed 5 \(test5\)", seeds=(0, 1, 2, 3, 5))
    refused("has the trials 5 to 17; 18 trials cannot", trials=18)
    refused("has the trials 5 to 17; 4 trials cannot", trials=4)
    with pytest.raises(InputError, match="method name"):
        published_trajectories(published, "", tables, TEST, SEEDS, starts)


def test_gaps_in_the_table_and_unknown_tasks(collections: dict[str, Path]) -> None:
    tables = load_tables(collections["5971"])
    published = {"5971": {task: {0: np.array([0.5, 1.0])} for task in (*TEST, "x")}}
    unknown = np.flatnonzero(np.isnan(tables.objective[tables.tasks.index("37")]))[0]
    gap = np.full((1, 1, 1), unknown)
    with pytest.raises(InputError, match="a starting point has no result"):
        published_trajectories(published, "theirs", tables, ["37"], [0], gap)
    with pytest.raises(InputError, match="task 'x' is not in collection"):
        published_trajectories(published, "theirs", tables, ["x"], [0], gap)


def test_rounded_numbers_are_the_values_of_the_table(collections: dict[str, Path], tmp_path: Path) -> None:
    """Eight digits are what HPO-B's authors compare; curves that go down by a rounding error are mended."""
    tables, starts = begun(collections["5971"])
    exact = results(TRIALS)
    rounded = {
        space: {
            task: {seed: [round(one, 8) for one in curve] for seed, curve in seeds.items()}
            for task, seeds in datasets.items()
        }
        for space, datasets in exact.items()
    }
    rounded["5971"]["37"]["test0"][-1] -= 1e-8
    frames = [
        published_trajectories(
            read_published(saved(tmp_path, one)), "m", tables, TEST, SEEDS, starts, space="5971"
        )
        for one in (exact, rounded)
    ]
    assert frames[0]["normalized_regret"].tolist() == frames[1]["normalized_regret"].tolist()


def test_a_collection_that_is_not_of_hpob(tmp_path: Path, repository: Path) -> None:
    assert hpob_space(repository / "meta_data" / "svm") is None
    with pytest.raises(InputError):
        hpob_space(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not of this form|not valid JSON"),
        ("[]", "the file must be an object"),
        ('{"a": {"b": []}}', "dataset 'b' must be an object"),
        ('{"a": {"b": {"seed 0": [0.5]}}}', "'seed 0' is no seed"),
        ('{"a": {"b": {"test0": [0.5], "test00": [0.5]}}}', "'test00' is no seed"),
        ('{"a": {"b": {"test0": [0.5], "test0": [0.5]}}}', "holds 'test0' twice"),
        ('{"a": {"b": {"test0": 0.5}}}', "test0: must be a list of incumbents"),
        ('{"a": {"b": {"test0": []}}}', "must be a list of incumbents"),
        ('{"a": {"b": {"test0": ["0.5"]}}}', "must be a list of incumbents"),
        ('{"a": {"b": {"test0": [true]}}}', "must be a list of incumbents"),
        ('{"a": {"b": {"test0": [NaN]}}}', "NaN is not JSON"),
        ('{"a": {"b": {"test0": [1e999]}}}', "must be a list of incumbents"),
        ('{"a": {"b": {"test0": [0.5, 1.01]}}}', r"1.01 \(number 1\) is not within 0 and 1"),
        ('{"a": {"b": {"test0": [-0.01]}}}', "not within 0 and 1"),
        ('{"a": {"b": {"test0": [0.9, 0.8]}}}', r"falls after number 0.*are they regrets\?"),
        ('{"a": {"b": {"test0": [0.5]}}} 1', "more after the end"),
    ],
)
def test_bad_result_files(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_published(saved(tmp_path, content))


def test_missing_and_large_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_published(tmp_path / "none.json")
    monkeypatch.setattr("hyprl_jax.evaluation.published.MAX_BYTES", 5)
    with pytest.raises(InputError, match="larger than"):
        read_published(saved(tmp_path, results(1)))


_curve = st.lists(st.floats(-0.1, 1.1) | st.integers(0, 1) | st.none(), max_size=4) | st.text(max_size=2)
_content = st.dictionaries(
    st.sampled_from(["5971", "b"]),
    st.dictionaries(st.sampled_from(TEST), st.dictionaries(st.sampled_from(hpob_examples.SEEDS), _curve)),
)


@settings(suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60) | _content.map(lambda content: json.dumps(content).encode()))
def test_any_result_file_is_answered(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.json").write_bytes(content)
    try:
        published = read_published(tmp_path / "any.json")
    except InputError:
        return
    for datasets in published.values():
        for seeds in datasets.values():
            for curve in seeds.values():
                assert len(curve)
                assert (np.diff(curve) >= 0).all()
                assert ((curve >= 0) & (curve <= 1)).all()


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8).map(sorted), st.integers(0, 3))
def test_any_curve_gives_trajectories_that_can_be_compared(curve: list[float], worst: int) -> None:
    """Whatever the file holds, regrets stay in [0, 1] and never rise."""
    values = np.array([[0.0, 0.25, 0.5, 1.0]])
    tables = TaskTables(
        "c",
        "0",
        "maximize",
        ("a",),
        ("a",),
        np.arange(4),
        np.zeros((4, 1), np.float32),
        ("x",),
        values,
        values,
        np.zeros((1, 0)),
        (),
    )
    numbers = np.maximum.accumulate([values[0, worst], *curve])
    frame = published_trajectories(
        {"s": {"a": {0: numbers}}}, "m", tables, ["a"], [0], np.full((1, 1, 1), worst)
    )
    comparison = compare(frame)
    np.testing.assert_allclose(comparison.regret[0][0, 0], 1.0 - numbers, atol=1e-6)
