"""A group of settings in one program: the same weights as alone, one compilation, exact resumption."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweep_examples import sweep_file, write_grid
from tiny_runs import Compilations, timeless_metrics

from hyprl_jax import program as programs
from hyprl_jax import training
from hyprl_jax.checkpoints import CheckpointStore
from hyprl_jax.config import TrainConfig, sweepable_fields, with_values
from hyprl_jax.errors import InputError
from hyprl_jax.jobs.engine import Stopped
from hyprl_jax.policies import load_policy
from hyprl_jax.program import Program
from hyprl_jax.runs import RunFolder
from hyprl_jax.sweeps import group as groups
from hyprl_jax.sweeps.group import GroupProgram
from hyprl_jax.sweeps.jobs import train_group, training_job
from hyprl_jax.sweeps.plan import Plan, parse_plan

# Fields of every part whose values are swept, in numbers that float32 holds exactly. The optimizer is one
# that is linear in its gradients: others blow up the rounding noise of gradients that ought to be 0.
POINTS = [
    {"learner.learning_rate": 2**-7, "learner.gamma": 0.75, "surrogate.noise": 2**-5, "augment.mixture": 0.75,
     "network.residual_limit": 0.5, "learner.average": 0.5},
    {"learner.learning_rate": 2**-6, "learner.gamma": 0.875, "surrogate.noise": 2**-7,
     "augment.mixture": 0.25, "network.residual_limit": 2.0, "learner.average": 0.0},
]  # fmt: skip
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_grid(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def plan(collection: str) -> Plan:
    return parse_plan(sweep_file(collection, learner={"optimizer": "sgd"}, list=POINTS))


@pytest.fixture(scope="module", autouse=True)
def _one_program() -> Iterator[None]:
    """Groups of this file share the compiled programs of equal groups."""

    @functools.cache
    def compiled(config: TrainConfig, names: tuple[str, ...], values: bytes, settings: int) -> GroupProgram:
        return GroupProgram(config, names, np.frombuffer(values).reshape(settings, -1))

    def make(config: TrainConfig, names: list[str], values: np.ndarray) -> GroupProgram:
        return compiled(config, tuple(names), values.astype(np.float64).tobytes(), len(values))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "GroupProgram", make)
        yield


def train(plan: Plan, sweep: Path, tell: Any = lambda *_: None) -> dict[str, Any]:
    (group,) = plan.groups()
    (sweep / "settings").mkdir(parents=True, exist_ok=True)
    return train_group(dict(training_job(group, sweep, 1).arguments), tell)["settings"]


@pytest.fixture(scope="module")
def swept(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A trained group: its sweep's folder, its results, and what was compiled for it."""
    folder = tmp_path_factory.mktemp("sweep")
    with Compilations() as compiled:
        results = train(plan, folder)
    return folder, results, [name for name in compiled.names if "all_members" in name or "_learn" in name]


@pytest.fixture(scope="module")
def alone(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The second setting as `hyprl train` trains it."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, training.train(plan.settings[1].config, folder, silent=True)


def test_one_compilation_serves_all_settings(swept: tuple[Path, dict[str, Any], list[str]]) -> None:
    assert sorted(swept[2]) == ["jit(_learn_settings)", "jit(all_members)", "jit(all_members)"]


def test_a_setting_ends_with_the_weights_that_it_has_when_trained_alone(
    plan: Plan, swept: tuple[Path, dict[str, Any], list[str]], alone: tuple[Path, dict[str, Any]]
) -> None:
    name = plan.settings[1].name
    mine, theirs = load_policy(swept[0] / "settings" / name), load_policy(alone[0])
    assert mine.config == theirs.config == plan.settings[1].config
    assert (mine.groups, mine.collections) == (theirs.groups, theirs.collections)
    for one, other in zip(jax.tree.leaves(mine.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE)
    for one, other in zip(jax.tree.leaves(mine.numbers), jax.tree.leaves(theirs.numbers), strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE)
    np.testing.assert_allclose(swept[1][name]["best_validation"], alone[1]["best_validation"], atol=2e-6)
    # What goes on learning, not only what was kept.
    program = Program(plan.settings[1].config)
    data = training.load_data(plan.settings[1].config)
    target = jax.eval_shape(program.start, data.bank, data.folds)
    states = [
        CheckpointStore(folder / "checkpoints").restore(target)
        for folder in (swept[0] / "settings" / name, alone[0])
    ]
    assert states[0].step == states[1].step == alone[1]["env_steps"]
    assert states[0].metadata["chunks"] == states[1].metadata["chunks"] == 3
    for one, other in zip(*(jax.tree.leaves(state.state.learner.params) for state in states), strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE)


def test_the_run_folder_of_a_setting_tells_what_a_run_of_its_own_would(
    plan: Plan, swept: tuple[Path, dict[str, Any], list[str]], alone: tuple[Path, dict[str, Any]]
) -> None:
    run, own = RunFolder(swept[0] / "settings" / plan.settings[1].name), RunFolder(alone[0])
    assert run.read_config() == own.read_config()
    assert run.read_versions().keys() == own.read_versions().keys()
    rows, expected = timeless_metrics(run.path), timeless_metrics(own.path)
    assert len(rows) == len(expected) == 3
    for one, other in zip(rows, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_allclose(value, other[key], rtol=1e-3, atol=1e-5, err_msg=key)
    assert list(run.events.iterdir())


def load_start(run: Path, config: TrainConfig) -> np.ndarray:
    """Regret `[folds, seeds]` on the training tasks that a run in its last checkpoint started from."""
    program, data = Program(config), training.load_data(config)
    target = jax.eval_shape(program.start, data.bank, data.folds)
    state = CheckpointStore(run / "checkpoints").restore(target).state
    means = jax.vmap(jax.vmap(programs._means, in_axes=(0, None)))
    return np.asarray(means(jnp.asarray(state.start_scores), data.folds)[0])


def test_settings_differ_and_their_figures_are_those_of_their_metrics(
    plan: Plan, swept: tuple[Path, dict[str, Any], list[str]]
) -> None:
    last = []
    for setting in plan.settings:
        result = swept[1][setting.name]
        rows = RunFolder(swept[0] / "settings" / setting.name).read_metrics()
        last.append([row["loss"] for row in rows])
        validation, train_regret = (
            np.asarray([row[f"{name}_members"] for row in rows])
            for name in ("regret_validation", "regret_train")
        )
        for fold, seed in np.ndindex(2, 2):
            kept = result["best_updates"][fold][seed] // 2
            if kept:
                assert result["best_validation"][fold][seed] == pytest.approx(
                    validation[kept - 1, fold, seed]
                )
                assert result["train"][fold][seed] == pytest.approx(train_regret[kept - 1, fold, seed])
            else:
                scores = load_start(swept[0] / "settings" / setting.name, setting.config)[fold, seed]
                assert result["train"][fold][seed] == pytest.approx(scores, abs=1e-6)
            assert result["best_validation"][fold][seed] <= 1.0
        assert result["seconds"] > 0 and len(result["weights_sha256"]) == 64
    assert last[0] != last[1]
    assert (
        swept[1][plan.settings[0].name]["weights_sha256"] != swept[1][plan.settings[1].name]["weights_sha256"]
    )


def test_an_interrupted_group_goes_on_to_bitwise_the_same_weights(
    plan: Plan, swept: tuple[Path, dict[str, Any], list[str]], tmp_path: Path
) -> None:
    told: list[int] = []

    def interrupt(done: int, total: int, detail: str) -> None:
        told.append(done)
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # heard after the next chunk

    with pytest.raises(Stopped):
        train(plan, tmp_path, interrupt)
    assert told == [0, 1, 2]
    assert not list((tmp_path / "settings").iterdir())
    told.clear()
    # As if it had been killed after the chunk and before its checkpoint.
    store = CheckpointStore(tmp_path / "jobs" / "group-0" / "checkpoints")
    assert store.steps() == [1 * 2 * 8 * 3 * 2 * 4, 2 * 2 * 8 * 3 * 2 * 4]
    results = train(plan, tmp_path, lambda done, total, detail: told.append(done))
    assert told == [2, 3]
    for setting in plan.settings:
        mine, theirs = dict(results[setting.name]), dict(swept[1][setting.name])
        assert mine.pop("seconds") > 0 and theirs.pop("seconds") > 0
        assert mine == theirs
        assert timeless_metrics(tmp_path / "settings" / setting.name) == timeless_metrics(
            swept[0] / "settings" / setting.name
        )
    assert train(plan, tmp_path) == results, "nothing is left to do"


def test_a_checkpoint_of_other_settings_is_refused(
    plan: Plan, collection: str, swept: tuple[Path, dict[str, Any], list[str]]
) -> None:
    other = parse_plan(
        sweep_file(
            collection, learner={"optimizer": "sgd"}, list=[POINTS[0], {**POINTS[1], "learner.gamma": 0.8}]
        )
    )
    with pytest.raises(InputError, match="of other settings"):
        train(other, swept[0])


def test_only_sweepable_fields_are_swept_in_one_program(plan: Plan) -> None:
    with pytest.raises(InputError, match=r"'learner\.episodes' shapes the compiled program"):
        GroupProgram(plan.base, ["learner.episodes"], np.asarray([[8], [16]]))


VARIANTS: dict[str, dict[str, Any]] = {
    "policy_gradient": {"surrogate": {"prior": "learned", "fit": True}},
    "q": {"learner": {"ordering": "q", "epsilon_schedule": "exponential", "optimizer": "adamw",
                      "double": True, "target_period": 2, "replay": "prioritised", "replay_capacity": 16}},
    "cold": {"surrogate": {"prior": "cold"}, "learner": {"optimizer": "rmsprop", "decay": "linear"}},
    "mean": {"surrogate": {"prior": "mean", "tune": True}, "learner": {"ordering": "q", "decay": "constant"}},
}  # fmt: skip


@pytest.mark.parametrize(
    "variant", ["q", *(pytest.param(v, marks=pytest.mark.slow) for v in ("policy_gradient", "cold", "mean"))]
)
def test_every_sweepable_field_can_be_traced(collection: str, variant: str) -> None:
    config = parse_plan(sweep_file(collection, **VARIANTS[variant], list=POINTS)).settings[0].config
    names = sweepable_fields(config)
    values = np.asarray([[_value(config, name) * factor for name in names] for factor in (1.0, 0.9)])
    program = GroupProgram(config, names, values)
    data = training.load_data(config)
    state = jax.eval_shape(program.start, data.bank, data.folds)
    assert state.values.shape == (2, 4, len(names))
    after, metrics = jax.eval_shape(program.chunk, state, data.bank, data.folds)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert all(leaf.shape == (2, 4) for leaf in jax.tree.leaves(metrics))


def _value(config: TrainConfig, name: str) -> float:
    part, field = name.split(".")
    return float(getattr(getattr(config, part), field))


@pytest.mark.slow
def test_settings_side_by_side_learn_what_they_learn_in_turn(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator all members are one batch."""
    (group,) = plan.groups()
    values = np.asarray([[_value(one.config, name) for name in group.fields] for one in plan.settings])
    data = training.load_data(plan.base)
    found = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        program = GroupProgram(plan.settings[0].config, group.fields, values)
        state, metrics = program.chunk(program.start(data.bank, data.folds), data.bank, data.folds)
        found.append((state.training.learner.params, metrics))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["q", "cold"])
def test_other_agents_end_with_the_same_weights_too(collection: str, variant: str) -> None:
    points = {
        "q": [{"learner.epsilon_end": 0.3, "learner.replay_alpha": 0.2, "learner.weight_decay": 0.1},
              {"learner.epsilon_end": 0.1, "learner.replay_alpha": 0.9, "learner.weight_decay": 0.0}],
        "cold": [{"surrogate.additive": 0.5, "surrogate.lengthscale": 1.0},
                 {"surrogate.additive": 0.0, "surrogate.lengthscale": 2.0}],
    }[variant]  # fmt: skip
    plan = parse_plan(sweep_file(collection, **VARIANTS[variant], folds=[0], list=points))
    (group,) = plan.groups()
    names = group.fields
    values = np.asarray([[_value(one.config, name) for name in names] for one in plan.settings])
    data = training.load_data(plan.base)
    together = GroupProgram(plan.settings[0].config, names, values)
    state = together.start(data.bank, data.folds)
    state, metrics = together.chunk(state, data.bank, data.folds)
    for place, setting in enumerate(plan.settings):
        program = Program(setting.config)
        one, own = program.chunk(program.start(data.bank, data.folds), data.bank, data.folds)
        mine = together.setting(state, place)
        for a, b in zip(*(jax.tree.leaves(s.learner.params) for s in (mine, one)), strict=True):
            np.testing.assert_allclose(a, b, **TOLERANCE)
        np.testing.assert_allclose(metrics["loss"][:, 2 * place : 2 * place + 2], own["loss"], rtol=1e-4)


def test_traced_values_are_not_checked_and_plain_ones_are() -> None:
    config = with_values(TrainConfig(), {"learner.gamma": np.float32(0.5), "validation_plays": 3})
    assert (config.learner.gamma, config.validation_plays) == (0.5, 3)
    with pytest.raises(InputError, match=r"learner\.gamma"):
        with_values(TrainConfig(), {"learner.gamma": 1.5})
