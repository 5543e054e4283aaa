"""Rollouts with the default policy network: all episodes in one compiled program, beside one trial at a time.

Both sides play greedily on the same tasks over all candidates, with the whole of the policy: belief,
features, recurrent context, Q-values of all candidates, environment step.

The loop calls two compiled functions from Python, `begin` for an episode and `trial` for all that one trial
takes, and reads back the reward and whether the episode is over. Weights, surfaces and keys lie on the device
beforehand.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import augment, devices, env, knowledge, learner, players, rollout, surrogate
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.bench.problem import Problem
from hyprl_jax.bench.timing import Side
from hyprl_jax.config import TrainConfig
from hyprl_jax.env import EnvState, Task
from hyprl_jax.networks import FlaxNetwork, Params
from hyprl_jax.rollout import Act, Background, Choice


class Episode(NamedTuple):
    """What one episode carries from trial to trial, and what it is about."""

    task: Task
    known: knowledge.Knowledge
    memory: Any
    state: EnvState
    beliefs: surrogate.SurrogateState
    latest: Any


class Trial(NamedTuple):
    """What one trial brought; the names are those of `rollout.Record`."""

    action: jax.Array
    reward: jax.Array
    over: jax.Array
    valid: jax.Array
    kept: Any


def batched_side(problem: Problem, episodes: int, seed: int = 0, at_once: int | None = None) -> Side:
    """All `episodes` in one call, on all devices; `at_once` is that of `rollout.over_episodes`."""
    config = problem.config
    number = devices.used_devices(episodes)
    play = partial(play_episodes, config=config, at_once=at_once)
    program = jax.jit(devices.over_devices(play, number, shared=3))
    shared = devices.copy_to_all((initial_params(problem), problem.bank, problem.fold), number)
    rows = devices.deal_out(draw_rows(problem, episodes, seed), number)

    def run() -> None:
        jax.block_until_ready(program(*shared, rows))

    return Side(run, episodes * config.env.trials)


def loop_side(problem: Problem, episodes: int, seed: int = 0) -> Side:
    """One episode after another, one compiled call a trial."""
    config = problem.config
    begin = jax.jit(partial(_begin_real, config=config))
    trial = jax.jit(partial(greedy_trial, config=config))
    params = initial_params(problem)
    rows = [jnp.asarray(row) for row in draw_rows(problem, episodes, seed)]
    key = jax.random.key(seed)

    def run() -> None:
        for row in rows:
            episode = begin(params, problem.bank, problem.fold, row)
            over = False
            while not over:
                episode, result = trial(params, episode, key)
                float(result.reward)
                over = bool(result.over)

    return Side(run, episodes * config.env.trials)


def initial_params(problem: Problem) -> Params:
    """Parameters of the default network before training."""
    init = jax.jit(partial(learner.init, config=problem.config))
    return init(jax.random.key(0), problem.bank, problem.fold).params


def draw_rows(problem: Problem, episodes: int, seed: int) -> np.ndarray:
    """Rows of the bank `[E]`, int32."""
    return np.random.default_rng(seed).integers(0, problem.bank.legal.shape[0], episodes).astype(np.int32)


def play_episodes(
    params: Params, bank: SurfaceBank, fold: Fold, rows: jax.Array, config: TrainConfig,
    at_once: int | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Actions and rewards `[E, T]` of the greedy policy on tasks `rows [E]`."""
    network = FlaxNetwork(config.network)
    shared = rollout.background(bank, fold)
    metafeatures = banks.standardised_metafeatures(bank, fold)
    act = players.q_player(network, config.network, params)
    key = jax.random.key(0)  # a greedy player draws nothing

    def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        task = augment.real_task(bank, fold, metafeatures, row)
        memory = players.q_memory(network, params, None, task)
        record = rollout.play(act, memory, shared, task, key, config.env, config.surrogate)
        return record.action, record.reward

    return rollout.over_episodes(one, rows, candidates=bank.legal.shape[1], at_once=at_once)


def begin_episode(params: Params, shared: Background, task: Task, config: TrainConfig) -> Episode:
    """An episode of `task` before its first trial."""
    known, _ = rollout.recall(shared, task, config.surrogate)
    beliefs = rollout.model(config.surrogate).start(known, config.env.trials, config.surrogate)
    memory = players.q_memory(FlaxNetwork(config.network), params, None, task)
    zero = jnp.float32(0.0)
    latest = rollout._Latest(zero, zero, zero, zero)
    return Episode(task, known, memory, env.reset(task), beliefs, latest)


def one_trial(episode: Episode, act: Act, key: jax.Array, config: TrainConfig) -> tuple[Episode, Trial]:
    """The body of the loop in `rollout.play`, for those who call it once a trial."""
    task, known, memory, state, beliefs, latest = episode
    view = rollout.look(known, task, state, beliefs, latest, config.env, config.surrogate)
    choice: Choice
    memory, choice = act(memory, view, key)
    after, result = env.step(task, state, choice.action, config.env)
    latest = rollout._Latest(
        state.incumbent,
        (view.belief.mean[choice.action] - view.belief.scale[1]) / view.belief.scale[0],
        view.belief.deviation[choice.action],
        rollout.relative(view, choice.action),
    )
    beliefs = rollout.model(config.surrogate).update(
        known, beliefs, choice.action, result.objective, config.surrogate
    )
    trial = Trial(choice.action, result.reward, result.over, result.valid, choice.kept)
    return Episode(task, known, memory, after, beliefs, latest), trial


def greedy_trial(
    params: Params, episode: Episode, key: jax.Array, config: TrainConfig
) -> tuple[Episode, Trial]:
    """One trial of the greedy policy."""
    act = players.q_player(FlaxNetwork(config.network), config.network, params)
    return one_trial(episode, act, key, config)


def _begin_real(
    params: Params, bank: SurfaceBank, fold: Fold, row: jax.Array, config: TrainConfig
) -> Episode:
    metafeatures = banks.standardised_metafeatures(bank, fold)
    task = augment.real_task(bank, fold, metafeatures, row)
    return begin_episode(params, rollout.background(bank, fold), task, config)
