"""The candidates that a tuner chooses among: all of a table or a small space, or a few drawn ones, renewed.

A pool keeps the codes of its candidates in step with the columns of the episode that judges them. Candidates
that were tested stay; of the others the least promising give way to new ones after each result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime import candidates as sources
from hyprl_jax.runtime.episode import Episode
from hyprl_jax.runtime.prior import Surfaces
from hyprl_jax.runtime.space import Config, Space

_RENEWED = 0.25  # share of the drawn candidates that gives way to new ones after a result


class Pool:
    """Candidates of `space`: the `listed` ones, all of a small discrete space, or `size` drawn ones.

    `begin(encodings, surfaces)` makes the episode for candidates with features `[N, F]` at which the earlier
    tasks have the values `[K, N]` (or `[2, K, N]`, see `Surfaces.at`). Raises InputError if the space forbids
    everything that was drawn.
    """

    def __init__(
        self,
        space: Space,
        listed: Sequence[Config] | None,
        size: int,
        surfaces: Surfaces | None,
        generator: np.random.Generator,
        begin: Callable[[np.ndarray, np.ndarray], Episode],
    ) -> None:
        self._space, self._surfaces, self._size = space, surfaces, size
        everything = sources.distinct(space.codes(listed)) if listed else sources.enumerate_all(space)
        self.finite = everything is not None and len(everything) > 0
        if not self.finite:
            everything = sources.quasi_random(space, size, generator)
        if everything is None or not len(everything):
            raise InputError("the space forbids every configuration that was tried")
        self.codes = everything
        self.episode = begin(*self._seen(self.codes))
        self._columns = {row.tobytes(): column for column, row in enumerate(self.codes)}

    def column_of(self, code: np.ndarray) -> int:
        """The column of a configuration, which becomes a candidate if it is none yet."""
        key = code.tobytes()
        if key not in self._columns:
            self._add(code[None])
        return self._columns[key]

    def config(self, column: int) -> Config:
        """The configuration in a column."""
        return self._space.configs(self.codes[column : column + 1])[0]

    def renew(self, good: Sequence[Config], protected: Sequence[int], generator: np.random.Generator) -> None:
        """Draws new candidates, around the `good` configurations and anywhere, in the place of the least
        promising; those in the columns `protected` stay."""
        fresh = self._fresh(good, generator)
        free = self.episode.legal.copy()
        free[list(protected)] = False
        places = np.flatnonzero(free)
        missing = max(self._size - len(places), 0)  # what was tested is no candidate any more
        if missing and len(fresh):
            self._add(fresh[:missing])
        fresh = fresh[missing:]
        if len(fresh) and len(places):
            order = np.argsort(self.episode.promise()[places], kind="stable")
            worst = places[order[: len(fresh)]]
            self._put(worst, fresh[: len(worst)])

    def _fresh(self, good: Sequence[Config], generator: np.random.Generator) -> np.ndarray:
        """Codes `[M, P]` of candidates that were not there before."""
        count = max(4, int(self._size * _RENEWED))
        anywhere = count if not good else count // 4 + 1
        parts = [sources.quasi_random(self._space, anywhere, generator)]
        if good:
            near = sources.neighbours(self._space, self._space.codes(good), count - count // 4, generator)
            parts.insert(0, near)
        drawn = sources.distinct(np.concatenate(parts))
        return drawn[np.asarray([row.tobytes() not in self._columns for row in drawn], bool)]

    def _seen(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features `[M, F]` and the earlier tasks' values `[K, M]`."""
        encodings = self._space.features(codes).astype(np.float64)
        values = self._surfaces.at(encodings) if self._surfaces else np.zeros((0, len(encodings)))
        return encodings, values

    def _add(self, codes: np.ndarray) -> None:
        columns = self.episode.append(*self._seen(codes))
        self.codes = np.concatenate([self.codes, codes])
        self._columns |= {row.tobytes(): int(c) for row, c in zip(codes, columns, strict=True)}

    def _put(self, columns: np.ndarray, codes: np.ndarray) -> None:
        for column in columns:
            del self._columns[self.codes[column].tobytes()]
        self.episode.replace(columns, *self._seen(codes))
        self.codes[columns] = codes
        self._columns |= {row.tobytes(): int(c) for row, c in zip(codes, columns, strict=True)}
