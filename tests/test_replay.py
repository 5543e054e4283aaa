"""The replay buffer against a list in plain Python, and its sampling against the formulas."""

from __future__ import annotations

from collections import deque

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprl_jax import replay
from hyprl_jax.errors import InputError

add = jax.jit(replay.add)
sample_uniform = jax.jit(replay.sample_uniform, static_argnums=2)
sample_prioritised = jax.jit(replay.sample_prioritised, static_argnums=2)


def episode(number: int) -> dict:
    """An episode that can be told from every other."""
    return {"actions": jnp.full(3, number, jnp.int32), "best": {"regret": jnp.float32(number)}}


def batch(numbers) -> dict:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(episode, numbers))


def filled_with(priorities) -> replay.ReplayBuffer:
    """A buffer whose first slots have these priorities, with two empty slots behind them."""
    number = len(priorities)
    buffer = replay.add(replay.init(episode(-1), number + 2), batch(range(number)))
    errors = jnp.asarray(priorities, jnp.float32) - 1e-6
    return replay.update_priorities(buffer, jnp.arange(number), errors)


def contents(buffer: replay.ReplayBuffer) -> list[int]:
    return [int(number) for number in buffer.episodes["best"]["regret"][: int(buffer.size)]]


@settings(max_examples=25)
@given(st.sampled_from([1, 5]), st.lists(st.sampled_from([2, 8]), max_size=6))
def test_the_buffer_holds_the_newest_episodes(capacity, sizes):
    buffer = replay.init(episode(-1), capacity)
    expected: deque[int] = deque(maxlen=capacity)
    number = 0
    for size in sizes:
        buffer = add(buffer, batch(range(number, number + size)))
        expected.extend(range(number, number + size))
        number += size
    assert sorted(contents(buffer)) == sorted(expected)
    assert int(buffer.size) == len(expected)
    assert jnp.sum(buffer.priorities > 0) == len(expected)
    stored = replay.take(buffer, jnp.arange(len(expected)))
    for leaf in jax.tree.leaves(stored):
        assert leaf.shape[0] == len(expected)
    np.testing.assert_array_equal(stored["actions"][:, 0], stored["best"]["regret"])


def test_the_oldest_goes_first_round_the_end():
    buffer = replay.init(episode(-1), 5)
    buffer = add(buffer, batch([0, 1, 2]))
    buffer = add(buffer, batch([3, 4, 5]))
    assert contents(buffer) == [5, 1, 2, 3, 4]
    assert int(buffer.position) == 1


@pytest.mark.parametrize("prioritised", [False, True])
def test_empty_slots_are_never_sampled(prioritised):
    buffer = replay.init(episode(-1), 1000)
    for number in range(1, 4):
        buffer = add(buffer, batch([number]))
        key = jax.random.key(number)
        if prioritised:
            places, _ = sample_prioritised(buffer, key, 500, 0.6, 0.4)
        else:
            places = sample_uniform(buffer, key, 500)
        assert places.dtype == jnp.int32
        assert set(np.asarray(places).tolist()) == set(range(number))


def test_uniform_sampling_is_uniform():
    buffer = filled_with([1.0, 50.0, 0.1, 3.0])
    places = sample_uniform(buffer, jax.random.key(0), 20_000)
    np.testing.assert_allclose(np.bincount(places, minlength=6) / 20_000, [0.25] * 4 + [0.0] * 2, atol=0.015)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_prioritised_sampling_follows_the_formulas(alpha, beta):
    priorities = np.array([1.0, 4.0, 0.25, 2.0, 9.0])
    places, weights = sample_prioritised(filled_with(priorities), jax.random.key(1), 4000, alpha, beta)
    probability = priorities**alpha / np.sum(priorities**alpha)
    # In strata, no slot is drawn more than about one time more or less than it should be.
    assert np.abs(np.bincount(places, minlength=5) - 4000 * probability).max() < 2.0
    expected = (5 * probability) ** -beta
    np.testing.assert_allclose(weights, (expected / expected.max())[np.asarray(places)], rtol=1e-4)
    assert weights.max() <= 1.0


def test_importance_weights_make_the_mean_unbiased():
    priorities = np.array([1.0, 4.0, 0.25, 2.0, 9.0])
    values = np.array([3.0, -1.0, 2.0, 0.5, 10.0])
    places, weights = sample_prioritised(filled_with(priorities), jax.random.key(2), 50_000, 0.7, 1.0)
    mean = np.sum(weights * values[np.asarray(places)]) / np.sum(weights)
    np.testing.assert_allclose(mean, values.mean(), rtol=1e-2)


@settings(max_examples=25)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=6, max_size=6), st.integers(0, 100))
def test_any_errors_lead_to_filled_slots_and_finite_weights(errors, seed):
    buffer = filled_with([1.0] * 6)
    buffer = replay.update_priorities(buffer, jnp.arange(6), jnp.asarray(errors, jnp.float32))
    places, weights = sample_prioritised(buffer, jax.random.key(seed), 64, 1.0, 0.5)
    assert places.min() >= 0
    assert places.max() < 6
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()


def test_repeated_slots_take_their_largest_error_and_broken_errors_are_ignored():
    buffer = filled_with([1.0, 2.0, 3.0])
    places = jnp.array([0, 0, 0, 1, 2])
    errors = jnp.array([0.5, -7.0, 1.0, jnp.nan, -jnp.inf])
    found = replay.update_priorities(buffer, places, errors).priorities
    np.testing.assert_allclose(found, [7.0, 2.0, 3.0, 0.0, 0.0], rtol=1e-5)


def test_new_episodes_get_the_largest_priority_present():
    buffer = add(filled_with([0.5, 8.0]), batch([2]))
    np.testing.assert_allclose(buffer.priorities, [0.5, 8.0, 8.0, 0.0], rtol=1e-6)


def test_an_empty_buffer_gives_slot_zero_of_no_weight():
    buffer = replay.init(episode(-1), 4)
    assert (sample_uniform(buffer, jax.random.key(0), 3) == 0).all()
    places, weights = sample_prioritised(buffer, jax.random.key(0), 3, 0.6, 0.4)
    assert (places == 0).all()
    assert (weights == 0).all()


def test_one_buffer_a_seed_by_vmap_with_donation_and_no_retrace():
    chex.clear_trace_counter()

    @chex.assert_max_traces(1)
    def step(buffer, episodes, key):
        buffer = replay.add(buffer, episodes)
        places, _ = replay.sample_prioritised(buffer, key, 2, 0.6, 0.4)
        taken = replay.take(buffer, places)
        return replay.update_priorities(buffer, places, taken["best"]["regret"]), taken

    def buffer_of(_):
        return replay.init(jax.eval_shape(episode, 0), 5)

    many = jax.jit(jax.vmap(step), donate_argnums=0)
    buffers = jax.vmap(buffer_of)(jnp.arange(3))
    for turn in range(4):
        episodes = jax.tree.map(
            lambda *rows: jnp.stack(rows), *[batch([10 * s + turn] * 2) for s in range(3)]
        )
        buffers, taken = many(buffers, episodes, jax.random.split(jax.random.key(turn), 3))
    assert taken["actions"].shape == (3, 2, 3)
    np.testing.assert_array_equal(np.asarray(taken["actions"][:, :, 0]) // 10, [[0, 0], [1, 1], [2, 2]])
    assert buffers.size.tolist() == [5, 5, 5]


def test_episodes_may_hold_keys_and_empty_leaves():
    example = {"key": jax.random.key(0), "nothing": jnp.zeros((0, 2))}
    buffer = replay.init(example, 3)
    keys = jax.random.split(jax.random.key(1), 2)
    buffer = replay.add(buffer, {"key": keys, "nothing": jnp.zeros((2, 0, 2))})
    assert (
        jax.random.key_data(replay.take(buffer, jnp.array([1, 0]))["key"]) == jax.random.key_data(keys[::-1])
    ).all()


def test_other_shapes_structures_and_capacities_are_refused():
    buffer = replay.init(episode(-1), 4)
    with pytest.raises(AssertionError):
        replay.add(buffer, {"actions": jnp.zeros((2, 3), jnp.int32)})
    with pytest.raises(AssertionError):
        replay.add(buffer, batch([1, 2]) | {"actions": jnp.zeros((2, 4), jnp.int32)})
    with pytest.raises(AssertionError):
        replay.add(buffer, batch([1, 2]) | {"actions": jnp.zeros((3, 3), jnp.int32)})
    with pytest.raises(AssertionError):
        replay.add(buffer, batch([1, 2]) | {"actions": jnp.zeros((2, 3), jnp.float32)})
    with pytest.raises(InputError, match="room for 0 episodes"):
        replay.init(episode(-1), 0)
