"""Gaussian processes over the candidates of a task, for transfer baselines that combine many of them.

A squared exponential kernel with one lengthscale a feature, a mean of 0 (values come standardised), and
noise, as a share of the variance of the process. Points are padded to a fixed number, so that everything runs
under `vmap` and `scan`: padding is decoupled from all else by a row of the identity. All in float32, hence
the lower limit on noise.

Covariances are factorised by code of its own: JAX hands batches of them to LAPACK in pieces that its threads
wait for, and on a machine with two cores two such calls at a time wait for each other for ever.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_STEPS = 15
_RATE = 0.2
_LENGTH_RANGE = (0.05, 20.0)
_NOISE_RANGE = (1e-4, 1.0)
_BASE = 16  # rows of a block that is factorised row by row
_SERIES = -6.0  # below, the logarithm of the improvement is summed as a series


class Hyper(NamedTuple):
    """Hyperparameters of one process."""

    lengthscale: jax.Array
    """`[F]`, or a scalar for all features."""
    noise: jax.Array
    """Scalar: variance of the noise as a share of that of the process."""
    variance: jax.Array
    """Scalar: variance of the process."""


class Process(NamedTuple):
    """A process after M points, some of which may be padding."""

    columns: jax.Array
    """`[M]` int32: which candidates the points are."""
    present: jax.Array
    """`[M]` bool, False for padding."""
    whitener: jax.Array
    """`[M, M]` inverse of the Cholesky factor of the covariance of the points in units of the variance;
    identity for padding."""
    dual: jax.Array
    """`[M]` inverse of that covariance times the values."""
    hyper: Hyper


def correlation(points: jax.Array, others: jax.Array, lengthscale: jax.Array) -> jax.Array:
    """`exp(-d^2 / 2) [A, B]` for `points [A, F]`, `others [B, F]` (Rasmussen and Williams 2006, eq. 5.1)."""
    points, others = points / lengthscale, others / lengthscale
    squares = jnp.sum(points**2, axis=1)[:, None] + jnp.sum(others**2, axis=1)
    return jnp.exp(-0.5 * jnp.maximum(squares - 2.0 * points @ others.T, 0.0))


def standardised(values: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`values [M]` brought to mean 0 and variance 1 over those `present [M]` (0 elsewhere), the mean, and the
    standard deviation (1 where all are equal)."""
    count = jnp.maximum(present.sum(), 1)
    mean = jnp.sum(jnp.where(present, values, 0.0)) / count
    centred = jnp.where(present, values - mean, 0.0)
    deviation = jnp.sqrt(jnp.sum(centred**2) / count)
    # What is left of equal values that are far from 0 is rounding.
    deviation = jnp.where(deviation > 1e-6 * jnp.abs(mean), deviation, 1.0)
    return centred / deviation, mean, deviation


def condition(
    encodings: jax.Array, columns: jax.Array, values: jax.Array, present: jax.Array, hyper: Hyper
) -> Process:
    """The process after `values [M]` at the candidates `columns [M]` of `encodings [N, F]`."""
    whitener = inverse_factor(_covariance(encodings[columns], present, hyper))
    dual = whitener.T @ (whitener @ jnp.where(present, values, 0.0))
    return Process(columns, present, whitener, dual, hyper)


def whitened(process: Process, encodings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Correlations `[N, M]` of all candidates with the points (0 for padding), and the same whitened: the
    inner products of the latter are what the points explain."""
    cross = correlation(encodings, encodings[process.columns], process.hyper.lengthscale)
    cross = jnp.where(process.present, cross, 0.0)
    return cross, cross @ process.whitener.T


def predict(process: Process, encodings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation `[N]` at all candidates, noise not counted (Rasmussen and Williams 2006,
    eq. 2.25 and 2.26)."""
    cross, white = whitened(process, encodings)
    left = jnp.clip(1.0 - jnp.sum(white**2, axis=1), 1e-6, 1.0)
    return cross @ process.dual, jnp.sqrt(process.hyper.variance * left)


def leave_one_out(process: Process, values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation `[M]` of the process at each of its points had it not seen its value
    (Rasmussen and Williams 2006, eq. 5.12), noise not counted; meaningless for padding."""
    precision = jnp.sum(process.whitener**2, axis=0)
    spread = jnp.clip(1.0 / precision - process.hyper.noise, 1e-6, 1.0)
    return values - process.dual / precision, jnp.sqrt(process.hyper.variance * spread)


def fit_gradient(points: jax.Array, values: jax.Array, present: jax.Array) -> Hyper:
    """Hyperparameters for `values [M]` at `points [M, F]` by steps up the gradient of the marginal likelihood
    (Rasmussen and Williams 2006, eq. 5.9), normalised as by Adam (Kingma and Ba 2015)."""
    values = jnp.where(present, values, 0.0)
    low = jnp.log(jnp.asarray([*[_LENGTH_RANGE[0]] * points.shape[1], _NOISE_RANGE[0]]))
    high = jnp.log(jnp.asarray([*[_LENGTH_RANGE[1]] * points.shape[1], _NOISE_RANGE[1]]))

    def unpack(logs: jax.Array) -> Hyper:
        return Hyper(jnp.exp(logs[:-1]), jnp.exp(logs[-1]), jnp.float32(1.0))

    def slope(logs: jax.Array) -> jax.Array:
        whitener = inverse_factor(_covariance(points, present, unpack(logs)))
        inverse = whitener.T @ whitener
        dual = inverse @ values
        outer = jnp.outer(dual, dual) / likely_variance(values @ dual, present) - inverse
        # The gradient is a product with the derivative of the covariance: no need to go back through the
        # factorisation.
        return jax.grad(lambda at: 0.5 * jnp.sum(outer * _covariance(points, present, unpack(at))))(logs)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], number: jax.Array) -> tuple:
        logs, first, second = carry
        gradient = slope(logs)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        size = first / (1.0 - 0.9**number) / (jnp.sqrt(second / (1.0 - 0.99**number)) + 1e-6)
        return (jnp.clip(logs + _RATE * size, low, high), first, second), None

    start = jnp.zeros(points.shape[1] + 1).at[-1].set(jnp.log(1e-2))
    carry = (start, jnp.zeros_like(start), jnp.zeros_like(start))
    logs = jax.lax.scan(step, carry, jnp.arange(1.0, _STEPS + 1.0))[0][0]
    white = inverse_factor(_covariance(points, present, unpack(logs))) @ values
    return unpack(logs)._replace(variance=likely_variance(white @ white, present))


def likely_variance(misfit: jax.Array, present: jax.Array) -> jax.Array:
    """The most likely variance of a process whose whitened values, those `present [M]`, have the sum of
    squares `misfit`, with one of size 1 seen beforehand: a first result alone says nothing about the spread
    of the others."""
    return (1.0 + misfit) / (1.0 + present.sum())


def inverse_factor(covariance: jax.Array) -> jax.Array:
    """Inverse `[M, M]` of the lower triangular Cholesky factor of `covariance [M, M]`, by blocks: first that
    of the upper half, then that of what the upper half leaves unexplained of the lower one."""
    size = covariance.shape[0]
    if size <= _BASE:
        return _eliminate(covariance)
    half = (size // 2 + _BASE - 1) // _BASE * _BASE
    upper = inverse_factor(covariance[:half, :half])
    below = covariance[half:, :half] @ upper.T
    lower = inverse_factor(covariance[half:, half:] - below @ below.T)
    top = jnp.concatenate([upper, jnp.zeros((half, size - half), covariance.dtype)], axis=1)
    return jnp.concatenate([top, jnp.concatenate([-lower @ below @ upper, lower], axis=1)])


def log_expected_improvement(mean: jax.Array, deviation: jax.Array, incumbent: jax.Array) -> jax.Array:
    """Logarithm of `E max(z - incumbent, 0)` for `z ~ N(mean, deviation^2)`, any shape, finite and in the
    right order even where the improvement itself is too small for float32 (as in Ament et al. 2023)."""
    ratio = (mean - incumbent) / deviation
    near = jnp.maximum(ratio, _SERIES)
    improvement = jnp.exp(-0.5 * near**2) * 0.3989422804014327 + near * jax.scipy.special.ndtr(near)
    # Mills' ratio as a series: E = density / ratio^2 (1 - 3 / ratio^2 + 15 / ratio^4 - ...)
    square = jnp.minimum(ratio, _SERIES) ** 2
    series = 1.0 - 3.0 / square + 15.0 / square**2 - 105.0 / square**3
    far = -0.5 * square - 0.9189385332046727 - jnp.log(square) + jnp.log(series)
    return jnp.log(deviation) + jnp.where(ratio > _SERIES, jnp.log(jnp.maximum(improvement, 1e-30)), far)


def _covariance(points: jax.Array, present: jax.Array, hyper: Hyper) -> jax.Array:
    """`[M, M]` in units of the variance; identity for padding."""
    both = present[:, None] & present
    identity = jnp.eye(points.shape[0], dtype=jnp.float32)
    related = correlation(points, points, hyper.lengthscale)
    # The diagonal is exact whatever rounding leaves of a distance to oneself.
    related = jnp.where(identity > 0, 1.0 + hyper.noise, related)
    return jnp.where(both, related, identity)


def _eliminate(covariance: jax.Array) -> jax.Array:
    """`inverse_factor` by Gaussian elimination beside the identity."""
    size = covariance.shape[0]
    places = jnp.arange(size)

    def eliminate(place: jax.Array, rows: jax.Array) -> jax.Array:
        pivot = rows[place]
        root = jnp.sqrt(jnp.maximum(pivot[place], 1e-6))  # at least what rounding leaves of the noise
        share = jnp.where(places > place, rows[:, place] / root, 0.0)
        return jnp.where((places == place)[:, None], pivot / root, rows - share[:, None] * (pivot / root))

    start = jnp.concatenate([covariance, jnp.eye(size, dtype=covariance.dtype)], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, start)[:, size:]
