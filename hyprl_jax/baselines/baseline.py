"""What a baseline is: a player, and how it gets ready for a fold and for an episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Act, Background

PLAIN = SurrogateConfig(
    similarity=False, freedom=0.0, mean_variance=0.0, guard=False, tune=True, denoise=False
)
"""What published methods and static lists are told: every known task counts the same. `prior_ei` is tuned by
playing the known tasks, which helps it, unlike the policies' own acquisition function."""


class Baseline(NamedTuple):
    """A player and what it needs."""

    act: Act
    memory: Callable[[Background, Task, EnvConfig, Any], Any]
    """`memory(shared, task, config, prepared)` before the first trial of an episode."""
    stochastic: bool
    """Draws random numbers: to be played with several seeds."""
    beliefs: SurrogateConfig
    prepare: Callable[[SurfaceBank, Fold, EnvConfig], Any] | None = None
    """What is learned from a fold's known tasks, once for all episodes of the fold: a pytree of arrays."""
