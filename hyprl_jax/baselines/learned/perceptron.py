"""Fully connected networks as plain pytrees: the feature maps that the learned baselines share.

A network is a tuple of layers `(weights [I, O], biases [O])`. Hidden units are tanh, as in the papers that
these baselines come from: smooth features make smooth surrogates.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Layers = tuple[tuple[jax.Array, jax.Array], ...]


def init_layers(key: jax.Array, sizes: Sequence[int]) -> Layers:
    """Layers from `sizes[0]` inputs to `sizes[-1]` outputs, weights of variance `1 / inputs`, biases 0."""
    layers = []
    for layer_key, inputs, outputs in zip(
        jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True
    ):
        weights = jax.random.normal(layer_key, (inputs, outputs)) / jnp.sqrt(jnp.float32(inputs))
        layers.append((weights, jnp.zeros(outputs)))
    return tuple(layers)


def apply_layers(layers: Layers, inputs: jax.Array, last_linear: bool = True) -> jax.Array:
    """`[..., O]` outputs for `inputs [..., I]`; tanh after every layer, after the last one unless it is
    linear."""
    outputs = inputs
    for number, (weights, biases) in enumerate(layers):
        outputs = outputs @ weights + biases
        if not last_linear or number < len(layers) - 1:
            outputs = jnp.tanh(outputs)
    return outputs


def centred(encodings: jax.Array) -> jax.Array:
    """Unit-cube encodings brought to [-1, 1], any shape: what all networks here read."""
    return 2.0 * encodings - 1.0
