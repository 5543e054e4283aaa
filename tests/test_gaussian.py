"""Gaussian processes of the transfer baselines against NumPy and SciPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import transfer_oracles as oracles
from probes import quick_jit
from scipy.integrate import quad

from hyprl_jax.baselines import gaussian, own_process
from hyprl_jax.baselines.gaussian import Hyper


def problem(size: int, padding: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Encodings `[20, 3]`, `size` columns followed by padding, values, which are there."""
    random = np.random.default_rng(seed)
    encodings = random.uniform(size=(20, 3)).astype(np.float32)
    columns = np.concatenate([random.permutation(20)[:size], np.zeros(padding, int)]).astype(np.int32)
    values = random.normal(size=size + padding).astype(np.float32)
    return encodings, columns, values, np.arange(size + padding) < size


@pytest.mark.parametrize("size", [1, 2, 16, 17, 40, 64])
def test_inverse_factor(size: int) -> None:
    square = np.random.default_rng(size).normal(size=(size, size))
    covariance = square @ square.T / size + 0.1 * np.eye(size)
    found = np.asarray(quick_jit(gaussian.inverse_factor)(jnp.asarray(covariance, jnp.float32)))
    np.testing.assert_allclose(found, np.linalg.inv(np.linalg.cholesky(covariance)), atol=1e-3)
    assert np.array_equal(found, np.tril(found))


def test_predictions_know_nothing_of_padding() -> None:
    encodings, columns, values, present = problem(8, 5)
    hyper = Hyper(jnp.asarray([0.4, 0.7, 2.0]), jnp.float32(0.01), jnp.float32(1.7))
    process = gaussian.condition(
        *(jnp.asarray(given) for given in (encodings, columns, values, present)), hyper
    )
    mean, deviation = gaussian.predict(process, jnp.asarray(encodings))
    settings = (np.array([0.4, 0.7, 2.0]), 0.01, 1.7)
    points = encodings[columns[:8]].astype(float)
    wanted, covariance = oracles.posterior(encodings.astype(float), points, values[:8], settings)
    np.testing.assert_allclose(mean, wanted, atol=1e-3)
    np.testing.assert_allclose(np.asarray(deviation) ** 2, np.diagonal(covariance), atol=1e-3)
    left_out, spread = gaussian.leave_one_out(process, jnp.asarray(values))
    for place in range(8):
        others = np.delete(np.arange(8), place)
        at = points[place : place + 1]
        one, variance = oracles.posterior(at, points[others], values[others], settings)
        assert np.isclose(left_out[place], one[0], atol=1e-3)
        assert np.isclose(float(spread[place]) ** 2, variance[0, 0], atol=1e-3)


def test_learned_hyperparameters_are_likely() -> None:
    """Values depend on the first feature alone: that is found, and no common lengthscale does better."""
    encodings, columns, _, present = problem(16, 4)
    values = np.sin(8.0 * encodings[columns, 0]).astype(np.float32)
    hyper = quick_jit(gaussian.fit_gradient)(
        *(jnp.asarray(given) for given in (encodings[columns], values, present))
    )
    points, seen = encodings[columns[:16]].astype(float), values[:16].astype(float)
    lengthscale = np.asarray(hyper.lengthscale, float)
    assert lengthscale[0] < min(lengthscale[1:])
    found, variance = oracles.evidence(points, seen, lengthscale, float(hyper.noise))
    common = [
        oracles.evidence(points, seen, length, noise)[0]
        for length in own_process.LENGTHSCALES
        for noise in own_process.NOISES
    ]
    assert found > max(common)
    assert np.isclose(float(hyper.variance), variance, rtol=1e-2)


def test_standardised() -> None:
    values = np.array([3.0, 5.0, 10.0, 99.0], np.float32)
    scaled, mean, deviation = gaussian.standardised(
        jnp.asarray(values), jnp.asarray([True, True, True, False])
    )
    np.testing.assert_allclose(scaled, [*((values[:3] - 6.0) / np.std(values[:3])), 0.0], rtol=1e-5)
    assert (float(mean), float(deviation)) == (6.0, pytest.approx(np.std(values[:3])))
    same = gaussian.standardised(jnp.full(3, 1e6), jnp.ones(3, bool))
    assert np.array_equal(same[0], np.zeros(3)) and float(same[2]) == 1.0
    assert np.array_equal(gaussian.standardised(jnp.ones(3), jnp.zeros(3, bool))[0], np.zeros(3))


@pytest.mark.parametrize("ratio", [-12.0, -6.5, -5.9, -2.0, 0.0, 3.0])
def test_logarithm_of_the_expected_improvement(ratio: float) -> None:
    # Relative to the density at the incumbent, or the integrand would underflow.
    integral = quad(lambda z: z * np.exp(-0.5 * (z**2 - 2 * z * ratio)), 0, 60, points=[1.0, 5.0])[0]
    wanted = np.log(0.5 * integral / np.sqrt(2 * np.pi)) - 0.5 * ratio**2  # deviation 0.5
    found = gaussian.log_expected_improvement(
        jnp.float32(1.0 + 0.5 * ratio), jnp.float32(0.5), jnp.float32(1.0)
    )
    assert np.isclose(float(found), wanted, rtol=1e-4, atol=5e-3)


def test_logarithm_of_the_expected_improvement_keeps_the_order() -> None:
    means = jnp.linspace(-60.0, 5.0, 2000)
    found = np.asarray(gaussian.log_expected_improvement(means, jnp.ones(()), jnp.zeros(())))
    assert np.all(np.isfinite(found)) and np.all(np.diff(found) > 0)
