"""The compiled program of a streamed run: it learns from a shard, and is judged on tasks that stay."""

from __future__ import annotations

from typing import Any, NamedTuple

from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.program import Metrics, Program, TrainingState, chunk_member

__all__ = ["Streamed", "StreamedProgram"]


class Streamed(NamedTuple):
    """Banks, or folds, of the two kinds."""

    judged: Any
    """Of the tasks that `start` has judged the policy on before training, and that every chunk does again."""
    taught: Any
    """Of the shard that the updates of a chunk draw their tasks from."""


class StreamedProgram(Program):
    """The compiled functions of a configuration; `chunk` takes `Streamed` banks and `Streamed` folds, `start`
    plain ones, those that are judged."""

    def _chunk_member(self, state: Any, bank: Any, fold: Any) -> tuple[TrainingState, Metrics]:
        taught: tuple[SurfaceBank, Fold] = (bank.taught, fold.taught)
        return chunk_member(state, bank.judged, fold.judged, self.config, taught)
