"""Players: pure functions that choose the next candidate from what `rollout.View` shows.

A Q-network that judges a shortlist (the best candidates by the acquisition function that it corrects), the
mean of several such networks, any score, and any of these after given starting points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import explore, ordering, surrogate
from hyprl_jax.config import NetworkConfig
from hyprl_jax.env import Task
from hyprl_jax.networks import CandidateInputs, Network, Params
from hyprl_jax.rollout import Act, Choice, View, relative


class Listed(NamedTuple):
    """A shortlist of C candidates, and the choice from it."""

    features: jax.Array
    """`[C, F]`"""
    start: jax.Array
    """`[C]`"""
    legal: jax.Array
    """`[C]` bool."""
    place: jax.Array
    """int32: place of the choice."""
    log_probability: jax.Array
    """Scalar: of the choice, by the policy that made it."""


class Kept(NamedTuple):
    """What learning needs of a choice by a Q-network; everything else can be forgotten."""

    context: jax.Array
    """`[G]` what the network read."""
    features: jax.Array
    """`[F]` inputs of the chosen candidate."""
    start: jax.Array
    """Scalar start value of the chosen candidate."""
    top: jax.Array
    """Scalar acquisition of the best legal candidate."""
    value: jax.Array
    """Scalar: the value of the state, the largest legal Q-value (by double Q-learning with a target
    network)."""
    greedy: jax.Array
    """bool: the choice was the greedy one."""
    listed: Listed | None
    """The shortlist that the choice was drawn from, if it was drawn by preference."""


def shortlist(view: View, config: NetworkConfig) -> jax.Array:
    """Candidates `[C]` int32 that a network judges: the `config.shortlist` best by the acquisition function,
    best first, or all of them (with 0, or if there are no more)."""
    total = view.acquired.acquisition.shape[0]
    width = shortlist_width(config, total)
    if width == total:
        return jnp.arange(total, dtype=jnp.int32)
    ranked = jnp.where(view.observation.legal, view.acquired.acquisition, -1.0)
    return explore.largest(ranked, width)


def shortlist_width(config: NetworkConfig, candidates: int) -> int:
    """C of the shortlist of so many candidates."""
    return config.shortlist if 0 < config.shortlist < candidates else candidates


def gumbel_noise(config: NetworkConfig, candidates: int) -> Callable[[jax.Array], jax.Array]:
    """What makes of a key the Gumbel variables `[C]` of a draw from the shortlist of so many candidates."""
    width = shortlist_width(config, candidates)
    return lambda key: jax.random.gumbel(key, (width,))


def read(view: View, config: NetworkConfig) -> jax.Array:
    """What the network reads before a choice `[G]`: the context, or with the head `fixed` the previous
    configuration and its result."""
    return view.previous if config.head == "fixed" else view.context


def candidate_inputs(view: View, config: NetworkConfig, columns: jax.Array) -> CandidateInputs:
    """What the network sees of the candidates `columns [C]`, by `config.candidates`; their columns alone with
    the head `fixed`."""
    if config.head == "fixed":
        return CandidateInputs(columns[:, None], jnp.zeros(columns.shape, jnp.float32), jnp.float32(1.0))
    parts = []
    if config.candidates in ("surrogate", "both"):
        parts.append(surrogate.features(view.known, view.belief, view.acquired, columns))
    if config.candidates in ("encodings", "both"):
        parts.append(view.known.encodings[columns])
    features = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return CandidateInputs(features, relative(view, columns), view.acquired.top)


def q_player(
    network: Network,
    config: NetworkConfig,
    params: Params,
    epsilon: jax.Array | float = 0.0,
    *,
    target: Params | None = None,
    double: bool = False,
    exploration: str = "uniform",
    forced: jax.Array | None = None,
    temperature: jax.Array | float | None = None,
) -> Act:
    """The epsilon-greedy player of a Q-network, which keeps `Kept`; its memory is made by `q_memory`.

    With a `temperature` it draws from its shortlist by softmax over `preferences` instead, and is given not a
    key but what `gumbel_noise` makes of one.

    With `target` parameters the values of states come from them (with `double`, of the action that `params`
    choose: van Hasselt, Guez and Silver 2016). `exploration` `acquisition` explores in proportion to the
    acquisition function instead of uniformly. `forced [T]` int32 actions are played whatever the network
    says: to look at a stored episode with new parameters.
    """

    def act(memory: Any, view: View, luck: jax.Array) -> tuple[Any, Choice]:
        columns = shortlist(view, config)
        legal = view.observation.legal[columns]
        inputs, context = candidate_inputs(view, config, columns), read(view, config)
        carry, hidden = network.advance(params, memory[0], context)
        place = explore.masked_argmax(network.advantages(params, hidden, inputs), legal)
        if target is None:
            memory = (carry, memory[1])
            value = network.values(params, hidden, _one_of(inputs, place))[0]
        else:
            target_carry, target_hidden = network.advance(target, memory[1], context)
            target_q = network.values(target, target_hidden, inputs)
            memory = (carry, target_carry)
            value = target_q[place if double else explore.masked_argmax(target_q, legal)]
        best = jnp.where(place >= 0, columns[place], explore.NOTHING_LEGAL)
        listed = None
        if forced is not None:
            action = forced[view.observation.trial]
        elif temperature is not None:
            preferences = network.preferences(params, hidden, inputs)
            listed = _draw(luck, preferences, inputs, legal, temperature)
            action = jnp.where(place >= 0, columns[listed.place], explore.NOTHING_LEGAL)
        else:
            whether, which = jax.random.split(luck)
            explores = jax.random.uniform(whether) < epsilon
            action = jnp.where(explores, _explore(which, view, columns, exploration), best)
        if listed is None:
            chosen = candidate_inputs(view, config, action[None])
        else:
            chosen = _one_of(inputs, listed.place)
        kept = Kept(
            context,
            chosen.features[0],
            chosen.start[0],
            chosen.top,  # type: ignore[arg-type]
            jnp.where(place >= 0, value, 0.0),
            action == best,
            listed,
        )
        return memory, Choice(action, kept)

    return act


def q_memory(network: Network, params: Params, target: Params | None, task: Task) -> tuple[Any, Any]:
    """Memory of `q_player` before the first trial of `task`."""
    first = network.initial_carry(params, task.metafeatures)
    return first, (network.initial_carry(target, task.metafeatures) if target is not None else None)


def ensemble_player(network: Network, config: NetworkConfig, members: Params) -> Act:
    """The greedy player of the mean Q-value of several networks (leading axis of `members`); its memory is
    their carries. It keeps nothing."""

    def act(memory: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
        del key
        columns = shortlist(view, config)
        inputs = candidate_inputs(view, config, columns)

        def judge(params: Params, carry: Any) -> tuple[Any, jax.Array]:
            carry, hidden = network.advance(params, carry, read(view, config))
            return carry, network.advantages(params, hidden, inputs)

        memory, advantages = jax.vmap(judge)(members, memory)
        place = explore.masked_argmax(advantages.mean(0), view.observation.legal[columns])
        return memory, Choice(jnp.where(place >= 0, columns[place], explore.NOTHING_LEGAL), None)

    return act


def starting_from(act: Act, starts: jax.Array) -> Act:
    """The player that tests the candidates `starts [I]` int32 first (-1: its own choice) and then goes on as
    `act`, which sees their results as if it had chosen them."""

    def begun(memory: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
        memory, choice = act(memory, view, key)
        trial = view.observation.trial
        given = starts[jnp.minimum(trial, starts.shape[0] - 1)]
        forced = (trial < starts.shape[0]) & (given >= 0)
        return memory, choice._replace(action=jnp.where(forced, given, choice.action))

    return begun


def score_player(score: Callable[[View, jax.Array], jax.Array]) -> Act:
    """The player that takes the legal candidate with the largest `score(view, key) [N]`; no memory, keeps
    nothing."""

    def act(memory: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
        return memory, Choice(explore.masked_argmax(score(view, key), view.observation.legal), None)

    return act


def _one_of(inputs: CandidateInputs, place: jax.Array) -> CandidateInputs:
    """The inputs `[1, ...]` of the candidate at a place of a shortlist."""
    return inputs._replace(features=inputs.features[place][None], start=inputs.start[place][None])


def _draw(
    noise: jax.Array,
    preferences: jax.Array,
    inputs: CandidateInputs,
    legal: jax.Array,
    temperature: jax.Array | float,
) -> Listed:
    """One of a shortlist by softmax over `preferences [C]`: the largest logarithm of a probability with
    Gumbel `noise [C]` added to it, the first if nothing is legal."""
    logits = ordering.log_probabilities(preferences, legal, temperature)
    place = jnp.maximum(explore.masked_argmax(logits + noise, legal), 0)
    return Listed(inputs.features, inputs.start, legal, place, logits[place])


def _explore(key: jax.Array, view: View, columns: jax.Array, exploration: str) -> jax.Array:
    """A legal candidate: any, or one of `columns [C]` in proportion to its acquisition."""
    uniform = jax.random.uniform(key)
    if exploration == "uniform":
        return explore.random_legal(uniform, view.observation.legal)
    # Inverse of the cumulative distribution.
    weights = jnp.exp(relative(view, columns))
    weights = jnp.cumsum(jnp.where(view.observation.legal[columns], weights, 0.0))
    place = jnp.sum(weights <= uniform * weights[-1], dtype=jnp.int32)
    # A product that rounds up to the total is brought back to the first candidate, which is legal if any is.
    action = columns[jnp.minimum(place, columns.shape[0] - 1)]
    return jnp.where(
        view.observation.legal[action], action, explore.random_legal(uniform, view.observation.legal)
    )
