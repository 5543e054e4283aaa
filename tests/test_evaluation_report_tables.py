"""Tables for papers, consoles and READMEs, pictures of a report, and reports made later."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from page_examples import HOSTILE_METHODS, HOSTILE_TASKS, PROVENANCE, failure, study, without_later_figures
from rich.console import Console

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import (
    console_table,
    markdown_table,
    read_evaluation,
    rebuild_report,
    report,
    summarize,
    write_evaluation,
)
from hyprl_jax.evaluation.comparison import compare
from hyprl_jax.evaluation.diagrams import document_figures
from hyprl_jax.evaluation.findings import best_last, focus_method, middle_trial, rank_diagram
from hyprl_jax.evaluation.latex import escaped, latex_table
from hyprl_jax.evaluation.plots import render
from hyprl_jax.evaluation.scales import duration, fitted, log_ticks, text_width, trial_ticks

REPORT_FILES = {
    "trajectories.parquet", "summary.json", "table.md", "table.tex", "report.html",
    "regret.png", "regret.svg", "rank.png", "rank.svg", "tasks.png", "tasks.svg", "speed.png", "speed.svg",
    "critical_difference.png", "critical_difference.svg",
}  # fmt: skip


def printed(summary: dict[str, Any], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(console_table(summary))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 240])
@pytest.mark.parametrize("trials", [1, 25, 300])
@pytest.mark.parametrize(
    "methods", [("a", "b"), tuple(f"a method with a rather long name {i}" for i in range(22))]
)
def test_the_console_table_fits(width: int, trials: int, methods: tuple[str, ...]) -> None:
    _, summary = study(methods, ("x", "y"), trials, seeds=1)
    lines = printed(summary, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert f"trial {trials}" in text
    assert sum(line.startswith("│") for line in lines) == len(methods)
    if width >= 80:
        assert "mean" in text
        assert "…" not in text or len(methods) > 2


def test_more_columns_on_wider_consoles() -> None:
    _, summary = study(trials=60)
    heads = [re.findall(r"trial (\d+)", "\n".join(printed(summary, width)[1:4])) for width in (60, 80, 240)]
    assert [len(head) for head in heads] == sorted(len(head) for head in heads)
    assert heads[1] == ["25", "60"]
    assert heads[2] == ["1", "5", "10", "20", "25", "50", "60"]


def test_markdown_says_what_is_new_and_nothing_that_is_unknown() -> None:
    _, summary = study(collections=2, failures=[failure("random", "a")] * 2, provenance=PROVENANCE)
    text = markdown_table(summary)
    for heading in ("Time to target", "Collections", "Failures", "Command"):
        assert text.count(f"## {heading}\n") == 1
    assert "random 2" in text
    assert f"    {PROVENANCE['command']}\n" in text
    old = markdown_table(without_later_figures(summary))
    assert [line for line in old.splitlines() if line.startswith("##")] == [
        "## Normalized regret", "## Average rank", "## Tests",
    ]  # fmt: skip
    assert len(text.splitlines()) < 70


def test_latex_has_a_row_for_each_method_and_bold_bests() -> None:
    _, summary = study(trials=60)
    text = latex_table(summary)
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "method" not in line]
    assert [row.split("&")[0].strip() for row in rows] == ["portfolio", "policy", "random"]
    assert len({row.count("&") for row in text.splitlines() if row.endswith(r"\\")}) == 1
    best = min(figures["rank"][-1] for figures in summary["methods"].values())
    assert f"\\textbf{{{best:.2f}}}" in text
    low, high = summary["methods"]["policy"]["ci95"][-1]
    assert f"{{\\scriptsize[{low:.3f}, {high:.3f}]}}" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"95\% bootstrap" in text


@given(st.text(max_size=40))
def test_names_cannot_command_latex(text: str) -> None:
    result = escaped(text)
    assert "\n" not in result
    left = re.sub(
        r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", result
    )
    left = re.sub(r"\\(textquotedbl|textquotesingle|textasciigrave)\{\}|\\[{}$&#%_]|\{[-\[\]]\}", "", left)
    assert not re.search(r"[\\{}$&#%_~^\[\]]", left)


def test_hostile_names_in_every_table() -> None:
    frame, summary = study(HOSTILE_METHODS, HOSTILE_TASKS, failures=[failure(HOSTILE_METHODS[1], "t")])
    assert len(latex_table(summary).splitlines()) == 12 + len(HOSTILE_METHODS)
    assert "\\input{" not in latex_table(summary)
    markdown_table(summary)
    assert max(map(len, printed(summary, 80))) <= 80
    figures = document_figures(summary, compare(frame))
    assert set(figures) == {"critical_difference", "tasks", "speed"}
    for figure in figures.values():
        assert render(figure)["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(("methods", "trials"), [(1, 1), (2, 30), (3, 1), (21, 30)])
def test_pictures_are_not_blank_and_repeat(methods: int, trials: int) -> None:
    names = tuple(f"method {index}" for index in range(methods))
    frame, summary = study(names, trials=trials)
    first, second = (document_figures(summary, compare(frame)) for _ in range(2))
    assert set(first) == (
        {"speed"}
        | ({"tasks"} if methods > 1 else set())
        | ({"critical_difference"} if methods > 2 else set())
    )
    for stem, figure in first.items():
        content = render(figure)["png"]
        assert content == render(second[stem])["png"]
        pixels = imread(io.BytesIO(content))[..., :3]
        assert 0.002 < (pixels < 0.9).any(axis=-1).mean() < 0.8


def test_a_report_is_written_with_everything_and_replaced_with_less(tmp_path: Path) -> None:
    frame, summary = study(trials=4)
    out = write_evaluation(tmp_path / "out", frame, summary, report=True)
    assert {path.name for path in out.iterdir()} == REPORT_FILES
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert read_evaluation(out)[1] == summary
    write_evaluation(out, frame, summary, plots=False, report=True)
    plain = {"trajectories.parquet", "summary.json", "table.md"}
    assert {path.name for path in out.iterdir()} == plain | {"table.tex", "report.html"}
    write_evaluation(out, frame, summary, plots=False)
    assert {path.name for path in out.iterdir()} == plain
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_report_made_later_is_the_same(tmp_path: Path) -> None:
    frame, summary = study(trials=4)
    whole = write_evaluation(tmp_path / "whole", frame, summary, report=True)
    later = write_evaluation(tmp_path / "later", frame, summary, plots=False)
    data = {name: (later / name).stat() for name in ("trajectories.parquet", "summary.json")}
    (later / "notes.txt").write_text("mine")
    assert rebuild_report(later) == later / "report.html"
    assert {path.name for path in later.iterdir()} == REPORT_FILES | {"notes.txt"}
    for name in REPORT_FILES:
        assert (later / name).read_bytes() == (whole / name).read_bytes(), name
    assert all((later / name).stat().st_mtime_ns == found.st_mtime_ns for name, found in data.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later", "whole"]


def test_a_report_of_nothing_or_without_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"trajectories\.parquet"):
        rebuild_report(tmp_path)
    frame, summary = study(trials=4)
    out = write_evaluation(tmp_path / "out", frame, summary, plots=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "_sync", full)
    with pytest.raises(InputError, match="No space left on device"):
        rebuild_report(out, plots=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_whose_losses_are_looked_at() -> None:
    _, summary = study(("random", "policy_ensemble", "policy"))
    assert focus_method(summary) == "policy"
    _, summary = study(("random", "policy_ensemble"))
    assert focus_method(summary) == "policy_ensemble"
    _, summary = study(("random", "other"))
    assert focus_method(summary) == best_last(summary)


def test_bars_of_a_rank_diagram_do_not_touch() -> None:
    _, summary = study(tuple(f"m{index}" for index in range(9)), tuple(f"t{index}" for index in range(40)))
    diagram = rank_diagram(summary, "last_trial")
    assert not isinstance(diagram, str)
    assert list(diagram.ranks) == sorted(diagram.ranks)
    cliques = summary["tests"]["last_trial"]["critical_difference"]["cliques"]
    assert len(diagram.bars) == sum(len(members) > 1 for members in cliques) > 0
    for level in {bar.level for bar in diagram.bars}:
        row = sorted((bar.low, bar.high) for bar in diagram.bars if bar.level == level)
        assert all(first[1] < second[0] for first, second in itertools.pairwise(row))
    assert rank_diagram(study(("a", "b"))[1], "last_trial") == "fewer than three methods"


def test_the_middle_lies_in_the_first_half() -> None:
    assert [middle_trial(trials) for trials in (1, 2, 12, 20, 25, 50, 105)] == [1, 1, 5, 10, 10, 25, 50]


@given(st.integers(1, 5000))
def test_ticks_of_trials(trials: int) -> None:
    ticks = trial_ticks(trials)
    assert ticks[0] == 1
    assert ticks == sorted(set(ticks))
    assert ticks[-1] <= trials
    assert len(ticks) <= 10


@given(st.floats(1e-5, 0.5), st.floats(2.0, 1e5))
def test_ticks_of_a_log_axis(low: float, ratio: float) -> None:
    marks = log_ticks(low, low * ratio)
    assert 1 <= len(marks) <= 12
    assert all(low * 0.999 <= mark <= low * ratio * 1.001 for mark in marks)
    assert log_ticks(low, low * ratio, "0")[low] == "0"


@given(st.text(max_size=30), st.floats(10, 300))
def test_fitted_names_fit(text: str, width: float) -> None:
    result = fitted(text, width, 12.5)
    assert text_width(result, 12.5) <= width + 12.5
    assert result == text or result.endswith("…")


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0.0, "0"),
        (2e-4, "200 ns"),
        (0.0123, "12.3 µs"),
        (4.56, "4.56 ms"),
        (1234.0, "1.23 s"),
        (7.2e6, "120 min"),
    ],
)
def test_durations(milliseconds: float, words: str) -> None:
    assert duration(milliseconds) == words


def test_tasks_that_nobody_differs_on_are_drawn() -> None:
    frame, _ = study(trials=3)
    frame = frame.assign(normalized_regret=0.25)
    figures = document_figures(summarize(frame, resamples=20), compare(frame))
    assert np.isfinite(figures["tasks"].get_size_inches()).all()
    assert render(figures["tasks"])["svg"]
