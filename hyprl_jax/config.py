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
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from hyprl_jax.config_checks import check
from hyprl_jax.errors import InputError

Reward = Literal["regret", "improvement", "log_regret", "raw", "hyprl"]
Cell = Literal["gru", "lstm", "attention", "none"]
Head = Literal["candidates", "fixed"]
Target = Literal["lambda", "n_step"]
Schedule = Literal["constant", "linear", "exponential"]
Replay = Literal["none", "uniform", "prioritised"]
Candidates = Literal["surrogate", "encodings", "both"]
Optimizer = Literal["adam", "adamw", "rmsprop", "sgd"]
Decay = Literal["constant", "linear", "cosine"]
Ordering = Literal["policy_gradient", "q"]
Exploration = Literal["uniform", "acquisition"]
Surfaces = Literal["replicated", "sharded"]


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
    """Train with configurations already tested allowed and end the episode on a repeat, as the published
    Hyp-RL does."""
    mask_tried: bool = True
    """Never offer configurations already tested (`stop_on_repeat` still does, in training). Off: a repeat
    costs a trial and reveals nothing new, in test-time play too."""
    late_results: bool = False
    """Tell the policy of each trial one trial late: it chooses without the latest result."""


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
    denoise: bool = True
    """Known surfaces count without their noise where they foretell other known tasks better so; see there."""
    tune: bool = False
    """Choose `gain_weight` and a factor on `encoding_variance` by playing the known tasks; see there."""
    encoding_variance: float = sweepable(0.1)
    """Prior variance that is explained by the encodings alone, in squared units of a task's range."""
    learned_variance: float = sweepable(1.0)
    """Factor on the covariance of the training surfaces."""
    additive: float = sweepable(0.0)
    """Share of the covariance that adds up over features, with the prior `cold` (see `hyprl_jax.cold`)."""
    mean_variance: float = sweepable(0.5)
    """Variance of the factor, 1 on average, by which the prior mean counts: with the prior `learned`, a task
    may turn out to be unlike the known ones, or their opposite."""
    guard: bool = True
    """A process that knows no other task beside the one that does, averaged by evidence; see there."""
    guard_share: float = sweepable(0.2)
    """Its weight before the first trial."""
    guard_variance: float = sweepable(0.1)
    """Its prior variance, in squared units of a task's range."""
    lengthscale: float = sweepable(1.2)
    """Lengthscale of the kernel over encodings."""
    noise: float = sweepable(0.003)
    """Variance of the observation noise, in squared units of a task's range."""
    sharpness_low: float = sweepable(8.0)
    """Softmax factor of the gentle retrieval weights."""
    sharpness_high: float = sweepable(32.0)
    """Softmax factor of the sharp retrieval weights."""
    freedom: float = sweepable(4.0)
    """Degrees of freedom of the Student-t process: how soon surprises widen its posterior (0: Gaussian)."""
    similarity: bool = True
    """Known tasks count by the likeness of their metafeatures; see `hyprl_jax.knowledge`."""
    similarity_width: float = sweepable(0.2)
    """Difference of metafeature ranks, from 0 to 1, beyond which a known task counts for little."""
    similarity_floor: float = sweepable(0.3)
    """Part of the weight that all known tasks share evenly (at least 0.3, see there)."""
    gain_weight: float = sweepable(0.4)
    """Weight of each retrieval's expected gain in the acquisition function that policies start from."""


@dataclass(frozen=True)
class NetworkConfig:
    """The recurrent Q-network; see `hyprl_jax.networks`."""

    cell: Cell = "gru"
    """Recurrent cell over the history, or causal self-attention to all of it."""
    memory: int = 64
    """Trials that the cell `attention` has room for."""
    context: int = 16
    """Width of the recurrent context."""
    head: Head = "candidates"
    """Judge candidates by what they look like, or (`fixed`) have one output for each configuration of one
    collection and read nothing but the previous configuration and its result, as the published Hyp-RL."""
    outputs: int = 0
    """Outputs of the head `fixed`: the configurations of the collection (0: `hyprl train` counts them)."""
    hidden: int = 16
    """Width of the per-candidate head."""
    layers: int = 1
    """Hidden layers of the per-candidate head."""
    candidates: Candidates = "surrogate"
    """What the head sees of a candidate: surrogate features, encodings of its hyperparameters, or both."""
    shortlist: int = 8
    """Candidates that the head judges: the best by the acquisition function that the correction starts from
    (0 for all). With the correction bounded, hardly any other could win; without `residual` it is all that a
    network keeps of the acquisition function."""
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
class StreamConfig:
    """Training on a packed collection that does not fit into memory; see `hyprl_jax.streams`."""

    tasks: int = 0
    """Training tasks in memory at a time, others in every chunk of updates (0: all of them, all the time)."""
    reference: int = 32
    """Training tasks that the run is judged on beside the validation tasks: the same after every chunk."""
    validation: int = 32
    """Validation tasks that are used at most."""
    seed: int = 0
    """Seed of the order of the tasks."""


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
    surfaces: Surfaces = "replicated"
    """The surfaces are on every device, or sharded: each holds some tasks, for collections larger than one
    device. Then validation and fitting see 8 times `augment.candidates` configurations, drawn once."""
    env: EnvConfig = EnvConfig()
    augment: AugmentConfig = AugmentConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    network: NetworkConfig = NetworkConfig()
    learner: LearnerConfig = LearnerConfig()
    stream: StreamConfig = StreamConfig()

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


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with other values in fields given by their dotted names.

    Values of sweepable fields may be traced by JAX: such a configuration is not checked, so that the values
    must be those of configurations that were.
    """
    parts: dict[str, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for name, value in values.items():
        part, _, field_name = name.partition(".")
        if field_name:
            parts.setdefault(part, {})[field_name] = value
        else:
            whole[part] = value
    changed = {name: dataclasses.replace(getattr(config, name), **inner) for name, inner in parts.items()}
    return dataclasses.replace(config, **changed, **whole)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON-able values, complete."""
    return _plain(dataclasses.asdict(config))


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that `to_dict` wrote; fields left out keep their defaults.

    Raises InputError, naming the dotted field, for an unknown key, a wrong type or a value out of range.
    """
    return _build(TrainConfig, values, "")


def from_saved(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a run has saved. InputError as by `from_dict`, and for a field that is missing:
    the run was trained before that part of the agent existed, and would be played with it."""
    config = from_dict(values)
    missing = _missing(to_dict(config), values, "")
    if missing:
        raise InputError(
            f"configuration field '{missing}' is missing: another version trained this run; train it again"
        )
    return config


_LATER = {"stream", "surfaces"}  # their defaults are what runs without them did


def _missing(complete: Mapping[str, Any], values: Mapping[str, Any], path: str) -> str | None:
    """Dotted name of the first field of `complete` that `values` lacks."""
    for name, value in complete.items():
        if name not in values and name not in _LATER:
            return f"{path}{name}"
        deeper = (
            _missing(value, values.get(name, value), f"{path}{name}.") if isinstance(value, Mapping) else ""
        )
        if deeper:
            return deeper
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _build(kind: type, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"configuration {path or 'file'}: expected an object, found {type(values).__name__}")
    hints = _hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"unknown configuration field '{path}{unknown[0]}': use one of {', '.join(sorted(hints))}"
        )
    return kind(**{name: _convert(hints[name], value, f"{path}{name}") for name, value in values.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


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
