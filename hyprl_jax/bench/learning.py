"""Training of the default agent: compiled updates on many episodes, beside one episode at a time from Python.

Batched, an update draws synthetic tasks, plays all episodes, makes targets and fits the network; a compiled
program does some updates in a call, as training does. With several devices, the cores of a CPU for instance,
each trains a seed of its own on its share of the episodes, dealt out as training deals them out.

The loop does the same with the same environment, network, candidates, synthetic tasks, exploration and
targets, the conventional way: a compiled function draws one task, a second one plays one trial and is
called from Python, which reads back the reward and whether the episode is over; after each episode a third
one makes its targets and takes one gradient step on it. (The batched side takes `epochs` times `minibatches`
steps on all its episodes.)
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from hyprl_jax import augment, devices, fitting, learner, mesh, players, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.bench.problem import Problem
from hyprl_jax.bench.rollouts import Episode, Trial, begin_episode, one_trial
from hyprl_jax.bench.timing import Side
from hyprl_jax.config import TrainConfig
from hyprl_jax.learner import LearnerState
from hyprl_jax.networks import FlaxNetwork, Params
from hyprl_jax.program import over_members
from hyprl_jax.rollout import Record

UPDATES = 10  # of the batched side in a call


def batched_side(problem: Problem) -> Side:
    """Updates with the parallel episodes of the problem's configuration, on all devices."""
    config = problem.config
    episodes = config.learner.episodes
    number = devices.used_devices(episodes // (config.learner.plays * config.learner.minibatches))
    own = dataclasses.replace(config.learner, episodes=episodes // number)
    config = dataclasses.replace(config, learner=own)
    layout = mesh.Layout(mesh.Shape(1, number, 1))

    def member(state: LearnerState, bank: SurfaceBank, fold: Fold) -> tuple[LearnerState, dict]:
        numbers = fitting.numbers_of(bank, config.surrogate)

        def one(state: LearnerState, _: None) -> tuple[LearnerState, dict]:
            return learner.update(state, bank, fold, config, numbers)

        return jax.lax.scan(one, state, None, length=UPDATES)

    places = (P(), mesh.FOLDS, mesh.MEMBERS)
    update = layout.dealt(over_members(member), places, donate=True)
    init = jax.jit(jax.vmap(partial(learner.init, config=config), in_axes=(0, None, None)))
    first = init(jax.random.split(jax.random.key(0), number), problem.bank, problem.fold)
    folds, first = jax.tree.map(lambda leaf: leaf[None], (problem.fold, first))
    given = problem.bank, folds, first
    if not layout.alone:
        given = tuple(layout.place(tree, place) for tree, place in zip(given, places, strict=True))
    *shared, states = given
    latest = [states]

    def run() -> None:
        latest[0], metrics = update(*shared, latest[0])
        jax.block_until_ready((latest[0], metrics))

    return Side(run, UPDATES * episodes * config.env.trials)


def loop_side(problem: Problem, episodes: int) -> Side:
    """Episode by episode, one gradient step after each."""
    config = one_at_a_time(problem.config)
    init = jax.jit(partial(learner.init, config=config))
    begin = jax.jit(partial(_begin_synthetic, config=config))
    trial = jax.jit(partial(_exploring_trial, config=config))
    fit = jax.jit(partial(_fit_episode, config=config), donate_argnums=0)
    states = [init(jax.random.key(0), problem.bank, problem.fold)]
    keys = [
        [jax.block_until_ready(key) for key in jax.random.split(episode_key, config.env.trials + 1)]
        for episode_key in jax.random.split(jax.random.key(1), episodes)
    ]

    def run() -> None:
        for first, *trial_keys in keys:
            state = states[0]
            episode = begin(state.params, problem.bank, problem.fold, first)
            trials = []
            for key in trial_keys:
                episode, result = trial(state.params, episode, key)
                trials.append(result)
                float(result.reward)
                if bool(result.over):
                    break
            states[0] = fit(state, episode, trials, first)
        jax.block_until_ready(states[0])

    return Side(run, episodes * config.env.trials)


def one_at_a_time(config: TrainConfig) -> TrainConfig:
    """The configuration of the loop: a batch is one episode, and is used once."""
    single = dataclasses.replace(
        config.learner,
        episodes=1,
        plays=1,
        minibatches=1,
        epochs=1,
        baseline=False,
        replay="none",
        ordering="q",
    )
    return dataclasses.replace(config, learner=single)


def _begin_synthetic(
    params: Params, bank: SurfaceBank, fold: Fold, key: jax.Array, config: TrainConfig
) -> Episode:
    column_key, task_key = jax.random.split(key)
    columns = augment.draw_columns(column_key, bank.legal.shape[1], config.augment.candidates)
    offered = banks.take_candidates(bank, columns)
    task = jax.tree.map(lambda leaf: leaf[0], learner.draw_tasks(task_key, offered, fold, config))
    return begin_episode(params, rollout.background(offered, fold), task, config)


def _exploring_trial(
    params: Params, episode: Episode, key: jax.Array, config: TrainConfig
) -> tuple[Episode, Trial]:
    act = players.q_player(
        FlaxNetwork(config.network),
        config.network,
        params,
        config.learner.epsilon_start,
        exploration=config.learner.exploration,
    )
    return one_trial(episode, act, key, config)


def _fit_episode(
    state: LearnerState, episode: Episode, trials: list[Trial], key: jax.Array, config: TrainConfig
) -> LearnerState:
    """The state after a gradient step on one episode."""
    played: Trial = jax.tree.map(lambda *leaves: jnp.stack(leaves)[None], *trials)
    nothing = jnp.zeros_like(played.reward)
    record = Record(played.action, nothing, played.reward, played.over, played.valid, nothing, played.kept)
    tasks = jax.tree.map(lambda leaf: leaf[None], episode.task)
    batch = learner.make_batch(record, tasks, config)
    params, optimizer, _, _ = learner.fit(state, batch, key, config)
    decay = config.learner.average
    average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.average, params)
    return state._replace(params=params, average=average, optimizer=optimizer, updates=state.updates + 1)
