"""From a learned prior to a player: the loop that all process-based learned baselines share.

In every trial the latest result is learned, the posterior of every hypothesis is read in units of the task's
range, and the acquisition functions of the hypotheses are averaged by their evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import explore, surrogate
from hyprl_jax.baselines.learned import process
from hyprl_jax.baselines.learned.process import Covariance, Posterior, Prior, Trace
from hyprl_jax.config import EnvConfig
from hyprl_jax.rollout import Act, Choice, View


class ProcessMemory(NamedTuple):
    """What a process-based player remembers."""

    prior: Prior
    trace: Trace
    """Leaves `[G, ...]`."""
    starts: jax.Array
    """`[I]` int32 configurations to begin with, -1 for none."""


Acquire = Callable[[Posterior, Prior], jax.Array]
"""`acquire(posterior, prior) -> [G, N]`, not negative where hypotheses are averaged."""


def begin_memory(prior: Prior, starts: jax.Array, config: EnvConfig) -> ProcessMemory:
    """The memory before the first trial."""
    return ProcessMemory(prior, process.begin(prior, config.trials), starts)


def expected_improvement(posterior: Posterior, prior: Prior) -> jax.Array:
    """`[G, N]` expected improvement over the incumbent (Jones, Schonlau and Welch 1998, eq. 15)."""
    del prior
    return surrogate.expected_improvement(posterior.mean, posterior.deviation, posterior.incumbent[:, None])


def process_player(covariance: Covariance, acquire: Acquire) -> Act:
    """The player that takes the legal candidate of the largest mean acquisition over all hypotheses, after
    the starting configurations of its memory."""

    infer = jax.vmap(process.infer_units, in_axes=(0, 0, None, None))

    def act(memory: ProcessMemory, view: View, key: jax.Array) -> tuple[ProcessMemory, Choice]:
        del key
        prior, state, legal = memory.prior, view.state, view.observation.legal
        latest = jnp.maximum(state.trial - 1, 0)
        trace = process.learn_latest(
            prior, memory.trace, covariance, state.trial, state.actions[latest], state.objectives[latest]
        )
        units = infer(trace.moments, trace.log_determinant, prior.ranges, state.trial)
        posterior = process.read(prior, trace, units, state.incumbent, legal)
        best = explore.masked_argmax(posterior.weights @ acquire(posterior, prior), legal)
        action = started(memory.starts, view, best)
        return memory._replace(trace=trace), Choice(action, None)

    return act


def started(starts: jax.Array, view: View, otherwise: jax.Array) -> jax.Array:
    """The first of `starts [I]` that this task has and nobody has tested yet, if fewer than I trials are done
    and there is one; `otherwise` (int32) if not."""
    legal = view.observation.legal
    open_ = (starts >= 0) & legal[jnp.maximum(starts, 0)]
    some = jnp.any(open_) & (view.state.trial < starts.shape[0])
    return jnp.where(some, starts[jnp.argmax(open_)], otherwise)
