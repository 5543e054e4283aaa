"""Playing the test tasks of a split with policies and baselines, on the device, vmapped over tasks and seeds.

Tasks and known tasks are padded to common sizes, so that the many folds of a leave-one-out study compile
once. Methods that run outside of the device, libraries and classes of the user's own, are played by
`evaluation.hosted`. A policy is refused on tasks that come from the same source data as those it was trained
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax import bank as banks
from hyprl_jax import fitting
from hyprl_jax.bank import SurfaceBank
from hyprl_jax.baselines import make_baseline
from hyprl_jax.config import EnvConfig, NetworkConfig, SurrogateConfig
from hyprl_jax.env import at_test
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import programs
from hyprl_jax.evaluation.programs import Placed
from hyprl_jax.evaluation.protocol import NOTHING_LEFT, Failure, Played
from hyprl_jax.policies import TrainedPolicy, load_policy
from hyprl_jax.surfaces import Split, TaskTables

_LEARNED = {"prior_ei": False, "start": True}  # numbers learned like those of a policy: with retrieval?
POLICIES = ("policy", "policy_ensemble")


def play_methods(
    methods: Sequence[str],
    tables: TaskTables,
    split: Split,
    trials: int,
    seeds: Sequence[int],
    run: Path | TrainedPolicy | None = None,
    starts: np.ndarray | None = None,
) -> list[Played]:
    """What each method does on the test tasks of `split`, in the order of `methods`.

    `policy` plays every training seed of `run` by itself (its seeds are theirs), `policy_ensemble` the mean
    Q-value of all of them; methods that draw random numbers play every one of `seeds`, the others once.
    Beside a policy of several training seeds they play as many (ranks compare seed by seed): the first of
    `seeds`, and the next numbers if short.

    With `starts [D, S, I]`, columns of the tables that every run tests first for each of the D test tasks
    and S seeds, all methods play every seed once, and the training seeds of a policy take turns.

    A method that raises anything but InputError, as for want of memory, has failed on all of the tasks at
    their first trial, and the others go on.

    Raises InputError for an unknown method, a policy without a run, or test tasks that the policy was
    trained on.
    """
    if trials < 1:
        raise InputError(f"{trials} trials: give at least 1")
    policy = None
    if any(method in POLICIES for method in methods):
        if run is None:
            raise InputError("the method 'policy' needs a run: name its folder")
        policy = run if isinstance(run, TrainedPolicy) else load_policy(run)
    beliefs = _beliefs(policy)
    seeds = tuple(seeds) if starts is not None else paired_seeds(tuple(seeds), policy)
    for method in methods:
        if method not in POLICIES:
            make_baseline(method, beliefs)  # what cannot even be found is no fault of a method while it plays
    _check_starts(starts, (len(split.test), len(seeds)), trials)
    bank, index = banks.pack([tables])
    fold = banks.make_fold(index, [split], size=len(index.tasks))
    rows = index.rows(tables.collection, split.test)
    placed = (jax.tree.map(jnp.asarray, bank), jax.tree.map(jnp.asarray, fold))
    results = []
    for method in methods:
        try:
            if policy is not None and method in POLICIES:
                played = _play_policy(method, policy, tables, split, placed, rows, trials, seeds, starts)
            else:
                played = _play_baseline(method, beliefs, placed, rows, trials, seeds, starts)
        except InputError:
            raise
        except Exception as error:
            played = _failed(method, split.test, seeds, trials, error)
        results.append(played)
    return results


def _beliefs(policy: TrainedPolicy | None) -> SurrogateConfig:
    """What baselines believe: as the policy beside them does, if it believes anything."""
    if policy is None or policy.config.network.head == "fixed":
        return SurrogateConfig()
    return policy.config.surrogate


def _failed(
    method: str, tasks: Sequence[str], seeds: tuple[int, ...], trials: int, error: Exception
) -> Played:
    """A method that broke down before it had played anything."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    failures = tuple(Failure(task, seed, 1, reason) for task in tasks for seed in seeds)
    actions = np.full((len(tasks), len(seeds), trials), NOTHING_LEFT, np.int64)
    return Played(method, actions, seeds, failures=failures)


def paired_seeds(seeds: tuple[int, ...], policy: TrainedPolicy | None) -> tuple[int, ...]:
    """As many seeds as the policy has training seeds (all that are given for a policy with one, or none)."""
    number = len(policy.config.seeds) if policy is not None else 1
    if number == 1:
        return seeds
    more = range(max(seeds, default=-1) + 1, max(seeds, default=-1) + 1 + number)
    return (*seeds, *more)[:number]


def _check_starts(starts: np.ndarray | None, shape: tuple[int, int], trials: int) -> None:
    if starts is None:
        return
    if starts.ndim != 3 or starts.shape[:2] != shape or not 1 <= starts.shape[2] <= trials:
        raise InputError(
            f"starting points have the shape {list(starts.shape)}: give [{shape[0]} tasks, {shape[1]} seeds, "
            f"1 to {trials} (the trials) configurations]"
        )


def _play_baseline(
    method: str,
    beliefs: SurrogateConfig,
    placed: Placed,
    rows: np.ndarray,
    trials: int,
    seeds: tuple[int, ...],
    starts: np.ndarray | None,
) -> Played:
    baseline = make_baseline(method, beliefs)
    used = seeds if baseline.stochastic or starts is not None else seeds[:1]
    env = EnvConfig(trials=trials)
    # Ready before the clock starts: learned once for a fold, not for every suggestion.
    numbers = fitting.numbers_of(placed[0], baseline.beliefs)
    if method in _LEARNED:
        learn = programs.learning_program(env, baseline.beliefs, _LEARNED[method])
        numbers = jax.block_until_ready(learn(*placed))
    prepared = jax.block_until_ready(programs.preparing_program(method, env, beliefs)(*placed))
    program = programs.baseline_program(method, env, beliefs)
    given = (jnp.asarray(used), numbers, prepared)
    actions, seconds = programs.timed(program, placed, rows, starts, given)
    return Played(method, actions, used, seconds)


def _play_policy(
    method: str,
    policy: TrainedPolicy,
    tables: TaskTables,
    split: Split,
    placed: Placed,
    rows: np.ndarray,
    trials: int,
    seeds: tuple[int, ...],
    starts: np.ndarray | None,
) -> Played:
    place = _member(policy, tables, split)
    members = jax.tree.map(lambda leaf: leaf[place], policy.params)
    bank, fold = placed
    network = policy.config.network
    if network.candidates != "surrogate" or network.metafeatures or network.head == "fixed":
        bank = _as_trained(policy, tables, bank)
    _check_room(network, tables, trials)
    env = at_test(policy.config.env, trials)
    if tables.collection in policy.collections:
        mine = policy.collections.index(tables.collection)
        numbers = jax.tree.map(lambda leaf: leaf[place, 0, mine : mine + 1], policy.numbers)
        numbers = numbers._replace(lengthscale=_fitting_width(numbers.lengthscale, bank.encodings.shape[-1]))
    else:  # a new search space: all that is known of it are the tasks of the split's known side
        numbers = programs.learning_program(env, policy.config.surrogate, True)(*placed)
    if starts is None:
        seeds = policy.config.seeds if method == "policy" else (0,)
    who = jnp.arange(len(seeds)) % len(policy.config.seeds)
    program = programs.policy_program(method, env, policy.config.surrogate, network)
    actions, seconds = programs.timed(program, (bank, fold), rows, starts, (members, numbers, who))
    return Played(method, actions, seeds, seconds, repeats=not env.mask_tried)


def _check_room(network: NetworkConfig, tables: TaskTables, trials: int) -> None:
    """InputError for more trials, or other configurations, than the network was made for."""
    if network.cell == "attention" and trials > network.memory:
        raise InputError(
            f"the policy's attention has room for {network.memory} trials, not for {trials}: "
            f"evaluate with --trials {network.memory}, or train with a larger --network.memory"
        )
    configurations = len(tables.config_ids)
    if network.head == "fixed" and configurations != network.outputs:
        raise InputError(
            f"the policy has one output for each of {network.outputs} configurations, and the split is about "
            f"{configurations} of {tables.collection!r}: evaluate it on the split that it was trained on"
        )


def _member(policy: TrainedPolicy, tables: TaskTables, split: Split) -> int:
    """Which fold of the run may play the test tasks: the one of the same number that did not train on
    them."""
    config = policy.config
    place = config.folds.index(split.fold) if split.fold in config.folds else 0
    groups = dict(zip(tables.tasks, tables.groups, strict=True))
    # A published split may itself have a group on both sides (and says so in its note).
    trained = policy.groups[place] - {groups[task] for task in (*split.train, *split.validation)}
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
            f"the policy reads encodings or metafeatures and was not trained on {tables.collection!r}: train "
            "one with --network.candidates surrogate, --network.head candidates, no --network.metafeatures"
        )
    offset = policy.metafeature_offsets[tables.collection]
    width = bank.metafeatures.shape[1]
    meta = jnp.full((bank.metafeatures.shape[0], policy.metafeatures), jnp.nan)
    extra = policy.encoding_features - bank.encodings.shape[-1]
    return bank._replace(
        metafeatures=meta.at[:, offset : offset + width].set(bank.metafeatures),
        encodings=jnp.pad(bank.encodings, ((0, 0), (0, 0), (0, extra))),
    )


def _fitting_width(lengthscale: jax.Array, width: int) -> jax.Array:
    """`[1, F]` lengthscales cut or padded to `width`: other collections of a run may have had more
    features, whose columns are 0 here."""
    lengthscale = lengthscale[:, :width]
    return jnp.pad(lengthscale, ((0, 0), (0, width - lengthscale.shape[1])), constant_values=1.0)
