"""The compiled part of training: a chunk of updates and a validation, for all folds and seeds of a run at
once.

Folds and seeds are axes of one program: every leaf of the state is `[folds, seeds, ...]`. Each member's
arithmetic is independent of its neighbours. They are dealt out over the devices, along whichever of the two
axes goes up evenly (each core of a CPU is a device, see `devices`), and nothing is exchanged between devices.
On a CPU the members of a device run one after another (a batched matrix product of many small matrices gains
nothing there), on an accelerator side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax import augment, devices, env, fitting, learner, players, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import TrainConfig
from hyprl_jax.knowledge import Numbers
from hyprl_jax.learner import LearnerState
from hyprl_jax.networks import FlaxNetwork, Params

Metrics = dict[str, jax.Array]


class TrainingState(NamedTuple):
    """The state of a run; every leaf has leading axes `[folds, seeds]`."""

    learner: LearnerState
    numbers: Numbers
    """What the surrogate learned from the known tasks of the fold, `[L, ...]` for L collections."""
    start_scores: jax.Array
    """`[K]` float32: regret of the acquisition function that the policy starts from, on each known task."""
    best: Params
    """Averaged parameters with the best validation regret so far, if it is more than luck; see `_chunk`."""
    best_score: jax.Array
    """float32: that regret, averaged over validation tasks and trials."""
    best_updates: jax.Array
    """int32: the updates after which it was reached; 0 is the acquisition function that the policy starts
    from."""


class Program:
    """The three compiled functions of a configuration: `start`, `validate` and `chunk`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._axis, self._devices = _shares(len(config.folds), self.members, jax.device_count())
        self._learn = jax.jit(partial(_learn, config=config))
        self._start = jax.jit(self._dealt(over_members(self._start_member)))
        self._chunk = jax.jit(self._dealt(over_members(self._chunk_member)), donate_argnums=2)

    @property
    def members(self) -> int:
        """Members of a fold: the length of the second axis of the state."""
        return len(self.config.seeds)

    def _numbers(self, bank: SurfaceBank, folds: Fold) -> Numbers:
        """What the surrogate of each member learns, `[folds, members, L, ...]`."""
        numbers = self._learn(bank, folds)
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], self.members, axis=1), numbers)

    def _start_member(self, given: Any, bank: SurfaceBank, fold: Fold) -> Any:
        return start_member(given, bank, fold, self.config)

    def _chunk_member(self, state: Any, bank: SurfaceBank, fold: Fold) -> Any:
        return chunk_member(state, bank, fold, self.config)

    def _given(self, numbers: Numbers) -> Any:
        """What `_start_member` is given, `[folds, members, ...]`."""
        return self.keys(), numbers

    def _dealt(self, function: Callable) -> Callable:
        """`function(bank, folds, members)` with the members of both arguments dealt out over devices."""
        if self._axis == 0:  # folds go with their members
            return devices.over_devices(function, self._devices, shared=1)
        return devices.over_devices(function, self._devices, shared=2, axis=1)

    def place(self, bank: SurfaceBank, folds: Fold) -> tuple[SurfaceBank, Fold]:
        """`bank` and `folds` where the program wants them; it moves them there itself, but every time."""
        if self._devices == 1:
            return bank, folds
        everywhere = devices.copy_to_all((bank, folds), self._devices)
        return everywhere[0], devices.deal_out(folds, self._devices) if self._axis == 0 else everywhere[1]

    def _arguments(self, bank: SurfaceBank, folds: Fold, members: Any) -> tuple:
        if self._devices > 1:
            members = devices.deal_out(members, self._devices, self._axis)
        return (*self.place(bank, folds), members)

    def start(self, bank: SurfaceBank, folds: Fold) -> Any:
        """The TrainingState before training, validated once; leaves of `folds` are `[folds, ...]`."""
        # On one device: XLA's factorisations wait for threads that several CPU devices share, and for good if
        # each device holds what the other waits for.
        alone = jax.device_put((bank, folds), jax.devices()[0]) if self._devices > 1 else (bank, folds)
        return self._start(*self._arguments(bank, folds, self._given(self._numbers(*alone))))

    def chunk(self, state: Any, bank: SurfaceBank, folds: Fold) -> tuple[Any, Metrics]:
        """The state after `config.updates_per_chunk` updates and a validation, and metrics `[folds, seeds]`.

        `state` is donated: it cannot be used afterwards.
        """
        return self._chunk(*self._arguments(bank, folds, state))

    def keys(self) -> jax.Array:
        """Typed keys `[folds, seeds]`, a function of the fold's and the seed's number alone."""

        def key(fold: jax.Array, seed: jax.Array) -> jax.Array:
            return jax.random.fold_in(jax.random.key(seed), fold)

        folds, seeds = jnp.asarray(self.config.folds), jnp.asarray(self.config.seeds)
        return jax.vmap(lambda fold: jax.vmap(lambda seed: key(fold, seed))(seeds))(folds)

    @property
    def chunks(self) -> int:
        """Chunks of a whole run."""
        return -(-self.config.learner.updates // self.config.updates_per_chunk)

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps of all members in a chunk."""
        config = self.config
        return (
            len(config.folds)
            * self.members
            * config.updates_per_chunk
            * config.learner.episodes
            * config.env.trials
        )


def over_members(function: Callable) -> Callable:
    """`function(state, bank, fold)` over `[folds, seeds]` members: in turn on CPU, side by side elsewhere."""

    def all_members(bank: SurfaceBank, folds: Fold, states: Any) -> tuple:
        if jax.default_backend() != "cpu":
            over_seeds = jax.vmap(function, in_axes=(0, None, None))
            return jax.vmap(over_seeds, in_axes=(0, None, 0))(states, bank, folds)

        def one_fold(pair: tuple) -> tuple:
            seeds, fold = pair
            return jax.lax.map(lambda state: function(state, bank, fold), seeds)

        return jax.lax.map(one_fold, (states, folds))

    return all_members


def _shares(folds: int, seeds: int, available: int) -> tuple[int, int]:
    """The axis of `[folds, seeds]` to deal out, and over how many of the `available` devices."""
    number, axis = max(
        (max(n for n in range(1, available + 1) if size % n == 0), axis)
        for axis, size in enumerate((folds, seeds))
    )
    return axis, number


def validate(
    params: Params, numbers: Numbers, bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> jax.Array:
    """Normalised regret `[K, V, T]` of the greedy policy on the known tasks of a fold, each without its own
    group, in each of V = `config.validation_plays` plays: one of the task as it is, the others over halves of
    its candidates that are the same at every validation. A few dozen greedy episodes are a coarse measure;
    the halves refine it.

    For padded known tasks the numbers mean nothing.
    """
    network = FlaxNetwork(config.network)
    shared = rollout.background(bank, fold, numbers)
    metafeatures = banks.standardised_metafeatures(bank, fold)
    act = players.q_player(network, config.network, params)

    def one(row: jax.Array, number: jax.Array) -> jax.Array:
        task = augment.real_task(bank, fold, metafeatures, row, config.surrogate.leave_out)
        task = augment.numbered_variant(task, number)
        memory = players.q_memory(network, params, None, task)
        key = jax.random.key(0)  # a greedy player draws nothing
        return rollout.play(act, memory, shared, task, key, as_played, config.surrogate).regret

    as_played = env.at_test(config.env, config.env.trials)
    tasks, plays = fold.known.shape[0], config.validation_plays
    rows, numbered = jnp.repeat(fold.known, plays), jnp.tile(jnp.arange(plays), tasks)
    return rollout.over_episodes(one, rows, numbered).reshape(tasks, plays, -1)


def _learn(bank: SurfaceBank, folds: Fold, config: TrainConfig) -> Numbers:
    """What each fold's surrogate learns, `[folds, L, ...]`."""
    return jax.lax.map(lambda fold: fitting.learn(bank, fold, config.env, config.surrogate), folds)


def start_member(
    given: tuple[jax.Array, Numbers], bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> TrainingState:
    """The state of one fold and seed before training, `given` its key and what its surrogate learned."""
    key, numbers = given
    state = learner.init(key, bank, fold, config)
    scores = _scores(state.average, numbers, bank, fold, config)
    best = jax.tree.map(jnp.copy, state.average)
    return TrainingState(state, numbers, scores, best, _means(scores, fold)[1], jnp.int32(0))


def chunk_member(
    state: TrainingState, bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> tuple[TrainingState, Metrics]:
    """One fold and seed after a chunk of updates and a validation."""
    return judge_member(teach_member(state, bank, fold, config), bank, fold, config)


def teach_member(
    state: TrainingState, bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> tuple[TrainingState, Metrics]:
    """One fold and seed after a chunk of updates, before its validation, and the means of their metrics."""

    def one(carry: LearnerState, _: None) -> tuple[LearnerState, Metrics]:
        return learner.update(carry, bank, fold, config, state.numbers)

    learned, metrics = jax.lax.scan(one, state.learner, None, length=config.updates_per_chunk)
    return state._replace(learner=learned), {name: values.mean() for name, values in metrics.items()}


def judge_member(
    taught: tuple[TrainingState, Metrics], bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> tuple[TrainingState, Metrics]:
    """One fold and seed, as `teach_member` leaves it, after a validation."""
    (state, summary), learned = taught, taught[0].learner
    scores = _scores(learned.average, state.numbers, bank, fold, config)
    train, score = _means(scores, fold)
    gain, error = validation_gain(state.start_scores, scores, fold)
    # A policy that is worse than its start on the training tasks has learned noise. One that is better on
    # validation tasks by less than the standard error of that is as good as chosen by lot.
    sound = (train <= _means(state.start_scores, fold)[0]) & (gain > error)
    better = (score < state.best_score) & sound
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), learned.average, state.best)
    after = TrainingState(
        learned,
        state.numbers,
        state.start_scores,
        best,
        jnp.where(better, score, state.best_score),
        jnp.where(better, learned.updates, state.best_updates),
    )
    scored = {"regret_train": train, "regret_validation": score, "gain": gain, "gain_error": error}
    return after, {**summary, **scored, "best_validation": after.best_score}


def _scores(
    params: Params, numbers: Numbers, bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> jax.Array:
    """Regret `[K]` of each known task, averaged over trials and plays."""
    return validate(params, numbers, bank, fold, config).mean(axis=(1, 2))


def _means(scores: jax.Array, fold: Fold) -> tuple[jax.Array, jax.Array]:
    """Means of `scores [K]` over the training tasks, and over those that choose."""
    return tuple(_mean(scores, mask) for mask in (_trained(fold), _choosing(fold)))  # type: ignore[return-value]


def validation_gain(before: jax.Array, now: jax.Array, fold: Fold) -> tuple[jax.Array, jax.Array]:
    """How much lower the scores `now [K]` are than those `before [K]`, on average over the tasks that choose,
    and the standard error of that, paired by task (0 for a single task)."""
    chosen, gains = _choosing(fold), before - now
    count, gain = chosen.sum(), _mean(gains, chosen)
    variance = jnp.sum(jnp.where(chosen, (gains - gain) ** 2, 0.0)) / jnp.maximum(count - 1, 1)
    return gain, jnp.sqrt(variance / jnp.maximum(count, 1))


def _trained(fold: Fold) -> jax.Array:
    return jnp.arange(fold.known.shape[0]) < fold.trained


def _choosing(fold: Fold) -> jax.Array:
    """The validation tasks `[K]` bool, or the training tasks if there are none."""
    train = _trained(fold)
    validation = fold.usable & ~train
    return jnp.where(validation.any(), validation, train)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(mask.sum(), 1)
