"""A gated recurrent unit over whole sequences, whose gradient of the weights is taken after the loop.

Differentiating a loop over trials adds up the gradient of every weight in every turn, by products of a few
rows each. Here the way back through time carries on nothing but the gradient of the state; what the gates
were told is kept, and each weight's gradient is one product over all sequences and trials.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["gru"]

Weights = Any
"""The parameters of `flax.linen.GRUCell`: kernels `[X, H]` (`ir`, `iz`, `in`) and `[H, H]` (`hr`, `hz`,
`hn`), biases `[H]` of all but `hr` and `hz`."""


@jax.custom_vjp
def gru(weights: Weights, first: jax.Array, inputs: jax.Array) -> jax.Array:
    """States `[T, E, H]` after each of the `inputs [T, E, X]`, from the states `first [E, H]` on.

    Cho et al. 2014 (arXiv 1406.1078), with the reset gate on the state's share of the candidate as
    `flax.linen.GRUCell` has it.
    """
    return _forward(weights, first, inputs)[0]


def _gates(weights: Weights, state: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
    """Reset gate, update gate, candidate, what the candidate was told of the state, and the next state."""

    def told(name: str, of: jax.Array) -> jax.Array:
        part = weights[name]
        return of @ part["kernel"] + part["bias"] if "bias" in part else of @ part["kernel"]

    reset = jax.nn.sigmoid(told("ir", x) + told("hr", state))
    update = jax.nn.sigmoid(told("iz", x) + told("hz", state))
    remembered = told("hn", state)
    candidate = jnp.tanh(told("in", x) + reset * remembered)
    return reset, update, candidate, remembered, (1.0 - update) * candidate + update * state


def _forward(weights: Weights, first: jax.Array, inputs: jax.Array) -> tuple[jax.Array, tuple]:
    def advance(state: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple]:
        gates = _gates(weights, state, x)
        return gates[-1], gates

    *kept, states = jax.lax.scan(advance, first, inputs)[1]
    before = jnp.concatenate([first[None], states[:-1]])
    return states, (weights, inputs, before, *kept)


def _backward(saved: tuple, gradients: jax.Array) -> tuple[Weights, jax.Array, jax.Array]:
    weights, inputs, before, *gates = saved
    back = {name: part["kernel"].T for name, part in weights.items()}

    def retreat(beyond: jax.Array, turn: tuple) -> tuple[jax.Array, tuple]:
        gradient, state, reset, update, candidate, remembered = turn
        whole = beyond + gradient
        of_candidate = whole * (1.0 - update) * (1.0 - candidate**2)
        of_update = whole * (state - candidate) * update * (1.0 - update)
        of_reset = of_candidate * remembered * reset * (1.0 - reset)
        of_remembered = of_candidate * reset
        through = of_reset @ back["hr"] + of_update @ back["hz"] + of_remembered @ back["hn"]
        return whole * update + through, (of_reset, of_update, of_candidate, of_remembered)

    of_first, found = jax.lax.scan(
        retreat, jnp.zeros_like(before[0]), (gradients, before, *gates), reverse=True
    )
    of_reset, of_update, of_candidate, of_remembered = map(_rows, found)
    told = {"ir": of_reset, "iz": of_update, "in": of_candidate}
    told |= {"hr": of_reset, "hz": of_update, "hn": of_remembered}
    x, state = _rows(inputs), _rows(before)
    ones = jnp.ones((1, x.shape[0]), x.dtype)  # as a product it is faster on CPUs than as a sum over rows

    def of_weight(name: str) -> dict[str, jax.Array]:
        found = {"kernel": (x if name.startswith("i") else state).T @ told[name]}
        if "bias" in weights[name]:
            found["bias"] = (ones @ told[name])[0]
        return found

    of_inputs = sum(told[name] @ back[name] for name in ("ir", "iz", "in"))
    return {name: of_weight(name) for name in weights}, of_first, jnp.reshape(of_inputs, inputs.shape)


def _rows(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(-1, leaf.shape[-1])


gru.defvjp(_forward, _backward)
