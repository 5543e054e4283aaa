"""Environment steps alone: thousands of episodes in one compiled scan, beside one at a time from Python.

Both sides play the same precomputed random legal configurations on the same tasks and compute what an agent
would be told: the legal mask, the reward and the end of the episode.

The loop is the conventional one: two compiled functions, `begin` (task and first state) and `act` (one step),
are called from Python for one episode at a time, and the reward and the end are read back after each step, as
an agent outside the device needs them. Nothing is compiled anew, and everything it passes in is on the device
already.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import augment, devices, env
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.bench.problem import Problem
from hyprl_jax.bench.timing import Side
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import EnvState, Task


def batched_side(problem: Problem, episodes: int, seed: int = 0) -> Side:
    """All `episodes` at once, on all devices."""
    number = devices.used_devices(episodes)
    rows, actions = plan(problem, episodes, seed)
    play = partial(play_episodes, config=problem.config.env)
    program = jax.jit(devices.over_devices(play, number, shared=2))
    shared = devices.copy_to_all((problem.bank, problem.fold), number)
    dealt = devices.deal_out((rows, actions), number)

    def run() -> None:
        jax.block_until_ready(program(*shared, *dealt))

    return Side(run, actions.size)


def loop_side(problem: Problem, episodes: int, seed: int = 0) -> Side:
    """One episode after another."""
    rows, actions = plan(problem, episodes, seed)
    config = problem.config.env
    begin = jax.jit(partial(_begin, config=config))
    act = jax.jit(partial(_act, config=config))
    tasks = [jnp.asarray(row) for row in rows]
    choices = [[jnp.asarray(action) for action in episode] for episode in actions]

    def run() -> None:
        for row, episode in zip(tasks, choices, strict=True):
            task, state, _ = begin(problem.bank, problem.fold, row)
            for action in episode:
                state, _, reward, over = act(task, state, action)
                float(reward)
                if bool(over):
                    break

    return Side(run, actions.size)


def plan(problem: Problem, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the bank `[E]` and different random configurations `[E, T]`, int32."""
    random = np.random.default_rng(seed)
    tasks, candidates = problem.bank.legal.shape
    rows = random.integers(0, tasks, episodes).astype(np.int32)
    orders = np.argsort(random.random((episodes, candidates)), axis=1)
    return rows, orders[:, : problem.config.env.trials].astype(np.int32)


def play_episodes(
    bank: SurfaceBank, fold: Fold, rows: jax.Array, actions: jax.Array, config: EnvConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rewards, legality and ends, `[E, T]` each, of `actions [E, T]` on tasks `rows [E]`."""

    def one(row: jax.Array, choices: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        task, state, _ = _begin(bank, fold, row, config)

        def step(state: EnvState, action: jax.Array) -> tuple[EnvState, tuple]:
            legal = env.observe(task, state, config).legal
            state, result = env.step(task, state, action, config)
            return state, (result.reward, legal[action], result.over)

        return jax.lax.scan(step, state, choices)[1]

    return jax.vmap(one)(rows, actions)


def _begin(
    bank: SurfaceBank, fold: Fold, row: jax.Array, config: EnvConfig
) -> tuple[Task, EnvState, jax.Array]:
    task = augment.real_task(bank, fold, banks.standardised_metafeatures(bank, fold), row)
    state = env.reset(task)
    return task, state, env.observe(task, state, config).legal


def _act(
    task: Task, state: EnvState, action: jax.Array, config: EnvConfig
) -> tuple[EnvState, jax.Array, jax.Array, jax.Array]:
    state, result = env.step(task, state, action, config)
    return state, env.observe(task, state, config).legal, result.reward, result.over
