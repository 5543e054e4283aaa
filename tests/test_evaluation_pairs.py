"""Critical differences, probabilities of improvement and differences to the best, against enumerations."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from hyprl_jax.evaluation.metrics import average_ranks
from hyprl_jax.evaluation.statistics import (
    bootstrap_interval,
    cliques,
    critical_difference,
    difference_to_best,
    improvement,
    rank_tests,
    wilcoxon_holm,
)

TIED = st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0])
# Table 5a of Demsar 2006: q for 2 to 10 methods at the 5% level.
PUBLISHED_Q = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


def few_resamples(values: np.ndarray) -> np.ndarray:
    return bootstrap_interval(values, resamples=200)


def names_of(count: int) -> list[str]:
    return [f"m{index}" for index in range(count)]


def tables(methods: st.SearchStrategy[int], tasks: st.SearchStrategy[int]) -> st.SearchStrategy:
    return hnp.arrays(np.float64, st.tuples(methods, tasks), elements=TIED)


@pytest.mark.parametrize("methods", range(3, 11))
def test_critical_difference_is_that_of_the_published_table(methods: int) -> None:
    ranks = average_ranks(np.random.default_rng(0).random((methods, 20)))
    found = critical_difference(names_of(methods), ranks)["difference"]
    expected = PUBLISHED_Q[methods] * np.sqrt(methods * (methods + 1) / (6 * 20))
    assert found == pytest.approx(expected, abs=1e-3)


def test_critical_difference_is_that_of_demsars_example() -> None:
    """Four methods on 14 data sets: 1.25 at the 5% level and 1.12 at the 10% level (section 3.2.2)."""
    ranks = average_ranks(np.random.default_rng(0).random((4, 14)))
    assert critical_difference(names_of(4), ranks)["difference"] == pytest.approx(1.25, abs=0.005)
    assert critical_difference(names_of(4), ranks, 0.1)["difference"] == pytest.approx(1.12, abs=0.005)


@given(hnp.arrays(np.float64, st.integers(1, 7), elements=st.sampled_from([1.0, 1.5, 2.0, 2.2, 3.1, 4.0])))
def test_cliques_are_the_maximal_sets_without_a_difference(mean_ranks: np.ndarray) -> None:
    indices = range(len(mean_ranks))
    alike = [
        set(members)
        for size in range(1, len(mean_ranks) + 1)
        for members in itertools.combinations(indices, size)
        if np.ptp(mean_ranks[list(members)]) < 1.1
    ]
    expected = [members for members in alike if not any(members < other for other in alike)]
    found = cliques(mean_ranks, 1.1)
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert set().union(*map(set, found)) == set(indices)
    for members in found:
        assert list(mean_ranks[members]) == sorted(mean_ranks[members])
    bests = [mean_ranks[members[0]] for members in found]
    assert bests == sorted(bests)


@given(tables(st.integers(3, 6), st.integers(2, 25)))
def test_cliques_are_what_nemenyis_p_values_say(losses: np.ndarray) -> None:
    names = names_of(len(losses))
    result = rank_tests(names, losses, resamples=10)
    p_values, found = result["nemenyi"]["p_values"], result["critical_difference"]
    together = {pair for members in found["cliques"] for pair in itertools.permutations(members, 2)}
    for one, other in itertools.permutations(names, 2):
        assert ((one, other) in together) == (p_values[one][other] > found["level"])
    assert sum(found["mean_ranks"].values()) == pytest.approx(len(names) * (len(names) + 1) / 2)


def test_no_critical_difference_without_a_test() -> None:
    for shape, reason in (((3, 1), "one task"), ((2, 5), "three methods"), ((1, 1), "one task")):
        found = critical_difference(names_of(shape[0]), np.ones(shape))
        assert found["difference"] is None
        assert found["cliques"] == []
        assert reason in found["reason"]
        assert set(found["mean_ranks"]) == set(names_of(shape[0]))


def test_a_clear_winner_stands_alone() -> None:
    losses = np.random.default_rng(0).random((4, 30)) * 0.1 + np.array([[0.5], [0.0], [0.5], [0.5]])
    found = rank_tests(names_of(4), losses, resamples=10)["critical_difference"]
    assert found["mean_ranks"]["m1"] == 1.0
    assert found["cliques"][0] == ["m1"]
    assert sorted(found["cliques"][1]) == ["m0", "m2", "m3"]
    assert len(found["cliques"]) == 2


def test_probability_of_improvement_is_the_mean_of_mann_whitney_statistics() -> None:
    rng = np.random.default_rng(3)
    runs = [np.round(rng.random((6, count)), 1) for count in (4, 1, 5)]
    probability, _ = improvement(runs, few_resamples)
    for i, j in itertools.permutations(range(3), 2):
        by_task = [
            stats.mannwhitneyu(theirs, own, method="asymptotic").statistic / (own.size * theirs.size)
            for own, theirs in zip(runs[i], runs[j], strict=True)
        ]
        assert probability[i, j] == pytest.approx(np.mean(by_task), abs=1e-12)


@given(tables(st.integers(1, 5), st.integers(1, 8)), st.booleans())
def test_probabilities_of_both_directions_add_up_to_one(losses: np.ndarray, grouped: bool) -> None:
    names = names_of(len(losses))
    groups = [str(index // 2) for index in range(losses.shape[1])] if grouped else None
    result = rank_tests(names, losses, groups, resamples=50)
    probability, ends = (result["probability_of_improvement" + suffix] for suffix in ("", "_ci95"))
    for one, other in itertools.permutations(names, 2):
        assert probability[one][other] + probability[other][one] == 1.0
        low, high = ends[one][other]
        assert 0.0 <= low <= probability[one][other] <= high <= 1.0
        np.testing.assert_allclose(ends[other][one], [1.0 - high, 1.0 - low], rtol=0, atol=1e-15)
        wins, ties, defeats = result["wins_ties_losses"][one][other]
        if groups is None:
            expected = (wins + ties / 2) / (wins + ties + defeats)
            assert probability[one][other] == pytest.approx(expected, abs=1e-12)


def test_single_runs_and_not_their_averages_are_compared() -> None:
    """One bad run in four makes the average worse, yet three runs in four are better."""
    often, steady = np.array([[0.0, 0.0, 0.0, 1.0]] * 3), np.full((3, 1), 0.1)
    losses = np.stack([often.mean(axis=1), steady.mean(axis=1)])
    result = rank_tests(["often", "steady"], losses, runs=[often, steady])
    assert result["wins_ties_losses"]["often"]["steady"] == [0, 0, 3]
    assert result["probability_of_improvement"]["often"]["steady"] == 0.75
    assert result["probability_of_improvement_ci95"]["often"]["steady"] == [0.75, 0.75]


@given(tables(st.integers(1, 5), st.integers(1, 9)))
def test_differences_to_the_best_are_not_negative_and_inside_their_intervals(losses: np.ndarray) -> None:
    names = names_of(len(losses))
    found = difference_to_best(names, losses, few_resamples)
    assert found["mean"][found["best"]] == 0.0
    assert found["ci95"][found["best"]] == [0.0, 0.0]
    best = losses[names.index(found["best"])]
    for name, own in zip(names, losses, strict=True):
        assert found["mean"][name] >= -1e-12
        assert found["mean"][name] == pytest.approx(np.mean(own - best), abs=1e-15)
        assert found["ci95"][name] == pytest.approx(few_resamples(own - best), abs=1e-12)
        assert found["ci95"][name][0] <= found["mean"][name] <= found["ci95"][name][1]


def test_paired_differences_are_surer_than_the_figures_themselves() -> None:
    """Two methods that agree on which tasks are hard: wide intervals each, a narrow one between them."""
    hard = np.random.default_rng(0).random(20)
    found = difference_to_best(["better", "worse"], np.stack([hard, hard + 0.01]), few_resamples)
    assert found["best"] == "better"
    assert found["ci95"]["worse"] == pytest.approx([0.01, 0.01])
    low, high = few_resamples(hard)
    assert high - low > 0.1


def test_the_first_of_equal_methods_is_the_best() -> None:
    losses = np.array([[0.3, 0.1], [0.1, 0.3], [0.2, 0.2]])
    assert difference_to_best(names_of(3), losses, few_resamples)["best"] == "m0"


@given(hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(2, 9)), elements=TIED))
def test_wilcoxon_without_zeros_is_exact(losses: np.ndarray) -> None:
    """Every assignment of signs to the differences that are not zero is counted."""
    difference = np.round(losses[0] - losses[1], 12)
    difference = difference[difference != 0.0]
    ranks = average_ranks(np.abs(difference)[:, None])[:, 0]
    centre = ranks.sum() / 2.0
    observed = abs(ranks[difference > 0].sum() - centre)
    sums = [
        abs(ranks[list(signs)].sum() - centre)
        for signs in (np.flatnonzero(flip) for flip in itertools.product((0, 1), repeat=difference.size))
    ]
    expected = np.mean([value >= observed - 1e-9 for value in sums])
    p_values, _ = wilcoxon_holm(losses)
    assert p_values is not None
    assert p_values[0, 1] == pytest.approx(expected, abs=1e-9)


def test_the_same_input_gives_the_same_bytes() -> None:
    losses = np.random.default_rng(5).random((5, 12))
    one, other = (json.dumps(rank_tests(names_of(5), losses)) for _ in range(2))
    assert one == other
