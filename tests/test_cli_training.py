"""The verbs `train`, `evaluate` and `bench` from end to end on a small collection."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hyprl_jax.__main__ import main
from hyprl_jax.cli.evaluate import EvaluateOptions, plan_study, read_folds
from hyprl_jax.cli.train import read_config_file, read_train_options
from hyprl_jax.config import TrainConfig, to_dict
from hyprl_jax.errors import InputError

SMALL = (
    *("--env.trials", "4", "--learner.updates", "4", "--updates-per-chunk", "2", "--learner.warmup", "1"),
    *("--learner.episodes", "8", "--learner.plays", "2", "--learner.minibatches", "2"),
    *("--augment.candidates", "8", "--network.context", "4", "--network.hidden", "4"),
    "--surrogate.no-fit",
)
METHODS = ("policy", "policy_ensemble", "random", "mean_list", "portfolio", "gp_ei", "prior_ei")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten tasks, twelve configurations of two hyperparameters: the optimum moves from task to task."""
    folder = tmp_path_factory.mktemp("collections")
    rows = ["task,error,rate,depth"]
    for task in range(10):
        for index in range(12):
            rate, depth = 10.0 ** -(index % 4), 1 + index // 4
            error = abs(math.log10(rate) + task % 4) + 0.3 * abs(depth - 1 - task % 3) + 0.01 * index
            rows.append(f"t{task},{error:.6f},{rate},{depth}")
    (folder / "results.csv").write_text("\n".join(rows) + "\n")
    out = folder / "small"
    words = [
        "surfaces",
        "import",
        "table",
        str(folder / "results.csv"),
        "--out",
        str(out),
        "--objective",
        "error",
    ]
    assert main(words) == 0
    return out


@pytest.fixture(scope="module")
def run(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two seeds on the first fold."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", "--collections", str(collection), "--seed", "0,1", *SMALL, "--out", str(out)]) == 0
    return out


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    """The one JSON object that `hyprl WORDS --json` prints."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == code
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def mistake(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line of standard error of a mistaken command."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert len(captured.err.splitlines()) == 1
    return captured.err


# ---- training


def test_a_finished_run_answers_as_before(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = answer(capsys, "train", "--resume", run)
    assert {"run", "env_steps", "weights_sha256", "best_validation"} <= first.keys()
    assert first["run"] == str(run)
    assert first["env_steps"] > 0
    assert [len(seeds) for seeds in first["best_validation"]] == [2]
    assert answer(capsys, "train", "--resume", run) == first
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "checkpoints",
    }


@pytest.mark.slow
def test_the_configuration_of_a_run_repeats_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = answer(capsys, "train", "--config", run / "config.json", "--out", tmp_path / "again")
    assert again["weights_sha256"] == answer(capsys, "train", "--resume", run)["weights_sha256"]


def test_options_win_over_the_file(run: Path) -> None:
    words = [
        "--config",
        str(run / "config.json"),
        "--learner.learning-rate=0.5",
        "--learner.no-baseline",
        "--fold=1",
    ]
    options = read_train_options(words, "hyprl train")
    written = read_config_file(run / "config.json")
    assert options.settings.learner.learning_rate == 0.5
    assert not options.settings.learner.baseline
    assert options.settings.folds == (1,)
    assert options.settings.seeds == written.seeds == (0, 1)
    assert options.settings.network == written.network


def test_all_folds(collection: Path) -> None:
    words = ["--collections", str(collection), "--split", "loo", "--fold", "all"]
    assert read_train_options(words, "hyprl train").settings.folds == tuple(range(10))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--collections"),
        (["--collections", "no-such"], "no-such"),
        (["--collections", "HERE", "--split", "sideways"], "sideways"),
        (["--collections", "HERE", "--fold", "99"], "99"),
        (["--collections", "HERE", "--seed", "1,1"], "seeds"),
        (["--collections", "HERE", "--learner.episodes", "7"], "episodes"),
        (["--collections", "HERE", "--learner.cell", "gru"], "--learner.cell"),
        (["--resume", "no-such-run"], "no-such-run"),
        (["--resume", "x", "--seed", "3"], "--seeds"),
        (["--config", "no-such.json"], "no-such.json"),
    ],
)
def test_training_mistakes(
    words: list[str], said: str, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in mistake(capsys, "train", *(str(collection) if word == "HERE" else word for word in words))
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"learner": 3}', '{"lerner": {}}', '{"seeds": ["a"]}', "[" * 10_000]
)
def test_configuration_files_are_not_trusted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config_file(file)


def test_a_configuration_file_comes_back(tmp_path: Path) -> None:
    config = TrainConfig(collections=("a", "b"), seeds=(3, 4), split="loo")
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert read_config_file(tmp_path / "config.json") == config


def test_a_run_is_not_overwritten(run: Path, collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = mistake(capsys, "train", "--collections", collection, *SMALL, "--out", run)
    assert str(run) in said


def test_control_c_stops_with_a_checkpoint(collection: Path, tmp_path: Path, repository: Path) -> None:
    out = tmp_path / "stopped"
    words = [
        "train",
        "--collections",
        str(collection),
        *SMALL,
        "--learner.updates",
        "40000",
        "--out",
        str(out),
    ]
    command = [sys.executable, "-m", "hyprl_jax", *words, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository
    ) as job:
        metrics = out / "metrics.jsonl"
        while job.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
            time.sleep(0.05)
        job.send_signal(signal.SIGINT)
        printed, said = job.communicate()
    assert job.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    assert json.loads(printed)["interrupted"]
    assert list((out / "checkpoints").iterdir())


# ---- evaluation


def test_evaluate_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "evaluation"
    summary = answer(capsys, "evaluate", run, "--out", out)
    assert set(summary["methods"]) == set(METHODS)
    assert summary["trials"] == 4
    assert summary["split"] == "kfold5"
    assert summary["fold"] == 0
    assert summary == json.loads((out / "summary.json").read_text())
    assert {path.name for path in out.iterdir()} >= {
        "trajectories.parquet",
        "table.md",
        "regret.png",
        "rank.png",
    }
    frame = pd.read_parquet(out / "trajectories.parquet")
    assert set(frame["method"]) == set(METHODS)
    assert frame["trial"].max() == 4


def test_evaluate_without_a_run_over_all_folds(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "evaluation"
    words = ["evaluate", "--collections", str(collection), "--split", "kfold5", "--fold", "all"]
    words += ["--methods", "random,mean_list", "--trials", "3", "--seeds", "0,1", "--starts", "1"]
    words += ["--out", str(out), "--report"]
    monkeypatch.setattr(sys, "argv", ["hyprl", *words])
    assert main(words) == 0
    assert {"report.html", "table.tex"} <= {path.name for path in out.iterdir()}
    assert "--starts 1" in json.loads((out / "summary.json").read_text())["provenance"]["command"]
    text = capsys.readouterr().out
    assert "report.html" in text
    assert "mean_list" in text
    assert "10 tasks" in text
    assert "5 folds" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--collections"),
        (["no-such-run"], "no-such-run"),
        (["--collections", "HERE", "--methods", "policy"], "needs a run"),
        (["--collections", "HERE", "--methods", "magic"], "magic"),
        (["--collections", "HERE", "--fold", "1,x"], "1,x"),
        (["--collections", "HERE", "--trials", "0"], "0"),
        (["RUN", "--split", "loo", "--fold", "3"], "training tasks"),
        (["--collections", "HERE", "--report"], "--out"),
        (["--collections", "HERE", "--published", "RGPE.json"], "NAME=FILE"),
        (["--collections", "HERE", "--starts", "nowhere.json"], "nowhere.json"),
        (["--collections", "HERE", "--methods", "random,no_such_module_here:Mine"], "no_such_module_here"),
    ],
)
def test_evaluation_mistakes(
    words: list[str], said: str, run: Path, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"HERE": str(collection), "RUN": str(run)}
    assert said in mistake(capsys, "evaluate", *(places.get(word, word) for word in words))


def test_what_is_left_out_comes_from_the_run(run: Path, collection: Path) -> None:
    study = plan_study(EvaluateOptions(run=run))
    assert study.collections == (str(collection),)
    assert (study.split, study.folds, study.trials) == ("kfold5", (0,), 4)
    other = plan_study(EvaluateOptions(run=run, fold="all", trials=7, methods=("random",)))
    assert (other.folds, other.trials, other.methods) == (None, 7, ("random",))


@pytest.mark.parametrize(("text", "folds"), [("0", (0,)), ("0,3, 1", (0, 3, 1)), ("all", None)])
def test_folds(text: str, folds: tuple[int, ...] | None) -> None:
    assert read_folds(text) == folds


# ---- throughput


@pytest.mark.slow
def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    result = answer(capsys, "bench", "--episodes", "64", "--turns", "1", "--seconds", "0.05")
    for part in ("environment", "rollout", "training"):
        assert result[part]["env_steps_per_second"] > 0
        assert result[part]["ratio_to_loop"] > 0
    assert result["candidates"] == 288 and "parts" not in result
