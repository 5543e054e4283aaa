"""The Gaussian process of the task being played, which has few points and gets one more after every trial.

Processes with each lengthscale and noise of a grid are prolonged side by side, by one row of their inverse
Cholesky factors a trial; the most likely one speaks for the task (Rasmussen and Williams 2006, eq. 2.30). The
results are standardised anew after each trial, which leaves the factors as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.baselines import gaussian
from hyprl_jax.baselines.gaussian import Hyper, Process
from hyprl_jax.rollout import View

LENGTHSCALES = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0)
"""The same for all features, which lie between 0 and 1."""
NOISES = (1e-3, 1e-2, 1e-1)
"""As shares of the variance of the process."""


class Evidence(NamedTuple):
    """What the history says, from T trials at most."""

    tested: jax.Array
    """`[T]` int32 candidates tested, 0 for trials to come."""
    present: jax.Array
    """`[T]` bool: trials done."""
    values: jax.Array
    """`[T]` results, standardised; 0 for trials to come."""
    incumbent: jax.Array
    """Scalar: the largest of them, minus infinity before the first."""
    process: Process
    """The process of the played task."""


def first_whiteners(trials: int) -> jax.Array:
    """`[G, T, T]` inverse factors of the G processes of the grid before the first trial."""
    return jnp.broadcast_to(jnp.eye(trials, dtype=jnp.float32), (_grid().noise.shape[0], trials, trials))


def prolonged(whiteners: jax.Array, view: View) -> jax.Array:
    """The inverse factors `[G, T, T]` after the latest trial (as they are before the first)."""
    state, encodings = view.state, view.known.encodings
    place = jnp.maximum(state.trial - 1, 0)
    earlier = jnp.arange(state.objectives.shape[0]) < place
    tested = jnp.where(earlier, state.actions, 0)
    latest = encodings[state.actions[place]][None]

    def one(whitener: jax.Array, hyper: Hyper) -> jax.Array:
        shared = gaussian.correlation(encodings[tested], latest, hyper.lengthscale)[:, 0]
        return longer_whitener(whitener, jnp.where(earlier, shared, 0.0), 1.0 + hyper.noise, place)[0]

    return jnp.where(state.trial > 0, jax.vmap(one)(whiteners, _grid()), whiteners)


def longer_whitener(
    whitener: jax.Array, shared: jax.Array, own: jax.Array, place: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The inverse factor `[T, T]` with a row for the point number `place`, whose covariance with the earlier
    ones is `shared [T]` (0 from there on) and with itself `own`; that row of the factor itself, without its
    last element, and its last element."""
    row = whitener @ shared
    rest = jnp.sqrt(jnp.maximum(own - row @ row, 1e-6 * own))
    return whitener.at[place].set((-row @ whitener / rest).at[place].set(1.0 / rest)), row, rest


def look_back(whiteners: jax.Array, view: View) -> Evidence:
    """The history and the most likely process of the grid."""
    state = view.state
    present = jnp.arange(state.objectives.shape[0]) < state.trial
    tested = jnp.where(present, state.actions, 0)
    values = gaussian.standardised(state.objectives, present)[0]
    best = jnp.max(jnp.where(present, values, -jnp.inf), initial=-jnp.inf)
    return Evidence(tested, present, values, best, most_likely(whiteners, tested, values, present))


def most_likely(whiteners: jax.Array, tested: jax.Array, values: jax.Array, present: jax.Array) -> Process:
    """The process of the grid with the largest marginal likelihood of `values [T]`, at its most likely
    variance."""
    white = whiteners @ values
    spread = gaussian.likely_variance(jnp.sum(white**2, axis=1), present)
    determinant = jnp.sum(jnp.log(jnp.diagonal(whiteners, axis1=1, axis2=2)), axis=1)
    best = jnp.argmax(determinant - 0.5 * (1.0 + present.sum()) * jnp.log(spread))
    hyper = jax.tree.map(lambda leaf: leaf[best], _grid())._replace(variance=spread[best])
    return Process(tested, present, whiteners[best], white[best] @ whiteners[best], hyper)


def _grid() -> Hyper:
    lengths, noises = jnp.meshgrid(jnp.asarray(LENGTHSCALES), jnp.asarray(NOISES), indexing="ij")
    return Hyper(lengths.ravel(), noises.ravel(), jnp.ones(lengths.size))
