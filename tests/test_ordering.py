"""The policy gradient against loops: advantages among plays, log-probabilities, the clipped objective."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import quick_jit

from hyprl_jax import ordering

PLAYS, TRIALS = 3, 5


class Batch(NamedTuple):
    """Arguments of `ordering.advantages`, `[E, T]` each."""

    reward: np.ndarray
    regret: np.ndarray
    over: np.ndarray
    valid: np.ndarray


def random_batch(seed: int, early: bool = True, tasks: int = 4) -> Batch:
    """Episodes that may end early (the last of all trials), with any rewards beyond their ends."""
    random = np.random.default_rng(seed)
    shape = (tasks * PLAYS, TRIALS)
    lengths = random.integers(1, TRIALS + 1, shape[0]) if early else np.full(shape[0], TRIALS)
    steps = np.arange(TRIALS)
    valid = steps < lengths[:, None]
    scales = np.repeat(np.exp(random.normal(scale=2.0, size=tasks)), PLAYS)[:, None]
    reward = scales * random.normal(size=shape) + np.where(valid, 0.0, 50.0)
    regret = np.minimum.accumulate(random.uniform(size=shape), axis=1)
    ends = np.take_along_axis(regret, lengths[:, None] - 1, axis=1)
    regret = np.where(valid, regret, ends)
    over = steps >= lengths[:, None] - 1
    return Batch(reward.astype(np.float32), regret.astype(np.float32), over, valid)


@partial(quick_jit, static_argnames="plays")
def merits(batch: Batch, plays: int = PLAYS, gamma: float = 0.8) -> jax.Array:
    return ordering.advantages(*batch, plays, gamma)


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.8, 1.0]))
@settings(max_examples=30)
def test_advantages_are_those_of_a_loop(seed: int, early: bool, gamma: float) -> None:
    batch = random_batch(seed, early)
    found = np.asarray(merits(batch, PLAYS, gamma))
    expected = oracles.advantages(*batch, PLAYS, gamma)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert not found[~batch.valid].any()


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_plays_of_a_task_are_compared_with_each_other_alone(seed: int) -> None:
    """Their advantages add up to nothing at every trial; what is good for all of them is no merit."""
    batch = random_batch(seed, early=False)
    found = np.asarray(merits(batch))
    np.testing.assert_allclose(found.reshape(-1, PLAYS, TRIALS).sum(1), 0.0, atol=1e-4)
    bonus = np.repeat(np.random.default_rng(seed).normal(size=(4, TRIALS)), PLAYS, axis=0)
    luckier = batch._replace(reward=(batch.reward + bonus).astype(np.float32))
    np.testing.assert_allclose(merits(luckier), found, atol=5e-3)


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_being_ahead_is_no_merit(seed: int) -> None:
    """What the regret before a choice explains of the returns changes no advantage."""
    batch = random_batch(seed, early=False)
    before = np.concatenate([np.ones((12, 1)), batch.regret[:, :-1]], axis=1)
    ahead = batch._replace(reward=(batch.reward - 2.0 * before).astype(np.float32))
    np.testing.assert_allclose(merits(ahead, PLAYS, 0.0), merits(batch, PLAYS, 0.0), atol=5e-3)


def test_units_do_not_matter_and_equal_plays_have_no_merit() -> None:
    batch = random_batch(1)
    scaled = batch._replace(reward=np.float32(40.0) * batch.reward)
    np.testing.assert_allclose(merits(scaled), merits(batch), rtol=1e-3, atol=1e-4)
    for leaf in batch:  # the second task's plays are all its first
        leaf[PLAYS : 2 * PLAYS] = leaf[PLAYS]
    found = np.asarray(merits(batch))
    assert np.abs(found[PLAYS : 2 * PLAYS]).max() < 1e-3 < np.abs(found[:PLAYS]).max()


@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
@settings(max_examples=15)
def test_log_probabilities_are_those_of_a_softmax_over_the_legal(seed: int, temperature: float) -> None:
    random = np.random.default_rng(seed)
    preferences, legal = random.normal(size=(4, 6)), random.uniform(size=(4, 6)) < 0.6
    legal[:, 2] = True
    found = np.exp(ordering.log_probabilities(jnp.asarray(preferences, jnp.float32), legal, temperature))
    for row in range(4):
        weights = np.where(legal[row], np.exp(preferences[row] / temperature), 0.0)
        np.testing.assert_allclose(found[row], weights / weights.sum(), atol=1e-5)
        assert not found[row, ~legal[row]].any()


def random_choices(seed: int) -> tuple[np.ndarray, ...]:
    """Log-probabilities new and old, advantages, and valid steps, `[6, 4]`."""
    random = np.random.default_rng(seed)
    draw = lambda scale: (scale * random.normal(size=(6, 4))).astype(np.float32)
    old = -np.abs(draw(1.0)) - 0.1
    return old + draw(0.3), old, draw(1.0), random.uniform(size=(6, 4)) < 0.8


@given(st.integers(0, 10_000), st.floats(0.05, 0.5))
@settings(max_examples=15)
def test_clipped_loss_is_that_of_a_loop(seed: int, clip: float) -> None:
    new, old, merit, valid = random_choices(seed)
    total = 0.0
    for place in np.argwhere(valid):
        one = tuple(place)
        ratio = np.exp(float(new[one]) - float(old[one]))
        total -= min(ratio * merit[one], min(max(ratio, 1 - clip), 1 + clip) * merit[one])
    found = ordering.clipped_loss(new, old, merit, valid, clip)
    np.testing.assert_allclose(found, total / max(valid.sum(), 1), rtol=1e-4, atol=1e-5)


def test_a_better_than_average_choice_becomes_likelier() -> None:
    """The gradient pushes along the advantage until the probability has changed enough, and always back."""
    push = jax.grad(lambda new, *rest: -ordering.clipped_loss(new, *rest))
    new, old, merit, valid = random_choices(3)
    np.testing.assert_allclose(push(old, old, merit, valid, 0.2), valid * merit / valid.sum(), atol=1e-6)
    ratio = np.exp(new - old)
    gone = ((merit > 0) & (ratio > 1.2)) | ((merit < 0) & (ratio < 0.8))
    found = np.asarray(push(new, old, merit, valid, 0.2))
    assert gone[valid].any() and not found[gone | ~valid].any()
    assert (np.sign(found) == np.sign(merit))[valid & ~gone].all()


@pytest.mark.parametrize("number", [0, 1])
def test_a_choice_from_a_shortlist_is_pushed_against_the_others(number: int) -> None:
    """One gradient step on preferences: a good choice gains probability and the others lose it; a bad one
    the other way around."""
    merit = jnp.asarray([[1.0, -1.0][number]])[None]
    legal = jnp.asarray([True, True, False, True])

    def loss(preferences: jax.Array, old: jax.Array) -> jax.Array:
        new = ordering.log_probabilities(preferences, legal, 0.5)[1]
        return ordering.clipped_loss(new[None, None], old[None, None], merit, jnp.ones((1, 1), bool), 0.2)

    preferences = jnp.asarray([0.2, -0.1, 3.0, 0.4])
    before = ordering.log_probabilities(preferences, legal, 0.5)
    gradient = jax.grad(loss)(preferences, before[1])
    after = ordering.log_probabilities(preferences - 0.1 * gradient, legal, 0.5)
    assert gradient[2] == 0.0
    changes = np.asarray(after - before)[[0, 1, 3]] * float(merit[0, 0])
    assert (np.sign(changes) == [-1, 1, -1]).all()
