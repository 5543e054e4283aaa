"""What several Gaussian processes that together stand for not knowing which features matter differ in.

`factors`: `[G, F]` log-normal factors around 1 on the lengthscales, one draw for each process and one for
each feature of it. `importances`: `[G, F]` exponential draws, how much of a process's additive part each
feature explains by itself. Both are Latin hypercubes whose permutations come from a hash. So the numbers are
the same in every language and do not change when features are added.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

PROCESSES = 16
FREQUENCIES = (0.25 * math.pi, 0.5 * math.pi, math.pi, 2.0 * math.pi)
"""Of the cosines in the additive part of a covariance; each is twice the one before."""
_COMMON, _OWN = 0.5, 1.5  # standard deviations of the log-factors of a process and of a feature in it
_APART = 2**31  # numbers of the columns of importances begin here
_MASK = 2**64 - 1


def factors(features: int, processes: int = PROCESSES) -> np.ndarray:
    """`[processes, features]` float64 factors on a lengthscale."""
    normal = NormalDist()
    columns = [[normal.inv_cdf(u) for u in _column(number, processes)] for number in range(features + 1)]
    common, own = columns[0], np.asarray(columns[1:]).reshape(features, processes).T
    return np.exp(_COMMON * np.asarray(common)[:, None] + _OWN * own)


def importances(features: int, processes: int = PROCESSES) -> np.ndarray:
    """`[processes, features]` float64 draws from the exponential distribution with mean 1; where they are
    normalised over the features, all ways to share the variance among them are alike probable."""
    draws = [[-math.log1p(-u) for u in _column(_APART + number, processes)] for number in range(features)]
    return np.asarray(draws).reshape(features, processes).T


def _column(number: int, processes: int) -> list[float]:
    """A probability for each process, the middle of one of as many strata."""
    hashes = [_hash(number * 2**32 + process) for process in range(processes)]
    ranks = {value: rank for rank, value in enumerate(sorted(hashes))}
    return [(ranks[value] + 0.5) / processes for value in hashes]


def _hash(value: int) -> int:
    """SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (value + 1) * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
