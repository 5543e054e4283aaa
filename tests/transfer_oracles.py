"""Plain NumPy versions, in float64 and with loops, of what the transfer baselines compute."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.stats import norm


def kernel(x: np.ndarray, y: np.ndarray, lengthscale: np.ndarray | float) -> np.ndarray:
    """Squared exponential `[A, B]`."""
    table = np.zeros((len(x), len(y)))
    for i, j in itertools.product(range(len(x)), range(len(y))):
        table[i, j] = math.exp(-0.5 * float(np.sum(((x[i] - y[j]) / lengthscale) ** 2)))
    return table


def posterior(
    places: np.ndarray, points: np.ndarray, values: np.ndarray, hyper: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[N]` and covariance `[N, N]` at `places [N, F]`; `hyper` is lengthscale, noise, variance."""
    lengthscale, noise, variance = hyper
    inverse = np.linalg.inv(kernel(points, points, lengthscale) + noise * np.eye(len(points)))
    cross = kernel(places, points, lengthscale)
    return cross @ inverse @ values, variance * (
        kernel(places, places, lengthscale) - cross @ inverse @ cross.T
    )


def standardised(values: np.ndarray) -> np.ndarray:
    deviation = np.std(values)
    return (values - np.mean(values)) / (deviation if deviation > 0 else 1.0)


def evidence(points: np.ndarray, values: np.ndarray, lengthscale: np.ndarray | float, noise: float) -> tuple:
    """Log marginal likelihood but for a constant, with the most likely variance, and that variance."""
    covariance = kernel(points, points, lengthscale) + noise * np.eye(len(points))
    count = len(points) + 1.0
    variance = (1.0 + values @ np.linalg.solve(covariance, values)) / count
    return -0.5 * count * math.log(variance) - 0.5 * np.linalg.slogdet(covariance)[1], variance


def grid_hyper(points: np.ndarray, values: np.ndarray, lengths: tuple, noises: tuple) -> tuple:
    """Lengthscale, noise and variance of the most likely process of a grid."""
    pairs = list(itertools.product(lengths, noises))
    found = [evidence(points, values, *pair) for pair in pairs]
    best = int(np.argmax([value for value, _ in found]))
    return (*pairs[best], found[best][1])


def epanechnikov(distance: float) -> float:
    return 0.75 * (1 - distance**2) if distance < 1 else 0.0


def rank_distance(surface: np.ndarray, tested: list[int], results: np.ndarray) -> float:
    pairs = list(itertools.combinations(range(len(tested)), 2))
    wrong = [(surface[tested[i]] < surface[tested[j]]) != (results[i] < results[j]) for i, j in pairs]
    return sum(wrong) / len(pairs) if pairs else 0.0


def metafeature_distance(task: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`[K]` in units of the diagonal of the cube that the known tasks' metafeatures `[K, M]` span."""
    span = known.max(0) - known.min(0)
    keep = span > 1e-6
    return np.sqrt(np.sum(((task - known)[:, keep] / span[keep]) ** 2, axis=1) / max(keep.sum(), 1))


def log_improvement(mean: np.ndarray, deviation: np.ndarray, incumbent: float) -> np.ndarray:
    ratio = (mean - incumbent) / deviation
    return np.log(deviation * (norm.pdf(ratio) + ratio * norm.cdf(ratio)) + 1e-300)


def shortfalls(
    kind: str, mean: np.ndarray, similarity: np.ndarray | None, task: tuple, actions: list[int], grids: tuple
) -> list[float]:
    """By how much each of `actions` scores less than the best of TST or TAF (`kind`): `mean [K, N]` of the
    known tasks' processes, `similarity [K]` of known tasks by metafeatures or None for weights by rank,
    `task` the encodings, objectives and legal mask."""
    encodings, objective, legal = task
    found = []
    for place, action in enumerate(actions):
        tested = actions[:place]
        results = objective[tested]
        if similarity is None:
            distances = [rank_distance(surface, tested, results) for surface in mean]
            weights = np.array([epanechnikov(distance / 0.1) for distance in distances])
        else:
            weights = similarity
        if not tested:
            score = weights @ mean / weights.sum()
        else:
            values = standardised(results)
            hyper = grid_hyper(encodings[tested], values, *grids)
            own, covariance = posterior(encodings, encodings[tested], values, hyper)
            deviation = np.sqrt(np.clip(np.diagonal(covariance), 1e-6 * hyper[2], None))
            if kind == "tst":
                combined = (0.75 * own + weights @ mean) / (0.75 + weights.sum())
                score = log_improvement(combined, deviation, values.max())
            else:
                ahead = np.maximum(mean - mean[:, tested].max(1, keepdims=True), 0)
                score = 0.75 * np.exp(log_improvement(own, deviation, values.max())) + weights @ ahead
        free = [column for column in np.flatnonzero(legal) if column not in tested]
        found.append(float(np.max(score[free]) - score[action]))
    return found


def pair_losses(draw: np.ndarray, results: np.ndarray) -> int:
    """Ordered pairs that a draw `[T]` ranks otherwise than the results `[T]`."""
    places = range(len(results))
    return sum((draw[j] < draw[k]) != (results[j] < results[k]) for j, k in itertools.product(places, places))


def left_out_losses(draw: np.ndarray, results: np.ndarray) -> int:
    """The same for draws that each left one result out, against the results of the others."""
    places = range(len(results))
    return sum(
        (draw[j] < results[k]) != (results[j] < results[k])
        for j, k in itertools.product(places, places)
        if j != k
    )


def rank_weights(losses: np.ndarray, own: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """`[K + 1]` from losses `[K, S]`."""
    weights = np.zeros(len(kept) + 1)
    for draw in range(len(own)):
        rivals = {k: losses[k, draw] for k in np.flatnonzero(kept)} | {len(kept): own[draw]}
        winners = [k for k, loss in rivals.items() if loss == min(rivals.values())]
        for k in winners:
            weights[k] += 1.0 / len(winners) / len(own)
    return weights
