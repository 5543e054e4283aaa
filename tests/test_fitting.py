"""Fitting of the surrogate: the likelihood against a float64 oracle, what it finds in surfaces of a known
kind, the smoothed grid against a loop, the choice against playing every pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import make_tables, on_device, quick_jit, split_of, tables_of

from hyprl_jax import augment, fitting, knowledge, players, rollout
from hyprl_jax.bank import Fold, SurfaceBank, make_fold, pack, standardised_metafeatures
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.fitting import FACTORS, GAIN_WEIGHTS
from hyprl_jax.knowledge import Numbers
from hyprl_jax.surfaces import TaskTables

pytestmark = pytest.mark.usefixtures("optimized")

ENV = EnvConfig(trials=4)
BELIEFS = SurrogateConfig()
AS_TOLD = SurrogateConfig(fit=False, tune=False, denoise=False)


def tiny_bank(seed: int, spare: int = 0, **changes: float) -> tuple[SurfaceBank, Fold]:
    """Five known tasks (one of them for validation), a test task, and `spare` unusable places."""
    table = make_tables("one", 6, 9, seed=seed, tasks_a_group=1, **changes)  # type: ignore[arg-type]
    return known_side([table], [[0, 1, 2, 3]], [[4]], spare)


def known_side(
    tables: Sequence[TaskTables],
    train: Sequence[Sequence[int]],
    validation: Sequence[Sequence[int]] | None = None,
    spare: int = 0,
) -> tuple[SurfaceBank, Fold]:
    """The bank of `tables`, and a fold that knows tasks of these numbers in each of them."""
    bank, index = pack(tables)
    beside = validation or [[]] * len(tables)
    splits = [split_of(*one) for one in zip(tables, train, beside, strict=True)]
    size = sum(map(len, train)) + sum(map(len, beside)) + spare
    return on_device(bank), on_device(make_fold(index, splits, size=size))


@partial(quick_jit, static_argnames=("env", "config", "retrieval"))
def learned(
    bank: SurfaceBank, fold: Fold, config: SurrogateConfig, retrieval: bool = True, env: EnvConfig = ENV
) -> Numbers:
    return fitting.learn(bank, fold, env, config, retrieval)


fitted = partial(jax.jit, static_argnames="config")(fitting.fit)
tuned = partial(quick_jit, static_argnames=("env", "config", "retrieval"))(fitting.tune)
start_regret = partial(quick_jit, static_argnames=("env", "config"))(fitting.start_regret)


# The numbers as they are told.


def test_without_fit_and_tune_the_numbers_are_those_of_the_configuration() -> None:
    tables = [make_tables("one", features=3), make_tables("two", features=2, seed=1)]
    bank, fold = known_side(tables, [[0, 1], [0]])
    numbers = learned(bank, fold, AS_TOLD)
    assert numbers.lengthscale.shape == (2, 3) and numbers.noise.shape == (2,)
    for name in Numbers._fields:
        value = getattr(numbers, name)
        assert value.dtype == jnp.float32 and (value == np.float32(getattr(AS_TOLD, name))).all(), name
    blind = learned(bank, fold, AS_TOLD, retrieval=False)
    assert not blind.gain_weight.any()
    assert all(
        np.array_equal(a, b)
        for a, b in zip(blind, numbers._replace(gain_weight=blind.gain_weight), strict=True)
    )


def test_nothing_is_fitted_where_nothing_is_learned_from_tasks() -> None:
    bank, fold = tiny_bank(0)
    for prior in ("mean", "constant"):
        config = dataclasses.replace(AS_TOLD, fit=True, prior=prior)  # type: ignore[arg-type]
        found, told = learned(bank, fold, config), learned(bank, fold, AS_TOLD)
        assert all(np.array_equal(a, b) for a, b in zip(found, told, strict=True))


# The likelihood.


def surprise_of(
    bank: SurfaceBank,
    fold: Fold,
    mine: jax.Array,
    collection: int,
    numbers: Numbers,
    config: SurrogateConfig,
    key: jax.Array,
) -> jax.Array:
    """`fitting._surprise` of a history that `key` draws."""
    metafeatures = standardised_metafeatures(bank, fold)[fold.known]
    ranks = knowledge.known_ranks(metafeatures, jnp.where(fold.usable, bank.collection[fold.known], -1))
    apart = jax.vmap(lambda row: knowledge.unlikeness(row, metafeatures, ranks, mine))(metafeatures)
    return fitting._surprise(bank, fold, mine, apart, jnp.int32(collection), numbers, config, key)


def surprises(
    bank: SurfaceBank, fold: Fold, mine: np.ndarray, numbers: Numbers, config: SurrogateConfig, keys: int
) -> np.ndarray:
    """`[keys]` of `fitting._surprise` for the first collection."""
    one = partial(surprise_of, bank, fold, jnp.asarray(mine), 0, numbers, config)
    return np.asarray(quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(0), keys)))


def expected_surprise(
    bank: SurfaceBank, fold: Fold, mine: np.ndarray, place: int, numbers: Numbers, config: SurrogateConfig
) -> float:
    """Of all present values of known task `place`, from the definition of prior mean and covariance."""
    bank, fold = jax.device_get(bank), jax.device_get(fold)
    groups = bank.group[fold.known]
    peers = mine & (groups != groups[place]) if config.leave_out else mine
    # Some plain numbers in place of traced ones.
    values = {name: np.asarray(value, np.float64) for name, value in numbers._asdict().items()}
    told = dataclasses.replace(config, **values)
    surfaces, encodings = bank.unit[fold.known].astype(np.float64), bank.encodings[0].astype(np.float64)
    known = fold.known[mine]
    described = oracles.standardised(bank.metafeatures.astype(np.float64), fold.known[fold.usable].tolist())
    apart = oracles.unlikeness(described[fold.known[place]], described[fold.known], described[known])
    weights = oracles.task_weights(peers, apart, told.similarity_width, told.similarity_floor)
    mean, covariance = oracles.prior(surfaces, weights, encodings, told)
    present = np.flatnonzero(bank.legal[fold.known[place]])
    noise = float(values["noise"]) + fitting._LEAST_NOISE
    gram = covariance[np.ix_(present, present)] + noise * np.eye(len(present))
    return oracles.student_surprise(surfaces[place, present], mean[present], gram, fitting._FREEDOM)


def some_numbers(seed: int, features: int) -> Numbers:
    random = np.random.default_rng(seed)
    draw = lambda low, high, *shape: jnp.asarray(np.exp(random.uniform(low, high, shape)), jnp.float32)
    scalars = draw(-4, 0), draw(-2, 1), draw(-6, -2), jnp.float32(0.4), draw(-3, 0), draw(-2, -0.1)
    return Numbers(draw(-1.5, 1.0, features), *scalars, denoise=jnp.float32(0.0))


@pytest.mark.parametrize("leave_out", [True, False])
@given(seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.4]))
@settings(max_examples=8)
def test_surprise_is_that_of_dense_linear_algebra(leave_out: bool, seed: int, missing: float) -> None:
    """Tables small enough for a history of everything: its order does not matter, only which task it is.

    Padded columns, values that a task lacks, two tasks a group and unusable places are among them.
    """
    wide = make_tables("wide", 2, 14, seed=seed)
    table = make_tables("one", 6, 9, seed=seed, missing=missing)
    bank, fold = known_side([table, wide], [[0, 1, 2, 3, 4], [0]], spare=2)
    config = dataclasses.replace(BELIEFS, leave_out=leave_out)
    mine, numbers = np.arange(8) < 5, some_numbers(seed, 3)
    found = surprises(bank, fold, mine, numbers, config, 48)
    expected = [expected_surprise(bank, fold, mine, place, numbers, config) for place in range(5)]
    nearest = np.abs(found[:, None] - np.asarray(expected)).argmin(axis=1)
    np.testing.assert_allclose(found, np.asarray(expected)[nearest], rtol=2e-3, atol=2e-3)
    assert set(nearest) == set(range(5)), "every known task of the collection has its turn"


@pytest.mark.parametrize("alone", ["one task", "one group"])
def test_surprise_without_peers_is_that_of_the_rough_part(alone: str) -> None:
    """A single known task, or tasks of one group only: mean 0, and nothing learned from others."""
    known = [0] if alone == "one task" else [0, 1]
    bank, fold = known_side([make_tables("one", 6, 9, seed=2, missing=0.3)], [known])
    mine, numbers = np.ones(len(known), bool), some_numbers(5, 3)
    found = surprises(bank, fold, mine, numbers, BELIEFS, 20)
    silent = numbers._replace(learned_variance=jnp.float32(0.0))
    expected = [expected_surprise(bank, fold, mine, place, silent, BELIEFS) for place in range(len(known))]
    nearest = np.abs(found[:, None] - np.asarray(expected)).argmin(axis=1)
    np.testing.assert_allclose(found, np.asarray(expected)[nearest], rtol=2e-3, atol=2e-3)


def test_histories_lean_to_good_configurations_and_hold_what_the_task_has() -> None:
    """Of a wide table a history sees a few values: those that the task has, the good ones more often."""
    table = make_tables("one", 2, 80, seed=3, missing=0.3, direction="maximize")
    bank, fold = known_side([table], [[0]])
    present = np.flatnonzero(np.isfinite(table.objective[0]))
    numbers = Numbers(*(leaf[0] for leaf in fitting.numbers_of(bank, BELIEFS)))

    @quick_jit
    def influence(key: jax.Array) -> jax.Array:
        """Which values of the table a likelihood depends on."""
        see = lambda unit: surprise_of(
            bank._replace(unit=unit), fold, jnp.ones(1, bool), 0, numbers, BELIEFS, key
        )
        return jax.grad(see)(bank.unit)[0] != 0.0

    seen = np.asarray(jax.vmap(influence)(jax.random.split(jax.random.key(1), 100)))
    order = np.argsort(table.objective[0, present])
    assert (seen.sum(1) <= fitting._HISTORY).all() and seen.sum(1).mean() > 0.9 * fitting._HISTORY
    assert not seen[:, ~np.isfinite(table.objective[0])].any()
    often = seen[:, present[order]].mean(0)
    assert often[-10:].mean() > 1.5 * often[:10].mean() > 0.0


# Fitting.


@cache
def drawn_tables(
    name: str, lengthscales: tuple[float, ...], rank: int = 0, noise: float = 0.01, seed: int = 0
) -> TaskTables:
    """Forty tasks over fifty random configurations: each a draw of its own from a process with known
    lengthscales, or (with a `rank`) a random combination of as many such draws, plus noise."""
    random = np.random.default_rng(seed)
    places = random.uniform(size=(50, len(lengthscales)))
    scales = np.asarray(lengthscales)
    kernel = np.array([[oracles.rational_quadratic(a, b, scales) for b in places] for a in places])
    values = np.linalg.cholesky(kernel + 1e-8 * np.eye(50)) @ random.normal(size=(50, rank or 40))
    values = values @ random.normal(size=(rank, 40)) if rank else values
    values = values + noise * random.normal(size=values.shape)
    return tables_of(name, values.T, places)


def fit_of(*tables: TaskTables, known: int = 30) -> tuple[SurfaceBank, Fold, Numbers]:
    """A bank, a fold that knows some tasks of each of its collections, and the numbers fitted to them."""
    bank, fold = known_side(tables, [range(known)] * len(tables))
    return bank, fold, fitted(bank, fold, fitting.numbers_of(bank, BELIEFS), config=BELIEFS)


@partial(quick_jit, static_argnames="collection")
def mean_surprise(bank: SurfaceBank, fold: Fold, numbers: Numbers, collection: int = 0) -> jax.Array:
    """Over many histories that the fit did not see."""
    mine = fold.usable & (bank.collection[fold.known] == collection)
    own = Numbers(*(leaf[collection] for leaf in numbers))
    one = partial(surprise_of, bank, fold, mine, collection, own, BELIEFS)
    return jax.vmap(one)(jax.random.split(jax.random.key(77), 1000)).mean()


@pytest.mark.parametrize("lengthscales", [(0.2, 1.5), (1.5, 0.2), (0.4, 0.4)])
def test_fit_finds_how_smooth_surfaces_are(lengthscales: tuple[float, float]) -> None:
    """Lengthscales of each feature about as they are, and a higher likelihood."""
    bank, fold, numbers = fit_of(drawn_tables("one", lengthscales))
    misjudged = np.log(np.asarray(numbers.lengthscale[0]) / lengthscales)
    np.testing.assert_array_less(np.abs(misjudged), np.log(1.5))
    before = mean_surprise(bank, fold, fitting.numbers_of(bank, BELIEFS))
    assert mean_surprise(bank, fold, numbers) < before - 0.1
    np.testing.assert_array_equal(numbers.gain_weight, np.float32(BELIEFS.gain_weight))


def test_fit_tells_noise_and_what_known_tasks_explain() -> None:
    smooth, rough, alike = (
        fit_of(drawn_tables("one", (0.4, 0.4), rank, noise))[2]
        for rank, noise in ((0, 0.01), (0, 0.3), (3, 0.01))
    )
    assert rough.noise[0] > 10 * smooth.noise[0]
    assert alike.learned_variance[0] > 3 * smooth.learned_variance[0]
    assert alike.encoding_variance[0] < smooth.encoding_variance[0] / 3


def test_a_feature_that_says_nothing_gets_a_long_lengthscale_and_padding_keeps_its_own() -> None:
    """A third feature that no surface depends on; for the other collection it does not even exist."""
    tables = drawn_tables("one", (0.4, 0.4, 1e6)), drawn_tables("two", (0.4, 0.4), seed=1)
    numbers = fit_of(*tables)[2]
    assert numbers.lengthscale[0, 2] > 5 * numbers.lengthscale[0, :2].max()
    np.testing.assert_allclose(numbers.lengthscale[1, 2], BELIEFS.lengthscale, rtol=1e-6)


def test_each_collection_is_fitted_to_its_own_tasks() -> None:
    """Beside one that varies otherwise: about what it gets alone, and bitwise the same whatever the other
    one's values are."""
    first, second = drawn_tables("one", (0.2, 1.5)), drawn_tables("two", (1.5, 0.2), seed=1)
    together = fit_of(first, second)[2]
    for place, table in enumerate((first, second)):
        alone = fit_of(table)[2]
        for name in ("lengthscale", "encoding_variance", "learned_variance"):
            both, single = getattr(together, name)[place], getattr(alone, name)[0]
            np.testing.assert_allclose(np.log(both), np.log(single), atol=0.3, err_msg=name)
    other = dataclasses.replace(second, objective=-(second.objective**2))
    beside = fit_of(first, other)[2]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(together, beside, strict=True))
    assert not np.array_equal(together.lengthscale[1], beside.lengthscale[1])


def test_a_collection_without_known_tasks_keeps_its_numbers() -> None:
    tables = [drawn_tables("one", (0.2, 1.5)), drawn_tables("two", (1.5, 0.2), seed=1)]
    bank, fold = known_side(tables, [range(30), []])
    numbers = fitted(bank, fold, fitting.numbers_of(bank, BELIEFS), config=BELIEFS)
    kept, told = (Numbers(*(leaf[1] for leaf in one)) for one in (numbers, fitting.numbers_of(bank, BELIEFS)))
    assert all(np.array_equal(a, b) for a, b in zip(kept, told, strict=True))
    assert numbers.lengthscale[0, 0] < 0.5


def test_variances_of_zero_stay_zero_and_constant_surfaces_do_no_harm() -> None:
    table = drawn_tables("one", (0.2, 1.5))
    bank, fold = known_side([table], [range(30)])
    config = dataclasses.replace(BELIEFS, learned_variance=0.0, gain_weight=0.0)
    found = fitted(bank, fold, fitting.numbers_of(bank, config), config=BELIEFS)
    assert not found.learned_variance.any() and not found.gain_weight.any()
    assert np.isfinite(found.lengthscale).all() and found.lengthscale[0, 0] < found.lengthscale[0, 1]
    flat = dataclasses.replace(table, objective=np.ones_like(table.objective))
    assert all(np.isfinite(leaf).all() for leaf in fit_of(flat)[2])


# What play must decide.


def smoothed_by_loop(grid: np.ndarray) -> np.ndarray:
    result = np.zeros_like(grid)
    rows, columns = grid.shape
    for row in range(rows):
        for column in range(columns):
            total = 4.0 * grid[row, column]
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                # Beyond the edge stands the value at the edge.
                near = min(max(row + down, 0), rows - 1), min(max(column + right, 0), columns - 1)
                total += grid[near]
            result[row, column] = total / 8.0
    return result


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_smoothing_is_that_of_a_loop(rows: int, columns: int, seed: int) -> None:
    grid = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    found = np.asarray(fitting.smoothed(jnp.asarray(grid)))
    np.testing.assert_allclose(found, smoothed_by_loop(grid), atol=1e-6)


@partial(quick_jit, static_argnames="number")
def regret_of_start(
    bank: SurfaceBank, fold: Fold, row: jax.Array, number: int, variance: jax.Array, weight: jax.Array
) -> jax.Array:
    """Mean regret of one play by the acquisition function, its parameters put into the configuration."""
    beliefs = dataclasses.replace(BELIEFS, encoding_variance=variance, gain_weight=weight)
    task = augment.real_task(bank, fold, standardised_metafeatures(bank, fold), row, beliefs.leave_out)
    task = augment.numbered_variant(task, jnp.int32(number))
    act = players.score_player(lambda view, key: view.acquired.acquisition)
    known = rollout.background(bank, fold)
    return rollout.play(act, None, known, task, jax.random.key(0), ENV, beliefs).regret.mean()


@pytest.mark.parametrize("retrieval", [True, False])
def test_the_best_pair_of_the_grid_is_chosen(retrieval: bool) -> None:
    """By playing every known task with every pair, one at a time; places without a task do not count."""
    bank, fold = tiny_bank(6)
    weights = GAIN_WEIGHTS if retrieval else (0.0,)
    variances = [np.float32(BELIEFS.encoding_variance) * np.float32(factor) for factor in FACTORS]
    grid = np.asarray(
        [
            [
                np.mean(
                    [
                        regret_of_start(bank, fold, row, number, jnp.float32(e), jnp.float32(g))
                        for row in fold.known
                        for number in range(4)
                    ]
                )
                for g in weights
            ]
            for e in variances
        ]
    )
    mean = smoothed_by_loop(grid)
    assert np.ptp(mean) > 1e-3, "the grid differs"
    for spare in (0, 2):
        padded, places = tiny_bank(6, spare)
        told = fitting.numbers_of(padded, BELIEFS)
        found = tuned(padded, places, ENV, BELIEFS, told, retrieval)
        row = int(np.argmin(np.abs(np.asarray(variances) - found.encoding_variance)))
        column = int(np.argmin(np.abs(np.asarray(weights) - found.gain_weight)))
        assert found.encoding_variance == pytest.approx(variances[row], rel=1e-6)
        assert np.float32(weights[column]) == found.gain_weight
        assert mean[row, column] <= mean.min() + 1e-5
        for name in ("lengthscale", "learned_variance", "noise"):
            assert np.array_equal(getattr(found, name), getattr(told, name))


def test_regret_of_the_start_is_counted_for_each_collection() -> None:
    """What each has alone, and 0 for one without known tasks."""
    one, two = make_tables("one", 5, 9, seed=3), make_tables("two", 4, 9, seed=4)
    bank, fold = known_side([one, two], [[0, 1, 2], [0, 1]])
    numbers = fitting.numbers_of(bank, BELIEFS)
    together = np.asarray(start_regret(bank, fold, ENV, BELIEFS, numbers))
    assert together.shape == (2,) and 0.0 < together[0] != together[1] > 0.0
    for place, (table, train) in enumerate(((one, [0, 1, 2]), (two, [0, 1]))):
        alone = known_side([table], [train])
        single = start_regret(*alone, ENV, BELIEFS, fitting.numbers_of(alone[0], BELIEFS))
        np.testing.assert_allclose(single, together[place : place + 1], atol=1e-6)
    nothing = start_regret(*known_side([one, two], [[0, 1, 2], []]), ENV, BELIEFS, numbers)
    np.testing.assert_allclose(nothing, [together[0], 0.0], atol=1e-6)


@pytest.mark.parametrize("retrieval", [True, False])
def test_test_tasks_take_no_part_in_learning(retrieval: bool) -> None:
    """Bitwise: fitted and tuned, whatever stands in the row of the test task; a known task does count."""
    bank, fold = tiny_bank(1, missing=0.2)

    def changed(row: int) -> SurfaceBank:
        random = np.random.default_rng(0)
        return bank._replace(
            objective=bank.objective.at[row].set(random.normal(size=9)),
            unit=bank.unit.at[row].set(random.uniform(size=9)),
            best=bank.best.at[row].set(40.0),
            worst=bank.worst.at[row].set(-40.0),
            metafeatures=bank.metafeatures.at[row].set(9.0),
        )

    before, after, moved = (learned(one, fold, BELIEFS, retrieval) for one in (bank, changed(5), changed(2)))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not np.array_equal(before.lengthscale, moved.lengthscale)
    assert not np.array_equal(before.lengthscale, fitting.numbers_of(bank, BELIEFS).lengthscale)
    if not retrieval:
        assert not before.gain_weight.any()
