"""Evaluations on disk: round trips, atomic replacement, damaged and hostile files, tables and pictures."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import (
    COLUMNS,
    Played,
    console_table,
    markdown_table,
    read_evaluation,
    read_summary,
    read_trajectories,
    report,
    summarize,
    trajectories,
    write_evaluation,
)
from hyprl_jax.evaluation.plots import regret_figure, render
from hyprl_jax.evaluation.scales import spread
from hyprl_jax.evaluation.table import quoted_trials

FILES = {
    "trajectories.parquet",
    "summary.json",
    "table.md",
    "regret.png",
    "regret.svg",
    "rank.png",
    "rank.svg",
}


@dataclass(frozen=True)
class Tables:
    collection: str
    direction: str
    tasks: tuple[str, ...]
    config_ids: np.ndarray
    objective: np.ndarray
    cost: np.ndarray


def play(methods: tuple[str, ...] = ("policy", "random"), trials: int = 12, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    objective = rng.random((3, 10))
    tables = Tables("c", "minimize", ("x", "y", "z"), np.arange(10), objective, np.full((3, 10), np.nan))
    played = []
    for place, method in enumerate(methods):
        orders = np.argsort(objective + (0.2 + place) * rng.random((2, 3, 10)), axis=-1).transpose(1, 0, 2)
        actions = np.full((3, 2, trials), -1)
        actions[..., :10] = orders[..., :trials]
        played.append(Played(method, actions, (0, 1), 0.001 * (place + 1)))
    return trajectories(tables, tables.tasks, played)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return play()


@pytest.fixture(scope="module")
def summary(frame: pd.DataFrame) -> dict[str, Any]:
    return summarize(frame, split="loo", fold=1, resamples=100)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, frame: pd.DataFrame, summary: dict[str, Any]) -> Path:
    return write_evaluation(tmp_path_factory.mktemp("out") / "deep" / "evaluation", frame, summary)


def test_round_trip_is_exact(written: Path, frame: pd.DataFrame, summary: dict[str, Any]) -> None:
    assert {path.name for path in written.iterdir()} == FILES
    assert [path.name for path in written.parent.iterdir()] == ["evaluation"]
    found, figures = read_evaluation(written)
    pd.testing.assert_frame_equal(found, frame)
    assert figures == summary


def test_unknown_numbers_are_null_in_the_file_for_every_reader(written: Path) -> None:
    table = pq.read_table(written / "trajectories.parquet")
    assert table.schema.names == list(COLUMNS)
    assert table.column("cost").null_count == len(table)
    assert (
        table.column("config_id").null_count == 2 * 3 * 2 * 2
    )  # methods, tasks, seeds, trials beyond the table
    assert table.schema.metadata is None
    json.loads((written / "summary.json").read_text(), parse_constant=pytest.fail)


def test_pictures_are_not_blank_and_repeat(written: Path, summary: dict[str, Any]) -> None:
    for name in ("regret.png", "rank.png"):
        pixels = imread(written / name)[..., :3]
        assert pixels.shape[0] > 400
        assert pixels.shape[1] > 700
        inked = (pixels < 0.9).any(axis=-1)
        assert 0.005 < inked.mean() < 0.5
        assert len(np.unique((pixels * 255).astype(int).reshape(-1, 3), axis=0)) > 20
    for name in ("regret.svg", "rank.svg"):
        text = (written / name).read_text()
        assert text.lstrip().startswith("<?xml")
        assert "#0072b2" in text.lower()
    assert render(regret_figure(summary))["svg"] == (written / "regret.svg").read_bytes()
    assert render(regret_figure(summary))["png"] == (written / "regret.png").read_bytes()


@pytest.mark.parametrize("trials", [1, 2, 12])
@pytest.mark.parametrize("methods", [1, 20])
def test_awkward_sizes_and_names_are_drawn(tmp_path: Path, trials: int, methods: int) -> None:
    names = tuple(f"m|{index} $a_b^ 方法 [bold] {'long ' * 9}" for index in range(methods))
    rows = play(names, trials)
    out = write_evaluation(tmp_path / "out", rows, summarize(rows, resamples=20))
    assert {path.name for path in out.iterdir()} == FILES


def test_perfect_methods_are_drawn_at_zero(frame: pd.DataFrame) -> None:
    perfect = frame.assign(normalized_regret=0.0)
    figure = regret_figure(summarize(perfect, resamples=20))
    assert "0" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_drawing_leaves_the_users_matplotlib_alone(summary: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    render(regret_figure(summary))
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before


@given(st.lists(st.floats(-50, 450), min_size=1, max_size=30))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    gap = min(13.0, 400.0 / len(wanted))
    placed = spread(np.array(wanted), gap, 400.0)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-9).all()
    assert placed.min() >= -1e-9
    assert placed.max() <= 400.0 + 1e-9


def test_table_has_every_method_best_first_and_bold(written: Path, summary: dict[str, Any]) -> None:
    text = (written / "table.md").read_text()
    assert text == markdown_table(summary)
    rows = [line for line in text.splitlines() if line.startswith(("| policy", "| random"))]
    assert [row.split()[1] for row in rows] == ["policy", "random"] * 3  # regret, rank, targets
    figures = summary["methods"]["policy"]
    low, high = figures["ci95"][4]
    assert f"**{figures['normalized_regret'][4]:.4f}** [{low:.3f}, {high:.3f}]" in rows[0]
    assert f"**{figures['rank'][4]:.2f}**" in rows[2]
    assert rows[0].count("|") == text.splitlines()[6].count("|")
    assert "# c, loo, fold 1: 3 tasks, 12 trials" in text
    assert "policy against random" in text


def test_names_cannot_break_the_table() -> None:
    rows = play(("a|b`*[x](y)", "plain"))
    line = next(
        line for line in markdown_table(summarize(rows, resamples=20)).splitlines() if "a\\|b" in line
    )
    assert len(re.findall(r"(?<!\\)\|", line)) == 8  # seven columns


def test_quoted_trials_exist() -> None:
    assert quoted_trials(1) == [1]
    assert quoted_trials(12) == [1, 5, 10, 12]
    assert quoted_trials(50) == [1, 5, 10, 20, 25, 50]


def test_console_table_shows_names_as_they_are() -> None:
    from rich.console import Console

    rows = play(("[red]x[/red]", "y"))
    console = Console(file=io.StringIO(), width=200)
    console.print(console_table(summarize(rows, resamples=20)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/red]" in text
    assert "trial 10" in text


def test_an_existing_folder_is_replaced_file_by_file(tmp_path: Path, frame: pd.DataFrame) -> None:
    out = tmp_path / "out"
    write_evaluation(out, frame, summarize(frame, resamples=20))
    (out / "notes.txt").write_text("mine")
    other = play(("only",), trials=4, seed=5)
    write_evaluation(out, other, summarize(other, resamples=20), plots=False)
    assert {path.name for path in out.iterdir()} == {
        "trajectories.parquet",
        "summary.json",
        "table.md",
        "notes.txt",
    }
    pd.testing.assert_frame_equal(read_evaluation(out)[0], other)


@pytest.mark.parametrize("function", ["markdown_table", "_sync"])
def test_a_failure_half_way_leaves_what_was_there(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    figures = summarize(frame, resamples=20)
    old = write_evaluation(tmp_path / "old", frame, figures)
    before = {path.name: path.read_bytes() for path in old.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(report, function, fail)
    for name in ("old", "new"):
        with pytest.raises(InputError, match="No space left on device"):
            write_evaluation(tmp_path / name, play(("other",)), summarize(play(("other",)), resamples=20))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_interrupted_replacement_is_noticed(
    tmp_path: Path, frame: pd.DataFrame, summary: dict[str, Any]
) -> None:
    out = write_evaluation(tmp_path / "out", frame, summary, plots=False)
    other = play(seed=3)
    new = write_evaluation(
        tmp_path / "new", other, summarize(other, split="loo", fold=1, resamples=100), plots=False
    )
    os.replace(new / "trajectories.parquet", out / "trajectories.parquet")
    with pytest.raises(InputError, match="regret differs from the trajectories"):
        read_evaluation(out)


def test_a_summary_of_something_else_is_not_written(tmp_path: Path, summary: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="other tasks, trials or methods"):
        write_evaluation(tmp_path / "out", play(trials=3), summary)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_the_users_mistake(
    tmp_path: Path, frame: pd.DataFrame, summary: dict[str, Any]
) -> None:
    (tmp_path / "out").write_text("a file")
    for out in (tmp_path / "out", tmp_path / "out" / "inside"):
        with pytest.raises(InputError):
            write_evaluation(out, frame, summary, plots=False)
    assert (tmp_path / "out").read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        b"not json",
        b"[" * 100_000,
        b"\xff\xfe",
        b"{}",
        b'{"trials": NaN}',
        b'{"trials": 1' + b"0" * 5000,
    ],
)
@pytest.mark.parametrize("name", ["trajectories.parquet", "summary.json"])
def test_garbage_is_refused_in_one_line(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    read = read_trajectories if name.endswith("parquet") else read_summary
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trajectories\.parquet"):
        read_evaluation(tmp_path)
    with pytest.raises(InputError, match=r"summary\.json"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("trial", None, "'trial' is missing"),
        ("trial", pa.nulls(144, pa.int64()), "'trial' holds nulls"),
        ("trial", pa.array([1.5] * 144), "not readable"),
        ("task", pa.nulls(144, pa.string()), "'task' must be text"),
        ("task", pa.array([{"a": 1}] * 144), "not readable"),
        ("normalized_regret", pa.array([2.0] * 144), "not within 0 and 1"),
        ("cost", pa.array([b"x"] * 144), "not readable"),
    ],
)
def test_hostile_columns_are_refused(
    tmp_path: Path, written: Path, column: str, values: pa.Array | None, reason: str
) -> None:
    table = pq.read_table(written / "trajectories.parquet")
    place = table.schema.get_field_index(column)
    table = table.remove_column(place) if values is None else table.set_column(place, column, values)
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=reason):
        read_trajectories(tmp_path / "t.parquet")


def test_other_writers_types_and_more_columns_are_read(
    tmp_path: Path, written: Path, frame: pd.DataFrame
) -> None:
    table = pq.read_table(written / "trajectories.parquet")
    table = table.set_column(0, "method", table.column("method").dictionary_encode())
    table = table.set_column(4, "trial", table.column("trial").cast(pa.int16())).append_column(
        "x", [[0] * len(table)]
    )
    pq.write_table(table, tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_trajectories(tmp_path / "t.parquet"), frame)


def test_too_many_rows_are_not_even_loaded(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_ROWS", 10)
    with pytest.raises(InputError, match="too many"):
        read_trajectories(written / "trajectories.parquet")
    monkeypatch.setattr(report, "MAX_SUMMARY_BYTES", 10)
    with pytest.raises(InputError, match="larger than 10 bytes"):
        read_summary(written / "summary.json")


@pytest.mark.parametrize("name", ["trajectories.parquet", "summary.json"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_or_missing_bytes_never_pass_unnoticed(
    tmp_path: Path,
    written: Path,
    frame: pd.DataFrame,
    summary: dict[str, Any],
    name: str,
    data: st.DataObject,
) -> None:
    """Damage gives a one-line error, or leaves every value as it was (unused bytes, white space)."""
    content = bytearray((written / name).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / name).write_bytes(content)
    try:
        found = (
            read_trajectories(tmp_path / name) if name.endswith("parquet") else read_summary(tmp_path / name)
        )
    except InputError as error:
        assert "\n" not in str(error)
    else:
        if isinstance(found, pd.DataFrame):
            assert list(found.columns) == list(COLUMNS)
            assert len(found) == len(frame)
        else:
            assert set(found) >= set(summary)
