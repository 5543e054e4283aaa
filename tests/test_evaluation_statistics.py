"""Intervals and tests against loops, scipy and scikit-posthocs, and where there is nothing to test."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.metrics import average_ranks
from hyprl_jax.evaluation.statistics import (
    bootstrap_interval,
    friedman,
    holm,
    nemenyi,
    rank_tests,
    wilcoxon_holm,
)

UNIT = st.floats(0.0, 1.0, allow_subnormal=False)


def test_interval_is_the_percentile_of_resampled_means() -> None:
    values = np.random.default_rng(1).beta(1.0, 4.0, 12)
    draws = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=500)
    means = [sum(count * value for count, value in zip(draw, values, strict=True)) / 12 for draw in draws]
    expected = np.quantile(means, [0.05, 0.95])
    found = bootstrap_interval(values, level=0.9, resamples=500)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_interval_of_many_columns_is_that_of_each() -> None:
    values = np.random.default_rng(2).random((7, 3, 200))
    found = bootstrap_interval(values, resamples=300)
    assert found.shape == (3, 200, 2)
    np.testing.assert_allclose(
        found[2, 199], bootstrap_interval(values[:, 2, 199], resamples=300), atol=1e-12
    )


def test_interval_covers_the_true_mean_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    ends = bootstrap_interval(rng.normal(0.5, 0.1, (40, 600)), resamples=1000)
    covered = ((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5)).mean()
    assert 0.90 <= covered <= 0.97


def test_groups_are_drawn_whole() -> None:
    """Ten copies of two tasks tell as much as the two tasks."""
    values = np.repeat([0.2, 0.6], 10)
    few = bootstrap_interval(np.array([0.2, 0.6]), resamples=2000)
    np.testing.assert_allclose(bootstrap_interval(values, ["a"] * 10 + ["b"] * 10, resamples=2000), few)
    alone = bootstrap_interval(values, resamples=2000)
    assert alone[1] - alone[0] < 0.6 * (few[1] - few[0])


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=UNIT),
    st.integers(0, 99),
)
def test_interval_encloses_mean_within_the_data_and_repeats(values: np.ndarray, seed: int) -> None:
    ends = bootstrap_interval(values, resamples=50, seed=seed)
    mean = values.mean(axis=0)
    assert (ends[:, 0] <= mean).all()
    assert (mean <= ends[:, 1]).all()
    assert (ends[:, 0] >= values.min(axis=0) - 1e-12).all()
    assert (ends[:, 1] <= values.max(axis=0) + 1e-12).all()
    np.testing.assert_array_equal(ends, bootstrap_interval(values, resamples=50, seed=seed))


@given(hnp.arrays(np.float64, st.integers(2, 12), elements=UNIT))
def test_interval_mirrors_with_the_data(values: np.ndarray) -> None:
    ends = bootstrap_interval(values, resamples=100)
    np.testing.assert_allclose(bootstrap_interval(1.0 - values, resamples=100), 1.0 - ends[::-1], atol=1e-12)


def test_one_task_has_an_interval_without_width() -> None:
    np.testing.assert_array_equal(bootstrap_interval(np.array([[0.3, 0.1]])), [[0.3, 0.3], [0.1, 0.1]])


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.empty((0, 2)), {}),
        (np.array([np.nan]), {}),
        (np.ones(3), {"resamples": 0}),
        (np.ones(3), {"level": 1.0}),
        (np.ones(3), {"groups": ["a"]}),
    ],
)
def test_impossible_intervals_are_refused(values: np.ndarray, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        bootstrap_interval(values, **options)


def losses(seed: int, methods: int, tasks: int) -> np.ndarray:
    """Rounded, so that ties occur."""
    return np.round(
        np.random.default_rng(seed).random((methods, tasks)) + 0.1 * np.arange(methods)[:, None], 1
    )


SIZES = pytest.mark.parametrize(("methods", "tasks"), [(3, 5), (5, 12), (8, 60)])


@SIZES
def test_friedman_is_the_formula_with_its_correction_for_ties(methods: int, tasks: int) -> None:
    """Conover 1999, "Practical Nonparametric Statistics", 5.8."""
    ranks = stats.rankdata(losses(0, methods, tasks), axis=0)
    middle = (methods + 1) / 2
    between = sum((row.sum() - tasks * middle) ** 2 for row in ranks)
    statistic = (methods - 1) * between / ((ranks - middle) ** 2).sum()
    found = friedman(average_ranks(losses(0, methods, tasks)))
    assert found["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert found["p_value"] == pytest.approx(stats.chi2.sf(statistic, methods - 1), rel=1e-9)
    assert found["reason"] is None


@SIZES
def test_nemenyi_is_the_studentized_range_of_mean_ranks(methods: int, tasks: int) -> None:
    table = losses(1, methods, tasks)
    mean = stats.rankdata(table, axis=0).mean(axis=1)
    scale = np.sqrt(methods * (methods + 1) / (12 * tasks))
    distance = np.abs(mean[:, None] - mean[None, :]) / scale
    expected = stats.studentized_range.sf(distance, methods, np.inf)
    np.testing.assert_allclose(nemenyi(average_ranks(table))[0], expected, rtol=0, atol=1e-12)


@SIZES
def test_pairwise_tests_are_those_of_scikit_posthocs(methods: int, tasks: int) -> None:
    """Where nothing ties: there it leaves the exact distribution."""
    import scikit_posthocs

    smooth = np.random.default_rng(1).random((methods, tasks)) + 0.1 * np.arange(methods)[:, None]
    by_pair = scikit_posthocs.posthoc_wilcoxon(list(smooth), p_adjust="holm").to_numpy()
    np.testing.assert_allclose(wilcoxon_holm(smooth)[0], by_pair, atol=1e-12)


def test_wilcoxon_is_that_of_scipy_times_holms_factor() -> None:
    table = np.random.default_rng(5).random((3, 20)) + np.array([[0.0], [0.3], [0.9]])
    raw = [stats.wilcoxon(table[i], table[j]).pvalue for i, j in itertools.combinations(range(3), 2)]
    found = wilcoxon_holm(table)[0]
    assert found is not None
    np.testing.assert_allclose([found[0, 1], found[0, 2], found[1, 2]], holm(np.array(raw)))


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 16)),
        elements=st.sampled_from([0.0, 0.1, 0.3, 1.0, 1e-17]),
    ),
    st.booleans(),
)
def test_tests_never_fail_and_are_json(table: np.ndarray, grouped: bool) -> None:
    methods, tasks = table.shape
    names = [f"m{index}" for index in range(methods)]
    groups = [str(index // 2) for index in range(tasks)] if grouped else None
    result = rank_tests(names, table, groups)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    blocks = -(-tasks // 2) if grouped else tasks
    assert result["blocks"] == blocks
    assert (result["friedman"]["p_value"] is None) == (methods < 3 or blocks < 2)
    assert (result["wilcoxon_holm"]["p_values"] is None) == (methods < 2 or blocks < 2)
    for key in ("friedman", "nemenyi", "wilcoxon_holm"):
        value = result[key].get("p_values", result[key].get("p_value"))
        assert value is not None or result[key]["reason"]
    for one, row in result["wins_ties_losses"].items():
        for other, (wins, ties, defeats) in row.items():
            assert wins + ties + defeats == blocks
            assert result["wins_ties_losses"][other][one] == [defeats, ties, wins]


def test_equal_methods_are_equal_even_after_rounding_errors() -> None:
    one = np.random.default_rng(0).random(9)
    result = rank_tests(["a", "b", "c"], np.stack([one, one * 3 / 3, (one + 1) - 1]))
    assert result["friedman"]["p_value"] == 1.0
    assert result["friedman"]["statistic"] == 0.0
    assert result["wilcoxon_holm"]["p_values"]["a"] == {"b": 1.0, "c": 1.0}
    assert result["wins_ties_losses"]["a"]["c"] == [0, 9, 0]


def test_a_clear_winner_is_found() -> None:
    table = np.random.default_rng(0).random((4, 30)) * 0.1 + np.array([[0.0], [0.5], [0.5], [0.5]])
    result = rank_tests(["best", "x", "y", "z"], table)
    assert result["friedman"]["p_value"] < 1e-6
    assert max(result["wilcoxon_holm"]["p_values"]["best"].values()) < 1e-6
    assert max(result["nemenyi"]["p_values"]["best"].values()) < 1e-3
    assert result["wilcoxon_holm"]["p_values"]["x"]["y"] > 0.05


def test_reasons_are_given_where_nothing_can_be_tested() -> None:
    alone = rank_tests(["a", "b", "c"], np.ones((3, 1)))
    assert "one task" in alone["friedman"]["reason"]
    assert "one task" in alone["nemenyi"]["reason"]
    assert "one task" in alone["wilcoxon_holm"]["reason"]
    assert "three methods" in rank_tests(["a", "b"], np.ones((2, 5)))["friedman"]["reason"]
    assert "one method" in rank_tests(["a"], np.ones((1, 5)))["wilcoxon_holm"]["reason"]
