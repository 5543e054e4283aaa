"""Gaussian processes over the candidates of one task, updated after every trial at the cost of one row.

A learned baseline knows a prior mean and a covariance over the candidates before the first trial. What it
does not know are a few numbers of the task at hand (amplitude, noise): several *hypotheses* about them are
kept side by side and weighted by their evidence. The posterior is that of Rasmussen and Williams (2006, eq.
2.25 and 2.26), by rows of the Cholesky factor (their A.4), so that nothing is factorised anew.

The models are learned in units of a task's range, but the range of the task being played is unknown: its raw
objectives are `y = (z - b) / a`. Because the posterior mean is linear in the objectives, the projections of
objectives, of the constant 1 and of the prior mean are kept apart; `b` is integrated out in closed form and
`a` over a grid, both under what the known tasks' ranges say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.baselines.learned.meta import Ranges

_SCALES = 15  # grid points for the scale of the objective
_LEAST_VARIANCE = 1e-8


class Hypotheses(NamedTuple):
    """Numbers of the process, `[G]` for G hypotheses (or scalars for one)."""

    amplitude: jax.Array
    """Factor on the covariance."""
    noise: jax.Array
    """Variance of the noise."""


class Prior(NamedTuple):
    """What is believed before the first trial, in units of a task's range."""

    mean: jax.Array
    """`[N]`"""
    variance: jax.Array
    """`[N]` for amplitude 1."""
    features: jax.Array
    """`[N, D]` what the covariance function reads."""
    hypotheses: Hypotheses
    ranges: Ranges


class Trace(NamedTuple):
    """The belief after some trials of at most T; leaves lead with `[G]` when all hypotheses are meant."""

    rows: jax.Array
    """`[T, N]` rows of the Cholesky factor, 0 where unused."""
    variance: jax.Array
    """`[N]` posterior variance."""
    projections: jax.Array
    """`[3, N]` posterior projections of objective, constant 1 and prior mean."""
    moments: jax.Array
    """`[3, 3]` inner products of the whitened objective, constant and prior mean."""
    log_determinant: jax.Array
    """Scalar: of the covariance of the history."""


class Posterior(NamedTuple):
    """What is believed now, in units of the task's range; leaves lead with `[G]`."""

    mean: jax.Array
    """`[G, N]`"""
    deviation: jax.Array
    """`[G, N]` of the noiseless value."""
    incumbent: jax.Array
    """`[G]` best objective so far (before the first trial: the largest prior mean of a legal candidate)."""
    weights: jax.Array
    """`[G]` posterior probability of the hypotheses."""


class Units(NamedTuple):
    """`z = scale (y - reference) + shift`, and how well that explains the history; scalars."""

    scale: jax.Array
    shift: jax.Array
    evidence: jax.Array
    """Log marginal likelihood of the raw history."""


Covariance = Callable[[jax.Array, jax.Array], jax.Array]
"""`covariance(features [N, D], action) -> [N]` for amplitude 1."""


def begin(prior: Prior, trials: int) -> Trace:
    """The traces `[G, ...]` before the first of at most `trials` trials."""
    candidates, groups = prior.mean.shape[0], prior.hypotheses.noise.shape[0]
    return Trace(
        jnp.zeros((groups, trials, candidates), jnp.float32),
        prior.hypotheses.amplitude[:, None] * prior.variance,
        jnp.zeros((groups, 3, candidates), jnp.float32),
        jnp.zeros((groups, 3, 3), jnp.float32),
        jnp.zeros(groups, jnp.float32),
    )


def learn_latest(
    prior: Prior,
    trace: Trace,
    covariance: Covariance,
    trial: jax.Array,
    action: jax.Array,
    objective: jax.Array,
) -> Trace:
    """The traces `[G, ...]` after the latest of `trial` trials, which tested `action` (int32) and found
    the raw `objective`; unchanged if there was none yet."""
    row = covariance(prior.features, action)
    begun = (trial > 0).astype(jnp.float32)
    relative = objective - prior.ranges.lower

    def one(trace: Trace, hypothesis: Hypotheses) -> Trace:
        variance = jnp.maximum(trace.variance[action], 0.0) + hypothesis.noise
        deviation = jnp.sqrt(variance)
        explained = trace.rows[:, action] @ trace.rows
        new_row = begun * (hypothesis.amplitude * row - explained) / deviation
        facts = jnp.stack([relative, jnp.float32(1.0), prior.mean[action]])
        whitened = begun * (facts - trace.projections[:, action]) / deviation
        return Trace(
            trace.rows.at[jnp.maximum(trial - 1, 0)].set(new_row),
            jnp.maximum(trace.variance - new_row**2, 0.0),
            trace.projections + whitened[:, None] * new_row,
            trace.moments + whitened[:, None] * whitened,
            trace.log_determinant + begun * jnp.log(variance),
        )

    return jax.vmap(one)(trace, prior.hypotheses)


def infer_units(moments: jax.Array, log_determinant: jax.Array, ranges: Ranges, trial: jax.Array) -> Units:
    """Scale and shift of one hypothesis's history: posterior means over a grid of scales `a`, from
    `moments [3, 3]` and `log_determinant` as in `Trace`.

    With whitened objective u_y, constant u_1 and prior mean u_m the log-likelihood is `T log a - |a u_y + c
    u_1 - u_m|^2 / 2 - log det / 2`; `c ~ N(0, (a s)^2)`, where s is the standard deviation of the known
    tasks' worst objectives, integrates out; `log a` is normal as the known tasks' ranges are.
    """
    offsets = jnp.linspace(-2.5, 2.5, _SCALES)
    scale = jnp.exp(ranges.log_scale + ranges.log_scale_deviation * offsets)
    before = 1.0 / (scale * ranges.lower_deviation) ** 2
    (yy, y1, ym), (_, oo, om), (_, _, mm) = moments
    precision = before + oo
    shift = -(scale * y1 - om) / precision
    misfit = scale**2 * yy + mm - 2.0 * scale * ym - precision * shift**2
    likelihood = trial * jnp.log(scale) - 0.5 * (misfit + jnp.log(precision / before))
    prior = jax.nn.log_softmax(-0.5 * offsets**2)
    posterior = jax.nn.softmax(likelihood + prior)
    evidence = jax.nn.logsumexp(likelihood + prior) - 0.5 * log_determinant
    return Units(posterior @ scale, posterior @ shift, evidence)


def read(prior: Prior, trace: Trace, units: Units, best: jax.Array, legal: jax.Array) -> Posterior:
    """The posterior of all hypotheses (`trace` and `units` lead with `[G]`); `best` is the best raw objective
    so far, minus infinity before the first trial, `legal [N]` bool."""
    objective, one, mean = jnp.moveaxis(trace.projections, 1, 0)
    scale, shift = units.scale[:, None], units.shift[:, None]
    posterior = prior.mean - mean + scale * objective + shift * one
    begun = jnp.isfinite(best)
    first = jnp.max(jnp.where(legal, prior.mean, -jnp.inf), initial=-1e3)
    reached = units.scale * jnp.where(begun, best - prior.ranges.lower, 0.0) + units.shift
    incumbent = jnp.where(begun, reached, first)
    deviation = jnp.sqrt(jnp.maximum(trace.variance, _LEAST_VARIANCE))
    return Posterior(posterior, deviation, incumbent, jax.nn.softmax(units.evidence))


def matern(features: jax.Array, others: jax.Array) -> jax.Array:
    """`(1 + r + r^2 / 3) exp(-r) [A, B]` with `r = sqrt(5) d`, the Matern covariance of smoothness 5/2
    (Rasmussen and Williams 2006, eq. 4.17) between `features [A, D]` and `others [B, D]` in units of the
    lengthscale."""
    squared = (features**2).sum(1)[:, None] + (others**2).sum(1) - 2.0 * features @ others.T
    return _matern_of(squared)


def matern_row(features: jax.Array, action: jax.Array) -> jax.Array:
    """`[N]` Matern covariance between candidate `action` and all of `features [N, D]`."""
    return _matern_of(((features - features[action]) ** 2).sum(1))


def _matern_of(squared: jax.Array) -> jax.Array:
    # The square root has no slope at 0, and a gradient of infinity times 0 is no number.
    r = jnp.sqrt(5.0 * jnp.maximum(squared, 1e-9))
    return (1.0 + r + r**2 / 3.0) * jnp.exp(-r)


def surprise(values: jax.Array, covariance: jax.Array, noise: jax.Array, present: jax.Array) -> jax.Array:
    """Negative log-likelihood, a value, of `values [M]` under `N(0, covariance [M, M] + noise I)`, of those
    that are `present [M]` (1 or 0) only (Rasmussen and Williams 2006, eq. 2.30)."""
    covariance = covariance * present[:, None] * present
    covariance = covariance + jnp.diag(noise * present + (1.0 - present))
    factor = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(factor, values * present, lower=True)
    count = present.sum()
    total = 0.5 * (white @ white + count * jnp.log(2.0 * jnp.pi)) + jnp.log(jnp.diag(factor)).sum()
    return total / jnp.maximum(count, 1.0)
