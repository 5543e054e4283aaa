"""Choices among legal actions: never an illegal one, the right distribution, and the documented edges."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.explore import (
    NOTHING_LEGAL,
    SCHEDULES,
    epsilon_greedy,
    epsilon_schedule,
    largest,
    masked_argmax,
    random_legal,
)

ACTIONS = 37  # not a multiple of anything that the implementation groups by

masks = st.lists(st.booleans(), min_size=ACTIONS, max_size=ACTIONS).map(np.array)
values = st.lists(
    st.one_of(st.floats(-2, 2, width=32), st.sampled_from([0.0, np.inf, -np.inf])),
    min_size=ACTIONS,
    max_size=ACTIONS,
).map(lambda numbers: np.array(numbers, np.float32))
uniforms = st.one_of(st.floats(0, 1, width=32, exclude_max=True), st.sampled_from([0.0, 1.0 - 2.0**-24]))

jitted_largest = jax.jit(largest, static_argnums=1)
jitted_random = jax.jit(random_legal)
jitted_argmax = jax.jit(masked_argmax)
jitted_greedy = jax.jit(epsilon_greedy)


@settings(max_examples=100, deadline=None)
@given(masks, uniforms)
def test_random_legal_is_the_legal_action_at_that_place(legal, uniform):
    chosen = jitted_random(jnp.float32(uniform), legal)
    indices = np.flatnonzero(legal)
    assert chosen.dtype == jnp.int32
    if len(indices) == 0:
        assert chosen == NOTHING_LEGAL
    else:
        place = int(np.floor(np.float32(uniform) * np.float32(len(indices))))
        assert chosen == indices[min(place, len(indices) - 1)]


@settings(max_examples=100, deadline=None)
@given(values, masks)
def test_masked_argmax_is_the_first_largest_legal_value(q, legal):
    chosen = int(jitted_argmax(q, legal))
    indices = np.flatnonzero(legal)
    assert chosen == (indices[np.argmax(q[indices])] if len(indices) else NOTHING_LEGAL)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([9, 128, 129, 300]), st.integers(0, 10_000), st.booleans())
def test_largest_are_found_in_order(size: int, seed: int, coarse: bool) -> None:
    """Of many that are equal the first ones, illegal ones (-1) last."""
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 4, size) / 8 if coarse else 10.0 ** random.uniform(-30, 3, size)
    numbers = np.where(random.random(size) < random.choice([0.1, 0.9]), numbers, -1.0).astype(np.float32)
    found = jitted_largest(numbers, 8)
    assert found.dtype == jnp.int32
    if coarse or size > 128:
        np.testing.assert_array_equal(found, np.argsort(-numbers, kind="stable")[:8])
    else:  # near ties may be in any order
        assert len(set(found.tolist())) == 8
        np.testing.assert_allclose(numbers[found], -np.sort(-numbers)[:8], rtol=2.0**-16)


@settings(max_examples=60, deadline=None)
@given(values, masks, st.integers(0, 1000), st.sampled_from([0.0, 0.5, 1.0]))
def test_epsilon_greedy_is_legal_and_greedy_without_exploration(q, legal, seed, epsilon):
    chosen = int(jitted_greedy(jax.random.key(seed), q, legal, epsilon))
    assert chosen == NOTHING_LEGAL if not legal.any() else legal[chosen]
    if epsilon == 0.0:
        assert chosen == jitted_argmax(q, legal)


def test_random_legal_at_the_very_end_of_the_unit_interval():
    """Even a uniform of exactly 1, which rounding can make, must not fall off the end."""
    legal = jnp.zeros(10_000, bool).at[jnp.array([3, 9_998])].set(True)
    for uniform in (1.0 - 2.0**-24, 1.0):
        assert random_legal(jnp.float32(uniform), legal) == 9_998
    assert random_legal(jnp.float32(0.0), legal) == 3
    assert random_legal(jnp.float32(0.7), jnp.zeros(5, bool).at[4].set(True)) == 4
    assert random_legal(jnp.float32(0.7), jnp.array([True])) == 0


def test_random_legal_reaches_every_action_of_a_large_table_equally():
    size = 10_000
    legal = jnp.arange(size) % 3 != 0
    places = (jnp.arange(size * 4) + 0.5) / (size * 4)
    chosen = np.asarray(jax.jit(jax.vmap(random_legal, (0, None)))(places, legal))
    counts = np.bincount(chosen, minlength=size)
    assert (counts[~np.asarray(legal)] == 0).all()
    assert counts[np.asarray(legal)].min() >= 5
    assert counts.max() <= 7


def test_random_legal_takes_either_kind_of_key():
    legal = jnp.array([True, False, True, True])
    for key in (jax.random.key(5), jax.random.key_data(jax.random.key(5))):
        assert random_legal(key, legal) == random_legal(jax.random.uniform(key), legal)


def test_epsilon_greedy_explores_as_often_as_it_should():
    q = jnp.array([0.0, 3.0, 9.0, 1.0])
    legal = jnp.array([True, True, False, True])
    keys = jax.random.split(jax.random.key(0), 20_000)
    chosen = jax.jit(jax.vmap(epsilon_greedy, (0, None, None, None)))(keys, q, legal, 0.3)
    shares = np.bincount(np.asarray(chosen), minlength=4) / len(keys)
    np.testing.assert_allclose(shares, [0.1, 0.8, 0.0, 0.1], atol=0.015)


def test_nan_values_never_lead_to_an_illegal_action():
    legal = jnp.array([False, True, True])
    assert masked_argmax(jnp.full(3, jnp.nan), legal) == 1
    assert masked_argmax(jnp.array([jnp.nan, 0.0, 1.0]), legal) == 2


def test_ties_go_to_the_first_index():
    legal = jnp.array([False, True, True, True])
    assert masked_argmax(jnp.array([2.0, 1.0, 2.0, 2.0]), legal) == 2
    assert masked_argmax(jnp.full(4, -jnp.inf), legal) == 1


def test_half_precision_values_are_accepted():
    legal = jnp.array([False, True, True])
    assert masked_argmax(jnp.array([9.0, 1.0, 2.0], jnp.bfloat16), legal) == 2


def test_shapes_and_types_are_asserted():
    with pytest.raises(AssertionError):
        masked_argmax(jnp.zeros(3), jnp.ones(4, bool))
    with pytest.raises(AssertionError):
        random_legal(jnp.float32(0.1), jnp.ones(3, jnp.int32))
    with pytest.raises(AssertionError):
        random_legal(jnp.zeros(2), jnp.ones(3, bool))
    with pytest.raises(ValueError, match="at least one action"):
        random_legal(jnp.float32(0.1), jnp.zeros(0, bool))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.5, 0.2, 0.2]),
        ("exponential", [0.8, 0.4, 0.2, 0.2]),
    ],
)
def test_schedules_go_from_start_to_end(name, expected):
    schedule = jax.jit(epsilon_schedule(name, 0.8, 0.2, 1000))
    found = [schedule(jnp.int32(count)) for count in (0, 500, 1000, 2_000_000_000)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0].dtype == jnp.float32


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_may_be_swept(name):
    starts = jnp.array([0.5, 1.0])
    found = jax.vmap(SCHEDULES[name], (None, 0, None, None))(0, starts, 0.1, 10)
    chex.assert_trees_all_close(found, starts)


def test_a_schedule_of_no_steps_is_over_at_once():
    assert epsilon_schedule("linear", 1.0, 0.25, 0)(0) == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 1.0, 0.1, 10), "unknown epsilon schedule 'cosine'"),
        (("linear", 1.5, 0.1, 10), "epsilon start is 1.5"),
        (("linear", 1.0, float("nan"), 10), "epsilon end is nan"),
        (("exponential", 1.0, 0.0, 10), "never reaches 0"),
        (("linear", 1.0, 0.1, -1), "epsilon steps is -1"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        epsilon_schedule(*arguments)
