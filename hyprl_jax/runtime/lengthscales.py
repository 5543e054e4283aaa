"""Lengthscales for several Gaussian processes that together stand for not knowing which features matter.

`[G, F]` factors, log-normal around 1: one draw for each process and one for each feature of it, by a Latin
hypercube whose permutations come from a hash. So the numbers are the same in every language and do not change
when features are added.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

PROCESSES = 16
_COMMON, _OWN = 0.5, 1.5  # standard deviations of the log-factors of a process and of a feature in it
_MASK = 2**64 - 1


def factors(features: int, processes: int = PROCESSES) -> np.ndarray:
    """`[processes, features]` float64 factors on a lengthscale."""
    columns = [_column(number, processes) for number in range(features + 1)]
    common, own = columns[0], np.asarray(columns[1:]).reshape(features, processes).T
    return np.exp(_COMMON * np.asarray(common)[:, None] + _OWN * own)


def _column(number: int, processes: int) -> list[float]:
    """A standard normal quantile for each process, one in each of as many strata."""
    hashes = [_hash(number * 2**32 + process) for process in range(processes)]
    normal = NormalDist()
    return [normal.inv_cdf((sorted(hashes).index(h) + 0.5) / processes) for h in hashes]


def _hash(value: int) -> int:
    """SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (value + 1) * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
