"""What is known before an episode: the surfaces of the known tasks, and how much each of them counts.

Known tasks whose datasets resemble the one being played count for more. Likeness is read from metafeatures:
with `d_k` the mean squared difference between the ranks that the played task and known task k take among the
known tasks, `w_k = (1 - f) softmax_k(-d_k / (2 h^2)) + f / K`. Width h and floor f are learned by likelihood
(`hyprl_jax.fitting`), so that metafeatures that say nothing about the surfaces are not listened to; without
metafeatures all `d_k` are 0 and all known tasks count the same. Results of the played task take no part.

All functions are for a single episode; the caller vmaps.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hyprl_jax.config import SurrogateConfig
from hyprl_jax.runtime.likeness import LEAST_FLOOR, MIDDLE


class Numbers(NamedTuple):
    """Numbers of the surrogate that differ from collection to collection (with a leading axis `[L]` for L
    collections); they stand in for those of `SurrogateConfig`."""

    lengthscale: jax.Array
    """`[F]` float32, one for each feature of the encodings."""
    encoding_variance: jax.Array
    learned_variance: jax.Array
    noise: jax.Array
    gain_weight: jax.Array
    similarity_width: jax.Array
    similarity_floor: jax.Array
    denoise: jax.Array
    """1 where the known surfaces count without their noise, else 0."""


def with_numbers(config: SurrogateConfig, numbers: Numbers) -> SurrogateConfig:
    """The configuration with these numbers of one collection in it (they may be traced)."""
    given = {name: number for name, number in numbers._asdict().items() if name != "denoise"}
    return dataclasses.replace(config, **given)


class Knowledge(NamedTuple):
    """What is known before an episode: shared by all episodes but for `weights`, `mean` and `deviation`."""

    surfaces: jax.Array
    """`[K, N]` float32 surfaces of the known tasks in units of their range, as the process reads them: where
    noise is taken out, half of it."""
    examples: jax.Array
    """`[K, N]` float32 the same as retrieval reads them: where noise is taken out, without it."""
    encodings: jax.Array
    """`[N, F]` float32 encodings of the candidates."""
    places: jax.Array
    """`[N, F]` float32 encodings in units of the lengthscales."""
    lower: jax.Array
    """`[K]` float32 worst objective of each known task (raw, higher is better)."""
    span: jax.Array
    """`[K]` float32 best minus worst objective of each known task."""
    weights: jax.Array
    """`[K]` float32, summing to 1 over the tasks that may be used (all 0 if there is none)."""
    mean: jax.Array
    """`[N]` float32 prior mean."""
    deviation: jax.Array
    """`[N]` float32 standard deviation of the known surfaces around it."""
    contrast: jax.Array
    """`[N]` float32 prior mean less `MIDDLE` (0 where nothing is learned)."""


def know(
    surfaces: jax.Array,
    encodings: jax.Array,
    lower: jax.Array,
    span: jax.Array,
    peers: jax.Array,
    config: SurrogateConfig,
    unlikeness: jax.Array | None = None,
) -> Knowledge:
    """Prior knowledge for the one who plays a task: `surfaces [K, N]`, `encodings [N, F]`, `lower, span [K]`,
    `peers [K]` bool (which known tasks may be used), `unlikeness [K]` as `unlikeness` answers (None: all
    known tasks are alike). With `config.prior` `constant`, or no peers, the prior is flat."""
    chex.assert_rank([surfaces, encodings, lower, span, peers], [2, 2, 1, 1, 1])
    if config.prior not in ("learned", "mean"):
        peers = jnp.zeros_like(peers)
    weights = task_weights(peers, unlikeness, config)
    mean = weights @ surfaces
    if config.prior == "learned":
        variance = jnp.maximum(weights @ (surfaces * surfaces) - mean * mean, 0.0)
        away = contrast(mean, peers)
    else:
        variance = away = jnp.zeros_like(mean)
    places = encodings / config.lengthscale
    return Knowledge(
        surfaces, surfaces, encodings, places, lower, span, weights, mean, jnp.sqrt(variance), away
    )


def contrast(mean: jax.Array, peers: jax.Array) -> jax.Array:
    """`[N]` prior mean `[N]` less `MIDDLE`; 0 if no known task may be used, `peers [K]` bool."""
    return jnp.where(jnp.any(peers), mean - MIDDLE, 0.0)


def task_weights(peers: jax.Array, unlikeness: jax.Array | None, config: SurrogateConfig) -> jax.Array:
    """`[K]` float32 weights of the known tasks among `peers [K]` bool, summing to 1 (all 0 for no peers)."""
    even = peers / jnp.maximum(peers.sum(), 1).astype(jnp.float32)
    if unlikeness is None or not config.similarity:
        return even
    logits = -0.5 * unlikeness / jnp.square(jnp.asarray(config.similarity_width))
    logits = logits - jnp.max(jnp.where(peers, logits, -jnp.inf), initial=-1e30)
    near = jnp.where(peers, jnp.exp(jnp.minimum(logits, 0.0)), 0.0)
    floor = jnp.clip(jnp.asarray(config.similarity_floor), LEAST_FLOOR, 1.0)
    return (1.0 - floor) * near / jnp.maximum(near.sum(), 1e-12) + floor * even


def unlikeness(metafeatures: jax.Array, known: jax.Array, ranks: jax.Array, among: jax.Array) -> jax.Array:
    """`[K]` mean squared difference of ranks, from 0 to 1, between a task with `metafeatures [M]` and the
    `known [K, M]` tasks, whose ranks are `ranks [K, M]`.

    Ranks are among the tasks `among [K]` bool. Metafeatures that do not differ among those say nothing and do
    not count; if none does, the answer is 0.
    """
    highest = jnp.max(jnp.where(among[:, None], known, -jnp.inf), axis=0, initial=-jnp.inf)
    lowest = jnp.min(jnp.where(among[:, None], known, jnp.inf), axis=0, initial=jnp.inf)
    differ = highest > lowest
    squares = (ranks - rank_among(metafeatures, known, among)) ** 2
    return jnp.sum(jnp.where(differ, squares, 0.0), axis=1) / jnp.maximum(differ.sum(), 1)


def rank_among(metafeatures: jax.Array, known: jax.Array, among: jax.Array) -> jax.Array:
    """`[M]` places, from 0 to 1, that the values `metafeatures [M]` take in `known [K, M]` among the tasks
    `among [K]` bool; ties in the middle."""
    below = jnp.sum(among[:, None] & (known < metafeatures), axis=0)
    equal = jnp.sum(among[:, None] & (known == metafeatures), axis=0)
    return (below + 0.5 * equal) / jnp.maximum(among.sum(), 1)


def known_ranks(known: jax.Array, collection: jax.Array) -> jax.Array:
    """`[K, M]` ranks of the metafeatures `known [K, M]` of each known task in its own `collection [K]`."""
    return jax.vmap(lambda values, own: rank_among(values, known, collection == own))(known, collection)
