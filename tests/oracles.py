"""Plain NumPy versions, in float64 and with loops, of what the package computes on the device.

They are written from the formulas in the documentation and favour the obvious over the fast: explicit
sums of outer
products, dense Cholesky factors, numerical integrals, one configuration at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln
from scipy.stats import multivariate_normal, multivariate_t

NODES = np.polynomial.legendre.leggauss(200)


@dataclass
class EpisodeOracle:
    """An episode as a plain Python object; `objective [N]` higher is better, `best` and `worst` scalars."""

    objective: np.ndarray
    legal: np.ndarray
    best: float
    worst: float
    trials: int
    reward: str
    stop_on_repeat: bool
    tried: list[int] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    over: bool = False

    def __post_init__(self) -> None:
        self.over = not any(self.legal)

    def choices(self) -> set[int]:
        """What may be chosen now."""
        legal = {column for column, good in enumerate(self.legal) if good}
        return legal if self.stop_on_repeat else legal - set(self.tried)

    def regret(self) -> float:
        """Normalised regret of the best result so far; 1 before the first, 0 on a constant surface."""
        if self.best <= self.worst:
            return 0.0
        if not self.found:
            return 1.0
        return min(max((self.best - max(self.found)) / (self.best - self.worst), 0.0), 1.0)

    def step(self, action: int) -> dict[str, Any]:
        """Tests `action`; what the step brought."""
        if self.over:
            return {"reward": 0.0, "over": True, "valid": False, "regret": self.regret()}
        repeated = action in self.tried
        regret_before = self.regret() if self.found else 1.0
        latest = self.found[-1] if self.found else 0.0
        value = float(self.objective[action])
        self.tried.append(action)
        self.found.append(value)
        rewards = {
            "raw": value,
            "regret": -self.regret(),
            "improvement": regret_before - self.regret(),
            "log_regret": -math.log10(self.regret() + 1e-3) / 3,
            "hyprl": max(0.0, value - latest),
        }
        self.over = (
            len(self.found) >= self.trials
            or (self.stop_on_repeat and repeated)
            or (not self.stop_on_repeat and not self.choices())
        )
        return {
            "reward": rewards[self.reward],
            "over": self.over,
            "valid": True,
            "regret": self.regret(),
            "objective": value,
        }


def rational_quadratic(x: np.ndarray, y: np.ndarray, lengthscale: float | np.ndarray) -> float:
    """`(1 + r^2 / (2 alpha))^-alpha`, alpha = 2, r in units of one lengthscale or of one for each feature."""
    scales = np.broadcast_to(lengthscale, len(x))
    squared = sum(((float(a) - float(b)) / float(s)) ** 2 for a, b, s in zip(x, y, scales, strict=True))
    return (1.0 + squared / (2 * 2)) ** -2


def unlikeness(mine: np.ndarray, others: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`[K]` mean squared difference between the ranks of the metafeatures `mine [M]` and `others [K, M]`
    among `reference [R, M]`, over the metafeatures that differ there."""
    columns = [m for m in range(reference.shape[1]) if len(set(reference[:, m].tolist())) > 1]

    def rank(value: float, column: int) -> float:
        below = sum(1.0 for other in reference[:, column] if other < value)
        return (below + 0.5 * sum(1.0 for other in reference[:, column] if other == value)) / len(reference)

    found = np.zeros(len(others))
    for k in range(len(others)):
        for m in columns:
            found[k] += (rank(others[k, m], m) - rank(mine[m], m)) ** 2 / len(columns)
    return found


def task_weights(peers: np.ndarray, apart: np.ndarray, width: float, floor: float) -> np.ndarray:
    """`[K]` weights, from how unlike the played task the known ones are."""
    used, floor = [k for k in range(len(peers)) if peers[k]], max(floor, 0.3)
    nearest = min((apart[k] for k in used), default=0.0)
    near = {k: math.exp(-(float(apart[k]) - float(nearest)) / (2.0 * width**2)) for k in used}
    weights = np.zeros(len(peers))
    for k in used:
        weights[k] = (1.0 - floor) * near[k] / sum(near.values()) + floor / len(used)
    return weights


def prior(
    surfaces: np.ndarray, weights: np.ndarray, encodings: np.ndarray, config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Prior mean `[N]` and covariance `[N, N]` from `surfaces [K, N]` with their `weights [K]`."""
    candidates = surfaces.shape[1]
    used = [k for k in range(len(surfaces)) if weights[k]] if config.prior != "constant" else []
    mean = np.zeros(candidates)
    for k in used:
        mean += weights[k] * surfaces[k].astype(np.float64)
    covariance = np.zeros((candidates, candidates))
    if config.prior == "learned":
        for k in used:
            deviation = surfaces[k].astype(np.float64) - mean
            covariance += config.learned_variance * weights[k] * np.outer(deviation, deviation)
        if used:
            covariance += config.mean_variance * np.outer(mean - 0.7, mean - 0.7)
    for i in range(candidates):
        for j in range(candidates):
            covariance[i, j] += config.encoding_variance * rational_quadratic(
                encodings[i], encodings[j], config.lengthscale
            )
    return mean, covariance


def gp_posterior(
    mean: np.ndarray, covariance: np.ndarray, noise: float, actions: list[int], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and variance `[N]` by a dense Cholesky factor (Rasmussen and Williams 2006,
    algorithm 2.1)."""
    if not actions:
        return mean.copy(), np.diag(covariance).copy()
    gram = covariance[np.ix_(actions, actions)] + noise * np.eye(len(actions))
    factor = np.linalg.cholesky(gram)
    cross = covariance[actions]
    alpha = np.linalg.solve(factor.T, np.linalg.solve(factor, values - mean[actions]))
    half = np.linalg.solve(factor, cross)
    return mean + cross.T @ alpha, np.diag(covariance) - np.sum(half**2, axis=0)


def student_surprise(values: np.ndarray, mean: np.ndarray, covariance: np.ndarray, freedom: float) -> float:
    """Negative log density of `values [n]` under a Student-t distribution around `mean` with scale matrix
    `covariance`, less the part that depends on n alone, for each of the n values."""
    size = len(values)
    density = multivariate_t(mean, covariance, df=freedom).logpdf(values)
    constant = gammaln((freedom + size) / 2) - gammaln(freedom / 2) - size / 2 * math.log(freedom * math.pi)
    return float(constant - density) / size


def scale_by_integration(
    mean: np.ndarray,
    covariance: np.ndarray,
    noise: float,
    actions: list[int],
    objectives: np.ndarray,
    ranges: tuple[np.ndarray, np.ndarray, np.ndarray],
    grid_points: int,
) -> tuple[float, float]:
    """Posterior means of a and b in `z = a y + b` by integrating over b numerically for every a of the grid.

    `ranges` are worst value, range and weight `[K]` of the usable known tasks. The likelihood of the raw
    objectives is that of
    z under the Gaussian process times `a^T`; b is normal around `-a l` with deviation `a s`; log a is normal.
    """
    low, s, centre, width = _typical(*ranges)
    gram = covariance[np.ix_(actions, actions)] + noise * np.eye(len(actions))
    precision = np.linalg.inv(gram)
    logs, scales, shifts = [], [], []
    for offset in np.linspace(-2.5, 2.5, grid_points):
        a = math.exp(centre + width * offset)
        b = -a * low + a * s * np.linspace(-9, 9, 40001)
        misfit = a * objectives[None, :] + b[:, None] - mean[actions][None, :]
        log_likelihood = len(actions) * math.log(a) - 0.5 * np.einsum(
            "bi,ij,bj->b", misfit, precision, misfit
        )
        log_prior = -0.5 * ((b + a * low) / (a * s)) ** 2 - math.log(a * s)
        joint = log_likelihood + log_prior
        top = joint.max()
        mass = np.exp(joint - top)
        step = b[1] - b[0]
        logs.append(top + math.log(mass.sum() * step) - 0.5 * offset**2)
        scales.append(a)
        shifts.append(float((mass * b).sum() / mass.sum()))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    return float(weights @ scales), float(weights @ shifts)


def _typical(lower: np.ndarray, span: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float]:
    """Mean and deviation of the known tasks' worst values, and of the logarithm of one over their ranges."""
    lower, span, weights = (np.asarray(x, np.float64) for x in (lower, span, weights))
    centre = float(weights @ -np.log(span))
    low = float(weights @ lower)
    width = math.sqrt(float(weights @ (-np.log(span) - centre) ** 2) + 0.01)
    return low, math.sqrt(float(weights @ (lower - low) ** 2) + (0.01 / math.exp(centre)) ** 2), centre, width


class Units(NamedTuple):
    """What brings raw objectives to those of a process, `z = a y + b`."""

    scale: float
    shift: float
    inflation: float
    """Square root of the factor on posterior variances."""
    evidence: float
    """Log density of the raw objectives, averaged over the prior of a and b."""


def student_units(
    mean: np.ndarray,
    covariance: np.ndarray,
    noise: float,
    actions: list[int],
    objectives: np.ndarray,
    ranges: tuple[np.ndarray, np.ndarray, np.ndarray],
    freedom: float,
    farther: Sequence[tuple[float, float]] = ((1.0, 1.0),),
) -> Units:
    """Posterior means of a and b in `z = a y + b` where z is a Student-t process (Gaussian for `freedom` 0).

    With `b ~ N(-a l, (a s)^2)` in units of the process, `a y` is multivariate t around `m + a l` with scale
    matrix `K + noise + (a s)^2 11'`, and b has the mean of a normal variable given `a y`. The deviation s is
    that of the known tasks times one of the factors of the pairs `farther`, with the probability beside it.
    """
    low, usual, centre, width = _typical(*ranges)
    gram = covariance[np.ix_(actions, actions)] + noise * np.eye(len(actions))
    offsets = np.linspace(-2.5, 2.5, 15)
    before = np.exp(-0.5 * offsets**2) / np.exp(-0.5 * offsets**2).sum()
    logs, scales, shifts, misfits = [], [], [], []
    for (times, probability), (offset, share) in product(farther, zip(offsets, before, strict=True)):
        a, s = math.exp(centre + width * offset), times * usual
        wide = gram + (a * s) ** 2
        off = a * objectives - mean[actions] - a * low
        told = np.linalg.solve(wide, off) if actions else off
        density = log_density(off, wide, freedom) if actions else 0.0
        logs.append(density + len(actions) * math.log(a) + math.log(share) + math.log(probability))
        scales.append(a)
        shifts.append(-a * low - (a * s) ** 2 * told.sum())
        misfits.append(float(off @ told))
    weights = np.exp(np.array(logs) - max(logs))
    evidence = max(logs) + math.log(weights.sum())
    weights /= weights.sum()
    factor = (freedom + weights @ misfits) / (freedom + len(actions)) if freedom else 1.0
    return Units(float(weights @ scales), float(weights @ shifts), math.sqrt(factor), evidence)


def log_density(values: np.ndarray, covariance: np.ndarray, freedom: float) -> float:
    """Of `values [n]` under a multivariate t (normal for `freedom` 0) around 0 with this scale matrix."""
    if freedom:
        return float(multivariate_t(np.zeros(len(values)), covariance, df=freedom).logpdf(values))
    return float(multivariate_normal(np.zeros(len(values)), covariance).logpdf(values))


class Mixture(NamedTuple):
    """What several processes say together, in units of the task's range; `[P]`, `[N]` or scalars."""

    weights: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    incumbent: float
    scale: float
    shift: float
    expected_improvement: np.ndarray


def mixture(
    priors: Sequence[tuple[np.ndarray, np.ndarray]],
    shares: Sequence[float],
    units: Sequence[Units],
    noise: float,
    actions: list[int],
    objectives: np.ndarray,
    first: float,
) -> Mixture:
    """The posteriors of processes with `priors` (means `[N]` and covariances `[N, N]`) and `units`, weighted
    by `shares` before and evidence, the second one at most as much as the first; `first` is the incumbent
    before any trial."""
    highest = max(one.evidence for one in units)
    weights = np.asarray(
        [share * math.exp(one.evidence - highest) for share, one in zip(shares, units, strict=True)]
    )
    weights /= weights.sum()
    if len(weights) == 2 and weights[1] > 0.5:
        weights[:] = 0.5
    candidates = len(priors[0][0])
    mean, second, improvement = np.zeros(candidates), np.zeros(candidates), np.zeros(candidates)
    incumbent = scale = shift = 0.0
    for weight, (before, covariance), one in zip(weights, priors, units, strict=True):
        values = one.scale * objectives + one.shift
        own, variance = gp_posterior(before, covariance, noise, actions, values)
        variance = variance * one.inflation**2
        best = max(values) if actions else first
        mean += weight * own
        second += weight * (variance + own**2)
        incumbent, scale, shift = (
            total + weight * part
            for total, part in zip((incumbent, scale, shift), (best, one.scale, one.shift), strict=True)
        )
        for n in range(candidates):
            improvement[n] += weight * expected_improvement(own[n], math.sqrt(variance[n]), best)
    return Mixture(weights, mean, np.sqrt(second - mean**2), incumbent, scale, shift, improvement)


def discordant_pairs(surface: np.ndarray, actions: list[int], objectives: list[float]) -> float:
    """Tested pairs that `surface [N]` ranks the other way; half for a tie on one side alone."""
    count = 0.0
    for i, j in combinations(range(len(actions)), 2):
        ours = np.sign(objectives[i] - objectives[j])
        theirs = np.sign(surface[actions[i]] - surface[actions[j]])
        count += 1.0 if ours * theirs < 0 else 0.5 if (ours == 0) != (theirs == 0) else 0.0
    return count


def retrieval_weights(
    surfaces: np.ndarray, before: np.ndarray, actions: list[int], objectives: list[float], sharpness: float
) -> np.ndarray:
    """`[K]` weights `before [K]` times the exponential of minus `sharpness` times the share of discordant
    pairs."""
    pairs = len(actions) * (len(actions) - 1) / 2 + 10
    weights = np.zeros(len(surfaces))
    for k in range(len(surfaces)):
        if before[k]:
            share = discordant_pairs(surfaces[k], actions, objectives) / pairs
            weights[k] = before[k] * math.exp(-sharpness * share)
    return weights / weights.sum() if weights.sum() else weights


def expected_gains(surfaces: np.ndarray, weights: np.ndarray, actions: list[int]) -> np.ndarray:
    """`[N]` `sum_k w_k max(P_k(x) - max_tested P_k, 0)`; 0 is the best tested value before the first
    trial."""
    gains = np.zeros(surfaces.shape[1])
    for weight, surface in zip(weights, surfaces, strict=True):
        reached = max((float(surface[a]) for a in actions), default=0.0)
        for candidate in range(len(gains)):
            gains[candidate] += weight * max(float(surface[candidate]) - reached, 0.0)
    return gains


def expected_improvement(mean: float, deviation: float, incumbent: float) -> float:
    """`E max(z - incumbent, 0)` by Gauss-Legendre quadrature of the part above the incumbent."""
    low, high = max(incumbent, mean - 12 * deviation), mean + 12 * deviation
    if low >= high:
        return 0.0
    nodes, weights = NODES
    z = low + (high - low) * (nodes + 1) / 2
    density = np.exp(-0.5 * ((z - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    return float((high - low) / 2 * np.sum(weights * (z - incumbent) * density))


def advantages(
    reward: np.ndarray, regret: np.ndarray, over: np.ndarray, valid: np.ndarray, plays: int, gamma: float
) -> np.ndarray:
    """`[E, T]` for `[E, T]` arguments: discounted returns to go and regrets before each choice, both less
    their mean over the plays of the task; what the second explains of the first is taken off; in units of
    the root mean square over the task's plays plus a tenth of that over all."""
    episodes, trials = reward.shape
    to_go, before = np.zeros((episodes, trials)), np.ones((episodes, trials))
    for e in range(episodes):
        for t in range(trials):
            factor = 1.0
            for later in range(t, trials):
                if not valid[e, later]:
                    break
                to_go[e, t] += factor * float(reward[e, later])
                factor *= gamma
                if over[e, later]:
                    break
            if t:
                before[e, t] = regret[e, t - 1]
    for values in (to_go, before):
        for first in range(0, episodes, plays):
            values[first : first + plays] -= values[first : first + plays].mean(axis=0)
    merit = np.zeros((episodes, trials))
    for t in range(trials):
        slope = to_go[:, t] @ before[:, t] / (before[:, t] @ before[:, t] + 1e-6)
        merit[:, t] = np.where(valid[:, t], to_go[:, t] - slope * before[:, t], 0.0)
    size = lambda part, there: np.sqrt(np.sum(part[there] ** 2) / max(there.sum(), 1))
    result = np.zeros((episodes, trials))
    for first in range(0, episodes, plays):
        own = slice(first, first + plays)
        result[own] = merit[own] / (size(merit[own], valid[own]) + 0.1 * size(merit, valid) + 1e-6)
    return result


def standardised(metafeatures: np.ndarray, known: list[int]) -> np.ndarray:
    """Metafeatures `[D, M]` with mean 0 and variance 1 over the `known` rows, 0 where unknown, within 3."""
    result = np.zeros(metafeatures.shape)
    for column in range(metafeatures.shape[1]):
        seen = [float(metafeatures[k, column]) for k in known if np.isfinite(metafeatures[k, column])]
        centre = np.mean(seen) if seen else 0.0
        variance = np.var(seen) if seen else 0.0
        for row in range(metafeatures.shape[0]):
            value = metafeatures[row, column]
            if np.isfinite(value):
                result[row, column] = np.clip((value - centre) / math.sqrt(variance + 1e-6), -3, 3)
    return result


def optimal_values(
    objective: np.ndarray, legal: np.ndarray, trials: int, reward: str, gamma: float
) -> dict[tuple[int, ...], dict[int, float]]:
    """Optimal Q-values of the whole tree of a tiny task: history of actions -> action -> value."""
    values: dict[tuple[int, ...], dict[int, float]] = {}
    offered = objective[legal]
    ends = (float(offered.max()), float(offered.min()))

    def visit(history: tuple[int, ...]) -> float:
        def fresh() -> EpisodeOracle:
            episode = EpisodeOracle(objective, legal, ends[0], ends[1], trials, reward, False)
            for action in history:
                episode.step(action)
            return episode

        if fresh().over:
            return 0.0
        values[history] = {}
        for action in sorted(fresh().choices()):
            result = fresh().step(action)
            values[history][action] = result["reward"] + gamma * visit((*history, action))
        return max(values[history].values())

    visit(())
    return values


def additive_kernel(x: np.ndarray, y: np.ndarray, lengthscales: np.ndarray, shares: np.ndarray) -> float:
    """Sum over features, with `shares [F]` that sum to 1, of sums of cosines whose weights fall with
    frequency by `(1 + (L omega)^2)^(-3/2)`, for `lengthscales [F]`."""
    total = 0.0
    for a, b, length, share in zip(x, y, lengthscales, shares, strict=True):
        omegas = [math.pi / 4, math.pi / 2, math.pi, 2 * math.pi]
        density = [(1.0 + (length * omega) ** 2) ** -1.5 for omega in omegas]
        for omega, weight in zip(omegas, density, strict=True):
            total += share * weight / sum(density) * math.cos(omega * (float(a) - float(b)))
    return total


def cold_kernel(encodings: np.ndarray, base: float, factors: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """`[N, N]` prior covariance of one process with `factors [F]` on the lengthscale `base` of one feature
    and `draws [F]`: how much of the additive part, half of all, each feature explains before those that do
    not differ are left out."""
    differ = [len(set(column.tolist())) > 1 for column in encodings.T]
    shares = np.asarray([draw if one else 0.0 for draw, one in zip(draws, differ, strict=True)])
    part = 0.5 if any(differ) else 0.0
    shares = shares / shares.sum() if any(differ) else shares
    product = base * math.sqrt(max(sum(differ), 1)) * factors
    kernel = np.zeros((len(encodings), len(encodings)))
    for i, x in enumerate(encodings):
        for j, y in enumerate(encodings):
            main = additive_kernel(x, y, base * factors, shares)
            kernel[i, j] = (1.0 - part) * rational_quadratic(x, y, product) + part * main
    return kernel
