"""Where candidates come from when there is no table: quasi-random points, and points around good ones."""

from __future__ import annotations

import numpy as np

from hyprl_jax.runtime.space import Space

_ALL = 1024  # a space with at most so many configurations is listed whole
_RESAMPLED = 0.3  # chance that a hyperparameter of a neighbour changes (at least one does)
_NEAR, _FAR = 0.05, 0.3  # spread of neighbours, in units of the range


def enumerate_all(space: Space) -> np.ndarray | None:
    """Codes `[N, P]` of every configuration of a small discrete space, or None."""
    if space.size() > _ALL:
        return None
    values = [
        np.arange(p.lower, p.upper + 1.0) if p.is_number else np.arange(float(len(p.choices)))
        for p in space.parameters
    ]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*values, indexing="ij")], axis=1)
    return permitted(space, distinct(space.deactivate(grid)))


def quasi_random(space: Space, count: int, generator: np.random.Generator) -> np.ndarray:
    """Codes `[<= count, P]` of points that cover the space evenly; the middle of the space comes first."""
    points = scrambled_halton(count - 1, len(space.names), generator)
    middle = np.full((1, len(space.names)), 0.5)
    return permitted(space, distinct(space.from_positions(np.concatenate([middle, points]))))


def neighbours(space: Space, codes: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Codes `[<= count, P]` near those of `codes [B, P]`: a few hyperparameters change, by little or much."""
    origin = space.positions(codes[generator.integers(len(codes), size=count)])
    changed = generator.random(origin.shape) < _RESAMPLED
    changed[np.arange(count), generator.integers(origin.shape[1], size=count)] = True
    spread = _NEAR * (_FAR / _NEAR) ** generator.random((count, 1))
    moved = origin + spread * generator.standard_normal(origin.shape)
    moved = 1.0 - np.abs(1.0 - np.abs(moved) % 2.0)  # reflected at the ends
    for index, parameter in enumerate(space.parameters):
        if parameter.kind == "categorical" or (parameter.kind == "ordinal" and len(parameter.choices) == 2):
            moved[:, index] = generator.random(count)
        elif not parameter.is_number:
            moved[:, index] = origin[:, index] + generator.choice((-1.0, 1.0), count) / len(parameter.choices)
            moved[:, index] = np.clip(moved[:, index], 0.0, 1.0)
    return permitted(space, distinct(space.from_positions(np.where(changed, moved, origin))))


def permitted(space: Space, codes: np.ndarray) -> np.ndarray:
    """Those of `codes [N, P]` that the space does not forbid."""
    if space.permits is None:
        return codes
    return codes[np.asarray([space.permits(config) for config in space.configs(codes)], bool)]


def distinct(codes: np.ndarray) -> np.ndarray:
    """`codes [N, P]` without repeats, in their order."""
    seen = {row.tobytes(): place for place, row in reversed(list(enumerate(codes)))}
    return codes[sorted(seen.values())]


def scrambled_halton(count: int, dimensions: int, generator: np.random.Generator) -> np.ndarray:
    """`[count, dimensions]` points of the unit cube: the Halton sequence with digits permuted at random, the
    remedy for its correlated high dimensions (Owen 2017, "A randomized Halton algorithm in R")."""
    points = np.zeros((count, dimensions))
    for dimension, base in enumerate(_primes(dimensions)):
        number, scale = np.arange(count), 1.0
        while scale > 1e-9:
            scale /= base
            points[:, dimension] += generator.permutation(base)[number % base] * scale
            number = number // base
    return points


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found if prime * prime <= number):
            found.append(number)
        number += 1
    return found
