"""Tuning of the surrogate: the smoothed grid against a loop, the choice against playing every pair."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hyprl_jax.tuning import ENCODING_VARIANCES, GAIN_WEIGHTS, Tuned
from probes import make_tables, on_device, quick_jit, split_of

from hyprl_jax import augment, players, rollout, tuning
from hyprl_jax.bank import Fold, SurfaceBank, make_fold, pack, standardised_metafeatures
from hyprl_jax.config import EnvConfig, SurrogateConfig

ENV = EnvConfig(trials=4)
BELIEFS = SurrogateConfig()


def tiny_bank(seed: int, spare: int = 0) -> tuple[SurfaceBank, Fold]:
    """Five known tasks (one of them for validation), a test task, and `spare` unusable places."""
    table = make_tables("one", 6, 9, seed=seed, tasks_a_group=1)
    bank, index = pack([table])
    fold = make_fold(index, [split_of(table, [0, 1, 2, 3], [4])], size=5 + spare)
    return on_device(bank), on_device(fold)


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
    found = np.asarray(tuning.smoothed(jnp.asarray(grid)))
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
    bank, fold = tiny_bank(3)
    weights = GAIN_WEIGHTS if retrieval else (0.0,)
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
            for e in ENCODING_VARIANCES
        ]
    )
    mean = smoothed_by_loop(grid)
    assert np.ptp(mean) > 1e-3, "the grid differs"
    for spare in (0, 2):
        padded, places = tiny_bank(3, spare)
        tuned = quick_jit(lambda b, f: tuning.tune(b, f, ENV, BELIEFS, retrieval))(padded, places)
        row = int(np.argmin(np.abs(np.asarray(ENCODING_VARIANCES) - tuned.encoding_variance)))
        column = int(np.argmin(np.abs(np.asarray(weights) - tuned.gain_weight)))
        assert np.float32(ENCODING_VARIANCES[row]) == tuned.encoding_variance
        assert np.float32(weights[column]) == tuned.gain_weight
        assert mean[row, column] <= mean.min() + 1e-5


def test_a_test_task_takes_no_part() -> None:
    """Whatever stands in the row of the test task, the measured regret is the same to the bit."""
    bank, fold = tiny_bank(1)
    other = bank._replace(objective=bank.objective.at[5].set(7.0), unit=bank.unit.at[5].set(0.3))
    measure = quick_jit(lambda b, f: tuning.start_regret(b, f, ENV, BELIEFS))
    assert measure(bank, fold) == measure(other, fold)


def test_tuned_numbers_stand_in_the_configuration() -> None:
    plain = tuning.untuned(BELIEFS)
    assert plain == Tuned(np.float32(BELIEFS.encoding_variance), np.float32(BELIEFS.gain_weight))
    assert plain.encoding_variance.dtype == plain.gain_weight.dtype == jnp.float32
    tuned = tuning.with_tuned(BELIEFS, Tuned(jnp.float32(0.25), jnp.float32(0.75)))
    assert (tuned.encoding_variance, tuned.gain_weight) == (0.25, 0.75)
    back = dataclasses.replace(
        tuned, encoding_variance=BELIEFS.encoding_variance, gain_weight=BELIEFS.gain_weight
    )
    assert back == BELIEFS, "nothing else changes"
