"""The compiled program of a streamed run: it learns from a shard, and is judged on tasks that stay.

Updates and validation are compiled one after the other, because a compiler needs far more memory than what it
compiles, and the more the larger the program is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyprl_jax import mesh
from hyprl_jax.config import TrainConfig
from hyprl_jax.program import Metrics, Program, judge_member, over_members, teach_member
from hyprl_jax.threads import Threads

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

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        teach, shape = over_members(self._teach_member), self.layout.shape
        self._teach = self._dealt(teach, donate=True)
        if self.layout.alone:
            self._teach = Threads(teach, (shape.folds, shape.seeds), donate=True)
        self._judge = self._dealt(over_members(self._judge_member), donate=True)
        self._prepared: Any = None

    def prepare(self, judged: tuple[Any, Any], taught: tuple[Any, Any]) -> None:
        """Compiles the updates, which takes more memory than all that comes later, while there is little in
        it: `judged` are the bank and the folds that are judged, `taught` the shapes of those of a shard."""
        given = self._arguments_of(*taught, jax.eval_shape(self.start, *judged))
        if isinstance(self._teach, Threads):
            self._teach.prepare(*given)
        else:
            self._prepared = self._teach.lower(*given).compile()

    def _arguments_of(self, bank: Any, folds: Any, members: Any) -> tuple:
        """Shapes with the shardings that `_arguments` gives to arrays of these shapes."""
        if self.layout.alone:
            return bank, folds, members

        def like(tree: Any, place: Any) -> Any:
            where = NamedSharding(self.layout.mesh, place)
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
            )

        return like(bank, P()), like(folds, mesh.FOLDS), like(members, mesh.MEMBERS)

    def chunk(self, state: Any, bank: Any, folds: Any) -> tuple[Any, Metrics]:
        """As `Program.chunk`: updates on what is taught, and a validation on what is judged."""
        teach = self._prepared or self._teach
        taught = teach(*self._arguments(bank.taught, folds.taught, state))
        after: tuple[Any, Metrics] = self._judge(*self._arguments(bank.judged, folds.judged, taught))
        return after

    def _teach_member(self, state: Any, bank: Any, fold: Any) -> Any:
        return teach_member(state, bank, fold, self.config, self.layout.sharing)

    def _judge_member(self, taught: Any, bank: Any, fold: Any) -> Any:
        return judge_member(taught, bank, fold, self.config, self.layout.sharing)
