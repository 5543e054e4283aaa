"""The baselines against plain NumPy versions of what they promise, on ragged tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracles import gp_posterior, rational_quadratic
from probes import make_tables, split_of

from hyprl_jax.baselines import BASELINES, DEVICE_BASELINES, make_baseline
from hyprl_jax.baselines.cold import _LENGTHSCALES, _NOISE
from hyprl_jax.config import SurrogateConfig
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import Played, trajectories
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.surfaces import Split, TaskTables

TRIALS, CANDIDATES = 6, 9
SEEDS = (0, 1, 2, 7)
METHODS = (*BASELINES, "start")


@pytest.fixture(scope="module")
def tables() -> TaskTables:
    """Eight tasks by nine configurations, a fifth of them missing in each task, minimised."""
    return make_tables(tasks=8, configs=CANDIDATES, seed=3, missing=0.2)


@pytest.fixture(scope="module")
def split(tables: TaskTables) -> Split:
    """Four tasks to train on and two to validate on, all of them known to the methods; two for tests."""
    return split_of(tables, [0, 1, 4, 5], [6, 7])


@pytest.fixture(scope="module")
def played(tables: TaskTables, split: Split) -> dict[str, Played]:
    return {one.method: one for one in play_methods(METHODS, tables, split, TRIALS, SEEDS)}


def test_rows(tables: TaskTables, split: Split) -> list[int]:
    return [tables.tasks.index(task) for task in split.test]


test_rows.__test__ = False  # type: ignore[attr-defined]


def test_only_the_acquisition_that_policies_start_from_is_guarded() -> None:
    """Published methods and static lists are what they were published as, whatever the run was told."""
    guarded = [name for name in DEVICE_BASELINES if make_baseline(name).beliefs.guard]
    assert guarded == ["start"]
    bare = SurrogateConfig(guard=False)
    assert not make_baseline("start", bare).beliefs.guard
    assert make_baseline("start", SurrogateConfig(guard_share=0.4)).beliefs.guard_share == 0.4


def test_expected_improvement_under_the_learned_prior_is_at_its_best() -> None:
    """Tuning by play helps it, so it is tuned, whether the policy is or not."""
    assert all(make_baseline("prior_ei", SurrogateConfig(tune=tune)).beliefs.tune for tune in (False, True))
    assert not make_baseline("start").beliefs.tune


def unit_surfaces(tables: TaskTables, split: Split) -> np.ndarray:
    """The known tasks `[K, C]`, best 1 and worst 0, missing values by the eight nearest configurations."""
    surfaces = []
    for task in (*split.train, *split.validation):
        values = -tables.objective[tables.tasks.index(task)]
        known = np.flatnonzero(np.isfinite(values))
        unit = (values - np.nanmin(values)) / (np.nanmax(values) - np.nanmin(values))
        for column in np.flatnonzero(~np.isfinite(values)):
            distance = np.sum((tables.encodings[known].astype(float) - tables.encodings[column]) ** 2, axis=1)
            near = np.argsort(distance)[:8]
            weight = 1.0 / (1e-3 + distance[near])
            unit[column] = np.sum(weight * unit[known[near]]) / np.sum(weight)
        surfaces.append(unit)
    return np.stack(surfaces)


def legal_columns(tables: TaskTables, row: int) -> set[int]:
    return set(np.flatnonzero(np.isfinite(tables.objective[row])).tolist())


@pytest.mark.parametrize("method", METHODS)
def test_plays_untried_configurations_that_the_task_has(
    tables: TaskTables, split: Split, played: dict[str, Played], method: str
) -> None:
    actions = played[method].actions
    stochastic = method in ("random", "gp_ei")
    assert played[method].seeds == (SEEDS if stochastic else SEEDS[:1])
    assert actions.shape == (2, len(played[method].seeds), TRIALS)
    for place, row in enumerate(test_rows(tables, split)):
        for episode in actions[place]:
            assert set(episode.tolist()) <= legal_columns(tables, row)
            assert len(set(episode.tolist())) == TRIALS
    assert np.all(np.asarray(played[method].suggest_seconds) > 0)
    assert len(trajectories(tables, split.test, played[method])) == actions.size


def test_mean_list_follows_the_mean_over_known_tasks(
    tables: TaskTables, split: Split, played: dict[str, Played]
) -> None:
    mean = unit_surfaces(tables, split).mean(axis=0)
    for place, row in enumerate(test_rows(tables, split)):
        order = sorted(legal_columns(tables, row), key=lambda column: -mean[column])
        assert played["mean_list"].actions[place, 0].tolist() == order[:TRIALS]


def test_portfolio_is_greedy(tables: TaskTables, split: Split, played: dict[str, Played]) -> None:
    surfaces = unit_surfaces(tables, split)
    for place, row in enumerate(test_rows(tables, split)):
        left, reached, order = legal_columns(tables, row), np.zeros(len(surfaces)), []
        for _ in range(TRIALS):
            ahead = np.maximum(surfaces - reached[:, None], 0.0).mean(axis=0) + 1e-6 * surfaces.mean(axis=0)
            order.append(max(left, key=lambda column: ahead[column]))
            left.remove(order[-1])
            reached = np.maximum(reached, surfaces[:, order[-1]])
        assert played["portfolio"].actions[place, 0].tolist() == order


def expected_improvement(mean: np.ndarray, variance: np.ndarray, incumbent: float) -> np.ndarray:
    deviation = np.sqrt(np.maximum(variance, 1e-8))
    ratio = (mean - incumbent) / deviation
    below = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in ratio])
    return deviation * (ratio * below + np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi))


def cold_score(tables: TaskTables, row: int, actions: list[int]) -> np.ndarray:
    """Expected improvement `[C]` after `actions`, averaged over lengthscales by their evidence."""
    values = -tables.objective[row, actions]
    centred = values - values.mean()
    scale = centred.std() if centred.std() > 0 else 1.0
    standard = centred / scale
    x = tables.encodings
    improvements, evidence = [], []
    for lengthscale in np.asarray(_LENGTHSCALES) * math.sqrt(x.shape[1]):
        kernel = np.array([[rational_quadratic(a, b, lengthscale) for b in x] for a in x])
        mean, variance = gp_posterior(np.zeros(len(x)), kernel, _NOISE, actions, standard)
        gram = kernel[np.ix_(actions, actions)] + _NOISE * np.eye(len(actions))
        fit = standard @ np.linalg.solve(gram, standard)
        evidence.append(-0.5 * (fit + np.linalg.slogdet(gram)[1]))
        improvements.append(expected_improvement(mean, variance, standard.max()))
    weights = np.exp(np.asarray(evidence) - max(evidence))
    return weights / weights.sum() @ np.asarray(improvements)


def test_cold_process_maximises_its_expected_improvement(
    tables: TaskTables, split: Split, played: dict[str, Played]
) -> None:
    for place, row in enumerate(test_rows(tables, split)):
        for episode in played["gp_ei"].actions[place]:
            for trial in range(1, TRIALS):
                tried = episode[:trial].tolist()
                score = cold_score(tables, row, tried)
                left = sorted(legal_columns(tables, row) - set(tried))
                assert score[episode[trial]] >= score[left].max() * (1 - 1e-3) - 1e-6


def test_chance_differs_by_seed_and_by_nothing_else(
    tables: TaskTables, split: Split, played: dict[str, Played]
) -> None:
    again = {one.method: one for one in play_methods(METHODS, tables, split, TRIALS, SEEDS)}
    for method in METHODS:
        np.testing.assert_array_equal(again[method].actions, played[method].actions)
    for method in ("random", "gp_ei"):
        episodes = played[method].actions.reshape(-1, TRIALS)
        assert len({tuple(episode) for episode in episodes.tolist()}) > len(episodes) // 2
    backwards = play_methods(["random"], tables, split, TRIALS, SEEDS[::-1])[0]
    np.testing.assert_array_equal(backwards.actions[:, ::-1], played["random"].actions)


def test_random_tries_everything_equally_often(tables: TaskTables, split: Split) -> None:
    first = play_methods(["random"], tables, split, TRIALS, range(400))[0].actions[:, :, 0]
    for place, row in enumerate(test_rows(tables, split)):
        legal = sorted(legal_columns(tables, row))
        counts = np.array([(first[place] == column).sum() for column in legal])
        expected = counts.sum() / len(legal)
        assert counts.sum() == 400
        # Chi-square with 8 degrees of freedom exceeds 36 once in 50,000 draws.
        assert np.sum((counts - expected) ** 2 / expected) < 36


def test_nothing_is_tried_once_the_table_is_exhausted(tables: TaskTables, split: Split) -> None:
    methods = ("random", "mean_list", "gp_ei")
    for one in play_methods(methods, tables, split, CANDIDATES + 2, (0,)):
        for place, row in enumerate(test_rows(tables, split)):
            legal = legal_columns(tables, row)
            episode = one.actions[place, 0].tolist()
            assert set(episode[: len(legal)]) == legal
            assert episode[len(legal) :] == [-1] * (CANDIDATES + 2 - len(legal))
        rows = trajectories(tables, split.test, one)
        assert rows["normalized_regret"].iloc[-1] == 0.0


def test_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"unknown method 'magic'.*random, mean_list"):
        make_baseline("magic")
