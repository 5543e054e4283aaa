"""Playing the test tasks of a split with policies and baselines, on the device, vmapped over tasks and seeds.

Compiled programs are kept by what shapes them, and tasks and known tasks are padded to common sizes, so that
the many folds of a leave-one-out study compile once. A policy is refused on tasks that come from the same
source data as those it was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import augment, fitting, players, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines import make_baseline
from hyprl_jax.config import EnvConfig, NetworkConfig, SurrogateConfig
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.protocol import Played
from hyprl_jax.networks import FlaxNetwork, Params
from hyprl_jax.policies import TrainedPolicy, load_policy
from hyprl_jax.surfaces import Split, TaskTables
from hyprl_jax.surrogate import Numbers

_TASKS_AT_ONCE = 16  # test tasks are padded to a multiple of it
_LEARNED = {"prior_ei": False, "start": True}  # numbers learned like those of a policy: with retrieval?
_POLICIES = ("policy", "policy_ensemble")

Program = Callable[..., jax.Array]


def play_methods(
    methods: Sequence[str],
    tables: TaskTables,
    split: Split,
    trials: int,
    seeds: Sequence[int],
    run: Path | None = None,
) -> list[Played]:
    """What each method does on the test tasks of `split`, in the order of `methods`.

    `policy` plays every training seed of `run` by itself (its seeds are theirs), `policy_ensemble` the mean
    Q-value of all of them; methods that draw random numbers play every one of `seeds`, the others once.
    Beside a policy of several training seeds they play as many (ranks compare seed by seed): the first of
    `seeds`, and the next numbers if short.

    Raises InputError for an unknown method, a policy without a run, or test tasks that the policy was
    trained on.
    """
    if trials < 1:
        raise InputError(f"{trials} trials: give at least 1")
    policy = None
    if any(method in _POLICIES for method in methods):
        if run is None:
            raise InputError("the method 'policy' needs a run: name its folder")
        policy = load_policy(run)
    beliefs = policy.config.surrogate if policy is not None else SurrogateConfig()
    seeds = _paired(tuple(seeds), policy)
    bank, index = banks.pack([tables])
    fold = banks.make_fold(index, [split], size=len(index.tasks))
    rows = index.rows(tables.collection, split.test)
    placed = (jax.tree.map(jnp.asarray, bank), jax.tree.map(jnp.asarray, fold))
    results = []
    for method in methods:
        if method in _POLICIES:
            assert policy is not None
            results.append(_play_policy(method, policy, tables, split, placed, rows, trials))
        else:
            results.append(_play_baseline(method, beliefs, placed, rows, trials, tuple(seeds)))
    return results


def _paired(seeds: tuple[int, ...], policy: TrainedPolicy | None) -> tuple[int, ...]:
    number = len(policy.config.seeds) if policy is not None else 1
    if number == 1:
        return seeds
    more = range(max(seeds, default=-1) + 1, max(seeds, default=-1) + 1 + number)
    return (*seeds, *more)[:number]


def _play_baseline(
    method: str,
    beliefs: SurrogateConfig,
    placed: tuple[SurfaceBank, Fold],
    rows: np.ndarray,
    trials: int,
    seeds: tuple[int, ...],
) -> Played:
    stochastic = make_baseline(method, beliefs).stochastic
    used = seeds if stochastic else seeds[:1]
    env = EnvConfig(trials=trials)
    numbers = fitting.numbers_of(placed[0], beliefs)
    if method in _LEARNED:
        # Ready before the clock starts: learned once for a collection, not for every suggestion.
        numbers = jax.block_until_ready(_learning_program(env, beliefs, _LEARNED[method])(*placed))
    program = _baseline_program(method, env, beliefs)
    actions, seconds = _timed(program, rows, placed, (jnp.asarray(used), numbers))
    return Played(method, actions, used, seconds)


def _play_policy(
    method: str,
    policy: TrainedPolicy,
    tables: TaskTables,
    split: Split,
    placed: tuple[SurfaceBank, Fold],
    rows: np.ndarray,
    trials: int,
) -> Played:
    place = _member(policy, tables, split)
    members = jax.tree.map(lambda leaf: leaf[place], policy.params)
    bank, fold = placed
    if policy.config.network.candidates != "surrogate" or policy.config.network.metafeatures:
        bank = _as_trained(policy, tables, bank)
    env = EnvConfig(trials=trials)
    if tables.collection in policy.collections:
        mine = policy.collections.index(tables.collection)
        numbers = jax.tree.map(lambda leaf: leaf[place, 0, mine : mine + 1], policy.numbers)
        numbers = numbers._replace(lengthscale=_fitting_width(numbers.lengthscale, bank.encodings.shape[-1]))
    else:  # a new search space: all that is known of it are the tasks of the split's known side
        numbers = _learning_program(env, policy.config.surrogate, True)(*placed)
    program = _policy_program(method, env, policy.config.surrogate, policy.config.network)
    actions, seconds = _timed(program, rows, (bank, fold), (members, numbers))
    return Played(method, actions, policy.config.seeds if method == "policy" else (0,), seconds)


def _member(policy: TrainedPolicy, tables: TaskTables, split: Split) -> int:
    """Which fold of the run may play the test tasks: the one of the same number that did not train on
    them."""
    config = policy.config
    place = config.folds.index(split.fold) if split.fold in config.folds else 0
    groups = dict(zip(tables.tasks, tables.groups, strict=True))
    trained = policy.groups[place]
    for task in split.test:
        if groups[task] in trained:
            raise InputError(
                f"test task {task!r} (group {groups[task]!r}) was among the training tasks of the policy: "
                f"evaluate on the run's own split ({config.split!r}) and folds ({list(config.folds)})"
            )
    return place


def _as_trained(policy: TrainedPolicy, tables: TaskTables, bank: SurfaceBank) -> SurfaceBank:
    """The bank with features and metafeatures where the run had them; InputError for a collection it never
    saw."""
    if tables.collection not in policy.collections:
        raise InputError(
            f"the policy reads encodings or metafeatures and was not trained on {tables.collection!r}: "
            "train one with --network.candidates surrogate and without --network.metafeatures"
        )
    offset = policy.metafeature_offsets[tables.collection]
    width = bank.metafeatures.shape[1]
    meta = jnp.full((bank.metafeatures.shape[0], policy.metafeatures), jnp.nan)
    extra = policy.encoding_features - bank.encodings.shape[-1]
    return bank._replace(
        metafeatures=meta.at[:, offset : offset + width].set(bank.metafeatures),
        encodings=jnp.pad(bank.encodings, ((0, 0), (0, 0), (0, extra))),
    )


def _timed(
    program: Program, rows: np.ndarray, placed: tuple[SurfaceBank, Fold], last: Any
) -> tuple[np.ndarray, float]:
    """Actions `[R, S, T]` and seconds a suggestion, compilation not counted."""
    padding = -len(rows) % _TASKS_AT_ONCE
    padded = jnp.asarray(np.pad(rows, (0, padding), mode="edge"))
    compiled_before = program._cache_size()  # type: ignore[attr-defined]
    start = time.perf_counter()
    actions = np.asarray(program(*placed, padded, last))
    if program._cache_size() > compiled_before:  # type: ignore[attr-defined]
        start = time.perf_counter()
        actions = np.asarray(program(*placed, padded, last))
    seconds = (time.perf_counter() - start) / actions.size
    return actions[: len(rows)], seconds


def _fitting_width(lengthscale: jax.Array, width: int) -> jax.Array:
    """`[1, F]` lengthscales cut or padded to `width`: other collections of a run may have had more
    features, whose columns are 0 here."""
    lengthscale = lengthscale[:, :width]
    return jnp.pad(lengthscale, ((0, 0), (0, width - lengthscale.shape[1])), constant_values=1.0)


@lru_cache(maxsize=64)
def _learning_program(env: EnvConfig, beliefs: SurrogateConfig, retrieval: bool) -> Callable[..., Numbers]:
    """`(bank, fold) -> Numbers`."""
    return jax.jit(lambda bank, fold: fitting.learn(bank, fold, env, beliefs, retrieval))


@lru_cache(maxsize=64)
def _baseline_program(method: str, env: EnvConfig, beliefs: SurrogateConfig) -> Program:
    """`(bank, fold, rows [R], (seeds [S], numbers)) -> actions [R, S, T]`."""
    baseline = make_baseline(method, beliefs)

    def play(bank: SurfaceBank, fold: Fold, rows: jax.Array, given: tuple[jax.Array, Numbers]) -> jax.Array:
        seeds, numbers = given
        shared = rollout.background(bank, fold, numbers)
        metafeatures = banks.standardised_metafeatures(bank, fold)

        def one(row: jax.Array, seed: jax.Array) -> jax.Array:
            task = augment.real_task(bank, fold, metafeatures, row)
            key = jax.random.fold_in(jax.random.key(seed), row)
            memory = baseline.memory(shared, task, env)
            record = rollout.play(baseline.act, memory, shared, task, key, env, baseline.beliefs)
            return jnp.where(record.valid, record.action, -1)

        return jax.vmap(lambda row: jax.vmap(lambda seed: one(row, seed))(seeds))(rows)

    return jax.jit(play)


@lru_cache(maxsize=64)
def _policy_program(
    method: str, env: EnvConfig, beliefs: SurrogateConfig, network_config: NetworkConfig
) -> Program:
    """`(bank, fold, rows [R], (members [S, ...], numbers)) -> actions [R, S, T]`; S is 1 for the ensemble."""
    network = FlaxNetwork(network_config)

    def play(bank: SurfaceBank, fold: Fold, rows: jax.Array, given: tuple[Params, Numbers]) -> jax.Array:
        members, numbers = given
        shared = rollout.background(bank, fold, numbers)
        metafeatures = banks.standardised_metafeatures(bank, fold)
        key = jax.random.key(0)  # a greedy player draws nothing

        def alone(params: Params, task: Any) -> jax.Array:
            act = players.q_player(network, network_config, params)
            memory = players.q_memory(network, params, None, task)
            record = rollout.play(act, memory, shared, task, key, env, beliefs)
            return jnp.where(record.valid, record.action, -1)

        def together(task: Any) -> jax.Array:
            act = players.ensemble_player(network, network_config, members)
            memory = jax.vmap(lambda params: network.initial_carry(params, task.metafeatures))(members)
            record = rollout.play(act, memory, shared, task, key, env, beliefs)
            return jnp.where(record.valid, record.action, -1)[None]

        def one(row: jax.Array) -> jax.Array:
            task = augment.real_task(bank, fold, metafeatures, row)
            if method == "policy_ensemble":
                return together(task)
            return jax.vmap(lambda params: alone(params, task))(members)

        return jax.vmap(one)(rows)

    return jax.jit(play)
