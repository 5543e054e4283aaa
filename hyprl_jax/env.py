"""One tuning episode: a task is fixed, configurations are tested one after another, each test reveals its
objective.

Everything here is a pure function of a single episode; thousands at once are the caller's `jax.vmap`. The
task is an argument of every call and never part of the state, so that a compiled loop carries only what
changes. What a policy may see is `Observation`; the task's best and worst objective are for rewards and
scoring.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hyprl_jax.config import EnvConfig, Reward


class Task(NamedTuple):
    """A task as it is played: N candidate configurations, K tasks that are known beforehand, M
    metafeatures."""

    objective: jax.Array
    """`[N]` float32, higher is better."""
    legal: jax.Array
    """`[N]` bool: can be tested at all."""
    best: jax.Array
    """Scalar float32: best objective among the legal candidates."""
    worst: jax.Array
    """Scalar float32: worst objective among the legal candidates."""
    peers: jax.Array
    """`[K]` bool: known tasks that may inform the player."""
    metafeatures: jax.Array
    """`[M]` float32, standardised."""
    collection: jax.Array
    """Scalar int32: which encodings describe the candidates."""


class EnvState(NamedTuple):
    """What changes in an episode; scalars but for `tried`."""

    tried: jax.Array
    """`[N]` bool."""
    trial: jax.Array
    """int32: trials done."""
    incumbent: jax.Array
    """float32: best objective so far, minus infinity before the first trial."""
    latest: jax.Array
    """float32: objective of the latest trial, 0 before the first (as in the published Hyp-RL)."""
    over: jax.Array
    """bool: the episode has ended; further steps change nothing and earn nothing."""


class Observation(NamedTuple):
    """What a policy may see before it chooses."""

    legal: jax.Array
    """`[N]` bool: may be chosen now."""
    trial: jax.Array
    incumbent: jax.Array
    latest: jax.Array


class StepResult(NamedTuple):
    """What one step brought; scalars."""

    objective: jax.Array
    """float32: revealed objective."""
    reward: jax.Array
    """float32."""
    over: jax.Array
    """bool: the episode has terminated with or before this step: nothing follows, nothing is bootstrapped."""
    valid: jax.Array
    """bool: the step took place (the episode was not over before)."""


def reset(task: Task) -> EnvState:
    """The state before the first trial."""
    chex.assert_rank([task.objective, task.legal], 1)
    return EnvState(
        tried=jnp.zeros_like(task.legal),
        trial=jnp.int32(0),
        incumbent=jnp.float32(-jnp.inf),
        latest=jnp.float32(0.0),
        over=~jnp.any(task.legal),
    )


def observe(task: Task, state: EnvState, config: EnvConfig) -> Observation:
    """What the policy sees; `legal` leaves out what was tried unless the episode may end by a repeat, or
    repeats are tolerated."""
    masked = config.mask_tried and not config.stop_on_repeat
    legal = task.legal & ~state.tried if masked else task.legal
    return Observation(legal, state.trial, state.incumbent, state.latest)


def at_test(config: EnvConfig, trials: int) -> EnvConfig:
    """The rules of `trials` test-time trials for a policy that was trained by the rules `config`: a repeat
    ends nothing, and is possible only if tried configurations are not masked."""
    return EnvConfig(trials=trials, mask_tried=config.mask_tried, late_results=config.late_results)


def step(task: Task, state: EnvState, action: jax.Array, config: EnvConfig) -> tuple[EnvState, StepResult]:
    """Tests configuration `action` (int32 scalar, legal).

    The episode terminates when the budget of `config.trials` is spent, when no legal candidate is left (with
    `config.mask_tried`), or on a repeat if `config.stop_on_repeat`. The budget is part of the task and known
    to the policy, so running out of it is termination and not truncation. Out-of-range actions are clamped,
    as in all of XLA: choose among legal ones.
    """
    chex.assert_rank([task.objective, state.tried], 1)
    chex.assert_rank(action, 0)
    value = task.objective[action]
    repeated = state.tried[action]
    after = EnvState(
        tried=state.tried.at[action].set(True),
        trial=state.trial + 1,
        incumbent=jnp.maximum(state.incumbent, value),
        latest=value,
        over=state.over,
    )
    spent = after.trial >= config.trials
    if config.stop_on_repeat:
        ended = spent | repeated
    elif not config.mask_tried:
        ended = spent
    else:
        # Counting is enough: without repeats, as many candidates are used up as trials were made.
        ended = spent | (after.trial >= jnp.sum(task.legal, dtype=jnp.int32))
    result = StepResult(
        objective=value,
        reward=jnp.where(state.over, 0.0, reward(config.reward, task, state, value)),
        over=state.over | ended,
        valid=~state.over,
    )
    kept = jax.tree.map(lambda old, new: jnp.where(state.over, old, new), state, after)
    return kept._replace(over=result.over), result


def reward(kind: Reward, task: Task, before: EnvState, value: jax.Array) -> jax.Array:
    """Reward, float32 scalar, of finding `value`; regret is in units of the task's range, in [0, 1].

    - `regret`: minus the regret of the incumbent after the trial (sums to minus the area under the regret
    curve);
    - `improvement`: by how much the trial lowered the regret (1 before the first trial);
    - `log_regret`: minus the decadic logarithm of the regret, from 0 (worst) to 3 (best), counted in 1/3;
    - `raw`: the revealed objective itself;
    - `hyprl`: `max(0, value - latest)`, the improvement on the previous trial (not on the incumbent), raw
    units.
    """
    if kind == "raw":
        return value
    if kind == "hyprl":
        return jnp.maximum(0.0, value - before.latest)
    now = normalized_regret(task, jnp.maximum(before.incumbent, value))
    if kind == "regret":
        return -now
    if kind == "log_regret":
        return -jnp.log10(now + 1e-3) / 3.0
    if kind == "improvement":
        return jnp.where(before.trial > 0, normalized_regret(task, before.incumbent), 1.0) - now
    raise ValueError(f"unknown reward {kind!r}")


def normalized_regret(task: Task, incumbent: jax.Array) -> jax.Array:
    """`(best - incumbent) / (best - worst)` in [0, 1], 0 for a constant surface; shape of `incumbent`."""
    span = task.best - task.worst
    regret = (task.best - incumbent) / jnp.where(span > 0, span, 1.0)
    return jnp.where(span > 0, jnp.clip(regret, 0.0, 1.0), 0.0)
