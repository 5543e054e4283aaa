"""Metrics against plain loops, and the properties that any scoring of tuning runs must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import (
    average_ranks,
    incumbent_curve,
    normalized_regret,
    probability_of_improvement,
    table_bounds,
    time_to_target,
    trials_to_target,
    wins_ties_losses,
)

VALUES = st.one_of(st.integers(-50, 50).map(float), st.just(math.nan))
WHOLE = st.integers(-20, 20).map(float)


def arrays(dimensions: int, elements: st.SearchStrategy = WHOLE, side: int = 6) -> st.SearchStrategy:
    shape = hnp.array_shapes(min_dims=dimensions, max_dims=dimensions, min_side=1, max_side=side)
    return hnp.arrays(np.float64, shape, elements=elements)


def loop_incumbent(row: list[float], direction: str) -> list[float]:
    best, curve = math.nan, []
    for value in row:
        better = value < best if direction == "minimize" else value > best
        if not math.isnan(value) and (math.isnan(best) or better):
            best = value
        curve.append(best)
    return curve


def loop_rank(losses: list[float], index: int) -> float:
    places = sorted(losses)
    same = [place + 1 for place, loss in enumerate(places) if loss == losses[index]]
    return sum(same) / len(same)


@given(arrays(2, VALUES), st.sampled_from(["minimize", "maximize"]))
def test_incumbent_follows_the_best_value_so_far(objective: np.ndarray, direction: str) -> None:
    expected = [loop_incumbent(list(row), direction) for row in objective]
    np.testing.assert_array_equal(incumbent_curve(objective, direction), expected)


@given(arrays(2, VALUES), st.sampled_from(["minimize", "maximize"]))
def test_bounds_ignore_missing_values(objective: np.ndarray, direction: str) -> None:
    best, worst = table_bounds(objective, direction)
    pick_best, pick_worst = (min, max) if direction == "minimize" else (max, min)
    for row, found_best, found_worst in zip(objective, best, worst, strict=True):
        known = [value for value in row if not math.isnan(value)]
        expected = (pick_best(known), pick_worst(known)) if known else (math.nan, math.nan)
        np.testing.assert_array_equal((found_best, found_worst), expected)


@given(arrays(2), st.sampled_from(["minimize", "maximize"]))
def test_regret_is_the_formula(objective: np.ndarray, direction: str) -> None:
    best, worst = table_bounds(objective, direction)
    regret = normalized_regret(objective, best, worst)
    for task in range(len(objective)):
        for column in range(objective.shape[1]):
            span = best[task] - worst[task]
            expected = (best[task] - objective[task, column]) / span if span else 0.0
            assert regret[task, column] == pytest.approx(expected, abs=1e-15)
            assert 0.0 <= regret[task, column] <= 1.0


@given(arrays(2), st.integers(-30, 30), st.integers(-5, 5))
def test_regret_does_not_change_with_unit_or_direction(objective: np.ndarray, shift: int, power: int) -> None:
    plain = normalized_regret(objective, *table_bounds(objective, "minimize"))
    other = objective * 2.0**power + shift
    np.testing.assert_allclose(normalized_regret(other, *table_bounds(other, "minimize")), plain, atol=1e-12)
    mirrored = normalized_regret(-objective, *table_bounds(-objective, "maximize"))
    np.testing.assert_array_equal(mirrored, plain)


def test_constant_task_has_no_regret_and_unknown_incumbent_stays_unknown() -> None:
    incumbent = np.array([[3.0, 3.0], [np.nan, 2.0]])
    regret = normalized_regret(incumbent, np.array([3.0, 1.0]), np.array([3.0, 5.0]))
    np.testing.assert_array_equal(regret, [[0.0, 0.0], [np.nan, 0.25]])


@pytest.mark.parametrize("scale", [1.7e308, 1e300, 1e-300, 5e-324])
def test_regret_survives_extreme_units(scale: float) -> None:
    objective = np.array([[scale, -scale, 0.0]])
    regret = normalized_regret(objective, *table_bounds(objective, "minimize"))
    np.testing.assert_allclose(regret, [[1.0, 0.0, 0.5]])


@given(arrays(3, st.integers(0, 4).map(float)))
def test_ranks_average_ties(losses: np.ndarray) -> None:
    ranks = average_ranks(losses)
    for place in np.ndindex(losses.shape[1:]):
        column = list(losses[(slice(None), *place)])
        expected = [loop_rank(column, index) for index in range(len(column))]
        np.testing.assert_array_equal(ranks[(slice(None), *place)], expected)


@given(arrays(2))
def test_ranks_sum_up_and_see_only_the_order(losses: np.ndarray) -> None:
    methods = len(losses)
    ranks = average_ranks(losses)
    np.testing.assert_array_equal(ranks.sum(axis=0), methods * (methods + 1) / 2)
    np.testing.assert_array_equal(average_ranks(np.exp(losses / 8)), ranks)
    np.testing.assert_array_equal(average_ranks(-losses), methods + 1 - ranks)


@given(arrays(1), st.data())
def test_wins_ties_and_losses_count_every_entry(losses: np.ndarray, data: st.DataObject) -> None:
    other = data.draw(hnp.arrays(np.float64, losses.shape, elements=WHOLE))
    wins, ties, defeats = wins_ties_losses(losses, other)
    assert wins == sum(a < b for a, b in zip(losses, other, strict=True))
    assert ties == sum(a == b for a, b in zip(losses, other, strict=True))
    assert wins + ties + defeats == len(losses)
    assert wins_ties_losses(other, losses) == (defeats, ties, wins)


def test_rounding_is_a_tie() -> None:
    assert wins_ties_losses(np.array([0.1 + 0.2, 0.1]), np.array([0.3, 0.2])) == (1, 1, 0)


def test_time_to_target_counts_from_one() -> None:
    regret = np.array([[0.5, 0.1, 0.0], [0.05, 0.05, 0.05], [0.9, 0.8, 0.7]])
    np.testing.assert_array_equal(time_to_target(regret, 0.1), [2.0, 1.0, np.inf])


@given(arrays(2, st.sampled_from([0.0, 0.1, 0.2, 0.5])), st.sampled_from([0.0, 0.1, 0.3]))
def test_trials_to_target_is_when_half_of_the_runs_are_there(regret: np.ndarray, target: float) -> None:
    regret = np.minimum.accumulate(regret, axis=-1)
    there = [sum(run[trial] <= target for run in regret) / len(regret) for trial in range(regret.shape[1])]
    half = next((trial + 1 for trial, share in enumerate(there) if share >= 0.5), None)
    assert trials_to_target(regret, target) == (pytest.approx(there[-1]), half)


@given(arrays(1), arrays(1))
def test_probability_of_improvement_counts_every_pair_of_runs(own: np.ndarray, other: np.ndarray) -> None:
    counts = [1.0 if a < b else 0.5 if a == b else 0.0 for a in own for b in other]
    found = probability_of_improvement(own, other)
    assert found == pytest.approx(sum(counts) / len(counts))
    assert found + probability_of_improvement(other, own) == 1.0
    stacked = probability_of_improvement(np.stack([own, own]), np.stack([other, other - 100.0]))
    np.testing.assert_allclose(stacked, [found, 0.0])


def test_unknown_direction_is_the_users_mistake() -> None:
    with pytest.raises(InputError, match="'up' is unknown"):
        incumbent_curve(np.zeros((1, 1)), "up")
