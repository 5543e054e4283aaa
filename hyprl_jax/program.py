"""The compiled part of training: a chunk of updates and a validation, for all folds and seeds of a run at
once.

Folds and seeds are axes of one program: every leaf of the state is `[folds, seeds, ...]`. Each member's
arithmetic is independent of its neighbours. They are dealt out over the devices (each core of a CPU is one,
see `devices`), and devices that are left over share the episodes of a member, see `mesh`. On a CPU the
members of a core run one after another (a batched matrix product of many small matrices gains nothing there),
on an accelerator side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from hyprl_jax import augment, env, fitting, hosts, learner, mesh, players, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import TrainConfig
from hyprl_jax.knowledge import Numbers
from hyprl_jax.learner import LearnerState
from hyprl_jax.mesh import ALONE, Layout, Sharing
from hyprl_jax.networks import FlaxNetwork, Params

_SEEN = 8  # times `augment.candidates`: columns that validation and fitting see of sharded surfaces

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
        self.layout = Layout(
            mesh.best_shape(
                len(config.folds), self.members, config.learner.episodes // config.learner.minibatches,
                jax.device_count(), jax.process_count(),
            ),
            config.surfaces == "sharded",
        )  # fmt: skip
        self._learn = jax.jit(partial(_learn, config=config))
        self._start = self._dealt(over_members(self._start_member))
        self._chunk = self._dealt(over_members(self._chunk_member), donate=True)

    @property
    def members(self) -> int:
        """Members of a fold: the length of the second axis of the state."""
        return len(self.config.seeds)

    def _numbers(self, bank: SurfaceBank, folds: Fold) -> Numbers:
        """What the surrogate of each member learns, `[folds, members, L, ...]`."""
        numbers = self._learn(bank, folds)
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], self.members, axis=1), numbers)

    def _start_member(self, given: Any, bank: SurfaceBank, fold: Fold) -> Any:
        return start_member(given, bank, fold, self.config, self.layout.sharing)

    def _chunk_member(self, state: Any, bank: SurfaceBank, fold: Fold) -> Any:
        return chunk_member(state, bank, fold, self.config, self.layout.sharing)

    def _given(self, numbers: Numbers) -> Any:
        """What `_start_member` is given, `[folds, members, ...]`."""
        return self.keys(), numbers

    def _dealt(self, function: Callable, donate: bool = False) -> Any:
        """`function(bank, folds, members)`, compiled, with members dealt out over the devices, folds with
        theirs."""
        return self.layout.dealt(function, (self._bank_places(), mesh.FOLDS, mesh.MEMBERS), donate)

    def _bank_places(self) -> Any:
        """Where the fields of a bank lie, as a bank of places."""
        tables: Any = mesh.TASKS if self.layout.sharded else P()
        rest: Any = P()
        return SurfaceBank(*(tables if name in banks.TABLES else rest for name in SurfaceBank._fields))

    def place(self, bank: SurfaceBank, folds: Fold) -> tuple[SurfaceBank, Fold]:
        """`bank` and `folds` where the program wants them; it moves them there itself, but every time."""
        if self.layout.alone:
            return jax.tree.map(jnp.asarray, (bank, folds))
        if self.layout.sharded:
            rows = self.layout.padded(bank.best.shape[0])
            bank = bank._replace(**{name: _padded(getattr(bank, name), rows) for name in banks.TABLES})
        placed = (
            self.layout.place(leaf, place) for leaf, place in zip(bank, self._bank_places(), strict=True)
        )
        return SurfaceBank(*placed), self.layout.place(folds, mesh.FOLDS)

    def _arguments(self, bank: SurfaceBank, folds: Fold, members: Any) -> tuple:
        if not self.layout.alone:
            members = self.layout.place(members, mesh.MEMBERS)
        return (*self.place(bank, folds), members)

    def start(self, bank: SurfaceBank, folds: Fold) -> Any:
        """The TrainingState before training, validated once; leaves of `folds` are `[folds, ...]`."""
        # On one device: XLA's factorisations wait for threads that several CPU devices share, and for good if
        # each device holds what the other waits for.
        seen = bank
        if self.config.surfaces == "sharded":
            seen = jax.jit(partial(_seen, config=self.config))(self.place(bank, folds)[0])
        alone = (seen, folds) if self.layout.alone else self.layout.on_one((seen, folds))
        numbers = self._numbers(*alone)
        numbers = hosts.arrays_from_first(numbers, numbers)
        return self._start(*self._arguments(bank, folds, self._given(numbers)))

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


def validate(
    params: Params,
    numbers: Numbers,
    bank: SurfaceBank,
    fold: Fold,
    config: TrainConfig,
    sharing: Sharing = ALONE,
) -> jax.Array:
    """Normalised regret `[K, V, T]` of the greedy policy on the known tasks of a fold, each without its own
    group, in each of V = `config.validation_plays` plays: one of the task as it is, the others over halves of
    its candidates that are the same at every validation. A few dozen greedy episodes are a coarse measure;
    the halves refine it. Of sharded surfaces each play sees columns of its own, see `TrainConfig.surfaces`.

    For padded known tasks the numbers mean nothing.
    """
    tasks, plays = fold.known.shape[0], config.validation_plays
    if config.surfaces == "sharded":

        def each(number: jax.Array) -> jax.Array:
            part = _seen(bank, number, config=config, sharing=sharing)
            one = _greedy(params, numbers, part, fold, config)
            play = partial(
                rollout.over_episodes, lambda row: one(row, number), candidates=part.legal.shape[1]
            )
            return sharing.over_episodes(play, fold.known)

        return jnp.swapaxes(jax.lax.map(each, jnp.arange(plays)), 0, 1)
    rows, numbered = jnp.repeat(fold.known, plays), jnp.tile(jnp.arange(plays), tasks)
    play = partial(
        rollout.over_episodes,
        _greedy(params, numbers, bank, fold, config),
        candidates=bank.legal.shape[1],
    )
    return sharing.over_episodes(play, rows, numbered).reshape(tasks, plays, -1)


def _greedy(
    params: Params, numbers: Numbers, bank: SurfaceBank, fold: Fold, config: TrainConfig
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The normalised regret `[T]` of the greedy policy in a numbered variant of a task of the bank."""
    network = FlaxNetwork(config.network)
    shared = rollout.background(bank, fold, numbers)
    metafeatures = banks.standardised_metafeatures(bank, fold)
    act = players.q_player(network, config.network, params)
    as_played = env.at_test(config.env, config.env.trials)

    def one(row: jax.Array, number: jax.Array) -> jax.Array:
        task = augment.real_task(bank, fold, metafeatures, row, config.surrogate.leave_out)
        task = augment.numbered_variant(task, number)
        memory = players.q_memory(network, params, None, task)
        key = jax.random.key(0)  # a greedy player draws nothing
        return rollout.play(act, memory, shared, task, key, as_played, config.surrogate).regret

    return one


def _seen(
    bank: SurfaceBank, number: jax.Array | int = 0, *, config: TrainConfig, sharing: Sharing = ALONE
) -> SurfaceBank:
    """The columns of sharded surfaces that play `number` of a validation sees, and fitting (number 0)."""
    key = jax.random.fold_in(jax.random.key(0), number)
    columns = augment.draw_columns(key, bank.legal.shape[1], _SEEN * config.augment.candidates)
    part = banks.take_candidates(bank, columns, sharing)
    tasks = bank.best.shape[0]
    return part._replace(**{name: getattr(part, name)[:tasks] for name in banks.TABLES})


def _padded(table: Any, rows: int) -> Any:
    """`table [D, N]` with rows of zeros up to so many."""
    lacking = rows - table.shape[0]
    return table if not lacking else np.pad(np.asarray(table), ((0, lacking), (0, 0)))


def _learn(bank: SurfaceBank, folds: Fold, config: TrainConfig) -> Numbers:
    """What each fold's surrogate learns, `[folds, L, ...]`."""
    return jax.lax.map(lambda fold: fitting.learn(bank, fold, config.env, config.surrogate), folds)


def start_member(
    given: tuple[jax.Array, Numbers],
    bank: SurfaceBank,
    fold: Fold,
    config: TrainConfig,
    sharing: Sharing = ALONE,
) -> TrainingState:
    """The state of one fold and seed before training, `given` its key and what its surrogate learned."""
    key, numbers = given
    state = learner.init(key, bank, fold, config)
    scores = _scores(state.average, numbers, bank, fold, config, sharing)
    best = jax.tree.map(jnp.copy, state.average)
    return TrainingState(state, numbers, scores, best, _means(scores, fold)[1], jnp.int32(0))


def chunk_member(
    state: TrainingState, bank: SurfaceBank, fold: Fold, config: TrainConfig, sharing: Sharing = ALONE
) -> tuple[TrainingState, Metrics]:
    """One fold and seed after a chunk of updates and a validation."""
    return judge_member(teach_member(state, bank, fold, config, sharing), bank, fold, config, sharing)


def teach_member(
    state: TrainingState, bank: SurfaceBank, fold: Fold, config: TrainConfig, sharing: Sharing = ALONE
) -> tuple[TrainingState, Metrics]:
    """One fold and seed after a chunk of updates, before its validation, and the means of their metrics."""

    def one(carry: LearnerState, _: None) -> tuple[LearnerState, Metrics]:
        return learner.update(carry, bank, fold, config, state.numbers, sharing)

    learned, metrics = jax.lax.scan(one, state.learner, None, length=config.updates_per_chunk)
    learned = sharing.agreed(learned)
    return state._replace(learner=learned), {name: values.mean() for name, values in metrics.items()}


def judge_member(
    taught: tuple[TrainingState, Metrics],
    bank: SurfaceBank,
    fold: Fold,
    config: TrainConfig,
    sharing: Sharing = ALONE,
) -> tuple[TrainingState, Metrics]:
    """One fold and seed, as `teach_member` leaves it, after a validation."""
    (state, summary), learned = taught, taught[0].learner
    scores = _scores(learned.average, state.numbers, bank, fold, config, sharing)
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
    params: Params,
    numbers: Numbers,
    bank: SurfaceBank,
    fold: Fold,
    config: TrainConfig,
    sharing: Sharing,
) -> jax.Array:
    """Regret `[K]` of each known task, averaged over trials and plays."""
    return validate(params, numbers, bank, fold, config, sharing).mean(axis=(1, 2))


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
