"""A Gaussian process that starts cold: no other task, objectives standardised by the history, lengthscale by
evidence.

Several processes that differ in lengthscale are updated side by side; their expected improvements are
averaged with weights proportional to their marginal likelihood of the history (Rasmussen and Williams 2006,
eq. 2.30), which spares the user a choice and an optimiser in the loop. The first configuration is drawn at
random.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import explore, knowledge, surrogate
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background, Choice, View

_LENGTHSCALES = (0.15, 0.3, 0.6, 1.2)  # times the square root of the number of encoding features
_NOISE = 1e-3


class ColdMemory(NamedTuple):
    """One process a lengthscale; leaves lead with `[G]`."""

    states: surrogate.SurrogateState


def cold_config(lengthscale: jax.Array | float) -> SurrogateConfig:
    """A process with unit variance around a constant mean."""
    return dataclasses.replace(
        SurrogateConfig(),
        prior="constant",
        encoding_variance=1.0,
        noise=_NOISE,
        lengthscale=lengthscale,  # type: ignore[arg-type]
    )


def cold_memory(shared: Background, task: Task, config: EnvConfig, prepared: None = None) -> ColdMemory:
    """The memory of `cold_player` before the first trial."""
    del prepared
    encodings = shared.encodings[0] if shared.encodings.shape[0] == 1 else shared.encodings[task.collection]
    known = _unknowing(encodings, cold_config(1.0))
    state = surrogate.start(known, config.trials, cold_config(1.0))
    groups = len(_LENGTHSCALES)
    return ColdMemory(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (groups, *leaf.shape)), state))


def cold_player(memory: ColdMemory, view: View, key: jax.Array) -> tuple[ColdMemory, Choice]:
    """Expected improvement averaged over lengthscales by their evidence."""
    encodings = view.known.encodings
    trial = view.state.trial
    action = view.state.actions[jnp.maximum(trial - 1, 0)]
    objective = view.state.objectives[jnp.maximum(trial - 1, 0)]
    legal = view.observation.legal

    def one(
        state: surrogate.SurrogateState, lengthscale: jax.Array
    ) -> tuple[surrogate.SurrogateState, jax.Array, jax.Array]:
        config = cold_config(lengthscale)
        known = _unknowing(encodings, config)
        seen = surrogate.update(known, state, action, objective, config)
        state = jax.tree.map(lambda new, old: jnp.where(trial > 0, new, old), seen, state)
        belief = surrogate.believe(known, state, legal, config)
        return state, belief.expected_improvement, _evidence(state)

    scales = jnp.asarray(_LENGTHSCALES, jnp.float32) * jnp.sqrt(jnp.float32(encodings.shape[1]))
    states, improvements, evidence = jax.vmap(one)(memory.states, scales)
    score = jax.nn.softmax(evidence) @ improvements
    first = explore.random_legal(jax.random.uniform(key), legal)
    choice = jnp.where(trial > 0, explore.masked_argmax(score, legal), first)
    return ColdMemory(states), Choice(choice, None)


def _evidence(state: surrogate.SurrogateState) -> jax.Array:
    """Log marginal likelihood of the standardised history, up to a constant."""
    factor, shift = surrogate.cold_scale(state)
    shift = shift + factor * state.objectives[0]  # moments are of objectives counted from the first
    m = state.processes.moments[0]
    misfit = factor**2 * m[0, 0] + 2.0 * factor * shift * m[0, 1] + shift**2 * m[1, 1]
    return -0.5 * misfit - state.processes.log_determinant[0]


def _unknowing(encodings: jax.Array, config: SurrogateConfig) -> knowledge.Knowledge:
    nothing = jnp.zeros((1, encodings.shape[0]), jnp.float32)
    return knowledge.know(nothing, encodings, jnp.zeros(1), jnp.ones(1), jnp.zeros(1, bool), config)
