"""The incremental posterior, scale, retrieval and features against dense float64 linear algebra and loops."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import quick_jit

from hyprl_jax import knowledge, surrogate
from hyprl_jax.config import SurrogateConfig

KNOWN, CANDIDATES, FEATURES, TRIALS = 5, 8, 2, 6
LEARNED = SurrogateConfig(guard=False)
GAUSSIAN = SurrogateConfig(guard=False, freedom=0.0)
COLD = SurrogateConfig(guard=False, prior="constant")
CONFIGS = {
    "learned": LEARNED,
    "gaussian": GAUSSIAN,
    "certain mean": SurrogateConfig(guard=False, mean_variance=0.0),
    "all alike": SurrogateConfig(guard=False, similarity=False),
    "mean": SurrogateConfig(guard=False, prior="mean"),
    "constant": COLD,
    "other numbers": SurrogateConfig(
        guard=False,
        learned_variance=0.5,
        encoding_variance=0.3,
        lengthscale=0.4,
        noise=0.05,
        sharpness_low=2.0,
        freedom=1.5,
        similarity_width=0.1,
        similarity_floor=0.6,
    ),
}
"""Those of a single process."""
GUARDED = SurrogateConfig()
EVERY = {**CONFIGS, "guarded": GUARDED}


class Story(NamedTuple):
    """A task's known surfaces and what was tested in it, as NumPy arrays."""

    surfaces: np.ndarray
    encodings: np.ndarray
    lower: np.ndarray
    span: np.ndarray
    peers: np.ndarray
    legal: np.ndarray
    actions: np.ndarray
    objectives: np.ndarray
    unlikeness: np.ndarray


class Told(NamedTuple):
    """Before the first and after each trial: leaves `[TRIALS + 1, ...]`."""

    state: surrogate.SurrogateState
    readings: surrogate.Readings
    belief: surrogate.Belief
    acquired: surrogate.Acquired
    legal: jax.Array
    features: jax.Array


def told(story: Story, config: SurrogateConfig) -> Told:
    """What is believed before and after every trial of a story, as NumPy arrays; the numbers of `config` are
    values inside one compiled function."""
    numbers = {
        item.name: jnp.float32(getattr(config, item.name))
        for item in dataclasses.fields(config)
        if item.metadata.get("sweepable")
    }
    return jax.device_get(_told(story, config.prior, config.similarity, config.guard, numbers))


@partial(quick_jit, static_argnames=("prior", "similarity", "guard"))
def _told(story: Story, prior: str, similarity: bool, guard: bool, numbers: dict[str, jax.Array]) -> Told:
    config = SurrogateConfig(prior=prior, similarity=similarity, guard=guard, **numbers)
    known = knowledge.know(*story[:5], config, story.unlikeness)

    def read(state: surrogate.SurrogateState, legal: jax.Array) -> Told:
        readings = surrogate.read(known, state, config)
        belief = surrogate.believe(known, state, legal, config)
        acquired = surrogate.acquire(known, belief, legal, config)
        everything = jnp.arange(legal.shape[0])
        seen = surrogate.features(known, belief, acquired, everything)
        return Told(state, readings, belief, acquired, legal, seen)

    def one(carry: tuple, tested: tuple) -> tuple:
        state, legal = carry
        state = surrogate.update(known, state, *tested, config)
        legal = legal.at[tested[0]].set(False)
        return (state, legal), read(state, legal)

    begin = surrogate.start(known, story.actions.shape[0], config), jnp.asarray(story.legal)
    _, later = jax.lax.scan(one, begin, (story.actions, story.objectives))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), read(*begin), later)


def random_story(seed: int, candidates: int = CANDIDATES, known: int = KNOWN) -> Story:
    """Correlated surfaces within [0, 1], a history of different actions, at least two peers; values may
    tie."""
    random = np.random.default_rng(seed)
    common = random.uniform(size=candidates)
    surfaces = 0.5 * common + 0.5 * random.uniform(size=(known, candidates))
    surfaces = (surfaces - surfaces.min(1, keepdims=True)) / np.ptp(surfaces, axis=1, keepdims=True)
    own = 0.6 * common + 0.4 * random.uniform(size=candidates)
    surfaces[:, 1] = surfaces[:, 0]  # a tie on the side of the known tasks
    if seed % 3 == 0:
        own[3] = own[2]
    span, lower = random.uniform(0.5, 3.0, known), random.normal(size=known)
    actions = random.permutation(candidates)[:TRIALS].astype(np.int32)
    peers = random.uniform(size=known) < 0.7
    peers[:2] = True
    values = [surfaces, random.uniform(size=(candidates, FEATURES)), lower, span]
    surfaces, encodings, lower, span = (np.asarray(value, np.float32) for value in values)
    objective = (span.mean() * own + lower.mean()).astype(np.float32)
    legal = np.ones(candidates, bool)
    unlike = random.uniform(0.0, 0.2, known).astype(np.float32)
    return Story(surfaces, encodings, lower, span, peers, legal, actions, objective[actions], unlike)


def oracle_prior(story: Story, config: SurrogateConfig) -> tuple[np.ndarray, np.ndarray]:
    weights = oracle_weights(story, config)
    return oracles.prior(story.surfaces, weights, story.encodings.astype(np.float64), config)


def oracle_weights(story: Story, config: SurrogateConfig) -> np.ndarray:
    floor = config.similarity_floor if config.similarity else 1.0
    return oracles.task_weights(story.peers, story.unlikeness, config.similarity_width, floor)


def oracle_ranges(story: Story, config: SurrogateConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Worst value, range and weight of the known tasks that may be used."""
    parts = story.lower, story.span, oracle_weights(story, config)
    return tuple(part[story.peers] for part in parts)  # type: ignore[return-value]


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_posterior_is_that_of_a_dense_gaussian_process(name: str, seed: int) -> None:
    config, story = CONFIGS[name], random_story(seed)
    found = told(story, config)
    mean, covariance = oracle_prior(story, config)
    for done in range(TRIALS + 1):
        factor, shift = found.belief.scale[done].astype(np.float64)
        actions = story.actions[:done].tolist()
        values = factor * story.objectives[:done].astype(np.float64) + shift
        expected, variance = oracles.gp_posterior(mean, covariance, config.noise, actions, values)
        np.testing.assert_allclose(found.belief.mean[done], expected, atol=5e-3)
        if config.freedom and config.prior != "constant":
            history = story.objectives[:done].astype(np.float64)
            units = oracles.student_units(
                mean, covariance, config.noise, actions, history, oracle_ranges(story, config), config.freedom
            )
            variance = variance * units.inflation**2
        np.testing.assert_allclose(found.belief.deviation[done] ** 2, variance, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    "name", ["learned", "gaussian", "certain mean", "all alike", "mean", "other numbers"]
)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_scale_and_shift_are_posterior_means(name: str, seed: int) -> None:
    config, story = CONFIGS[name], random_story(seed)
    found = np.asarray(told(story, config).belief.scale)
    mean, covariance = oracle_prior(story, config)
    ranges = oracle_ranges(story, config)
    for done in (0, 1, 3, TRIALS):
        actions, history = story.actions[:done].tolist(), story.objectives[:done].astype(np.float64)
        given = mean, covariance, config.noise, actions, history, ranges
        if config.freedom:
            expected = oracles.student_units(*given, config.freedom)[:2]
        else:
            expected = oracles.scale_by_integration(*given, grid_points=15)
        np.testing.assert_allclose(found[done], expected, rtol=5e-3, atol=5e-3)


def test_surprises_widen_the_posterior_and_their_absence_narrows_it() -> None:
    """A task that follows its prior to the letter is known better than the prior said, one that does the
    opposite less well; a Gaussian process sees no difference."""
    story = random_story(7)
    mean = oracle_prior(story, LEARNED)[0]
    low, span = float(story.lower[story.peers].mean()), float(story.span[story.peers].mean())
    as_foretold = (low + span * mean[story.actions]).astype(np.float32)
    opposite = (low + span * (1.0 - mean[story.actions])).astype(np.float32)

    def widths(objectives: np.ndarray, config: SurrogateConfig) -> np.ndarray:
        return told(story._replace(objectives=objectives), config).belief.deviation[-1]

    gaussian = widths(as_foretold, GAUSSIAN)
    np.testing.assert_allclose(widths(opposite, GAUSSIAN), gaussian, rtol=1e-5)
    assert (widths(as_foretold, LEARNED) < 0.9 * gaussian).all()
    assert (widths(opposite, LEARNED) > 1.1 * gaussian).all()


def test_cold_scale_standardises_the_history() -> None:
    story = random_story(1)
    found = np.asarray(told(story, COLD).belief.scale)
    assert found[0].tolist() == [1.0, 0.0]
    for done in range(2, TRIALS + 1):
        history = story.objectives[:done].astype(np.float64)
        scaled = found[done, 0] * history + found[done, 1]
        np.testing.assert_allclose([scaled.mean(), scaled.std()], [0.0, 1.0], atol=1e-5)
    assert abs(found[1, 0] * story.objectives[0] + found[1, 1]) < 1e-6


@pytest.mark.parametrize("name", CONFIGS)
def test_covariance_rows_are_sums_of_outer_products(name: str) -> None:
    config, story = CONFIGS[name], random_story(2)
    known = knowledge.know(*story[:5], config, story.unlikeness)
    mean, covariance = oracle_prior(story, config)
    np.testing.assert_allclose(known.mean, mean, atol=1e-6)
    for action in range(CANDIDATES):
        rows = surrogate.covariance_rows(known, jnp.int32(action), config)
        assert rows.shape == (1, CANDIDATES)
        np.testing.assert_allclose(rows[0], covariance[action], atol=2e-6)
    variance = surrogate.start(known, TRIALS, config).processes.variance[0]
    np.testing.assert_allclose(variance, np.diag(covariance), atol=2e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_retrieval_counts_and_gains_are_those_of_loops(seed: int) -> None:
    story = random_story(seed)
    found, before = told(story, LEARNED), oracle_weights(story, LEARNED)
    for done in range(TRIALS + 1):
        actions, objectives = story.actions[:done].tolist(), story.objectives[:done].tolist()
        counts = [oracles.discordant_pairs(surface, actions, objectives) for surface in story.surfaces]
        assert found.state.discordant[done].tolist() == counts
        reached = [max((surface[a] for a in actions), default=0.0) for surface in story.surfaces]
        assert found.state.reached[done].tolist() == reached
        for which, sharpness in enumerate((LEARNED.sharpness_low, LEARNED.sharpness_high)):
            weights = oracles.retrieval_weights(story.surfaces, before, actions, objectives, sharpness)
            belief = jax.tree.map(lambda leaf, done=done: leaf[done], found.belief)
            gains = oracles.expected_gains(story.surfaces, weights, actions)
            np.testing.assert_allclose(belief.gains[which], gains, atol=1e-5)
            np.testing.assert_allclose(belief.retrieved[which], weights @ story.surfaces, atol=1e-5)
            np.testing.assert_allclose(belief.reached[which], weights @ reached, atol=1e-5)
            np.testing.assert_allclose(belief.concentration[which], weights @ weights, atol=1e-5)


def test_incumbent_is_the_best_result_in_units_of_the_range() -> None:
    story = random_story(4)
    found = told(story, LEARNED)
    usable = oracle_weights(story, LEARNED) @ story.surfaces
    np.testing.assert_allclose(found.belief.incumbent[0], usable.max(), atol=1e-6)
    for done in range(1, TRIALS + 1):
        factor, shift = found.belief.scale[done]
        best = factor * story.objectives[:done].max() + shift
        np.testing.assert_allclose(found.belief.incumbent[done], best, atol=1e-6)


def test_expected_improvement_is_the_integral() -> None:
    random = np.random.default_rng(0)
    cases = np.stack([random.uniform(-2, 2, 200), random.uniform(0.01, 2, 200), random.uniform(-2, 2, 200)])
    cases[2, :50] = cases[0, :50]  # nothing to gain on average
    found = surrogate.expected_improvement(*cases.astype(np.float32))
    expected = [oracles.expected_improvement(*case) for case in cases.T.tolist()]
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-4)


def test_acquisition_adds_up_its_parts() -> None:
    """Of the legal candidates; an illegal one is worth nothing, and the best of either counts it out."""
    config = dataclasses.replace(LEARNED, gain_weight=0.3)
    found = told(random_story(5), config)
    mean = knowledge.know(*random_story(5)[:5], config, random_story(5).unlikeness).mean
    for done in range(TRIALS + 1):
        belief, acquired = (
            jax.tree.map(lambda leaf, done=done: leaf[done], part) for part in (found.belief, found.acquired)
        )
        legal = np.asarray(found.legal[done])
        assert legal.sum() == CANDIDATES - done
        expected = belief.expected_improvement + 0.3 * belief.gains[0] + 0.3 * belief.gains[1]
        np.testing.assert_allclose(acquired.acquisition[legal], expected[legal], rtol=1e-5)
        assert not acquired.acquisition[~legal].any()
        np.testing.assert_allclose(acquired.top, expected[legal].max(), rtol=1e-5)
        np.testing.assert_allclose(acquired.prior_top, np.asarray(mean)[legal].max(), rtol=1e-6)


def test_with_nothing_to_choose_from_the_acquisition_stays_finite() -> None:
    story = random_story(5)._replace(legal=np.zeros(CANDIDATES, bool))
    found = told(story, LEARNED)
    assert not found.acquired.acquisition.any() and (found.acquired.top > 0.0).all()
    assert np.isfinite(found.features).all()


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5)
def test_features_of_some_candidates_are_those_among_all(name: str, seed: int) -> None:
    """In any order, and as often as asked: what a network sees of a candidate does not depend on the list."""
    config, story, random = EVERY[name], random_story(seed), np.random.default_rng(seed)
    found = told(story, config)
    known = knowledge.know(*story[:5], config, story.unlikeness)
    done = int(random.integers(0, TRIALS + 1))
    belief, acquired = (
        jax.tree.map(lambda leaf: jnp.asarray(leaf)[done], part) for part in (found.belief, found.acquired)
    )
    for columns in (random.permutation(CANDIDATES)[:3], np.array([5]), np.array([1, 1, 0])):
        some = surrogate.features(known, belief, acquired, jnp.asarray(columns, jnp.int32))
        np.testing.assert_allclose(some, np.asarray(found.features[done])[columns], rtol=1e-4, atol=2e-3)


def test_numbers_of_a_collection_stand_in_the_configuration() -> None:
    numbers = knowledge.Numbers(
        jnp.asarray([0.3, 2.0]), *(jnp.float32(number) for number in (0.25, 0.5, 0.01, 0.75, 0.15, 0.6, 1.0))
    )
    changed = knowledge.with_numbers(LEARNED, numbers)
    names = [name for name in knowledge.Numbers._fields if name != "denoise"]  # surfaces come as they count
    for name in names:
        assert getattr(changed, name) is getattr(numbers, name)
    back = {name: getattr(LEARNED, name) for name in names}
    assert dataclasses.replace(changed, **back) == LEARNED, "nothing else changes"


def test_each_hyperparameter_has_its_own_lengthscale() -> None:
    """As if the encodings were stretched and the lengthscale 1; a very long one hides its hyperparameter."""
    story, scales = random_story(3), np.asarray([0.3, 2.0], np.float32)
    one = dataclasses.replace(LEARNED, lengthscale=1.0)
    stretched = story._replace(encodings=story.encodings / scales)
    there = knowledge.know(*story[:5], dataclasses.replace(LEARNED, lengthscale=jnp.asarray(scales)))
    here = knowledge.know(*stretched[:5], one)
    blind = knowledge.know(
        *story[:5], dataclasses.replace(LEARNED, lengthscale=jnp.asarray([0.3, 1e6], jnp.float32))
    )
    alone = knowledge.know(
        *story._replace(encodings=story.encodings * [1.0, 0.0])[:5],
        dataclasses.replace(LEARNED, lengthscale=0.3),
    )
    for action in range(CANDIDATES):
        rows = [
            surrogate.covariance_rows(known, jnp.int32(action), LEARNED)
            for known in (there, here, blind, alone)
        ]
        np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
        np.testing.assert_allclose(rows[2], rows[3], atol=1e-5)
    assert np.array_equal(there.encodings, story.encodings), "networks see them as they are"


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_the_kernel_is_the_rational_quadratic(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, others = random.normal(size=3), random.normal(size=(6, 3))
    found = surrogate.stationary(jnp.asarray(x, jnp.float32), jnp.asarray(others, jnp.float32))
    expected = [oracles.rational_quadratic(x, other, 1.0) for other in others]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_features_are_finite_and_moderate(name: str) -> None:
    for seed in range(10):
        found = np.asarray(told(random_story(seed), EVERY[name]).features)
        assert found.shape == (TRIALS + 1, CANDIDATES, len(surrogate.CANDIDATE_FEATURES))
        assert found.dtype == np.float32 and np.isfinite(found).all() and np.abs(found).max() <= 6.0


@pytest.mark.parametrize("name", ["learned", "mean", "other numbers", "guarded"])
@given(st.integers(0, 10_000), st.floats(0.02, 50.0), st.floats(-5.0, 5.0))
@settings(max_examples=10)
def test_raw_units_do_not_matter(name: str, seed: int, factor: float, ranges: float) -> None:
    """An affine change of the played task's and the known tasks' raw objectives changes no feature."""
    story = random_story(seed)
    shift = ranges * factor
    changed = story._replace(
        objectives=np.float32(factor) * story.objectives + np.float32(shift),
        lower=np.float32(factor) * story.lower + np.float32(shift),
        span=np.float32(factor) * story.span,
    )
    before, after = told(story, EVERY[name]).features, told(changed, EVERY[name]).features
    np.testing.assert_allclose(after, before, atol=0.03)


@given(st.integers(0, 10_000), st.floats(0.02, 50.0), st.floats(-5.0, 5.0))
@settings(max_examples=10)
def test_a_cold_start_needs_no_units_at_all(seed: int, factor: float, ranges: float) -> None:
    """Under a constant prior the history alone may be changed affinely."""
    story = random_story(seed)
    changed = story._replace(objectives=np.float32(factor) * story.objectives + np.float32(ranges * factor))
    np.testing.assert_allclose(told(changed, COLD).features, told(story, COLD).features, atol=0.02)


@pytest.mark.parametrize("name", EVERY)
@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_the_order_of_the_candidates_does_not_matter(name: str, seed: int) -> None:
    story = random_story(seed)
    order = np.random.default_rng(seed).permutation(CANDIDATES)
    changed = story._replace(
        surfaces=story.surfaces[:, order],
        encodings=story.encodings[order],
        legal=story.legal[order],
        actions=np.argsort(order)[story.actions].astype(np.int32),
    )
    before, after = told(story, EVERY[name]).features, told(changed, EVERY[name]).features
    np.testing.assert_allclose(after, np.asarray(before)[:, order], atol=2e-3)


@pytest.mark.parametrize("name", ["learned", "constant", "guarded"])
def test_padding_changes_nothing(name: str) -> None:
    """Illegal columns and unusable known tasks, whatever stands in them."""
    story, random = random_story(6), np.random.default_rng(0)
    wider = story._replace(
        surfaces=np.pad(story.surfaces, ((0, 2), (0, 3)), constant_values=0.7),
        encodings=np.concatenate([story.encodings, random.uniform(size=(3, FEATURES)).astype(np.float32)]),
        lower=np.pad(story.lower, (0, 2), constant_values=100.0),
        span=np.pad(story.span, (0, 2), constant_values=1e-3),
        peers=np.pad(story.peers, (0, 2)),
        legal=np.pad(story.legal, (0, 3)),
        unlikeness=np.pad(story.unlikeness, (0, 2)),
    )
    before, after = told(story, EVERY[name]), told(wider, EVERY[name])
    np.testing.assert_allclose(after.features[:, :CANDIDATES], before.features, atol=1e-3)
    np.testing.assert_allclose(after.belief.scale, before.belief.scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
@given(st.integers(0, 10_000))
@settings(max_examples=5)
def test_known_tasks_that_may_not_be_used_are_never_looked_at(name: str, seed: int) -> None:
    """Bitwise: the surfaces, ranges and order of left-out tasks, one of which may be the played task
    itself."""
    story, random = random_story(seed), np.random.default_rng(seed)
    out = ~story.peers
    surfaces, lower, span = story.surfaces.copy(), story.lower.copy(), story.span.copy()
    surfaces[out] = random.uniform(size=surfaces[out].shape)
    lower[out], span[out] = random.normal(size=out.sum()) * 50, random.uniform(1e-3, 50, out.sum())
    changed = story._replace(surfaces=surfaces, lower=lower, span=span)
    before, after = told(story, EVERY[name]), told(changed, EVERY[name])
    assert np.array_equal(before.features, after.features)
    for field in surrogate.Belief._fields:
        assert np.array_equal(getattr(before.belief, field), getattr(after.belief, field)), field


@pytest.mark.parametrize("name", ["learned", "mean", "guarded"])
def test_without_peers_the_prior_is_flat(name: str) -> None:
    """A learned prior with nothing to learn from is a cold start, in whatever units the task comes."""
    story = random_story(7)._replace(peers=np.zeros(KNOWN, bool))
    assert not np.asarray(knowledge.know(*story[:5], EVERY[name], story.unlikeness).mean).any()
    changed = story._replace(objectives=100.0 * story.objectives + 40.0)
    found = told(story, EVERY[name])
    np.testing.assert_allclose(told(changed, EVERY[name]).features, found.features, atol=0.02)
    np.testing.assert_allclose(found.features, told(story, COLD).features, atol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found.belief, found.features)))


def test_trials_beyond_the_table_do_no_harm() -> None:
    """An episode that is over goes on being scanned: repeats of one configuration keep everything finite."""
    story = random_story(8)
    stuck = story._replace(
        actions=np.full(TRIALS, 2, np.int32), objectives=np.full(TRIALS, story.objectives[0], np.float32)
    )
    for config in (LEARNED, COLD, GUARDED):
        found: Any = told(stuck, config)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found.belief, found.features)))


def test_everything_differentiable_stays_finite_under_noise_free_settings() -> None:
    """Even a tiny noise keeps the factor finite in float32."""
    for config in (LEARNED, GUARDED):
        found = told(random_story(9), dataclasses.replace(config, noise=1e-6))
        assert np.isfinite(found.features).all()


def test_a_task_may_turn_out_the_opposite_of_the_known_ones() -> None:
    """Known tasks agree; the played one is upside down. A factor on the prior mean lets results turn around
    what is believed of the rest; without it the prior is believed to the end."""
    random = np.random.default_rng(0)
    common = np.sort(random.uniform(size=12))
    surfaces = np.clip(common + 0.03 * random.normal(size=(6, 12)), 0.0, 1.0).astype(np.float32)
    actions = np.asarray([11, 0, 9, 2, 7, 4], np.int32)
    story = random_story(1, candidates=12, known=6)._replace(
        surfaces=surfaces, peers=np.ones(6, bool), lower=np.zeros(6, np.float32), span=np.ones(6, np.float32),
        actions=actions, objectives=(1.0 - common[actions]).astype(np.float32),
        encodings=np.eye(12, 2, dtype=np.float32) * 50.0,
    )  # fmt: skip
    untested = np.setdiff1d(np.arange(12), actions)
    slopes = {}
    for variance in (0.0, 0.5):
        config = dataclasses.replace(LEARNED, mean_variance=variance, encoding_variance=0.01)
        mean = told(story, config).belief.mean[-1][untested]
        slopes[variance] = np.polyfit(common[untested], mean, 1)[0]
    assert slopes[0.5] < -0.3 and slopes[0.0] > slopes[0.5] + 0.5
