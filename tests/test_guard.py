"""The guard against negative transfer: against two dense processes in float64, what it is for, and the same
in NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_surrogate import (
    CANDIDATES,
    FEATURES,
    GUARDED,
    LEARNED,
    TRIALS,
    Story,
    Told,
    oracle_prior,
    oracle_ranges,
    oracle_weights,
    random_story,
    told,
)

from hyprl_jax import knowledge, surrogate
from hyprl_jax.config import SurrogateConfig
from hyprl_jax.runtime.belief import Belief, Beliefs, Posterior

WIDTHS = ((1.0, 0.9), (10.0, 0.1))
"""How much wider than the known tasks the prior on the shift is, and how probable."""
CONFIGS = {
    "usual": GUARDED,
    "gaussian": SurrogateConfig(freedom=0.0),
    "mean": SurrogateConfig(prior="mean"),
    "other numbers": SurrogateConfig(
        guard_share=0.55,
        guard_variance=0.03,
        learned_variance=0.5,
        encoding_variance=0.3,
        lengthscale=0.4,
        noise=0.05,
        freedom=1.5,
        mean_variance=0.2,
    ),
}
SHARED = ("mean", "deviation", "incumbent", "expected_improvement", "gains", "retrieved", "reached")
"""Fields that a belief has on the device and in NumPy."""
LARGE, KNOWN, LONG = 24, 6, 10


def at(found: Told, done: int) -> surrogate.Belief:
    """The belief after `done` trials."""
    belief: surrogate.Belief = jax.tree.map(lambda leaf: leaf[done], found.belief)
    return belief


def moved(story: Story, kind: int) -> Story:
    """The story as it is, upside down, or upside down and seven ranges lower."""
    if not kind:
        return story
    upside_down = story.objectives.max() + story.objectives.min() - story.objectives
    return story._replace(objectives=upside_down - np.float32(7.0 * (kind - 1)))


def task(seed: int, kind: str) -> tuple[Story, np.ndarray]:
    """A story of a task with a random history, and its values `[LARGE]`: `like` its known tasks, which agree,
    or `unlike` them and smooth in the encodings, or `far`: their opposite, five ranges lower."""
    random = np.random.default_rng(seed)
    encodings, common = random.uniform(size=(LARGE, FEATURES)), random.uniform(size=LARGE)
    surfaces = 0.8 * common + 0.2 * random.uniform(size=(KNOWN, LARGE))
    surfaces = (surfaces - surfaces.min(1, keepdims=True)) / np.ptp(surfaces, axis=1, keepdims=True)
    values = 0.8 * common + 0.2 * random.uniform(size=LARGE)
    if kind == "unlike":
        values = -((encodings - random.uniform(size=FEATURES)) ** 2).sum(1)
        values = (values - values.min()) / np.ptp(values)
    if kind == "far":
        values = 1.0 - values - 5.0
    actions = random.permutation(LARGE)[:LONG].astype(np.int32)
    lower, span = 0.1 * random.normal(size=KNOWN), random.uniform(0.8, 1.2, KNOWN)
    given = (np.asarray(part, np.float32) for part in (surfaces, encodings, lower, span))
    usable, legal, alike = np.ones(KNOWN, bool), np.ones(LARGE, bool), np.zeros(KNOWN, np.float32)
    return Story(*given, usable, legal, actions, values[actions].astype(np.float32), alike), values


# ---- against dense linear algebra


def oracle_mixture(story: Story, config: SurrogateConfig, done: int) -> oracles.Mixture:
    """The average of the two dense processes after `done` trials."""
    encodings = story.encodings.astype(np.float64)
    kernel = [[oracles.rational_quadratic(x, y, config.lengthscale) for y in encodings] for x in encodings]
    unknowing = np.full(len(encodings), 0.7), config.guard_variance * np.asarray(kernel)
    priors = [oracle_prior(story, config), unknowing]
    actions, history = story.actions[:done].tolist(), story.objectives[:done].astype(np.float64)
    ranges = oracle_ranges(story, config)
    units = [
        oracles.student_units(*prior, config.noise, actions, history, ranges, config.freedom, WIDTHS)
        for prior in priors
    ]
    shares, first = (1.0 - config.guard_share, config.guard_share), float(priors[0][0].max())
    return oracles.mixture(priors, shares, units, config.noise, actions, history, first)


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=st.integers(0, 10_000), kind=st.integers(0, 2))
@settings(max_examples=6)
def test_the_belief_is_the_mixture_of_two_dense_processes(name: str, seed: int, kind: int) -> None:
    config, story = CONFIGS[name], moved(random_story(seed), kind)
    found = told(story, config)
    for done in range(TRIALS + 1):
        expected, belief = oracle_mixture(story, config, done), at(found, done)
        np.testing.assert_allclose(found.readings.weights[done], expected.weights, atol=2e-3)
        np.testing.assert_allclose(belief.mean, expected.mean, atol=5e-3)
        np.testing.assert_allclose(belief.deviation**2, expected.deviation**2, rtol=5e-3, atol=5e-4)
        np.testing.assert_allclose(belief.incumbent, expected.incumbent, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(belief.scale, (expected.scale, expected.shift), rtol=5e-3, atol=5e-3)
        np.testing.assert_allclose(
            belief.expected_improvement, expected.expected_improvement, rtol=5e-3, atol=5e-4
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_covariances_are_those_of_two_processes(name: str) -> None:
    config, story = CONFIGS[name], random_story(2)
    known = knowledge.know(*story[:5], config, story.unlikeness)
    covariance = oracle_prior(story, config)[1]
    places = story.encodings.astype(np.float64)
    for action in range(CANDIDATES):
        rows = surrogate.covariance_rows(known, jnp.int32(action), config)
        np.testing.assert_allclose(rows[0], covariance[action], atol=2e-6)
        kernel = [oracles.rational_quadratic(places[action], y, config.lengthscale) for y in places]
        np.testing.assert_allclose(rows[1], config.guard_variance * np.asarray(kernel), atol=1e-6)
    variance = surrogate.start(known, TRIALS, config).processes.variance
    np.testing.assert_allclose(variance[0], np.diag(covariance), atol=2e-6)
    np.testing.assert_allclose(variance[1], config.guard_variance)


@given(seed=st.integers(0, 10_000), kind=st.integers(0, 2))
@settings(max_examples=12)
def test_gains_fade_as_retrieved_tasks_rank_no_better_than_by_chance(seed: int, kind: int) -> None:
    story = moved(random_story(seed), kind)
    found, before = told(story, GUARDED), oracle_weights(story, GUARDED)
    for done in range(TRIALS + 1):
        actions, objectives = story.actions[:done].tolist(), story.objectives[:done].tolist()
        pairs = done * (done - 1) / 2 + 10
        belief = at(found, done)
        for which, sharpness in enumerate((GUARDED.sharpness_low, GUARDED.sharpness_high)):
            weights = oracles.retrieval_weights(story.surfaces, before, actions, objectives, sharpness)
            share = 0.0
            for weight, surface in zip(weights, story.surfaces, strict=True):
                share += weight * oracles.discordant_pairs(surface, actions, objectives) / pairs
            fading = min(max((0.5 - share) / 0.25, 0.0), 1.0)
            gains = fading * oracles.expected_gains(story.surfaces, weights, actions)
            np.testing.assert_allclose(belief.gains[which], gains, atol=2e-5)
            np.testing.assert_allclose(belief.retrieved[which], weights @ story.surfaces, atol=1e-5)
            np.testing.assert_allclose(belief.concentration[which], weights @ weights, atol=1e-5)


def test_gains_are_whole_where_tasks_agree_and_gone_where_they_are_upside_down() -> None:
    """The first trials tell nothing of that: ten pairs of agreement count beforehand."""
    gains = {}
    for kind in ("like", "far"):
        story, values = task(0, kind)
        actions = np.argsort(story.surfaces.mean(0))[-2::-2][:LONG].astype(np.int32)  # the best is left
        story = story._replace(actions=actions, objectives=values[actions].astype(np.float32))
        gains[kind] = [told(story, config).belief.gains for config in (GUARDED, LEARNED)]
    whole, bare = gains["like"]
    np.testing.assert_allclose(whole, bare, rtol=1e-5)
    faded, bare = gains["far"]
    assert bare.max((1, 2)).min() > 0.01
    np.testing.assert_allclose(faded[:4], bare[:4], rtol=1e-5)
    shares = faded.max((1, 2)) / bare.max((1, 2))
    assert (np.diff(shares) <= 1e-6).all() and shares[-1] == 0.0
    assert ((shares > 0.05) & (shares < 0.95)).any()


# ---- where there is a guard, and where not


def same(one: Told, other: Told, parts: tuple[str, ...] = surrogate.Belief._fields) -> None:
    """Believes the same, to the last few bits."""
    for part in parts:
        ours, theirs = getattr(one.belief, part), getattr(other.belief, part)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=part)


@pytest.mark.parametrize(
    ("prior", "guard", "processes"),
    [
        ("learned", True, 2),
        ("mean", True, 2),
        ("learned", False, 1),
        ("mean", False, 1),
        ("constant", True, 1),
        ("cold", True, 1),
    ],
)
def test_only_a_process_that_knows_other_tasks_is_guarded(prior: str, guard: bool, processes: int) -> None:
    config, story = SurrogateConfig(prior=prior, guard=guard), random_story(3)  # type: ignore[arg-type]
    known = knowledge.know(*story[:5], config, story.unlikeness)
    state = surrogate.start(known, TRIALS, config)
    assert surrogate.guarded(config) == (processes == 2)
    assert state.processes.rows.shape == (processes, TRIALS, CANDIDATES)
    assert state.processes.variance.shape == (processes, CANDIDATES)
    assert surrogate.prior_means(known, config).shape == (processes, CANDIDATES)
    assert surrogate.covariance_rows(known, jnp.int32(0), config).shape == (processes, CANDIDATES)
    weights = surrogate.read(known, state, config).weights
    np.testing.assert_allclose(weights, [0.8, 0.2] if processes == 2 else [1.0], rtol=1e-6)


def test_a_constant_prior_believes_the_same_with_and_without() -> None:
    story = random_story(5)
    config = SurrogateConfig(prior="constant")
    same(told(story, config), told(story, dataclasses.replace(config, guard=False)))


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_guard_without_a_share_says_nothing(kind: int) -> None:
    """Whatever its evidence: the belief is that of the other process alone."""
    found = told(moved(random_story(4), kind), dataclasses.replace(GUARDED, guard_share=0.0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found.belief, found.features)))
    np.testing.assert_array_equal(found.readings.weights, np.tile([1.0, 0.0], (TRIALS + 1, 1)))
    np.testing.assert_allclose(found.belief.mean, found.readings.mean[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.belief.deviation, found.readings.deviation[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.belief.scale[:, 0], found.readings.scale[:, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_guard_with_the_whole_share_counts_for_a_half(kind: int) -> None:
    found = told(moved(random_story(4), kind), dataclasses.replace(GUARDED, guard_share=1.0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found.belief, found.features)))
    np.testing.assert_array_equal(found.readings.weights, np.full((TRIALS + 1, 2), 0.5))
    np.testing.assert_allclose(found.belief.mean, found.readings.mean.mean(1), atol=1e-6)


@pytest.mark.parametrize("prior", ["learned", "mean"])
@pytest.mark.parametrize("kind", [0, 1])
def test_without_peers_there_is_nothing_to_be_guarded_from(prior: str, kind: int) -> None:
    config = SurrogateConfig(prior=prior)  # type: ignore[arg-type]
    story = moved(random_story(7), kind)
    story = story._replace(peers=np.zeros(len(story.peers), bool))
    found = told(story, config)
    same(found, told(story, dataclasses.replace(config, guard=False)))
    np.testing.assert_array_equal(found.readings.weights, np.tile([1.0, 0.0], (TRIALS + 1, 1)))


# ---- what it is for


def test_the_second_process_is_heard_where_a_task_is_unlike_the_known_ones() -> None:
    weights = np.stack([told(task(seed, "unlike")[0], GUARDED).readings.weights[:, 1] for seed in range(8)])
    np.testing.assert_allclose(weights[:, 0], 0.2, rtol=1e-5)
    assert (weights.max(1) == 0.5).all(), "it has all that it may"
    assert np.median(weights[:, -1]) == 0.5


def test_it_stays_below_its_share_where_a_task_is_like_the_known_ones() -> None:
    weights = np.stack([told(task(seed, "like")[0], GUARDED).readings.weights[:, 1] for seed in range(8)])
    assert (weights.mean(0)[1:] < 0.2).all()
    assert weights[:, 5:].max() < 0.1 and weights[:, -1].max() < 0.001


def errors(kind: str, config: SurrogateConfig, done: int) -> np.ndarray:
    """Mean squared error of the posterior mean at what was not tested, in raw units, for eight tasks."""
    found = []
    for seed in range(8):
        story, values = task(seed, kind)
        rest, belief = np.setdiff1d(np.arange(LARGE), story.actions), at(told(story, config), done)
        raw = (belief.mean - belief.scale[1]) / belief.scale[0]
        found.append(np.mean((raw[rest] - values[rest]) ** 2))
    return np.asarray(found)


def test_tasks_that_are_far_away_and_upside_down_are_understood() -> None:
    """Five ranges below the known tasks; a belief that holds on to where those lie does not see the shape."""
    guarded, bare = errors("far", GUARDED, LONG), errors("far", LEARNED, LONG)
    assert (guarded < bare).all() and guarded.mean() < 0.5 * bare.mean()


def test_it_helps_where_a_task_is_unlike_and_costs_little_where_it_is_like() -> None:
    assert errors("unlike", GUARDED, LONG).mean() < 0.9 * errors("unlike", LEARNED, LONG).mean()
    assert errors("like", GUARDED, LONG).mean() < 1.02 * errors("like", LEARNED, LONG).mean()


# ---- the same in NumPy


def beliefs_of(config: SurrogateConfig) -> Beliefs:
    names = [name for name in Beliefs._fields if name not in ("guard_share", "denoise")]
    given = {name: getattr(config, name) for name in names}
    return Beliefs(**given, guard_share=config.guard_share if config.guard else 0.0)


def twin(story: Story, config: SurrogateConfig, columns: np.ndarray | None = None) -> Posterior:
    """What the runtime believes about the candidates `columns` of a story before its first trial."""
    peers, columns = story.peers, np.arange(story.legal.size) if columns is None else columns
    known = (part[peers].astype(np.float64) for part in (story.surfaces[:, columns], story.lower, story.span))
    encodings = story.encodings[columns].astype(np.float64)
    return Posterior(encodings, *known, beliefs_of(config), story.unlikeness[peers].astype(np.float64))


def played(posterior: Posterior, story: Story) -> Iterator[tuple[Belief, np.ndarray]]:
    """Beliefs and features before and after each trial."""
    legal, everything = story.legal.copy(), np.arange(story.legal.size)
    belief = posterior.believe(legal)
    yield belief, posterior.features(belief, everything)
    for action, objective in zip(story.actions.tolist(), story.objectives.tolist(), strict=True):
        posterior.update(action, objective)
        legal[action] = False
        belief = posterior.believe(legal)
        yield belief, posterior.features(belief, everything)


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=st.integers(0, 10_000), kind=st.integers(0, 2))
@settings(max_examples=6)
def test_numpy_and_jax_believe_the_same(name: str, seed: int, kind: int) -> None:
    story = moved(random_story(seed), kind)
    found = told(story, CONFIGS[name])
    for done, (belief, features) in enumerate(played(twin(story, CONFIGS[name]), story)):
        theirs = at(found, done)
        for field in SHARED:
            np.testing.assert_allclose(
                getattr(theirs, field), getattr(belief, field), rtol=1e-3, atol=1e-3, err_msg=field
            )
        np.testing.assert_allclose(theirs.scale, (belief.factor, belief.shift), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.features[done], features, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("kind", ["like", "unlike", "far"])
def test_they_agree_over_a_longer_story(kind: str) -> None:
    story = task(1, kind)[0]
    found = told(story, GUARDED)
    for done, (belief, features) in enumerate(played(twin(story, GUARDED), story)):
        for field in SHARED:
            np.testing.assert_allclose(
                getattr(at(found, done), field), getattr(belief, field), atol=2e-4, err_msg=field
            )
        np.testing.assert_allclose(found.features[done], features, atol=1e-3)
