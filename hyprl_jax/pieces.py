"""Gradients of a batch, on a CPU added up from pieces of it whose activations stay in the caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_STEPS_AT_ONCE = 1280


def gradients_of(
    loss_of: Callable[[Any, Any], tuple[jax.Array, jax.Array]], params: Any, batch: Any
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """`((loss, errors [E]), gradients)` of `loss_of(params, batch)`, whose loss is a mean over the steps
    `batch.valid [E, T]` and whose errors are one for each episode."""
    episodes, trials = batch.valid.shape
    pieces = number_of_pieces(episodes, trials)
    total = jnp.maximum(batch.valid.sum(), 1)

    def share(params: Any, piece: Any) -> tuple[jax.Array, jax.Array]:
        loss, errors = loss_of(params, piece)
        return loss * piece.valid.sum() / total, errors

    def add(so_far: tuple, piece: Any) -> tuple[tuple, jax.Array]:
        (loss, errors), gradients = jax.value_and_grad(share, has_aux=True)(params, piece)
        return jax.tree.map(jnp.add, so_far, (loss, gradients)), errors

    cut = jax.tree.map(lambda leaf: leaf.reshape(pieces, episodes // pieces, *leaf.shape[1:]), batch)
    nothing = jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params)
    (loss, gradients), errors = jax.lax.scan(add, nothing, cut)
    return (loss, errors.reshape(episodes)), gradients


def number_of_pieces(episodes: int, trials: int) -> int:
    """Into how many equal pieces a batch of `episodes` of `trials` is cut: one but for CPUs."""
    if jax.default_backend() != "cpu":
        return 1
    most = max(1, _STEPS_AT_ONCE // trials)
    return next(n for n in range(1, episodes + 1) if episodes % n == 0 and episodes // n <= most)
