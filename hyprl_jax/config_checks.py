"""What a configuration must fulfil, field by field and together, before anything is trained with it.

`hyprl_jax.config.TrainConfig` calls `check` when it is built; every complaint is one line that names the
dotted field.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from hyprl_jax.errors import InputError

if TYPE_CHECKING:
    from hyprl_jax.config import TrainConfig

__all__ = ["check"]


def check(config: TrainConfig) -> None:
    """Raises InputError if the fields do not make sense alone or together.

    A configuration with traced values in it is one that was checked with plain ones.
    """
    if _is_traced(config):
        return
    for name, value in _numbers(config):
        if not math.isfinite(value):
            raise InputError(f"configuration field '{name}' is {value}: give a finite number")
    learner, network = config.learner, config.network
    at_least_one = {
        "env.trials": config.env.trials, "network.context": network.context, "network.hidden": network.hidden,
        "network.memory": network.memory,
        "learner.episodes": learner.episodes, "learner.plays": learner.plays, "learner.updates":
        learner.updates, "learner.minibatches": learner.minibatches, "learner.epochs": learner.epochs,
        "learner.n_step": learner.n_step, "validation_plays": config.validation_plays,
        "updates_per_chunk": config.updates_per_chunk,
    }  # fmt: skip
    for name, value in at_least_one.items():
        if value < 1:
            raise InputError(f"configuration field '{name}' is {value}: give at least 1")
    not_negative = {
        "network.layers": network.layers, "network.shortlist": network.shortlist,
        "network.outputs": network.outputs,
        "augment.candidates": config.augment.candidates,
        "learner.target_period": learner.target_period, "learner.warmup": learner.warmup,
        "learner.learning_rate": learner.learning_rate, "learner.weight_decay": learner.weight_decay,
        "augment.noise": config.augment.noise, "checkpoint_seconds": config.checkpoint_seconds,
        "surrogate.learned_variance": config.surrogate.learned_variance,
        "surrogate.sharpness_low": config.surrogate.sharpness_low,
        "surrogate.sharpness_high": config.surrogate.sharpness_high,
        "surrogate.gain_weight": config.surrogate.gain_weight, "surrogate.freedom": config.surrogate.freedom,
        "surrogate.mean_variance": config.surrogate.mean_variance,
        "learner.replay_alpha": learner.replay_alpha, "learner.replay_beta": learner.replay_beta,
    }  # fmt: skip
    for name, value in not_negative.items():
        if value < 0:
            raise InputError(f"configuration field '{name}' is {value}: give 0 or more")
    _check_probabilities(config)
    _check_combinations(config)
    _check_network(config)
    _check_surfaces(config)
    _check_stream(config)


def _check_surfaces(config: TrainConfig) -> None:
    """Of sharded surfaces no device ever holds all columns, or those of every stored episode."""
    if config.surfaces == "sharded" and config.augment.candidates == 0:
        raise InputError("sharded surfaces offer some of the columns: set augment.candidates above 0")
    if config.surfaces == "sharded" and config.learner.replay != "none":
        raise InputError("sharded surfaces cannot be played again: set learner.replay to none")


def _numbers(part: Any, path: str = "") -> list[tuple[str, float]]:
    """Dotted names and values of all float fields."""
    found = []
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if dataclasses.is_dataclass(value):
            found += _numbers(value, f"{path}{item.name}.")
        elif isinstance(value, float):
            found.append((f"{path}{item.name}", value))
    return found


def _is_traced(config: TrainConfig) -> bool:
    """Whether a field of some part holds an array instead of a plain value."""
    parts = (getattr(config, item.name) for item in dataclasses.fields(config))
    return any(
        hasattr(getattr(part, item.name), "dtype")
        for part in parts
        if dataclasses.is_dataclass(part)
        for item in dataclasses.fields(part)
    )


def _check_probabilities(config: TrainConfig) -> None:
    learner = config.learner
    shares = {
        "learner.gamma": learner.gamma, "learner.lambda_": learner.lambda_, "learner.average":
        learner.average, "learner.epsilon_start": learner.epsilon_start, "learner.epsilon_end":
        learner.epsilon_end, "learner.epsilon_fraction": learner.epsilon_fraction, "augment.mixture":
        config.augment.mixture, "surrogate.similarity_floor": config.surrogate.similarity_floor,
        "surrogate.additive": config.surrogate.additive, "surrogate.guard_share":
        config.surrogate.guard_share,
    }  # fmt: skip
    for name, value in shares.items():
        if not 0.0 <= value <= 1.0:
            raise InputError(f"configuration field '{name}' is {value}: give a number between 0 and 1")
    if config.surrogate.guard and config.surrogate.guard_share == 0.0:
        raise InputError("configuration field 'surrogate.guard_share' is 0: set 'surrogate.guard' to false")
    if not 0.0 < config.validation_fraction < 1.0:
        raise InputError("configuration field 'validation_fraction': give a number between 0 and 1")
    positive = {
        "surrogate.encoding_variance": config.surrogate.encoding_variance,
        "surrogate.similarity_width": config.surrogate.similarity_width,
        "surrogate.guard_variance": config.surrogate.guard_variance,
        "surrogate.lengthscale": config.surrogate.lengthscale, "surrogate.noise": config.surrogate.noise,
        "learner.huber": learner.huber, "learner.reward_scale": learner.reward_scale,
        "learner.temperature": learner.temperature, "learner.ratio_clip": learner.ratio_clip,
        "network.residual_limit": config.network.residual_limit,
        "learner.max_gradient_norm": learner.max_gradient_norm,
    }  # fmt: skip
    for name, value in positive.items():
        if value <= 0:
            raise InputError(f"configuration field '{name}' is {value}: give a number above 0")
    if learner.epsilon_schedule == "exponential" and min(learner.epsilon_start, learner.epsilon_end) <= 0:
        raise InputError("an exponential epsilon schedule never reaches 0: give a start and an end above 0")


def _check_combinations(config: TrainConfig) -> None:
    learner = config.learner
    if learner.episodes % learner.plays:
        raise InputError(
            f"learner.episodes ({learner.episodes}) must be a multiple of learner.plays ({learner.plays})"
        )
    if learner.episodes % learner.minibatches:
        raise InputError(
            f"learner.episodes ({learner.episodes}) must be a multiple of "
            f"learner.minibatches ({learner.minibatches})"
        )
    if learner.baseline and learner.plays < 2:
        raise InputError(
            "learner.baseline compares the plays of a task: set learner.plays to 2 or more, or switch it off"
        )
    if learner.ordering == "policy_gradient" and learner.plays < 2:
        raise InputError("the policy gradient compares the plays of a task: set learner.plays to 2 or more")
    if learner.ordering == "policy_gradient" and learner.replay != "none":
        raise InputError("stored episodes give no policy gradient: set learner.ordering to q")
    if learner.double and not learner.target_period:
        raise InputError("learner.double needs a target network: set learner.target_period")
    if learner.replay != "none" and learner.replay_capacity < learner.episodes:
        raise InputError("learner.replay_capacity must be at least learner.episodes")
    for name in ("folds", "seeds"):
        values = getattr(config, name)
        if not values or len(set(values)) != len(values) or min(values) < 0 or max(values) >= 2**31:
            found = f"configuration field '{name}' is {list(values)}"
            raise InputError(f"{found}: give different numbers from 0 to 2147483647")
    if 0 < config.augment.candidates < config.env.trials:
        raise InputError("augment.candidates must be 0 (all) or at least env.trials")


def _check_network(config: TrainConfig) -> None:
    network = config.network
    if network.cell == "attention" and network.memory < config.env.trials:
        raise InputError(
            f"the cell attention has room for {network.memory} trials, and an episode has "
            f"{config.env.trials}: raise network.memory, or lower env.trials"
        )
    if network.head != "fixed":
        return
    if len(config.collections) > 1:
        raise InputError("the fixed head has one output for each configuration of one collection: name one")
    needed = {
        "augment.candidates": (config.augment.candidates, 0), "network.shortlist": (network.shortlist, 0),
        "network.residual": (network.residual, False), "network.dueling": (network.dueling, False),
        "network.layer_norm": (network.layer_norm, False), "learner.ordering": (config.learner.ordering, "q"),
    }  # fmt: skip
    for name, (value, wanted) in needed.items():
        if value != wanted:
            shown = str(wanted).lower()
            raise InputError(
                f"the fixed head judges all configurations by nothing but their number: set {name} to {shown}"
            )


def _check_stream(config: TrainConfig) -> None:
    stream = config.stream
    least = {"tasks": 0, "reference": 2, "validation": 1, "seed": 0}
    for name, lowest in least.items():
        if not lowest <= getattr(stream, name) < 2**31:
            found = f"configuration field 'stream.{name}' is {getattr(stream, name)}"
            raise InputError(f"{found}: give {lowest} or more, below 2147483648")
    if not stream.tasks:
        return
    if stream.tasks < 2:
        raise InputError("configuration field 'stream.tasks' is 1: give at least 2, or 0 for all in memory")
    if len(config.collections) > 1:
        raise InputError("a streamed run trains on one packed collection: name one")
    if config.surfaces == "sharded":
        raise InputError(
            "surfaces are streamed or sharded, not both: set stream.tasks to 0 or surfaces to replicated"
        )
    if config.learner.replay != "none":
        raise InputError(
            "stored episodes know the tasks of the shard they were played with, which a streamed run has no "
            "longer: set learner.replay to none"
        )
