"""The compiled programs that play test tasks, vmapped over tasks and runs, kept by what shapes them.

All have the form `(bank, fold, rows [R], starts [R, S, I] or None, given) -> actions [R, S, T]`: what S runs
of a method do on the tasks in the rows of the bank, -1 once nothing is left to test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import augment, fitting, players, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines import make_baseline
from hyprl_jax.config import EnvConfig, NetworkConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.knowledge import Numbers
from hyprl_jax.networks import FlaxNetwork, Params

_TASKS_AT_ONCE = 16  # test tasks are padded to a multiple of it, fewer to a power of two

Program = Callable[..., jax.Array]
Placed = tuple[SurfaceBank, Fold]


def timed(
    program: Program, placed: Placed, rows: np.ndarray, starts: np.ndarray | None, given: Any
) -> tuple[np.ndarray, float]:
    """Actions `[R, S, T]` and seconds a suggestion, compilation not counted."""
    size = len(rows)
    padding = -size % _TASKS_AT_ONCE if size > _TASKS_AT_ONCE else (1 << (size - 1).bit_length()) - size
    rows = np.pad(rows, (0, padding), mode="edge")
    if starts is not None:
        starts = np.pad(starts, ((0, padding), (0, 0), (0, 0)), mode="edge").astype(np.int32)
    arguments = (*placed, jnp.asarray(rows), None if starts is None else jnp.asarray(starts), given)
    compiled_before = program._cache_size()  # type: ignore[attr-defined]
    start = time.perf_counter()
    actions = np.asarray(program(*arguments))
    if program._cache_size() > compiled_before:  # type: ignore[attr-defined]
        start = time.perf_counter()
        actions = np.asarray(program(*arguments))
    seconds = (time.perf_counter() - start) / actions.size
    return actions[:size], seconds


@lru_cache(maxsize=64)
def learning_program(env: EnvConfig, beliefs: SurrogateConfig, retrieval: bool) -> Callable[..., Numbers]:
    """`(bank, fold) -> Numbers`."""
    return jax.jit(lambda bank, fold: fitting.learn(bank, fold, env, beliefs, retrieval))


@lru_cache(maxsize=64)
def preparing_program(method: str, env: EnvConfig, beliefs: SurrogateConfig) -> Callable[..., Any]:
    """`(bank, fold) -> ` what the baseline learns from the known tasks of the fold (None if nothing)."""
    prepare = make_baseline(method, beliefs).prepare
    if prepare is None:
        return lambda bank, fold: None
    return jax.jit(lambda bank, fold: prepare(bank, fold, env))


@lru_cache(maxsize=64)
def baseline_program(method: str, env: EnvConfig, beliefs: SurrogateConfig) -> Program:
    """`given` are the seeds `[S]`, the surrogate's `Numbers`, and what `preparing_program` answers."""
    baseline = make_baseline(method, beliefs)

    def play(
        bank: SurfaceBank,
        fold: Fold,
        rows: jax.Array,
        starts: jax.Array | None,
        given: tuple[jax.Array, Numbers, Any],
    ) -> jax.Array:
        seeds, numbers, prepared = given
        shared = rollout.background(bank, fold, numbers)

        def one(task: Task, row: jax.Array, seed: jax.Array, start: jax.Array | None) -> jax.Array:
            act = baseline.act if start is None else players.starting_from(baseline.act, start)
            key = jax.random.fold_in(jax.random.key(seed), row)
            memory = baseline.memory(shared, task, env, prepared)
            return _actions(rollout.play(act, memory, shared, task, key, env, baseline.beliefs))

        return _over_tasks(one, bank, fold, rows, seeds, starts)

    return jax.jit(play)


@lru_cache(maxsize=64)
def policy_program(
    method: str, env: EnvConfig, beliefs: SurrogateConfig, network_config: NetworkConfig
) -> Program:
    """`given` are the members `[M, ...]`, the surrogate's `Numbers`, and which member plays each run, int32
    `[S]` (without a meaning for the ensemble, in which all do)."""
    network = FlaxNetwork(network_config)

    def play(
        bank: SurfaceBank,
        fold: Fold,
        rows: jax.Array,
        starts: jax.Array | None,
        given: tuple[Params, Numbers, jax.Array],
    ) -> jax.Array:
        members, numbers, who = given
        shared = rollout.background(bank, fold, numbers)
        key = jax.random.key(0)  # a greedy player draws nothing

        def one(task: Task, row: jax.Array, member: jax.Array, start: jax.Array | None) -> jax.Array:
            del row
            if method == "policy_ensemble":
                act = players.ensemble_player(network, network_config, members)
                memory = jax.vmap(lambda params: network.initial_carry(params, task.metafeatures))(members)
            else:
                params = jax.tree.map(lambda leaf: leaf[member], members)
                act = players.q_player(network, network_config, params)
                memory = players.q_memory(network, params, None, task)
            if start is not None:
                act = players.starting_from(act, start)
            return _actions(rollout.play(act, memory, shared, task, key, env, beliefs))

        return _over_tasks(one, bank, fold, rows, who, starts)

    return jax.jit(play)


def _over_tasks(
    one: Callable[..., jax.Array],
    bank: SurfaceBank,
    fold: Fold,
    rows: jax.Array,
    runs: jax.Array,
    starts: jax.Array | None,
) -> jax.Array:
    """`one(task, row, run, start)` for all rows `[R]` and runs `[S]`: `[R, S, T]`."""
    metafeatures = banks.standardised_metafeatures(bank, fold)

    def of_run(row: jax.Array, run: jax.Array, start: jax.Array | None) -> jax.Array:
        return one(augment.real_task(bank, fold, metafeatures, row), row, run, start)

    tasks, each = rows.shape[0], runs.shape[0]
    begins = None if starts is None else starts.reshape(tasks * each, *starts.shape[2:])
    given = jnp.repeat(rows, each), jnp.tile(runs, tasks), begins
    actions = rollout.over_episodes(of_run, *given, candidates=bank.legal.shape[1])
    return actions.reshape(tasks, each, *actions.shape[1:])


def _actions(record: rollout.Record) -> jax.Array:
    return jnp.where(record.valid, record.action, -1)
