"""Returns against loops in plain NumPy, written from the definitions and not from the recursions."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprl_jax.returns import double_q_values, lambda_returns, masked_max, n_step_returns

TRIALS = 7  # one length for the property tests: every other would compile again


def n_step_oracle(rewards, discounts, values, n, length):
    """Sum of up to n discounted rewards, then the bootstrap; zero after `length`."""
    result = np.zeros(len(rewards))
    for start in range(length):
        weight, total = 1.0, 0.0
        for step in range(start, min(start + n, length)):
            total += weight * rewards[step]
            weight *= discounts[step]
            last = step
        result[start] = total + (weight * values[last] if weight else 0.0)
    return result


def lambda_oracle(rewards, discounts, values, lambda_, length, greedy=None):
    """The weighted mean of all n-step returns, (1 - lambda) lambda^(n-1), the rest on the longest."""
    result = np.zeros(len(rewards))
    for start in range(length):
        longest = length - start
        if greedy is not None:
            longest = next((n for n in range(1, longest) if not greedy[start + n]), longest)
        by_length = [
            n_step_oracle(rewards, discounts, values, n, length)[start] for n in range(1, longest + 1)
        ]
        weights = [(1 - lambda_) * lambda_**k for k in range(longest - 1)] + [lambda_ ** (longest - 1)]
        result[start] = np.dot(weights, by_length)
    return result


@st.composite
def episodes(draw):
    """Rewards, discounts, values `[T]`, the played length, and which actions were greedy."""
    numbers = st.lists(st.floats(-3, 3, width=32), min_size=TRIALS, max_size=TRIALS)
    length = draw(st.integers(0, TRIALS))
    rewards, values = np.array(draw(numbers)), np.array(draw(numbers))
    discounts = np.full(TRIALS, draw(st.sampled_from([1.0, 0.99, 0.5])))
    if length and draw(st.booleans()):
        discounts[length - 1] = 0.0
        values[length - 1] = draw(st.sampled_from([1.0, -np.inf, np.nan]))
    values[length:], rewards[length:] = np.nan, np.nan
    greedy = np.array(draw(st.lists(st.booleans(), min_size=TRIALS, max_size=TRIALS)))
    return rewards, discounts, values, length, greedy


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


jitted_lambda = jax.jit(lambda_returns)
jitted_n_step = jax.jit(n_step_returns)


@settings(max_examples=60, deadline=None)
@given(episodes(), st.sampled_from([0.0, 0.3, 0.65, 1.0]))
def test_lambda_returns_are_the_weighted_mean_of_n_step_returns(episode, lambda_):
    rewards, discounts, values, length, greedy = episode
    valid = np.arange(TRIALS) < length
    arrays = as_float32(rewards, discounts, values)
    found = jitted_lambda(*arrays, lambda_, valid=valid)
    np.testing.assert_allclose(found, lambda_oracle(rewards, discounts, values, lambda_, length), atol=2e-5)
    assert found.dtype == jnp.float32
    cut = jitted_lambda(*arrays, lambda_, valid=valid, greedy=greedy)
    np.testing.assert_allclose(
        cut, lambda_oracle(rewards, discounts, values, lambda_, length, greedy), atol=2e-5
    )


@settings(max_examples=60, deadline=None)
@given(episodes(), st.integers(1, TRIALS + 2))
def test_n_step_returns_follow_their_definition(episode, n):
    rewards, discounts, values, length, _ = episode
    valid = np.arange(TRIALS) < length
    found = jitted_n_step(*as_float32(rewards, discounts, values), n, valid=valid)
    np.testing.assert_allclose(found, n_step_oracle(rewards, discounts, values, n, length), atol=2e-5)


def test_the_two_agree_at_their_ends():
    rng = np.random.default_rng(0)
    arrays = as_float32(*rng.normal(size=(3, TRIALS)))
    chex.assert_trees_all_close(lambda_returns(*arrays, 0.0), n_step_returns(*arrays, 1), atol=1e-6)
    chex.assert_trees_all_close(lambda_returns(*arrays, 1.0), n_step_returns(*arrays, TRIALS), atol=1e-5)


def test_a_batch_is_a_vmap_and_a_fixed_point_is_kept():
    """With v already the value of a constant reward stream, every target is v, whatever lambda and n are."""
    rewards = jnp.ones((3, 5))
    discounts = jnp.full((3, 5), 0.5)
    values = jnp.full((3, 5), 2.0)
    expected = jnp.full((3, 5), 2.0)
    chex.assert_trees_all_close(
        jax.vmap(lambda_returns, (0, 0, 0, None))(rewards, discounts, values, 0.4), expected
    )
    chex.assert_trees_all_close(
        jax.vmap(n_step_returns, (0, 0, 0, None))(rewards, discounts, values, 3), expected
    )


def test_gradients_stay_finite_at_a_terminal_step_with_an_infinite_bootstrap():
    rewards, discounts = jnp.ones(3), jnp.array([0.9, 0.9, 0.0])
    values = jnp.array([1.0, 2.0, -jnp.inf])
    slope = jax.grad(lambda v: lambda_returns(rewards, discounts, v, 0.5).sum())(values)
    np.testing.assert_allclose(slope, [0.45, 0.45 + 0.45 * 0.45, 0.0], rtol=1e-6)


def test_an_episode_of_no_steps_has_no_returns():
    nothing = jnp.zeros(0)
    assert lambda_returns(nothing, nothing, nothing, 0.9).shape == (0,)
    assert n_step_returns(nothing, nothing, nothing, 3).shape == (0,)


def test_ranks_and_shapes_are_asserted():
    batch = jnp.zeros((2, 3))
    with pytest.raises(AssertionError):
        lambda_returns(batch, batch, batch, 0.9)
    with pytest.raises(AssertionError):
        n_step_returns(jnp.zeros(3), jnp.zeros(4), jnp.zeros(3), 2)
    with pytest.raises(AssertionError):
        lambda_returns(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), 0.9, valid=jnp.ones(3))
    with pytest.raises(ValueError, match="n >= 1"):
        n_step_returns(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), 0)


@pytest.mark.parametrize(
    ("select", "legal", "expected"),
    [
        ([1.0, 5.0, 3.0], [True, True, True], 20.0),
        ([1.0, 5.0, 3.0], [True, False, True], 30.0),
        ([np.nan, 5.0, 5.0], [False, True, True], 20.0),
        ([1.0, 5.0, 3.0], [False, False, False], 0.0),
        ([-np.inf, 5.0, 3.0], [True, False, False], 10.0),
    ],
)
def test_double_q_chooses_with_one_network_and_judges_with_the_other(select, legal, expected):
    evaluate = jnp.array([10.0, 20.0, 30.0])
    assert double_q_values(jnp.array(select), evaluate, jnp.array(legal)) == expected


def test_masked_max_ignores_what_is_illegal():
    q = jnp.array([1.0, jnp.nan, -2.0, jnp.inf])
    assert masked_max(q, jnp.array([True, False, True, False])) == 1.0
    assert masked_max(q, jnp.array([False, False, True, False])) == -2.0
    assert masked_max(q, jnp.zeros(4, bool)) == 0.0
