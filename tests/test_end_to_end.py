"""The command line from collections on disk to a trained, resumed and evaluated policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_runs
from tiny_runs import NAMES, TRIALS, tiny_config

from hyprl_jax.__main__ import main
from hyprl_jax.config import to_dict

METHODS = ("policy", "random", "mean_list")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with collections and a configuration file, in which programs are shared."""
    folder = tmp_path_factory.mktemp("study")
    collections = tiny_runs.write_collections(folder)
    config = to_dict(tiny_config(*collections.values(), checkpoint_seconds=1e6))
    (folder / "config.json").write_text(json.dumps(config))
    with tiny_runs.shared_programs():
        yield folder


@pytest.fixture(scope="module")
def run(study: Path) -> Path:
    """What `hyprl train` made."""
    run = study / "run"
    assert main(["train", "--config", str(study / "config.json"), "--out", str(run), "--json"]) == 0
    return run


def answer_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The JSON object that a verb prints; its output holds nothing else."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_train_and_resume_answer_with_one_object(
    study: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = answer_of(capsys, "train", "--resume", str(run))
    assert {"run", "env_steps", "weights_sha256", "best_validation"} <= set(resumed)
    other = str(study / "other")
    again = answer_of(capsys, "train", "--config", str(study / "config.json"), "--out", other)
    assert {**again, "run": str(run)} == resumed


def test_options_win_over_the_file(study: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del run
    out = str(study / "options")
    words = ("--learner.updates", "0")
    assert main(["train", "--config", str(study / "config.json"), "--out", out, *words]) == 2
    assert "learner.updates" in capsys.readouterr().err
    assert not Path(out).exists()


def test_evaluate_writes_what_the_protocol_names(
    study: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study / "evaluation"
    summary = answer_of(
        capsys, "evaluate", str(run), "--collections", str(study / "grid"), "--fold", "0", "--out", str(out),
        "--methods", ",".join(METHODS), "--trials", str(TRIALS), "--seeds", "0,1",
    )  # fmt: skip
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["collection"], summary["fold"], summary["trials"]) == ("grid", 0, TRIALS)
    assert set(summary["methods"]) == set(METHODS)
    for figures in summary["methods"].values():
        assert len(figures["normalized_regret"]) == len(figures["rank"]) == len(figures["ci95"]) == TRIALS
        regret = np.asarray(figures["normalized_regret"])
        assert (np.diff(regret) <= 1e-12).all() and ((regret >= 0) & (regret <= 1)).all()
        assert figures["suggest_ms"] > 0
    frame = pd.read_parquet(out / "trajectories.parquet")
    assert set(frame["method"]) == set(METHODS)
    assert set(frame["task"]) == set(summary["tasks"])
    assert frame["trial"].max() == TRIALS
    assert (out / "table.md").read_text().count("policy")
    assert list(out.glob("*.png"))


def test_evaluate_takes_what_is_left_out_from_the_run(
    study: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folds 0 and 1 are pooled, as they were trained."""
    summary = answer_of(
        capsys, "evaluate", str(run), "--collections", str(study / "grid"), "--methods", "policy"
    )
    assert len(summary["tasks"]) == 4
    assert summary["trials"] == TRIALS


def test_evaluate_without_a_run_plays_baselines(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--collections", str(study / "grid"), "--split", "loo", "--methods", "mean_list")
    summary = answer_of(capsys, "evaluate", *words, "--trials", str(TRIALS))
    assert set(summary["methods"]) == {"mean_list"}
    assert len(summary["tasks"]) == 1


def test_evaluate_refuses_a_policy_on_its_own_training_tasks(
    study: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(run), "--collections", str(study / "grid"), "--fold", "2", "--methods", "policy"]
    capsys.readouterr()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "was among the training tasks" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_every_method_plays_every_kind_of_collection(
    study: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        out = study / f"all-{name}"
        summary = answer_of(
            capsys, "evaluate", str(run), "--collections", str(study / name), "--out", str(out)
        )
        assert set(summary["methods"]) >= {"policy", "random", "mean_list", "portfolio", "gp_ei", "prior_ei"}
        assert np.isfinite([figures["normalized_regret"] for figures in summary["methods"].values()]).all()
