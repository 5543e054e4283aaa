"""The agent published with Hyp-RL: its network, its learning, each of its faults, the verbs that use it."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from exported_policies import untrained_run
from probes import (
    PLAIN,
    on_device,
    probe_bank,
    probe_config,
    quick_jit,
    random_tasks,
    small_bank,
    with_learner,
)
from tiny_runs import grid_collection, ragged_collection, tiny_config

from hyprl_jax import fitting, learner, players, rollout
from hyprl_jax.__main__ import main
from hyprl_jax.cli.train import read_train_options
from hyprl_jax.config import EnvConfig, NetworkConfig, SurrogateConfig, TrainConfig, from_dict, to_dict
from hyprl_jax.env import Task, at_test
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import Played, trajectories
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.export import export_policy
from hyprl_jax.networks import FlaxNetwork
from hyprl_jax.presets import PRESETS, hyprl2019
from hyprl_jax.rollout import Background, Choice, Record, View
from hyprl_jax.surfaces import load_tables, make_split, write_collection

CONFIGS, TRIALS = 9, 6
ENV = EnvConfig(trials=TRIALS, mask_tried=False)
FIXED = dataclasses.replace(hyprl2019().network, outputs=CONFIGS)
SIZES = (2, len(rollout.CONTEXT_FEATURES), 3 + 1)  # metafeatures, context, encoding and result


def shaken(params: Any, seed: int = 1) -> Any:
    """Parameters away from their special start."""
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(seed)
    return structure.unflatten(
        [leaf + 0.3 * jnp.asarray(random.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    )


def with_env(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, env=dataclasses.replace(config.env, **changes))


# The configuration.


def test_the_preset_is_what_was_published() -> None:
    config = hyprl2019()
    assert PRESETS["hyprl2019"]() == config == from_dict(json.loads(json.dumps(to_dict(config))))
    env, taught = config.env, config.learner
    assert (env.trials, env.stop_on_repeat, env.reward) == (48, True, "hyprl")
    assert env.late_results and not env.mask_tried
    assert (taught.gamma, taught.double, taught.target_period, taught.huber) == (0.99, True, 10, 1.0)
    assert (taught.optimizer, taught.learning_rate, taught.decay) == ("rmsprop", 1e-3, "constant")
    assert (taught.target, taught.n_step, taught.replay, taught.replay_capacity) == (
        "n_step", 1, "uniform", 100,
    )  # fmt: skip
    epsilons = [float(learner._epsilon(jnp.int32(n), taught)) for n in (0, 100, 200, 2000)]
    np.testing.assert_allclose(epsilons, [1.0, 0.505, 0.01, 0.01], atol=1e-6)


def test_none_of_the_faults_is_a_default() -> None:
    default = TrainConfig()
    assert default.env.mask_tried and not default.env.late_results and default.env.reward == "regret"
    assert default.network.head == "candidates"


def test_configurations_from_before_the_switches_still_load() -> None:
    plain = to_dict(TrainConfig())
    for part, names in {
        "env": ("mask_tried", "late_results"),
        "network": ("head", "outputs", "memory"),
    }.items():
        for name in names:
            del plain[part][name]
    assert from_dict(plain) == TrainConfig()


def test_the_published_network_has_the_published_shapes() -> None:
    """On nnMeta: 13 hyperparameters and a result, 16 metafeatures, 2916 configurations."""
    network = FlaxNetwork(dataclasses.replace(hyprl2019().network, outputs=2916))
    params = jax.eval_shape(lambda key: network.init(key, 16, 14, 13 + 1), jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    cell = {f"i{gate}": {"kernel": (14, 32)} for gate in "ifgo"}
    cell |= {f"h{gate}": {"kernel": (32, 32), "bias": (32,)} for gate in "ifgo"}
    assert shapes == {
        "remember": {"kernel": (16, 32)},
        "cell": cell,
        "deeper_0": {"kernel": (32, 32), "bias": (32,)},
        "deeper_1": {"kernel": (32, 128), "bias": (128,)},
        "kernel": (128, 2916),
        "bias": (2916,),
    }


# Late results.


@partial(quick_jit, static_argnames=("config", "network"))
def judged(
    network: NetworkConfig, params: Any, known: Background, task: Task, actions: jax.Array, config: EnvConfig
) -> jax.Array:
    """Q-values `[T, N]` of all configurations before each of `actions [T]` is played."""
    flax, everything = FlaxNetwork(network), jnp.arange(CONFIGS, dtype=jnp.int32)

    def act(carry: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
        carry, hidden = flax.advance(params, carry, players.read(view, network))
        values = flax.values(params, hidden, players.candidate_inputs(view, network, everything))
        return carry, Choice(actions[view.observation.trial], values)

    carry = flax.initial_carry(params, task.metafeatures)
    return rollout.play(act, carry, known, task, jax.random.key(0), config, SurrogateConfig()).kept


@pytest.mark.parametrize("head", ["fixed", "candidates"])
@pytest.mark.parametrize("late", [False, True])
def test_late_results_come_one_trial_late(head: str, late: bool) -> None:
    """Before trial t the result of trial t - 1 makes no difference, that of trial t - 2 does."""
    bank, _, fold = small_bank(configs=CONFIGS)
    known = rollout.background(bank, fold)
    network = FIXED if head == "fixed" else NetworkConfig(context=4, hidden=4)
    width = SIZES[2] if head == "fixed" else 10
    if head == "candidates":
        width = learner.candidate_width(bank, TrainConfig(network=network))
    params = shaken(FlaxNetwork(network).init(jax.random.key(0), *SIZES[:2], width))
    task = jax.tree.map(lambda leaf: leaf[0], on_device(random_tasks(0, 1, CONFIGS, 4)))
    task = task._replace(legal=jnp.ones(CONFIGS, bool), peers=jnp.ones(4, bool))
    actions = jnp.asarray([3, 7, 0, 5, 1, 8], jnp.int32)
    config = EnvConfig(trials=TRIALS, late_results=late)
    before = np.asarray(judged(network, params, known, task, actions, config))
    assert np.isfinite(before).all()
    for trial in range(TRIALS):
        other = task._replace(objective=task.objective.at[actions[trial]].add(0.5))
        after = np.asarray(judged(network, params, known, other, actions, config))
        changed = np.abs(after - before).max(axis=1) > 1e-5
        first = trial + (2 if late else 1)
        assert not changed[:first].any(), "nothing is known before it is told"
        assert changed[first:].all(), "and it is told in time"


def test_what_is_told_late_is_what_would_have_been_told() -> None:
    """The same configurations with their results, one trial later: nothing is lost and nothing repeated."""
    bank, _, fold = small_bank(configs=CONFIGS)
    task = jax.tree.map(lambda leaf: leaf[0], on_device(random_tasks(1, 1, CONFIGS, 4)))
    task = task._replace(legal=jnp.ones(CONFIGS, bool))

    def listening(memory: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
        return memory, Choice(jnp.array([4, 2, 8, 0, 1, 5])[view.observation.trial], view.previous)

    def heard(late: bool) -> np.ndarray:
        config = EnvConfig(trials=TRIALS, late_results=late)
        given = (listening, None, rollout.background(bank, fold), task, jax.random.key(0), config)
        return np.asarray(rollout.play(*given, SurrogateConfig()).kept)

    in_time, late = heard(False), heard(True)
    expected = np.concatenate([bank.encodings[0], np.asarray(task.objective)[:, None]], axis=1)
    np.testing.assert_array_equal(in_time, [0.0 * expected[0], *expected[[4, 2, 8, 0, 1]]])
    np.testing.assert_array_equal(late, [0.0 * expected[0], *in_time[:-1]])


# Repeats.


def played_by_a_stubborn_policy(config: EnvConfig) -> Record:
    """An episode of the published network when its output for configuration 5 is far above all others."""
    bank, _, fold = small_bank(configs=CONFIGS)
    network = FlaxNetwork(FIXED)
    params = network.init(jax.random.key(0), *SIZES)
    params = {**params, "bias": params["bias"].at[5].set(100.0)}
    task = jax.tree.map(lambda leaf: leaf[0], on_device(random_tasks(2, 1, CONFIGS, 4)))
    task = task._replace(legal=jnp.ones(CONFIGS, bool))
    act, memory = players.q_player(network, FIXED, params), players.q_memory(network, params, None, task)
    shared = rollout.background(bank, fold)
    record = rollout.play(act, memory, shared, task, jax.random.key(0), config, SurrogateConfig())
    return jax.device_get(record)


def test_repeats_waste_trials_at_test_time_and_end_episodes_in_training() -> None:
    training_rules = EnvConfig(trials=TRIALS, stop_on_repeat=True, mask_tried=False)
    trained = played_by_a_stubborn_policy(training_rules)
    assert trained.valid.tolist() == [True, True] + [False] * (TRIALS - 2)
    tested = played_by_a_stubborn_policy(at_test(training_rules, TRIALS))
    assert tested.action.tolist() == [5] * TRIALS and tested.valid.all()
    assert len(set(tested.regret.tolist())) == 1
    repaired = dataclasses.replace(training_rules, mask_tried=True)
    masked = played_by_a_stubborn_policy(at_test(repaired, TRIALS))
    assert masked.action[0] == 5 and len(set(masked.action.tolist())) == TRIALS and masked.valid.all()


def test_only_a_method_that_declares_it_may_repeat_itself(tmp_path: Path) -> None:
    """A repeat has the result of the first time and leaves the incumbent."""
    tables = load_tables(str(write_collection(grid_collection(), tmp_path / "grid")))
    actions = np.asarray([[[2, 0, 2, 1]]])
    with pytest.raises(InputError, match="repeats an earlier trial"):
        trajectories(tables, ["t0"], Played("stubborn", actions, (0,)))
    frame = trajectories(tables, ["t0"], Played("stubborn", actions, (0,), repeats=True))
    assert frame["config_id"].tolist() == [2, 0, 2, 1]
    assert frame["objective"][2] == frame["objective"][0]
    assert frame["incumbent"][2] == frame["incumbent"][1]
    wrong = np.asarray([[[2, -1, 2, 1]]])
    with pytest.raises(InputError, match="nothing left"):
        trajectories(tables, ["t0"], Played("stubborn", wrong, (0,), repeats=True))


# Learning.


@partial(quick_jit, static_argnames=("config", "number"))
def trained(state: Any, bank: Any, fold: Any, config: TrainConfig, number: int) -> Any:
    numbers = fitting.numbers_of(bank, config.surrogate)
    one = lambda state, _: learner.update(state, bank, fold, config, numbers)
    return jax.lax.scan(one, state, None, length=number)


def test_the_fixed_head_learns_which_configuration_is_worth_what() -> None:
    """By replay, double Q-learning and RMSProp with what the preset sets for them."""
    objective = [0.1, 0.9, -0.5, 0.4]
    bank, fold = probe_bank(objective)
    network = dataclasses.replace(FIXED, outputs=4)
    config = probe_config(network=network, learner={**_published_learner(), "epsilon_end": 1.0})
    state = learner.init(jax.random.key(0), bank, fold, config)
    state, metrics = trained(state, bank, fold, config, 300)
    assert np.isfinite(metrics["loss"]).all()
    flax = FlaxNetwork(network)
    carry = flax.initial_carry(state.params, jnp.zeros(0))
    _, hidden = flax.advance(state.params, carry, jnp.zeros(5))
    inputs = players.CandidateInputs(jnp.arange(4)[:, None], jnp.zeros(4))
    np.testing.assert_allclose(flax.values(state.params, hidden, inputs), objective, atol=0.05)


def _published_learner() -> dict[str, Any]:
    taught = hyprl2019().learner
    return {field.name: getattr(taught, field.name) for field in dataclasses.fields(taught)}


@pytest.mark.slow
def test_an_update_learns_from_episodes_that_saw_results_late() -> None:
    """All parameters move, and the target network moves when it is due."""
    bank, _, fold = small_bank(configs=CONFIGS)
    preset = with_env(hyprl2019(), trials=TRIALS)
    preset = dataclasses.replace(preset, network=FIXED)
    config = with_learner(preset, episodes=8, target_period=2)
    start = learner.init(jax.random.key(0), bank, fold, config)
    once, _ = trained(start, bank, fold, config, 1)
    twice, metrics = trained(start, bank, fold, config, 2)
    for before, after in zip(*map(jax.tree.leaves, (start.params, twice.params)), strict=True):
        assert not np.array_equal(before, after) and np.isfinite(after).all()
    for target, wanted in ((once.target, start.params), (twice.target, twice.params)):
        assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (target, wanted)), strict=True))
    assert float(metrics["epsilon"][0]) == 1.0
    with pytest.raises(InputError, match=r"set network\.outputs to 9"):
        learner.init(jax.random.key(0), bank, fold, dataclasses.replace(config, network=hyprl2019().network))


# The verbs.


SMALL = (
    *("--preset", "hyprl2019", "--split", "kfold3", "--env.trials", "4", "--learner.updates", "4"),
    *("--updates-per-chunk", "2", "--learner.episodes", "8"),
)


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A grid of 8 configurations, one of the same name with 6, and another space."""
    folder = tmp_path_factory.mktemp("collections")
    return {
        "grid": write_collection(grid_collection(), folder / "grid"),
        "smaller": write_collection(grid_collection(configs=6), folder / "smaller"),
        "ragged": write_collection(ragged_collection(), folder / "ragged"),
    }


@pytest.fixture(scope="module")
def run(collections: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset, trained for a moment by two seeds."""
    out = tmp_path_factory.mktemp("runs") / "published"
    words = ["train", "--collections", str(collections["grid"]), "--seed", "0,1", *SMALL]
    assert main([*words, "--out", str(out)]) == 0
    return out


def mistake(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line of standard error of a mistaken command."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert not captured.out and len(captured.err.splitlines()) == 1
    return captured.err


def test_the_preset_trains_and_other_options_win_over_it(run: Path) -> None:
    stored = from_dict(json.loads((run / "config.json").read_text()))
    assert stored.network == dataclasses.replace(hyprl2019().network, outputs=8), "counted"
    assert stored.env == dataclasses.replace(hyprl2019().env, trials=4)
    assert (stored.learner.updates, stored.learner.gamma) == (4, 0.99)


def test_every_fault_is_repaired_by_an_option(collections: dict[str, Path]) -> None:
    words = ["--preset=hyprl2019", "--collections", str(collections["grid"])]
    for options, repaired in (
        (["--env.no-late-results"], {"late_results": False}),
        (["--env.mask-tried"], {"mask_tried": True}),
        (["--env.reward", "improvement"], {"reward": "improvement"}),
    ):
        settings = read_train_options([*words, *options], "hyprl train").settings
        assert settings.env == dataclasses.replace(hyprl2019().env, **repaired)


def test_its_evaluation_plays_repeats_and_its_repair_does_not(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More trials than configurations: without masking all of them are played."""
    words = ["evaluate", str(run), "--trials", "10", "--methods", "policy,policy_ensemble,random"]
    assert main([*words, "--out", str(tmp_path / "faulty")]) == 0
    frame = pd.read_parquet(tmp_path / "faulty" / "trajectories.parquet")
    for (method, _, _), episode in frame.groupby(["method", "task", "seed"]):
        wasted = 10 - episode["config_id"].nunique()
        if method == "random":
            assert wasted == 2 and episode["config_id"].isna().sum() == 2
        else:
            assert wasted >= 2 and episode["config_id"].notna().all()
        assert (np.diff(episode["normalized_regret"]) <= 0).all()
    stored = json.loads((run / "config.json").read_text())
    stored["env"]["mask_tried"] = True
    mended = tmp_path / "mended"
    mended.mkdir()
    (mended / "config.json").write_text(json.dumps(stored))
    (mended / "policy").symlink_to(run / "policy")
    tables = load_tables(stored["collections"][0])
    (masked,) = play_methods(["policy"], tables, make_split(tables, "kfold3", 0), 10, (0,), run=mended)
    assert not masked.repeats and all(
        len(set(episode[:8])) == 8 for episode in masked.actions.reshape(-1, 10)
    )
    assert (masked.actions[..., 8:] == -1).all()
    capsys.readouterr()


@pytest.mark.slow
def test_baselines_beside_it_are_what_they_are_alone(run: Path) -> None:
    """It has no surrogate whose configuration they could share."""
    tables = load_tables(str(json.loads((run / "config.json").read_text())["collections"][0]))
    split, methods = make_split(tables, "kfold3", 0), ["mean_list", "prior_ei"]
    beside = play_methods(methods, tables, split, 4, (0,), run=run)
    alone = play_methods(methods, tables, split, 4, (0,))
    for one, other in zip(beside, alone, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)


def test_it_plays_only_the_configurations_that_it_was_made_for(
    run: Path, collections: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = mistake(capsys, "evaluate", run, "--collections", collections["smaller"])
    assert "one output for each of 8 configurations" in found
    assert "was not trained on 'ragged'" in mistake(
        capsys, "evaluate", run, "--collections", collections["ragged"]
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--preset", "hyprl2019", "--config", "my.json"], "--config and --preset"),
        (["--preset", "hyprl2020"], "hyprl2019"),
        (["--preset", "hyprl2019", "--resume", "run"], "--preset"),
        (["--preset", "hyprl2019", "--collections", "one,other"], "one collection"),
        (
            ["--preset", "hyprl2019", "--collections", "one", "--augment.candidates", "99"],
            "augment.candidates",
        ),
        (["--preset", "hyprl2019", "--collections", "one", "--network.residual"], "network.residual"),
        (["--preset", "hyprl2019"], "nothing to train on"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in mistake(capsys, "train", *words)


def test_the_help_names_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "hyprl2019" in capsys.readouterr().out


# Attention, and what is not exported.


@pytest.fixture(scope="module")
def attentive(collections: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random weights whose cell attends to at most 5 trials."""
    network = NetworkConfig(context=4, hidden=4, cell="attention", memory=5, metafeatures=True)
    return untrained_run(
        tmp_path_factory.mktemp("attentive") / "run", str(collections["grid"]), network=network
    )


def test_ablations_are_not_exported(
    attentive: Path, collections: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    untrained_run(tmp_path / "late", str(collections["grid"]))
    stored = json.loads((tmp_path / "late" / "config.json").read_text())
    stored["env"]["late_results"] = True
    (tmp_path / "late" / "config.json").write_text(json.dumps(stored))
    for path, what in (
        (attentive, "the cell attention"),
        (run, "the fixed head"),
        (tmp_path / "late", "late results"),
    ):
        with pytest.raises(InputError, match=what) as caught:
            export_policy(path, tmp_path / "exported")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_attention_learns_by_the_default_learner() -> None:
    """The gradient of the fit reaches every parameter of the cell."""
    bank, _, fold = small_bank(configs=CONFIGS)
    network = NetworkConfig(context=4, hidden=4, cell="attention", memory=4, metafeatures=True)
    config = tiny_config(network=network, augment=PLAIN, learner={"learning_rate": 1e-2})
    before = learner.init(jax.random.key(0), bank, fold, config)
    after, metrics = trained(before, bank, fold, config, 3)
    assert np.isfinite(metrics["loss"]).all()
    for old, new in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True):
        assert not np.array_equal(old, new) and np.isfinite(new).all()


@pytest.mark.slow
def test_attention_plays_as_many_trials_as_it_has_room_for(attentive: Path) -> None:
    """Weights are loaded as they were."""
    tables = load_tables(str(json.loads((attentive / "config.json").read_text())["collections"][0]))
    split = make_split(tables, "kfold3", 0)
    for method in ("policy", "policy_ensemble"):
        (played,) = play_methods([method], tables, split, 5, (0,), run=attentive)
        assert all(len(set(episode)) == 5 for episode in played.actions.reshape(-1, 5).tolist())
    with pytest.raises(InputError, match="room for 5 trials, not for 6"):
        play_methods(["policy"], tables, split, 6, (0,), run=attentive)


# The page.


def test_the_commands_of_the_page_are_understood(collections: dict[str, Path]) -> None:
    """As published, with each fault repaired, and with all of them."""
    page = (Path(__file__).parent.parent / "docs" / "hyprl2019.md").read_text()
    lines = [line.split()[2:] for line in page.splitlines() if line.startswith("hyprl train ")]
    here = [[word.replace("./nnmeta", str(collections["grid"])) for word in line] for line in lines]
    found = [read_train_options(line, "hyprl train").settings for line in here]
    published = hyprl2019().env
    faults = ({"late_results": False}, {"mask_tried": True}, {"reward": "improvement"})
    every = faults[0] | faults[1] | faults[2]
    assert [one.env for one in found] == [
        dataclasses.replace(published, **changes) for changes in ({}, *faults, every)
    ]
    assert all(one.folds == (0, 1, 2, 3, 4) and one.learner == hyprl2019().learner for one in found)
