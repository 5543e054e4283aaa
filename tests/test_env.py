"""Whole episodes against a plain Python loop, for every reward and way of ending."""

from __future__ import annotations

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import EpisodeOracle
from probes import quick_jit, random_tasks

from hyprl_jax import env
from hyprl_jax.config import EnvConfig, Reward
from hyprl_jax.env import Task

CANDIDATES, TRIALS, STEPS, EPISODES = 6, 4, 6, 16
REWARDS = get_args(Reward)


@partial(quick_jit, static_argnames="config")
def replayed(tasks: Task, actions: jax.Array, config: EnvConfig) -> tuple:
    """Observations before, and results and regrets after, each of `actions [E, STEPS]` in `tasks [E,
    ...]`."""

    def one(task: Task, actions: jax.Array) -> tuple:
        def step(state: env.EnvState, action: jax.Array) -> tuple:
            seen = env.observe(task, state, config)
            state, result = env.step(task, state, action, config)
            return state, (seen, result, env.normalized_regret(task, state.incumbent), state)

        return jax.lax.scan(step, env.reset(task), actions)[1]

    return jax.vmap(one)(tasks, actions)


def chosen_actions(tasks: Task, config: EnvConfig, seed: int) -> np.ndarray:
    """Random legal actions `[E, STEPS]`; once nothing is legal, anything."""
    random = np.random.default_rng(seed)
    actions = np.zeros((EPISODES, STEPS), np.int32)
    for episode in range(EPISODES):
        oracle = oracle_of(tasks, episode, config)
        for step in range(STEPS):
            choices = sorted(oracle.choices()) or list(range(CANDIDATES))
            actions[episode, step] = random.choice(choices)
            oracle.step(actions[episode, step])
    return actions


def oracle_of(tasks: Task, episode: int, config: EnvConfig) -> EpisodeOracle:
    return EpisodeOracle(
        tasks.objective[episode],
        tasks.legal[episode],
        float(tasks.best[episode]),
        float(tasks.worst[episode]),
        config.trials,
        config.reward,
        config.stop_on_repeat,
    )


@pytest.mark.parametrize("stop_on_repeat", [False, True])
@pytest.mark.parametrize("reward", REWARDS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_episodes_are_those_of_a_plain_loop(reward: Reward, stop_on_repeat: bool, seed: int) -> None:
    config = EnvConfig(trials=TRIALS, reward=reward, stop_on_repeat=stop_on_repeat)
    tasks = random_tasks(seed, EPISODES, CANDIDATES, known=1)
    if seed % 2:  # one constant surface, and one task on which nothing can be tested
        tasks.objective[0] = tasks.best[0] = tasks.worst[0] = 0.25
        tasks.legal[1] = False
    actions = chosen_actions(tasks, config, seed)
    seen, results, regrets, states = jax.device_get(replayed(tasks, actions, config))
    for episode in range(EPISODES):
        oracle = oracle_of(tasks, episode, config)
        for step in range(STEPS):
            legal = set(np.flatnonzero(seen.legal[episode, step]).tolist())
            if not oracle.over:
                assert legal == oracle.choices()
                assert seen.trial[episode, step] == len(oracle.found)
                assert seen.latest[episode, step] == np.float32(oracle.found[-1] if oracle.found else 0.0)
            expected = oracle.step(int(actions[episode, step]))
            where = f"episode {episode}, step {step}"
            assert bool(results.over[episode, step]) == expected["over"], where
            assert bool(results.valid[episode, step]) == expected["valid"], where
            np.testing.assert_allclose(
                results.reward[episode, step], expected["reward"], atol=2e-5, err_msg=where
            )
            if "objective" in expected:
                assert results.objective[episode, step] == np.float32(expected["objective"]), where
            np.testing.assert_allclose(regrets[episode, step], expected["regret"], atol=1e-5, err_msg=where)
            incumbent = max(oracle.found, default=-np.inf)
            assert states.incumbent[episode, step] == np.float32(incumbent), where
            assert states.trial[episode, step] == len(oracle.found), where
    assert np.isfinite(results.reward).all() and np.isfinite(regrets).all()


def test_over_stays_over_and_nothing_changes_any_more() -> None:
    config = EnvConfig(trials=2)
    task = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], random_tasks(3, 1, CANDIDATES, known=1))
    task = task._replace(legal=jnp.ones(CANDIDATES, bool))
    state = env.reset(task)
    for action in (4, 2):
        state, result = env.step(task, state, jnp.int32(action), config)
    assert bool(result.over) and bool(result.valid)
    after, ignored = env.step(task, state, jnp.int32(5), config)
    assert bool(ignored.over) and not bool(ignored.valid) and float(ignored.reward) == 0.0
    for name in env.EnvState._fields:
        assert np.array_equal(getattr(after, name), getattr(state, name)), name


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_rewards_add_up(seed: int) -> None:
    """Improvements telescope to 1 minus the final regret; minus the summed `regret` reward is the area
    under the
    regret curve."""
    tasks = random_tasks(seed, EPISODES, CANDIDATES, known=1)
    improvement, regret = (EnvConfig(trials=TRIALS, reward=name) for name in ("improvement", "regret"))
    actions = chosen_actions(tasks, improvement, seed)
    _, results, regrets, _ = jax.device_get(replayed(tasks, actions, improvement))
    np.testing.assert_allclose(results.reward.sum(1), 1.0 - regrets[:, -1], atol=1e-5)
    _, results, regrets, _ = jax.device_get(replayed(tasks, actions, regret))
    np.testing.assert_allclose(-results.reward.sum(1), np.sum(regrets * results.valid, axis=1), atol=1e-5)


def test_regret_is_normalised_and_defined_everywhere() -> None:
    task = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], random_tasks(0, 1, CANDIDATES, known=1))
    task = task._replace(best=jnp.float32(3.0), worst=jnp.float32(1.0))
    found = env.normalized_regret(task, jnp.array([1.0, 2.0, 3.0, -jnp.inf, 9.0]))
    assert found.tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]
    constant = task._replace(worst=jnp.float32(3.0))
    assert env.normalized_regret(constant, jnp.array([3.0, -jnp.inf])).tolist() == [0.0, 0.0]


def alternating(config: EnvConfig, steps: int = STEPS) -> tuple:
    """What `replayed` says of testing a bad and a good configuration in turn."""
    task = jax.tree.map(lambda leaf: leaf[:1], random_tasks(0, 1, CANDIDATES, known=1))
    surface = np.asarray([[0.2, 0.8, 0.0, 1.0, 0.5, 0.5]], np.float32)
    task = task._replace(
        objective=surface, legal=np.ones((1, CANDIDATES), bool), best=np.ones(1, np.float32),
        worst=np.zeros(1, np.float32),
    )  # fmt: skip
    actions = np.resize([0, 1], (1, steps)).astype(np.int32)
    return jax.device_get(replayed(task, actions, config))


def test_without_masking_a_repeat_costs_a_trial_and_ends_nothing() -> None:
    config = EnvConfig(trials=STEPS, mask_tried=False)
    seen, results, regrets, states = alternating(config)
    assert seen.legal.all(), "everything stays on offer"
    assert results.valid.all() and results.over[0].tolist() == [False] * (STEPS - 1) + [True]
    assert states.trial[0].tolist() == list(range(1, STEPS + 1))
    np.testing.assert_allclose(regrets[0], [0.8] + [0.2] * (STEPS - 1), atol=1e-6)
    masked = alternating(EnvConfig(trials=STEPS))
    assert not masked[0].legal[0, 2, :2].any()
    one_task = EnvConfig(trials=CANDIDATES + 3, mask_tried=False)
    assert not alternating(one_task, CANDIDATES + 2)[1].over.any(), (
        "it goes on for more trials than there are"
    )


def test_going_back_and_forth_earns_on_the_previous_trial_and_not_on_the_incumbent() -> None:
    """The fault of the published reward, and its repair."""
    earned = {}
    for reward in ("hyprl", "improvement"):
        config = EnvConfig(trials=STEPS, reward=reward, mask_tried=False)
        earned[reward] = alternating(config)[1].reward[0]
    np.testing.assert_allclose(earned["hyprl"], [0.2, 0.6, 0.0, 0.6, 0.0, 0.6], atol=1e-6)
    np.testing.assert_allclose(earned["improvement"], [0.2, 0.6, 0.0, 0.0, 0.0, 0.0], atol=1e-6)


def test_at_test_time_a_repeat_ends_nothing() -> None:
    """What the policy sees stays as it was in training."""
    trained = EnvConfig(trials=4, reward="hyprl", stop_on_repeat=True, mask_tried=False, late_results=True)
    assert env.at_test(trained, 9) == EnvConfig(trials=9, mask_tried=False, late_results=True)
    assert env.at_test(EnvConfig(trials=4, stop_on_repeat=True), 9) == EnvConfig(trials=9), "masked as ever"
