"""Members of a run side by side on the cores of a CPU: one program, called from several threads.

Members exchange nothing, so they need no program over several devices: XLA compiles such a program in
another way than one for a single device, and its numbers agree with that one's up to rounding only. A
program for one device runs in the thread that calls it. Called from as many threads as there are cores, each
time with some of the members, it computes bitwise what it computes for all of them in turn; it is compiled
once, and no thread waits for another.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Threads"]


class Threads:
    """Calls `function(shared, folds, members)` with parts of the folds and members, a thread a part.

    Args:
      function: leaves of `folds` are `[F, ...]`, those of `members` and of its results `[F, S, ...]`, and
        it computes one member as if there were no others.
      parts: into how many equal parts folds and seeds are cut; they divide F and S.
      donate: the members given are used up.
    """

    def __init__(self, function: Callable, parts: tuple[int, int], donate: bool = False) -> None:
        self._jitted = jax.jit(function, donate_argnums=(2,) if donate else ())
        self._parts = parts
        self._donate = donate
        self._compiled: dict[Any, Any] = {}
        self._cut = jax.jit(self._cut_all)
        self._join = jax.jit(self._join_all)

    def __call__(self, shared: Any, folds: Any, members: Any) -> Any:
        """The results for all members; those of several threads once they are there."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((shared, folds, members))):
            return self._jitted(shared, folds, members)  # as `jax.eval_shape` calls it
        if self._parts == (1, 1):
            return self._program(shared, folds, members)(shared, folds, members)
        pieces = self._cut(folds, members)
        if self._donate:
            jax.tree.map(lambda leaf: leaf.delete(), members)
        program = self._program(shared, *pieces[0])

        def run(piece: tuple) -> Any:
            return jax.block_until_ready(program(shared, *piece))

        with ThreadPoolExecutor(len(pieces)) as pool:
            return self._join(list(pool.map(run, pieces)))

    def prepare(self, shared: Any, folds: Any, members: Any) -> None:
        """Compiles for arguments with these shapes and dtypes."""
        piece = (folds, members) if self._parts == (1, 1) else jax.eval_shape(self._cut, folds, members)[0]
        self._program(shared, *piece)

    def _program(self, *given: Any) -> Any:
        leaves, structure = jax.tree.flatten(given)
        shapes = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if shapes not in self._compiled:
            self._compiled[shapes] = self._jitted.lower(*given).compile()
        return self._compiled[shapes]

    def _cut_all(self, folds: Any, members: Any) -> list[tuple[Any, Any]]:
        (rows, columns), pieces = self._parts, []
        for row in range(rows):
            own = jax.tree.map(lambda leaf, at=row: jnp.split(leaf, rows)[at], folds)
            beside = jax.tree.map(lambda leaf, at=row: jnp.split(leaf, rows)[at], members)
            for column in range(columns):
                cell = jax.tree.map(lambda leaf, at=column: jnp.split(leaf, columns, axis=1)[at], beside)
                pieces.append((own, cell))
        return pieces

    def _join_all(self, results: list[Any]) -> Any:
        rows, columns = self._parts

        def whole(*parts: jax.Array) -> jax.Array:
            beside = [jnp.concatenate(parts[at * columns : (at + 1) * columns], axis=1) for at in range(rows)]
            return jnp.concatenate(beside)

        return jax.tree.map(whole, *results)
