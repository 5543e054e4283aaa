"""A Gaussian process for every known task, learned once a fold and combined by the transfer baselines.

What a process says about the candidates does not depend on the task that is played, so its mean and deviation
at all of them are computed beforehand. At most `POINTS` configurations of a task teach its process (all,
where a table has no more), the same for all tasks as far as they evaluated them; `HYPER_POINTS` of these
teach its lengthscales and noise. Values are standardised by task: which of them is best matters, not its
unit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.bank import Fold, SurfaceBank, standardised_metafeatures
from hyprl_jax.baselines import gaussian
from hyprl_jax.baselines.gaussian import Process
from hyprl_jax.config import EnvConfig

POINTS = 128
HYPER_POINTS = 64
_AT_ONCE = 16  # tasks whose predictions are computed side by side: their covariances need the memory


class SourceModels(NamedTuple):
    """The processes of the K known tasks of a fold, in standardised units of each task."""

    mean: jax.Array
    """`[K, N]` posterior mean at the candidates."""
    deviation: jax.Array
    """`[K, N]` posterior standard deviation there."""
    metafeatures: jax.Array
    """`[K, M]` standardised over the known tasks."""


def learn_sources(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> SourceModels:
    """The source models of a fold; looks at no task but its known ones."""
    del config
    processes = learn_processes(bank, fold)
    encodings = bank.encodings[bank.collection[fold.known]]
    mean, deviation = jax.lax.map(
        lambda given: gaussian.predict(*given), (processes, encodings), batch_size=_AT_ONCE
    )
    return SourceModels(mean, deviation, standardised_metafeatures(bank, fold)[fold.known])


def learn_processes(bank: SurfaceBank, fold: Fold) -> Process:
    """The processes, leaves `[K, ...]`."""
    total = bank.legal.shape[1]
    # A fixed order: two runs, two folds and two tasks see the same configurations.
    order = jax.random.uniform(jax.random.key(0), (total,))

    def learn(row: jax.Array) -> Process:
        ranked = jnp.argsort(jnp.where(bank.legal[row], order, 2.0))
        columns = ranked[: min(POINTS, total)].astype(jnp.int32)
        present = bank.legal[row][columns]
        encodings = bank.encodings[bank.collection[row]]
        values = gaussian.standardised(bank.unit[row][columns], present)[0]
        few = min(HYPER_POINTS, total)
        hyper = gaussian.fit_gradient(encodings[columns[:few]], values[:few], present[:few])
        return gaussian.condition(encodings, columns, values, present, hyper)

    return jax.lax.map(learn, fold.known, batch_size=_AT_ONCE)
