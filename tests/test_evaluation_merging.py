"""Evaluations of different methods as one, and the verb that makes reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trajectory_examples import frame

from hyprl_jax.__main__ import main
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import read_evaluation, summarize, write_evaluation
from hyprl_jax.evaluation.merging import merge_evaluations

ORIGIN: dict[str, Any] = {
    "command": "hyprl evaluate",
    "versions": {"numpy": "2.4"},
    "collections": {"c": "1234"},
    "seeds": [0, 1],
    "starts": None,
    "machine": "a machine",
}


def evaluation(folder: Path, *methods: str, origin: dict[str, Any] | None = None, **changes: Any) -> Path:
    frames = [frame(method, sum(map(ord, method)), **changes) for method in methods]
    failures = [{"method": methods[0], "task": "t1", "seed": 0, "trial": 2, "reason": "tired"}]
    made = summarize(frames, "loo", 0, failures=failures, provenance={**ORIGIN, **(origin or {})})
    return write_evaluation(folder, frames, made, plots=False)


def test_merged_figures_are_those_of_one_evaluation(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", "x", "y")
    second = evaluation(tmp_path / "b", "z", origin={"command": "hyprl again", "versions": {"numpy": "2.5"}})
    trajectories, merged = merge_evaluations([first, second])
    together = summarize([frame(method, sum(map(ord, method))) for method in "xyz"], "loo", 0)
    assert list(merged["methods"]) == ["x", "y", "z"]
    assert merged["methods"] == together["methods"]
    assert merged["tests"] == together["tests"]
    assert set(trajectories["method"]) == {"x", "y", "z"}
    assert [failure["method"] for failure in merged["failures"]] == ["x", "z"]
    assert merged["provenance"]["command"] == "hyprl evaluate; hyprl again"
    assert merged["provenance"]["versions"] == {"numpy": "2.4, 2.5"}
    assert merged["provenance"]["seeds"] == [0, 1]


def test_other_seeds_stand_side_by_side(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a", "x")
    second = evaluation(tmp_path / "b", "y", origin={"seeds": [3, 1]})
    _, merged = merge_evaluations([first, second])
    assert merged["provenance"]["seeds"] == [0, 1, 3]


@pytest.mark.parametrize(
    ("methods", "changes", "words"),
    [
        ("x", {}, "the method 'x' stands in"),
        ("z", {"tasks": 2}, "differ in 'tasks'"),
        ("z", {"trials": 5}, "differ in 'trials'"),
        ("z", {"origin": {"collections": {"c": "4321"}}}, "has changed between"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, methods: str, changes: dict[str, Any], words: str
) -> None:
    first = evaluation(tmp_path / "a", "x", "y")
    second = evaluation(tmp_path / "b", *methods, **changes)
    with pytest.raises(InputError, match=words):
        merge_evaluations([first, second])


def test_the_verb_reports_on_one_evaluation_and_on_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluation(tmp_path / "a", "x", "y"), evaluation(tmp_path / "b", "z")
    before = read_evaluation(first)[1]
    assert main(["report", str(first), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(first / "report.html")
    assert "<html" in (first / "report.html").read_text()
    assert read_evaluation(first)[1] == before
    assert main(["report", str(first), str(second), "--out", str(tmp_path / "both"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["methods"]) == {"x", "y", "z"}
    trajectories, _ = read_evaluation(tmp_path / "both")
    assert np.isfinite(trajectories["normalized_regret"]).all()


def test_mistakes_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluation(tmp_path / "a", "x", "y")
    assert main(["report", str(first), str(first)]) == 2
    assert "add --out" in capsys.readouterr().err
    assert main(["report", str(first), str(first), "--out", str(tmp_path / "b")]) == 2
    assert "stands in" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
