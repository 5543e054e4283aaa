"""The configuration of a training run, as frozen dataclasses that the command line, the run folder and
sweeps share.

Every field is either *static* (it shapes the compiled program) or *sweepable*: a number that only enters as
a value, so that a sweep may change it without a recompilation and put it on a vmapped axis. Sweepable fields
are declared with
`sweepable(...)`; `sweepable_fields` lists them. A configuration is checked when it is built: whatever
`TrainConfig` object exists can be trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from hyprl_jax.errors import InputError

Reward = Literal["regret", "improvement", "log_regret", "raw", "hyprl"]
Cell = Literal["gru", "lstm", "none"]
Target = Literal["lambda", "n_step"]
Schedule = Literal["constant", "linear", "exponential"]
Replay = Literal["none", "uniform", "prioritised"]
Candidates = Literal["surrogate", "encodings", "both"]
Optimizer = Literal["adam", "adamw", "rmsprop", "sgd"]
Decay = Literal["constant", "linear", "cosine"]
Ordering = Literal["policy_gradient", "q"]
Exploration = Literal["uniform", "acquisition"]


def sweepable(default: float) -> Any:
    """A dataclass field whose value may be swept inside one compiled program."""
    return field(default=default, metadata={"sweepable": True})


@dataclass(frozen=True)
class EnvConfig:
    """One tuning episode."""

    trials: int = 25
    """Configurations tested in an episode."""
    reward: Reward = "regret"
    """What a trial earns; see `hyprl_jax.env.reward`."""
    stop_on_repeat: bool = False
    """Allow configurations already tested and end the episode on a repeat, as the published Hyp-RL does."""


@dataclass(frozen=True)
class AugmentConfig:
    """Synthetic tasks made on the device from the training tasks; see `hyprl_jax.augment`."""

    candidates: int = 128
    """Configurations offered in a training episode, drawn anew for each batch of episodes (0: all of
    them)."""
    mixture: float = sweepable(0.2)
    """Share of the episodes that play a convex mixture of two tasks."""
    warp: float = sweepable(0.1)
    """Standard deviation of the log-exponent of the monotone warp."""
    noise: float = sweepable(0.005)
    """Largest standard deviation of the noise put on a surface, in units of its range."""
    rescale: float = sweepable(0.1)
    """Standard deviation of the log-factor on a surface's range."""
    forget: float = sweepable(0.3)
    """Largest share of the known groups that a player is made to forget for an episode."""


@dataclass(frozen=True)
class SurrogateConfig:
    """The incremental Gaussian process and the retrieval of similar tasks; see `hyprl_jax.surrogate`."""

    prior: Literal["learned", "mean", "constant", "cold"] = "learned"
    """Learned mean and covariance, learned mean only, neither, or many cold processes (`hyprl_jax.cold`)."""
    leave_out: bool = True
    """Leave the group of the played task out of its own prior (off only to show what it costs)."""
    fit: bool = True
    """Learn lengthscales, variances and noise from the known tasks by likelihood; see `hyprl_jax.fitting`."""
    tune: bool = True
    """Choose `gain_weight` and a factor on `encoding_variance` by playing the known tasks; see there."""
    encoding_variance: float = sweepable(0.1)
    """Prior variance that is explained by the encodings alone, in squared units of a task's range."""
    learned_variance: float = sweepable(1.0)
    """Factor on the covariance of the training surfaces."""
    lengthscale: float = sweepable(1.2)
    """Lengthscale of the kernel over encodings."""
    noise: float = sweepable(0.003)
    """Variance of the observation noise, in squared units of a task's range."""
    sharpness_low: float = sweepable(8.0)
    """Softmax factor of the gentle retrieval weights."""
    sharpness_high: float = sweepable(32.0)
    """Softmax factor of the sharp retrieval weights."""
    gain_weight: float = sweepable(0.4)
    """Weight of each retrieval's expected gain in the acquisition function that policies start from."""


@dataclass(frozen=True)
class NetworkConfig:
    """The recurrent Q-network; see `hyprl_jax.networks`."""

    cell: Cell = "gru"
    """Recurrent cell over the history."""
    context: int = 16
    """Width of the recurrent context."""
    hidden: int = 16
    """Width of the per-candidate head."""
    layers: int = 1
    """Hidden layers of the per-candidate head."""
    candidates: Candidates = "surrogate"
    """What the head sees of a candidate: surrogate features, encodings of its hyperparameters, or both."""
    shortlist: int = 8
    """Candidates that the head judges: the best by the acquisition function that the correction starts from
    (0 for all). With the correction bounded, hardly any other could win."""
    metafeatures: bool = False
    """Start the context from the metafeatures of the dataset."""
    residual: bool = True
    """Add the head's output to a classical acquisition function instead of learning from nothing."""
    residual_limit: float = sweepable(1.0)
    """Bound on the correction, in units of the log-acquisition."""
    dueling: bool = True
    """A separate head for the value of the state."""
    layer_norm: bool = True
    """Layer normalisation in the head and on the context."""


@dataclass(frozen=True)
class LearnerConfig:
    """Q-learning from whole episodes; see `hyprl_jax.learner`."""

    episodes: int = 1024
    """Episodes played in parallel for an update."""
    plays: int = 16
    """Episodes of each drawn task: the mean return of a task's plays is its baseline."""
    minibatches: int = 4
    """Minibatches in a pass over the played episodes."""
    epochs: int = 1
    """Passes over the played episodes."""
    updates: int = 60
    """Updates of a whole run."""
    gamma: float = sweepable(0.98)
    """Discount."""
    target: Target = "lambda"
    """Kind of return that the network is fitted to."""
    lambda_: float = sweepable(0.9)
    """Weight of longer returns."""
    n_step: int = 3
    """Rewards before the bootstrap of n-step returns."""
    baseline: bool = True
    """Shape the rewards by a task-wise potential, the mean return of the task's plays at each trial."""
    double: bool = False
    """Double Q-learning: the online network chooses, the target network judges (needs `target_period`)."""
    target_period: int = 0
    """Updates between hard copies to the target network (0: no target network)."""
    replay: Replay = "none"
    """Learn from stored whole episodes."""
    replay_capacity: int = 4096
    """Episodes that the replay buffer holds."""
    replay_alpha: float = sweepable(0.6)
    """Prioritisation exponent."""
    replay_beta: float = sweepable(0.4)
    """Importance-weight exponent."""
    ordering: Ordering = "policy_gradient"
    """What teaches the order of the candidates: the gradient of the return, or the fit of Q-values alone."""
    temperature: float = sweepable(0.1)
    """Of the softmax by which training plays for its policy gradient, in units of the log-acquisition."""
    ratio_clip: float = sweepable(0.2)
    """Change of a choice's probability beyond which the policy gradient does not push."""
    exploration: Exploration = "acquisition"
    """With `ordering` `q`: explore uniformly or in proportion to the acquisition function."""
    epsilon_schedule: Schedule = "linear"
    """How exploration falls (with `ordering` `q`)."""
    epsilon_start: float = sweepable(0.2)
    """Exploration at the start."""
    epsilon_end: float = sweepable(0.05)
    """Exploration at the end of the schedule."""
    epsilon_fraction: float = sweepable(0.5)
    """Part of the updates over which exploration falls."""
    optimizer: Optimizer = "adam"
    """optax optimizer."""
    learning_rate: float = sweepable(3e-3)
    """Peak learning rate."""
    decay: Decay = "cosine"
    """Shape of the learning rate over the run."""
    warmup: int = 10
    """Gradient steps of linear warm-up."""
    weight_decay: float = sweepable(1e-4)
    """Decoupled weight decay (adamw)."""
    max_gradient_norm: float = sweepable(10.0)
    """Gradients are clipped to this global norm."""
    huber: float = sweepable(10.0)
    """Where the squared loss becomes linear, in units of the scaled return."""
    reward_scale: float = sweepable(10.0)
    """Factor on rewards before they are learned."""
    average: float = sweepable(0.95)
    """Decay of the moving average of the weights that is evaluated and kept (0: the last weights)."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a pretraining run."""

    collections: tuple[str, ...] = ()
    """Collections to train on: folder names under meta_data/ or paths."""
    split: str = "kfold5"
    """`loo`, `kfold5`, `holdout:N:SEED`, or a JSON file with train, validation and test tasks."""
    folds: tuple[int, ...] = (0,)
    """Folds of the split; several are trained side by side."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; several are trained side by side."""
    validation_fraction: float = 0.2
    """Part of the training tasks that is kept for choosing the best policy."""
    validation_plays: int = 8
    """Times that each task is played in a validation: once as it is, then over random halves of its
    candidates."""
    updates_per_chunk: int = 20
    """Updates in one compiled chunk, between two validations."""
    checkpoint_seconds: float = 30.0
    """Least time between two checkpoints (0: after every chunk)."""
    env: EnvConfig = EnvConfig()
    augment: AugmentConfig = AugmentConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    network: NetworkConfig = NetworkConfig()
    learner: LearnerConfig = LearnerConfig()

    def __post_init__(self) -> None:
        check(self)


def sweepable_fields(config: TrainConfig) -> tuple[str, ...]:
    """Dotted names of the fields that may be swept inside one compiled program."""
    names = []
    for part in dataclasses.fields(config):
        value = getattr(config, part.name)
        if dataclasses.is_dataclass(value):
            names += [
                f"{part.name}.{f.name}" for f in dataclasses.fields(value) if f.metadata.get("sweepable")
            ]
    return tuple(names)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON-able values, complete."""
    return _plain(dataclasses.asdict(config))


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that `to_dict` wrote; fields left out keep their defaults.

    Raises InputError, naming the dotted field, for an unknown key, a wrong type or a value out of range.
    """
    return _build(TrainConfig, values, "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _build(kind: type, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"configuration {path or 'file'}: expected an object, found {type(values).__name__}")
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"unknown configuration field '{path}{unknown[0]}': use one of {', '.join(sorted(hints))}"
        )
    return kind(**{name: _convert(hints[name], value, f"{path}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`, or an InputError that names the field."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{path}.")  # type: ignore[arg-type]
    arguments = get_args(hint)
    if arguments and hint.__class__.__name__ == "_LiteralGenericAlias":
        if value not in arguments:
            raise InputError(f"configuration field '{path}' is {value!r}: use one of {', '.join(arguments)}")
        return value
    if arguments:  # tuple[X, ...]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"configuration field '{path}' is {value!r}: give a list")
        return tuple(_convert(arguments[0], item, path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 2**1000:
            raise InputError(f"configuration field '{path}' is too large for a number")
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"configuration field '{path}' is {value!r}: give a value of type {hint.__name__}")
    return value


def check(config: TrainConfig) -> None:
    """Raises InputError if the fields do not make sense alone or together."""
    for name, value in _numbers(config):
        if not math.isfinite(value):
            raise InputError(f"configuration field '{name}' is {value}: give a finite number")
    learner, network = config.learner, config.network
    at_least_one = {
        "env.trials": config.env.trials, "network.context": network.context, "network.hidden": network.hidden,
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
        "augment.candidates": config.augment.candidates,
        "learner.target_period": learner.target_period, "learner.warmup": learner.warmup,
        "learner.learning_rate": learner.learning_rate, "learner.weight_decay": learner.weight_decay,
        "augment.noise": config.augment.noise, "checkpoint_seconds": config.checkpoint_seconds,
        "surrogate.learned_variance": config.surrogate.learned_variance,
        "surrogate.sharpness_low": config.surrogate.sharpness_low,
        "surrogate.sharpness_high": config.surrogate.sharpness_high,
        "surrogate.gain_weight": config.surrogate.gain_weight,
        "learner.replay_alpha": learner.replay_alpha, "learner.replay_beta": learner.replay_beta,
    }  # fmt: skip
    for name, value in not_negative.items():
        if value < 0:
            raise InputError(f"configuration field '{name}' is {value}: give 0 or more")
    _check_probabilities(config)
    _check_combinations(config)


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


def _check_probabilities(config: TrainConfig) -> None:
    learner = config.learner
    shares = {
        "learner.gamma": learner.gamma, "learner.lambda_": learner.lambda_, "learner.average":
        learner.average, "learner.epsilon_start": learner.epsilon_start, "learner.epsilon_end":
        learner.epsilon_end, "learner.epsilon_fraction": learner.epsilon_fraction, "augment.mixture":
        config.augment.mixture,
    }  # fmt: skip
    for name, value in shares.items():
        if not 0.0 <= value <= 1.0:
            raise InputError(f"configuration field '{name}' is {value}: give a number between 0 and 1")
    if not 0.0 < config.validation_fraction < 1.0:
        raise InputError("configuration field 'validation_fraction': give a number between 0 and 1")
    positive = {
        "surrogate.encoding_variance": config.surrogate.encoding_variance,
        "surrogate.lengthscale": config.surrogate.lengthscale, "surrogate.noise": config.surrogate.noise,
        "learner.huber": learner.huber, "learner.reward_scale": learner.reward_scale,
        "learner.temperature": learner.temperature, "learner.ratio_clip": learner.ratio_clip, "network"
        ".residual_limit": config.network.residual_limit, "learner.max_gradient_norm":
        learner.max_gradient_norm,
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
