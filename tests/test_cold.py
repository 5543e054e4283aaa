"""The cold start against dense float64 linear algebra, and in NumPy as in jax."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprl_jax import cold, knowledge, surrogate
from hyprl_jax.config import SurrogateConfig
from hyprl_jax.runtime import cold as cold_numpy
from hyprl_jax.runtime.belief import WARM, Beliefs
from hyprl_jax.runtime.cold import ColdPosterior, standings
from hyprl_jax.runtime.lengthscales import PROCESSES, factors, importances

CANDIDATES, FEATURES, TRIALS = 9, 3, 6
CONFIG = SurrogateConfig(
    prior="cold", lengthscale=0.5, encoding_variance=0.8, noise=0.05, gain_weight=0.3, additive=0.5,
    fit=False, tune=False,
)  # fmt: skip
BELIEFS = Beliefs("cold", 0.8, 1.0, (0.5,) * FEATURES, 0.05, 8.0, 32.0, 0.3, additive=0.5)


@partial(jax.jit, static_argnums=3)
def _told(encodings: jax.Array, actions: jax.Array, objectives: jax.Array, trials: int) -> surrogate.Belief:
    """What jax believes after `trials` trials."""
    known = knowledge.know(
        jnp.zeros((1, len(encodings))), encodings, jnp.zeros(1), jnp.ones(1), jnp.zeros(1, bool), CONFIG
    )
    state = cold.start(known, TRIALS, CONFIG)
    legal = jnp.ones(len(encodings), bool)
    for trial in range(trials):
        state = cold.update(known, state, actions[trial], objectives[trial], CONFIG)
        legal = legal.at[actions[trial]].set(False)
    return cold.believe(known, state, legal, CONFIG)


def story(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encodings `[N, F]`, actions `[T]` and raw objectives `[T]`."""
    generator = np.random.default_rng(seed)
    encodings = generator.random((CANDIDATES, FEATURES))
    actions = generator.permutation(CANDIDATES)[:TRIALS]
    objectives = 300.0 + 20.0 * generator.standard_normal(TRIALS)
    return encodings, actions, objectives


def dense(
    encodings: np.ndarray, actions: np.ndarray, objectives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance `[N]` of the mixture of processes by textbook formulas in float64."""
    targets, _, _ = standings(objectives)
    means, variances, evidence = [], [], []
    features = encodings.shape[1]
    differing = int((np.ptp(encodings, axis=0) > 0).sum())
    base = 0.5 / math.sqrt(differing)  # the tests configure what `fitting.numbers_of` makes of it
    for own, draws in zip(factors(features), importances(features), strict=True):
        kernel = 0.8 * oracles.cold_kernel(encodings, base, own, draws)
        inner = kernel[np.ix_(actions, actions)] + 0.05 * np.eye(len(actions))
        cross = kernel[:, actions]
        means.append(cross @ np.linalg.solve(inner, targets))
        variances.append(np.diag(kernel - cross @ np.linalg.solve(inner, cross.T)))
        misfit = targets @ np.linalg.solve(inner, targets)
        variances[-1] = variances[-1] * (4.0 + misfit) / (4.0 + len(actions))
        surprise = oracles.student_surprise(targets, np.zeros(len(actions)), inner, 4.0)
        evidence.append(-len(actions) * surprise)
    weights = np.exp(np.asarray(evidence) - max(evidence))
    weights /= weights.sum()
    mean = weights @ np.asarray(means)
    variance = weights @ (np.asarray(variances) + np.asarray(means) ** 2) - mean**2
    return mean / 4, variance / 16


def in_numpy(encodings: np.ndarray, actions: np.ndarray, objectives: np.ndarray) -> ColdPosterior:
    posterior = ColdPosterior(encodings, BELIEFS)
    for action, objective in zip(actions, objectives, strict=True):
        posterior.update(int(action), float(objective))
    return posterior


def legal_after(actions: np.ndarray) -> np.ndarray:
    return ~np.isin(np.arange(CANDIDATES), actions)


@pytest.mark.parametrize("seed", range(4))
def test_the_mixture_is_that_of_dense_gaussian_processes(seed: int) -> None:
    encodings, actions, objectives = story(seed)
    mean, variance = dense(encodings, actions, objectives)
    ours = in_numpy(encodings, actions, objectives).believe(legal_after(actions))
    np.testing.assert_allclose(ours.mean, mean, atol=1e-9)
    np.testing.assert_allclose(ours.deviation**2, np.maximum(variance, 1e-8 / 16), atol=1e-9)
    theirs = _told(jnp.asarray(encodings), jnp.asarray(actions), jnp.asarray(objectives), TRIALS)
    np.testing.assert_allclose(theirs.mean, mean, atol=2e-4)
    np.testing.assert_allclose(theirs.deviation**2, np.maximum(variance, 1e-8 / 16), atol=2e-4)


@pytest.mark.parametrize("trials", [0, 1, 2, TRIALS])
def test_numpy_and_jax_believe_the_same(trials: int) -> None:
    encodings, actions, objectives = story(7)
    told = actions[:trials], objectives[:trials]
    ours = in_numpy(encodings, *told).believe(legal_after(told[0]))
    theirs = _told(jnp.asarray(encodings), jnp.asarray(actions), jnp.asarray(objectives), trials)
    for name in ("mean", "deviation", "incumbent", "expected_improvement", "gains", "retrieved", "reached",
                 "concentration"):  # fmt: skip
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=5e-4, err_msg=name)
    np.testing.assert_allclose(theirs.scale[0], ours.factor, rtol=1e-4)
    legal = jnp.asarray(legal_after(told[0]))
    known = knowledge.know(
        jnp.zeros((1, CANDIDATES)),
        jnp.asarray(encodings),
        jnp.zeros(1),
        jnp.ones(1),
        jnp.zeros(1, bool),
        CONFIG,
    )
    acquired = surrogate.acquire(known, theirs, legal, CONFIG)
    np.testing.assert_allclose(acquired.acquisition, ours.acquisition, atol=5e-4)


def test_candidates_that_come_later_are_believed_as_if_they_had_been_there() -> None:
    encodings, actions, objectives = story(3)
    whole = in_numpy(encodings, actions, objectives).believe(legal_after(actions))
    late = [column for column in range(CANDIDATES) if column not in actions]
    early = np.where(np.isin(np.arange(CANDIDATES), late)[:, None], 0.5, encodings)
    posterior = in_numpy(early, actions, objectives)
    posterior.replace(np.asarray(late[:1]), encodings[late[:1]], np.zeros((0, 1)))
    columns = posterior.append(encodings[late[1:]], np.zeros((0, len(late) - 1)))
    seen = posterior.believe(np.ones(posterior.size, bool))
    places = [late[0], *columns]
    np.testing.assert_allclose(seen.mean[places], whole.mean[late], atol=1e-9)
    np.testing.assert_allclose(seen.deviation[places], whole.deviation[late], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12),
    factor=st.floats(0.01, 1e4),
    shift=st.floats(-1e5, 1e5),
)
def test_targets_need_no_units(values: list[float], factor: float, shift: float) -> None:
    values = [round(value) for value in values]  # differences that survive the shift
    targets, scale, offset = standings(np.asarray(values, float))
    moved, _, _ = standings(factor * np.asarray(values, float) + shift)
    np.testing.assert_allclose(moved, targets, atol=1e-4)
    assert np.isfinite([scale, offset]).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(targets[order]) >= -1e-9).all(), "a better result has a higher target"


def test_a_diverged_result_leaves_the_others_apart() -> None:
    usual = [0.3, 0.35, 0.2, 0.25]
    targets, _, _ = standings(-np.asarray([*usual, 1e30]))
    good = targets[:-1]
    assert np.ptp(good) > 0.01 * np.ptp(targets)
    assert targets[-1] == targets.min()


def test_jax_standings_are_numpys_whatever_is_masked() -> None:
    values = np.asarray([3.0, 1.0, 2.5, 2.4, 9.0, 9.0])
    seen = np.asarray([True, True, True, True, False, False])
    targets, factor, shift = cold.standings(jnp.asarray(values), jnp.asarray(seen))
    ours, our_factor, our_shift = standings(values[:4])
    np.testing.assert_allclose(targets[:4], ours, atol=1e-5)
    assert (np.asarray(targets[4:]) == 0).all()
    np.testing.assert_allclose([factor, shift], [our_factor, our_shift], rtol=1e-5)


def test_before_any_result_the_most_central_candidate_is_best() -> None:
    encodings = np.asarray([[0.0, 0.0], [1.0, 1.0], [0.5, 0.6], [0.0, 1.0], [1.0, 0.0]])
    beliefs = dataclasses.replace(CONFIG)
    known = knowledge.know(
        jnp.zeros((1, 5)), jnp.asarray(encodings), jnp.zeros(1), jnp.ones(1), jnp.zeros(1, bool), beliefs
    )
    belief = cold.believe(known, cold.start(known, 3, beliefs), jnp.ones(5, bool), beliefs)
    assert int(jnp.argmax(belief.expected_improvement)) == 2
    numpy = ColdPosterior(encodings, BELIEFS._replace(lengthscale=0.5)).believe(np.ones(5, bool))
    assert int(np.argmax(numpy.acquisition)) == 2


def test_lengthscales_do_not_change_when_features_are_added() -> None:
    few, many = factors(3), factors(7)
    assert few.shape == (PROCESSES, 3)
    np.testing.assert_array_equal(few, many[:, :3])
    # A Latin hypercube: every feature has small and large lengthscales, in another order than its neighbours.
    assert (few.min(0) < 0.3).all() and (few.max(0) > 3.0).all()
    ranks = np.argsort(np.argsort(many, axis=0), axis=0)
    correlations = np.corrcoef(ranks.T) - np.eye(7)
    assert np.abs(correlations).max() < 0.9


def test_one_process_learns_which_feature_matters() -> None:
    generator = np.random.default_rng(0)
    encodings = generator.random((40, 2))
    objectives = np.sin(6.0 * encodings[:, 0])
    tested = np.arange(16)
    posterior = ColdPosterior(encodings, BELIEFS._replace(noise=1e-3, lengthscale=0.5))
    for column in tested:
        posterior.update(int(column), float(objectives[column]))
    mean = posterior.believe(np.ones(40, bool)).mean[16:]
    assert np.corrcoef(mean, objectives[16:])[0, 1] > 0.9


def test_main_effects_are_learned_from_few_results() -> None:
    def learned(seed: int, additive: float = 0.5) -> float:
        generator = np.random.default_rng(seed)
        encodings = generator.random((225, 12))
        heights, bends = generator.standard_normal((2, 12))
        truth = (heights * encodings + bends * np.cos(np.pi * encodings)).sum(axis=1)
        posterior = ColdPosterior(encodings, BELIEFS._replace(lengthscale=0.5, additive=additive))
        for column in range(25):
            posterior.update(column, float(truth[column]))
        mean = posterior.believe(np.ones(225, bool)).mean
        return float(np.corrcoef(mean[25:], truth[25:])[0, 1])

    with_them = np.mean([learned(seed) for seed in range(8)])
    without = np.mean([learned(seed, 0.0) for seed in range(8)])
    assert with_them > without + 0.05


def spectra(encodings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum `[G, J, F]` in jax and in NumPy."""
    features = encodings.shape[1]
    theirs = np.asarray(cold.spectrum(jnp.asarray(encodings), 0.5)).reshape(PROCESSES, -1, features)
    differ = np.ptp(encodings, axis=0) > 0
    lengths = 0.5 / np.sqrt(max(differ.sum(), 1)) * factors(features)
    return theirs, cold_numpy.spectrum(lengths, differ).reshape(PROCESSES, -1, features)


def test_features_that_do_not_differ_explain_nothing() -> None:
    encodings = np.random.default_rng(0).random((6, 4))
    encodings[:, 1], encodings[:, 3] = 0.7, 0.0
    theirs, ours = spectra(encodings)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    assert (ours[:, :, [1, 3]] == 0).all() and (ours[:, :, [0, 2]] > 0).all()
    np.testing.assert_allclose(ours.sum((1, 2)), 1.0)
    for nothing in spectra(np.full((6, 4), 0.3)):
        assert (nothing == 0).all(), "all weight is the product kernel's"


def test_padding_changes_nothing() -> None:
    encodings, actions, objectives = story(5)
    encodings[:, 1] = 0.4  # does not differ, but from the zeros of padded candidates
    padded = np.pad(encodings, ((0, 5), (0, 2)))
    told = jnp.asarray(actions), jnp.asarray(objectives)
    wide = _told(jnp.asarray(padded), *told, TRIALS)
    narrow = _told(jnp.asarray(encodings), *told, TRIALS)
    np.testing.assert_allclose(wide.mean[:CANDIDATES], narrow.mean, atol=1e-5)
    np.testing.assert_allclose(wide.deviation[:CANDIDATES], narrow.deviation, atol=1e-5)
    mean, _ = dense(encodings, actions, objectives)
    np.testing.assert_allclose(narrow.mean, mean, atol=2e-4)


def test_candidates_of_a_known_space_are_seen_through_its_scales() -> None:
    encodings, actions, objectives = story(6)
    scales = np.asarray([1.0, 0.7, 0.5])
    beliefs = BELIEFS._replace(lengthscale=0.5 / math.sqrt(FEATURES))
    posterior = ColdPosterior(encodings, beliefs, scales)
    for action, objective in zip(actions, objectives, strict=True):
        posterior.update(int(action), float(objective))
    mean, variance = dense(encodings * scales, actions, objectives)
    ours = posterior.believe(legal_after(actions))
    np.testing.assert_allclose(ours.mean, mean, atol=1e-9)
    np.testing.assert_allclose(ours.deviation**2, variance, atol=1e-9)


def test_no_share_comes_or_goes_when_candidates_of_a_known_space_are_redrawn() -> None:
    encodings, actions, objectives = story(8)
    untested = np.flatnonzero(legal_after(actions))
    beliefs = BELIEFS._replace(lengthscale=0.5 / math.sqrt(FEATURES))
    alike = encodings.copy()
    alike[:, 2] = 0.3  # a feature that the first draw happens not to vary
    tuples = BELIEFS._replace(lengthscale=(0.5,) * FEATURES)
    known = ColdPosterior(alike, beliefs._replace(lengthscale=0.5), np.ones(FEATURES))
    fixed = ColdPosterior(alike, tuples)
    for posterior in (known, fixed):
        posterior.update(int(actions[0]), float(objectives[0]))
        posterior.replace(untested, encodings[untested], np.zeros((0, len(untested))))
    moved = np.abs(known.variance[:, untested] - fixed.variance[:, untested])
    assert (moved > 1e-6).any(), "the feature counts from the start where the space is known"
    assert (known.variance <= 0.8 + 1e-12).all() and (fixed.variance <= 0.8 + 1e-12).all()


def test_shares_do_not_change_when_features_are_added() -> None:
    few, many = importances(3), importances(40)
    np.testing.assert_array_equal(few, many[:, :3])
    assert (many > 0).all()
    np.testing.assert_allclose(np.sort(many, axis=0), np.sort(few[:, :1], axis=0) * np.ones((1, 40)))
    np.testing.assert_allclose(many.mean(), 1.0, atol=0.05)
    assert importances(0).shape == (PROCESSES, 0)


def test_a_candidate_without_features_is_believed() -> None:
    posterior = ColdPosterior(np.zeros((1, 0)), BELIEFS._replace(lengthscale=0.5), np.ones(0))
    posterior.update(0, 3.0)
    assert np.isfinite(posterior.believe(np.zeros(1, bool)).mean).all()


def test_a_warm_start_assumes_what_training_does() -> None:
    defaults = SurrogateConfig()
    told = {name: getattr(defaults, name) for name in WARM._fields}
    assert WARM._asdict() == {**told, "denoise": 0.0}, "nobody asked whether it helps"
