"""How known tasks are weighted: the likeness of metafeatures against loops, what does not count, and what the
played task's results cannot change."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import make_tables, on_device, split_of

from hyprl_jax import augment, knowledge, rollout
from hyprl_jax.bank import make_fold, pack, standardised_metafeatures
from hyprl_jax.config import SurrogateConfig

BELIEFS = SurrogateConfig()


def described(seed: int, tasks: int = 7, columns: int = 4) -> np.ndarray:
    """Metafeatures `[K, M]` with ties, and a column that is the same everywhere."""
    values = np.random.default_rng(seed).integers(0, 5, (tasks, columns)).astype(np.float32)
    values[:, 1] = 2.0
    return values


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_unlikeness_is_that_of_loops(seed: int) -> None:
    known, random = described(seed), np.random.default_rng(seed)
    collection = random.integers(-1, 2, len(known))
    collection[0] = 0
    ranks = knowledge.known_ranks(jnp.asarray(known), jnp.asarray(collection))
    mine = random.integers(0, 5, known.shape[1]).astype(np.float32)
    for own in (0, 1):
        among = collection == own
        found = knowledge.unlikeness(mine, known, ranks, among)
        expected = oracles.unlikeness(mine, known[among], known[among])
        np.testing.assert_allclose(np.asarray(found)[among], expected, atol=1e-6)


def test_the_measure_does_not_depend_on_units() -> None:
    """Ranks are the same on any scale that keeps the order."""
    known = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    whole = jnp.zeros(9, jnp.int32)
    bent = np.exp(known)
    plain = knowledge.unlikeness(known[4], known, knowledge.known_ranks(known, whole), whole == 0)
    other = knowledge.unlikeness(bent[4], bent, knowledge.known_ranks(bent, whole), whole == 0)
    np.testing.assert_array_equal(plain, other)
    assert plain[4] == 0.0 and (np.delete(np.asarray(plain), 4) > 0.0).all()


@given(st.integers(0, 10_000), st.floats(0.02, 2.0), st.floats(0.01, 1.0))
@settings(max_examples=20)
def test_weights_are_a_softmax_over_a_floor(seed: int, width: float, floor: float) -> None:
    random = np.random.default_rng(seed)
    peers, apart = random.uniform(size=6) < 0.6, random.uniform(0.0, 0.3, 6).astype(np.float32)
    config = dataclasses.replace(BELIEFS, similarity_width=width, similarity_floor=floor)
    found = np.asarray(knowledge.task_weights(peers, apart, config))
    np.testing.assert_allclose(found, oracles.task_weights(peers, apart, width, floor), atol=1e-5)
    assert not found[~peers].any()
    if peers.any():
        assert found.sum() == pytest.approx(1.0, abs=1e-5) and (found[peers] > 0.0).all()


@pytest.mark.parametrize("what", ["switched off", "no metafeatures", "a floor of 1"])
def test_all_known_tasks_may_count_the_same(what: str) -> None:
    peers, apart = np.array([True, False, True, True]), np.array([0.0, 0.1, 0.2, 0.3], np.float32)
    config = {
        "switched off": dataclasses.replace(BELIEFS, similarity=False),
        "no metafeatures": BELIEFS,
        "a floor of 1": dataclasses.replace(BELIEFS, similarity_floor=1.0),
    }[what]
    found = knowledge.task_weights(peers, None if what == "no metafeatures" else apart, config)
    np.testing.assert_allclose(found, peers / 3, atol=1e-6)


def test_what_a_player_knows_comes_from_metafeatures_and_not_from_the_tasks_own_results() -> None:
    """In a fold of two collections: neither the played task's surface nor the other collection matters."""
    tables = [make_tables("one", 6, 9, seed=1, tasks_a_group=1), make_tables("two", 5, 9, seed=2)]
    given_features = np.random.default_rng(3).normal(size=(6, 2))
    tables[0] = dataclasses.replace(
        tables[0], metafeatures=given_features, metafeature_names=("size", "classes")
    )
    bank, index = pack(tables)
    fold = make_fold(index, [split_of(tables[0], [0, 1, 2, 3, 4]), split_of(tables[1], [0, 1])])
    bank, fold = on_device(bank), on_device(fold)

    def known_to(bank, row: int):  # type: ignore[no-untyped-def]
        shared = rollout.background(bank, fold)
        metafeatures = standardised_metafeatures(bank, fold)
        task = augment.real_task(bank, fold, metafeatures, jnp.int32(row))
        return rollout.recall(shared, task, BELIEFS)[0]

    known = jax.device_get(known_to(bank, 5))
    scaled = oracles.standardised(np.pad(given_features, ((0, 5), (0, 0))), [0, 1, 2, 3, 4])
    apart = np.zeros(7)
    apart[:5] = oracles.unlikeness(scaled[5], scaled[:5], scaled[:5])
    peers = np.arange(7) < 5
    expected = oracles.task_weights(peers, apart, BELIEFS.similarity_width, BELIEFS.similarity_floor)
    np.testing.assert_allclose(known.weights, expected, atol=1e-5)
    assert np.ptp(known.weights[:5]) > 0.01
    changed = bank._replace(
        unit=bank.unit.at[5].set(0.3),
        objective=bank.objective.at[5].multiply(-7.0),
        best=bank.best.at[5].set(9.0),
    )
    again = jax.device_get(known_to(changed, 5))
    np.testing.assert_array_equal(known.weights, again.weights)
    np.testing.assert_array_equal(known.mean, again.mean)
    # A known task that is played itself leaves its own group out.
    assert known_to(bank, 2).weights[2] == 0.0


def test_a_metafeature_that_never_differs_says_nothing_even_where_one_is_unknown() -> None:
    """In float32 the mean of 1234.567 over a few tasks is not 1234.567."""
    for value in (0.1, 7.3, 1234.567):
        table = make_tables("one", 6, 9, tasks_a_group=1)
        columns = np.full((6, 2), value)
        columns[2, 0] = np.nan
        columns[:, 1] = np.arange(6.0)
        table = dataclasses.replace(table, metafeatures=columns, metafeature_names=("same", "other"))
        bank, index = pack([table])
        bank, fold = on_device(bank), on_device(make_fold(index, [split_of(table, [0, 1, 2, 3, 4])]))
        shared = rollout.background(bank, fold)
        np.testing.assert_array_equal(shared.metafeatures[:, 0], np.zeros(5))
        mine = standardised_metafeatures(bank, fold)[5]
        found = knowledge.unlikeness(mine, shared.metafeatures, shared.ranks, shared.collection == 0)
        ranks = (np.arange(5) + 0.5) / 5
        np.testing.assert_allclose(found, (1.0 - ranks) ** 2, atol=1e-6)
