"""The ablation study: arms that can be trained, results that can be resumed, sentences that follow from
numbers."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from exported_policies import save_untrained
from tiny_runs import grid_collection

from hyprl_jax import training
from hyprl_jax.cli.common import INPUT_MISTAKE, INTERRUPTED, SUCCESS
from hyprl_jax.config import TrainConfig, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.protocol import Played, trajectories
from hyprl_jax.policies import load_policy
from hyprl_jax.runs import RunFolder
from hyprl_jax.surfaces import load_tables, task_tables, write_collection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import ablations
import studies_common as common
from ablation_arms import ARMS, NAMES, Arm
from study_examples import kept_page, quick_compilation

BY_NAME = {arm.name: arm for arm in ARMS}


def plan_of(out: Path, collection: str = "mlp", **changes: Any) -> ablations.Plan:
    plan = ablations.Plan(collection, "kfold3", (0,), 4, (0, 1), 1, 16, out)
    return plan._replace(**changes)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_collection(grid_collection(), tmp_path_factory.mktemp("tables") / "grid"))


# Arms


@pytest.mark.parametrize("trials", [25, 50, 100])
def test_every_arm_differs_from_the_default_in_its_own_fields_alone(trials: int, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, trials=trials, seeds=(0, 1, 2), updates=None, episodes=None)
    default = to_dict(ablations.configuration(BY_NAME["default"], plan))
    assert default["learner"] == to_dict(TrainConfig())["learner"]
    for arm in ARMS:
        config = ablations.configuration(arm, plan)
        assert isinstance(config, TrainConfig)
        expected = json.loads(json.dumps(default))
        for dotted, value in arm.fields.items():
            part, field = dotted.split(".")
            expected[part][field] = value
        if arm.name == "cell_attention":
            expected["network"]["memory"] = max(64, trials)
        assert to_dict(config) == expected


def test_arms_are_told_apart_and_compared_with_arms_that_exist() -> None:
    assert len(set(NAMES)) == len(ARMS)
    unlike = [(*sorted(arm.fields.items()), arm.method, arm.members) for arm in ARMS]
    assert len(set(unlike)) == len(ARMS)
    for arm in ARMS:
        assert arm.against in NAMES
        # What it is compared with it holds itself, and it changes something more.
        base = BY_NAME[arm.against].fields
        assert base.items() <= arm.fields.items()
        assert arm.name in ("default", "start") or arm.members or base != arm.fields


def test_arms_change_what_the_default_does_not_do_already() -> None:
    default = to_dict(TrainConfig())
    for arm in ARMS:
        for dotted, value in arm.fields.items():
            part, field = dotted.split(".")
            assert default[part][field] != value, f"{arm.name}: {dotted} is the default"


def test_ensembles_need_as_many_seeds_as_members(grid: str, tmp_path: Path) -> None:
    tables = load_tables(grid)
    five, eight = plan_of(tmp_path, seeds=tuple(range(5))), plan_of(tmp_path, seeds=tuple(range(8)))
    assert [name for name in NAMES if name not in ablations.units(five, tables, ())] == ["ensemble_8"]
    assert tuple(ablations.units(eight, tables, ())) == NAMES
    with pytest.raises(InputError, match="ensemble_8 needs more than 5 seeds"):
        ablations.units(five, tables, ("default", "ensemble_8"))
    with pytest.raises(InputError, match="there is no arm 'gru'"):
        ablations.units(five, tables, ("gru",))


@pytest.mark.parametrize(("asked", "trained"), [(1, 1), (2, 2), (20, 20), (30, 30), (31, 32), (45, 45)])
def test_cheap_training_is_as_long_as_asked_for(asked: int, trained: int) -> None:
    config = common.cheap(TrainConfig(), asked, 64)
    assert config.learner.updates == trained and config.learner.episodes == 64
    assert trained % config.updates_per_chunk == 0 and config.updates_per_chunk <= 20
    assert common.cheap(TrainConfig(), None, None) == TrainConfig()


# Studies that go on


def counting(calls: list[str], name: str, error: Exception | None = None) -> Any:
    def unit() -> dict[str, Any]:
        calls.append(name)
        if error is not None:
            raise error
        return {"value": name}

    return unit


def test_a_finished_unit_is_not_run_again_and_a_failed_one_stops_nothing(tmp_path: Path) -> None:
    calls: list[str] = []
    broken = RuntimeError("no\n memory")
    units = {"a": counting(calls, "a"), "b": counting(calls, "b", broken), "c": counting(calls, "c")}
    study = common.Study(tmp_path / "out", {"trials": 4})
    assert study.run(units, silent=True) == SUCCESS and calls == ["a", "b", "c"]
    again = common.Study(tmp_path / "out", {"trials": 4})
    assert again.run(units, silent=True) == SUCCESS and calls == ["a", "b", "c"]
    found = common.read_study(tmp_path / "out", ["c", "a"])
    assert [unit["name"] for unit in found["units"]] == ["c", "a", "b"]
    assert [unit["failure"] for unit in found["units"]] == [None, None, "RuntimeError: no memory"]
    (tmp_path / "out" / "a.json").unlink()
    assert again.run({**units, "b": counting(calls, "b")}, retry=True, silent=True) == SUCCESS
    assert calls == ["a", "b", "c", "a", "b"]
    assert common.read_study(tmp_path / "out")["units"][1] == {"name": "b", "failure": None, "value": "b"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "study.json",
        "a.json",
        "b.json",
        "c.json",
    }


def test_a_stop_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    calls: list[str] = []
    study = common.Study(tmp_path, {})
    units = {
        "a": counting(calls, "a"),
        "b": counting(calls, "b", common.Stopped()),
        "c": counting(calls, "c"),
    }
    assert study.run(units, silent=True) == INTERRUPTED
    assert calls == ["a", "b"] and not (tmp_path / "b.json").exists()
    assert study.run({**units, "b": counting(calls, "b")}, silent=True) == SUCCESS
    assert calls == ["a", "b", "b", "c"]


def test_ctrl_c_between_units_ends_with_the_unit_at_hand(tmp_path: Path) -> None:
    import signal

    def interrupted() -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return {}

    study = common.Study(tmp_path, {})
    assert study.run({"a": interrupted, "b": interrupted}, silent=True) == INTERRUPTED
    assert (tmp_path / "a.json").exists() and not (tmp_path / "b.json").exists()


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    common.Study(tmp_path, {"trials": 4, "updates": 60})
    with pytest.raises(InputError, match="with updates 60, not 2: choose another --out"):
        common.Study(tmp_path, {"trials": 4, "updates": 2})
    with pytest.raises(InputError, match="holds no study"):
        common.read_study(tmp_path / "nothing")


# A study from training to the table


def moment(config: TrainConfig, out: Path, silent: bool = False) -> dict[str, Any]:
    """Instead of training: a run with random weights."""
    save_untrained(out, config)
    with RunFolder(out).metrics_writer() as writer:
        writer.append({"env_steps": 64, "seconds": 1.5})
    return {"interrupted": False}


def run_study(plan: ablations.Plan, *arms: Arm) -> None:
    with pytest.MonkeyPatch.context() as patch, quick_compilation():
        patch.setattr(ablations, "ARMS", arms)
        tables = load_tables(plan.collection)
        units = ablations.units(plan, tables, ())
        study = common.Study(plan.out, ablations.settings(plan, tables))
        assert study.run(units, silent=True) == SUCCESS


@pytest.fixture(scope="module")
def study(grid: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`default`, `ensemble_1` and a failing arm, as if they were trained."""
    out = tmp_path_factory.mktemp("study")
    bad = Arm("bad", "default", {"network.nothing": 1}, "Does it fail?")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", moment)
        run_study(plan_of(out, grid), ARMS[0], bad, BY_NAME["ensemble_1"])
    return out


def test_an_arm_keeps_its_regret_for_every_seed_and_task(study: Path, grid: str) -> None:
    record = json.loads((study / "default.json").read_text())
    tables = load_tables(grid)
    assert record["seeds"] == [0, 1] and len(record["tasks"]) == 2
    assert set(record["tasks"]) <= set(tables.tasks)
    assert set(record["regret"]) == {"4", "mean"}
    for figure in record["regret"].values():
        assert np.shape(figure) == (2, 2)
        assert np.all((np.asarray(figure) >= 0) & (np.asarray(figure) <= 1))
    assert record["training_seconds"] == 1.5 and record["learned"] == [2, 2]


@pytest.mark.slow
def test_an_arm_is_trained_as_its_configuration_says(grid: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid)
    run_study(plan, ARMS[0])
    record = json.loads((tmp_path / "default.json").read_text())
    assert record["failure"] is None and np.shape(record["regret"]["mean"]) == (2, 2)
    assert record["training_seconds"] > 0 and record["learned"][1] == 2
    policy = load_policy(tmp_path / "runs" / "default")
    assert policy.config == ablations.configuration(ARMS[0], plan)


def test_an_ensemble_of_one_plays_as_its_member_from_the_same_training(study: Path) -> None:
    default, alone = (json.loads((study / f"{name}.json").read_text()) for name in ("default", "ensemble_1"))
    assert alone["regret"] == default["regret"]
    assert [folder.name for folder in (study / "runs").iterdir()] == ["default"]
    assert alone["training_seconds"] == 0.0


def test_a_run_of_another_configuration_is_not_taken(study: Path, grid: str) -> None:
    config = ablations.configuration(BY_NAME["q"], plan_of(study, grid))
    with pytest.raises(InputError, match="another configuration"):
        common.trained(config, study / "runs" / "default")


def test_trainings_that_kept_their_start_are_counted(study: Path) -> None:
    policy = load_policy(study / "runs" / "default")
    kernel = policy.params["judge"]["kernel"]
    changed = jax.tree.map(lambda leaf: leaf, policy.params)
    changed["judge"] = {**changed["judge"], "kernel": kernel.at[:].set(0.0).at[0, 1].set(0.5)}
    assert ablations.learned(dataclasses.replace(policy, params=changed)) == [1, 2]
    second = ablations.some_members(dataclasses.replace(policy, params=changed), (1,))
    assert ablations.learned(second) == [1, 1] and second.config.seeds == (1,)


def test_the_table_is_made_from_the_files_alone(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in study.glob("*.json"):  # no runs, no collection
        (folder / file.name).write_bytes(file.read_bytes())
    page = kept_page(ablations.main, "ablations", folder, tmp_path, monkeypatch, capsys)
    assert page == (folder / "table.md").read_text()
    record = json.loads((study / "default.json").read_text())
    mean = np.mean(record["regret"]["mean"])
    assert f"{mean:.4f} [" in page
    assert "1 updates of 16 episodes (**cheap training**: the default has 60 of 1024)" in page
    assert "Not possible with 2 training seeds: ensemble_4, ensemble_8." in page
    assert "`bad`: InputError: arm 'bad': there is no field 'network.nothing'" in page


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--table", "--out", str(tmp_path)], ["--collection", "nothing", "--out", str(tmp_path)]):
        assert ablations.main(words) == INPUT_MISTAKE
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


# What the rows say

FACTS = {
    "collection": "c", "split": "s", "folds": [0], "trials": 5, "seeds": [0, 1], "updates": 60,
    "episodes": 1024, "usual": [60, 1024],
}  # fmt: skip


def record_of(name: str, values: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A record with the same regret `values [D, S]` at every budget."""
    facts = {
        "name": name, "failure": None, "part": "", "fields": {}, "asks": "What?", "against": "default",
        "method": "policy", "tasks": [f"t{row}" for row in range(len(values))],
        "seeds": list(range(values.shape[1])), "regret": {"5": values.tolist(), "mean": values.tolist()},
        "training_seconds": 1.0, "learned": [1, 2],
    }  # fmt: skip
    return {**facts, **changes}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (0.1, "worse than the default by 0.1000 [0.1000, 0.1000]"),
        (-0.1, "better than the default by 0.1000 [0.1000, 0.1000]"),
        (0.00001, "no difference from the default beyond noise (+0.0000 [+0.0000, +0.0000])"),
    ],
)
def test_sentences_follow_from_the_shown_numbers(own: float, words: str) -> None:
    other = np.linspace(0.2, 0.3, 7)
    assert common.compared(other + own, other, "the default") == words
    assert "nothing can be said" in common.compared(other[:1] + own, other[:1], "the default")


def test_a_difference_of_either_sign_is_noise() -> None:
    random = np.random.default_rng(0)
    other = random.uniform(size=20)
    text = common.compared(other + random.normal(size=20), other, "`q`")
    assert text.startswith("no difference from `q` beyond noise")


def test_rows_answer_what_they_ask() -> None:
    base = np.full((4, 2), 0.2) + np.asarray([0.0, 0.001])
    apart = np.asarray([[0.0, 0.4]])
    units = [
        record_of("default", base),
        record_of("q", base + 0.1, fields={"learner.ordering": "q"}),
        record_of("q_double", base + 0.1, against="q"),
        record_of("unsure", base + 0.1 + apart),
        record_of("alone", base[:, :1] + 0.1),
        record_of("start", base[:, :1] - 0.1, method="start", learned=None, training_seconds=0.0),
    ]
    lines = ablations.make_table({"study": FACTS, "units": units}).splitlines()
    says = {line.split("`")[1]: line for line in lines if line.startswith("- `")}
    assert says["q"].endswith(
        "(learner.ordering=q): What? Worse than the default by 0.1000 [0.1000, 0.1000]."
    )
    assert "Worse than the default by 0.1000" in says["q_double"]
    assert "no difference from `q` beyond noise" in says["q_double"]
    assert says["unsure"].endswith("no more than training seeds differ.")
    assert says["alone"].endswith("from one training each.")
    assert "Better than the default by 0.0995" in says["start"] or "by 0.1005" in says["start"]
    assert "cheap" not in "\n".join(lines)
    row = next(line for line in lines if line.startswith("| `q` "))
    assert "+0.1000 [+0.1000, +0.1000] | 0.0007 |  | 1/2 | 1 |" in row


def test_the_gain_of_the_last_weights_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    first = {"env_steps": 1, "gain": 0.5, "gain_error": 0.1}
    last = {"env_steps": 2, "gain": -0.00123456, "gain_error": 0.0004}
    rows = [first, last, {"env_steps": 3}]
    for number in (2, 3):
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[:number]))
        assert ablations.final_gain(tmp_path) == ([-0.001235, 0.0004] if number == 2 else None)
    base = np.full((4, 2), 0.2)
    units = [record_of("default", base, gain=[-0.001235, 0.0004]), record_of("q", base)]
    lines = ablations.make_table({"study": FACTS, "units": units}).splitlines()
    place = next(line for line in lines if line.startswith("| arm")).split(" | ").index("validation gain")
    shown = [line.split(" | ")[place] for line in lines if line.startswith("| `")]
    assert shown == ["-0.0012 (0.0004)", ""]


def test_without_the_default_there_is_nothing_to_compare_with() -> None:
    facts = {"collection": "c", "split": "s", "folds": [0], "trials": 5, "seeds": [0], "updates": 1,
             "episodes": 16, "usual": [60, 1024]}  # fmt: skip
    page = ablations.make_table({"study": facts, "units": [record_of("q", np.full((3, 1), 0.2))]})
    assert "The default was not run." in page
    assert "No arm is finished." in ablations.make_table({"study": facts, "units": []})


def test_regret_is_that_of_the_evaluation() -> None:
    tables = task_tables(grid_collection())
    random = np.random.default_rng(3)
    actions = np.stack([[random.permutation(8)[:5] for _ in range(2)] for _ in range(3)])
    tasks = tables.tasks[1:4]
    frame = trajectories(tables, tasks, Played("random", actions, (0, 1)))
    expected = frame["normalized_regret"].to_numpy().reshape(3, 2, 5)
    assert np.allclose(common.regret_curves(actions, tables, tables, tasks), expected, atol=1e-12)
