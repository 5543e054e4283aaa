"""One Gaussian process over the candidates of a task, updated by a row a trial, in the objective's raw units.

The posterior over a finite candidate set is kept by one row of the pivoted Cholesky factor a trial
(Rasmussen and Williams 2006, A.4), so that a step costs O(T N) and nothing is ever factorised again. The
objective comes in raw units `y = (z - b) / a`; because the update is linear, the projections of `y`, of the
constant and of the prior mean are kept apart, and the scale `a` and shift `b` are estimated anew after each
trial under priors from the known tasks' ranges.

All functions are for a single process of a single episode; the caller vmaps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.knowledge import Knowledge
from hyprl_jax.runtime.guard import FAR_SHARE, FARTHER
from hyprl_jax.runtime.process import SCALES


class Process(NamedTuple):
    """The process after some trials of at most T."""

    rows: jax.Array
    """`[T, N]` float32 rows of the Cholesky factor."""
    variance: jax.Array
    """`[N]` float32 posterior variance."""
    projections: jax.Array
    """`[3, N]` float32 posterior projections of the objective, of the constant 1 and of the prior mean."""
    moments: jax.Array
    """`[3, 3]` float32 inner products of the whitened objective, constant and prior mean."""
    log_determinant: jax.Array
    """float32 logarithm of the factor's determinant."""


class Ranges(NamedTuple):
    """Where the objective of a task may lie, judged by the known tasks; float32 scalars."""

    log_scale: jax.Array
    """Mean of `log a`."""
    width: jax.Array
    """Standard deviation of `log a`."""
    lower: jax.Array
    """Mean of the worst objective."""
    lower_variance: jax.Array


class Units(NamedTuple):
    """What brings raw objectives to units of the task's range, `z = a y + b`; float32 scalars."""

    scale: jax.Array
    """a"""
    shift: jax.Array
    """b, for objectives counted from the reference."""
    inflation: jax.Array
    """Factor on posterior standard deviations."""
    evidence: jax.Array
    """Logarithm of the marginal likelihood of the history, up to a constant that all processes share."""


def begin(variance: jax.Array, trials: int) -> Process:
    """The process before the first of at most `trials` trials; `variance [N]` is the prior's."""
    candidates = variance.shape[0]
    return Process(
        rows=jnp.zeros((trials, candidates), jnp.float32),
        variance=variance,
        projections=jnp.zeros((3, candidates), jnp.float32),
        moments=jnp.zeros((3, 3), jnp.float32),
        log_determinant=jnp.float32(0.0),
    )


def condition(
    process: Process, row: jax.Array, action: jax.Array, facts: jax.Array, noise: jax.Array | float,
    trial: jax.Array,
) -> Process:  # fmt: skip
    """The process after testing `action` at `trial` (int32 scalars): `row [N]` is the prior covariance with
    that candidate, `facts [3]` the objective counted from the reference, 1, and the prior mean there."""
    deviation = jnp.sqrt(jnp.maximum(process.variance[action], 0.0) + noise)
    new_row = (row - process.rows[:, action] @ process.rows) / deviation
    whitened = (facts - process.projections[:, action]) / deviation
    return Process(
        rows=process.rows.at[trial].set(new_row),
        variance=jnp.maximum(process.variance - new_row**2, 0.0),
        projections=process.projections + whitened[:, None] * new_row,
        moments=process.moments + whitened[:, None] * whitened,
        log_determinant=process.log_determinant + jnp.log(deviation),
    )


def ranges(known: Knowledge) -> Ranges:
    """Where the known tasks lie. A known range is never narrower than a hundredth of a typical one."""
    weights = known.weights
    log_scale = -jnp.log(jnp.maximum(known.span, 1e-12))
    centre = weights @ log_scale
    width = jnp.sqrt(weights @ (log_scale - centre) ** 2 + 0.01)
    lower = weights @ known.lower
    variance = weights @ (known.lower - lower) ** 2 + (0.01 / jnp.exp(centre)) ** 2 + 1e-12
    return Ranges(centre, width, lower, variance)


def infer(
    process: Process, prior: Ranges, reference: jax.Array, trial: jax.Array, freedom: jax.Array | float,
    anywhere: bool,
) -> Units:  # fmt: skip
    """Scale and shift by evidence, objectives being counted from `reference`.

    Posterior means under the marginal likelihood of the process: with whitened objective u_y, constant u_1
    and prior mean u_m the log-likelihood is `T log a - |a u_y + b u_1 - u_m|^2 / 2`, and `b ~ N(-a l, (a
    s)^2)` integrates out, where l and s are mean and standard deviation of the known tasks' worst values;
    `log a` has a normal prior over a grid, from the known tasks' ranges. If the task may lie `anywhere`, s is
    `FARTHER` times as large with probability `FAR_SHARE`.

    With `freedom` v above 0 the process has a factor of its own on all its covariances, inverse gamma, that
    integrates out: misfit m counts as `(v + T) log(1 + m / v)`, and variances are `(v + m) / (v + T)` times
    those of the Gaussian process (Shah, Wilson and Ghahramani 2014, eq. 6).
    """
    farther = jnp.asarray([1.0, FARTHER**2] if anywhere else [1.0], jnp.float32)[:, None]
    likely = jnp.log(jnp.asarray([1.0 - FAR_SHARE, FAR_SHARE] if anywhere else [1.0], jnp.float32))[:, None]
    offsets = jnp.linspace(-2.5, 2.5, SCALES)
    grid = jnp.exp(prior.log_scale + prior.width * offsets)
    before = 1.0 / (farther * grid**2 * prior.lower_variance)
    guess = -grid * (prior.lower - reference)
    yy, y1, ym, oo, om, mm = (
        process.moments[i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    )
    precision = before + oo
    shift = (before * guess - (grid * y1 - om)) / precision
    misfit = grid**2 * yy + shift**2 * oo + mm + 2.0 * (grid * shift * y1 - grid * ym - shift * om)
    misfit = jnp.maximum(misfit + before * (shift - guess) ** 2, 0.0)
    least = jnp.maximum(freedom, 1e-6)
    heavy = (least + trial) * jnp.log(1.0 + misfit / least)  # log1p is slow, and its last digits do not count
    explained = 0.5 * jnp.where(freedom > 0, heavy, misfit)
    evidence = trial * jnp.log(grid) - explained - 0.5 * jnp.log(precision / before)
    evidence = evidence + likely - 0.5 * offsets**2
    posterior = jax.nn.softmax(evidence, axis=None)
    inflation = jnp.sqrt((least + jnp.sum(posterior * misfit)) / (least + trial))
    return Units(
        scale=jnp.sum(posterior * grid),
        shift=jnp.sum(posterior * shift),
        inflation=jnp.where(freedom > 0, inflation, 1.0),
        evidence=jax.scipy.special.logsumexp(evidence) - process.log_determinant,
    )
