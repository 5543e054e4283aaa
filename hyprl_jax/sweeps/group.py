"""One compiled program for all settings of a group: configurations that differ in sweepable fields alone.

The second axis of a training state, seeds, becomes settings times seeds: member `s * S + k` is seed k (of S)
of setting s. Each member carries its values of the fields in which the settings differ, so that members are
dealt out over devices, and trained in turn or side by side, as the seeds of a single run are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import fitting, program
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import TrainConfig, sweepable_fields, with_values
from hyprl_jax.errors import InputError
from hyprl_jax.knowledge import Numbers
from hyprl_jax.program import Metrics, Program, TrainingState


class GroupState(NamedTuple):
    """The state of all settings of a group; leaves `[folds, settings * seeds, ...]`."""

    values: jax.Array
    """float32 `[folds, settings * seeds, n]`: the values of the n fields in which settings differ."""
    training: TrainingState


class GroupProgram(Program):
    """The compiled functions of several settings; `start` and `chunk` take and give a `GroupState`.

    Args:
      config: the configuration of any of the settings.
      names: dotted names of the sweepable fields in which they differ, n of them.
      values: `[settings, n]` what they are in each setting.
    """

    def __init__(self, config: TrainConfig, names: Sequence[str], values: np.ndarray) -> None:
        unknown = sorted(set(names) - set(sweepable_fields(config)))
        if unknown:
            raise InputError(
                f"the field '{unknown[0]}' shapes the compiled program: it cannot be swept in it"
            )
        self.names = tuple(names)
        self.values = np.asarray(values, np.float32).reshape(len(values), len(self.names))
        super().__init__(config)
        self._learn = jax.jit(self._learn_settings)

    @property
    def settings(self) -> int:
        """How many settings there are."""
        return len(self.values)

    @property
    def members(self) -> int:
        return self.settings * len(self.config.seeds)

    def setting(self, state: GroupState, place: int) -> TrainingState:
        """The state of one setting, `[folds, seeds, ...]`: what a run of its own would have."""
        seeds = len(self.config.seeds)
        return jax.tree.map(lambda leaf: leaf[:, place * seeds : (place + 1) * seeds], state.training)

    def _with(self, values: jax.Array) -> TrainConfig:
        """The configuration with the (traced) values `[n]` of one setting."""
        return with_values(self.config, {name: values[at] for at, name in enumerate(self.names)})

    def _learn_settings(self, bank: SurfaceBank, folds: Fold) -> Numbers:
        """What the surrogate learns in each setting, `[settings or 1, folds, L, ...]`; once if none of its
        fields differ."""

        def learn(values: jax.Array) -> Numbers:
            config = self._with(values)
            return jax.lax.map(lambda fold: fitting.learn(bank, fold, config.env, config.surrogate), folds)

        different = any(name.startswith("surrogate.") for name in self.names)
        return jax.lax.map(learn, jnp.asarray(self.values if different else self.values[:1]))

    def _numbers(self, bank: SurfaceBank, folds: Fold) -> Numbers:
        def spread(leaf: jax.Array) -> jax.Array:
            each = jnp.broadcast_to(leaf, (self.settings, *leaf.shape[1:]))
            return jnp.repeat(jnp.swapaxes(each, 0, 1), len(self.config.seeds), axis=1)

        return jax.tree.map(spread, self._learn(bank, folds))

    def _given(self, numbers: Numbers) -> Any:
        keys = jnp.concatenate([self.keys()] * self.settings, axis=1)
        values = jnp.repeat(jnp.asarray(self.values), len(self.config.seeds), axis=0)
        return jnp.broadcast_to(values, (len(self.config.folds), *values.shape)), (keys, numbers)

    def _start_member(self, given: Any, bank: SurfaceBank, fold: Fold) -> GroupState:
        values, own = given
        return GroupState(
            values, program.start_member(own, bank, fold, self._with(values), self.layout.sharing)
        )

    def _chunk_member(self, state: GroupState, bank: SurfaceBank, fold: Fold) -> tuple[GroupState, Metrics]:
        after, metrics = program.chunk_member(
            state.training, bank, fold, self._with(state.values), self.layout.sharing
        )
        return GroupState(state.values, after), metrics
