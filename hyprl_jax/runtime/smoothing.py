"""Surfaces without their noise: what the values of other configurations say about each one.

The result of a single training is noisy, and the best of several thousand noisy results is mostly luck. So
each known surface is also kept as the posterior mean of a Gaussian process of its own over the encodings of
the configurations (Rasmussen and Williams 2006, eq. 2.23). Beyond `LANDMARKS` configurations the process is
that of as many of them (subset of regressors, eq. 8.14), which keeps the cost linear. Each surface is
smoothed by itself: no task takes part in another's. Whether smooth surfaces foretell others better than raw
ones is found out in `hyprl_jax.fitting`.
"""

from __future__ import annotations

import numpy as np

LENGTHSCALE = 1.2
NOISE = 0.03
"""Variance, in units of the kernel's."""
LANDMARKS = 1024
FEWEST, MOST = 10, 20_000
"""Configurations between which surfaces are smoothed; others stay as they are."""
_JITTER = 1e-6


def smoothed(unit: np.ndarray, encodings: np.ndarray) -> np.ndarray:
    """`[K, n]` float64 posterior means of K surfaces `unit [K, n]` over configurations with `encodings [n,
    F]`; equal to `unit` for fewer than `FEWEST` or more than `MOST` configurations."""
    surfaces = np.asarray(unit, np.float64)
    if not FEWEST <= len(encodings) <= MOST:
        return surfaces
    centre = surfaces.mean(axis=1, keepdims=True)
    places = np.asarray(encodings, np.float64) / LENGTHSCALE
    chosen = np.sort(np.random.default_rng(0).permutation(len(places))[:LANDMARKS])
    across = _kernel(places, places[chosen])
    among = across[chosen] + _JITTER * np.eye(len(chosen))
    weights = np.linalg.solve(across.T @ across + NOISE * among, across.T @ (surfaces - centre).T)
    return (across @ weights).T + centre


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`[n, m]` rational quadratic kernel, as `hyprl_jax.surrogate.stationary`, between rows of `first [n, F]`
    and `second [m, F]`."""
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2.0 * first @ second.T
    return (1.0 + np.maximum(squares, 0.0) / 4.0) ** -2
