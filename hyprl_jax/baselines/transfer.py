"""The transfer baselines made of Gaussian processes, by name.

- `tst_r`, `tst_m`: two-stage transfer surrogates, known tasks weighted by ranks or by metafeatures.
- `taf_r`, `taf_m`: transfer acquisition functions with the same weights.
- `rgpe`: the ranking-weighted Gaussian process ensemble.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines import ensembles, two_stage
from hyprl_jax.baselines.source_models import learn_sources
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Act, Background


class Transfer(NamedTuple):
    """A player and what it needs, as in `baselines.Baseline`."""

    act: Act
    memory: Callable[[Background, Task, EnvConfig, Any], Any]
    prepare: Callable[[SurfaceBank, Fold, EnvConfig], Any]
    stochastic: bool


def _two_stage(act: Act) -> Transfer:
    return Transfer(act, two_stage.two_stage_memory, learn_sources, False)


TRANSFER = {
    "tst_r": _two_stage(two_stage.tst_r_player),
    "tst_m": _two_stage(two_stage.tst_m_player),
    "taf_r": _two_stage(two_stage.taf_r_player),
    "taf_m": _two_stage(two_stage.taf_m_player),
    "rgpe": Transfer(ensembles.rgpe_player, ensembles.ensemble_memory, ensembles.learn_ensemble, True),
}
"""All of them by name."""
