"""Players of a network: the shortlist against sorting, what it may leave out, and draws by softmax."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import on_device, quick_jit, random_tasks, small_bank

from hyprl_jax import explore, ordering, players, rollout
from hyprl_jax.config import EnvConfig, NetworkConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.networks import FlaxNetwork
from hyprl_jax.rollout import Background, Choice, Record, View
from hyprl_jax.surrogate import CANDIDATE_FEATURES

EPISODES, CANDIDATES, KNOWN, TRIALS = 24, 12, 4, 5
ENV, BELIEFS = EnvConfig(trials=TRIALS), SurrogateConfig()
NETWORK = NetworkConfig(context=4, hidden=2, layers=0, shortlist=5, candidates="both")


class Seen(NamedTuple):
    """What a player had before a choice."""

    acquisition: jax.Array
    legal: jax.Array
    start: jax.Array
    columns: jax.Array
    among_all: jax.Array
    listed: jax.Array


@cache
def shared() -> Background:
    bank, _, fold = small_bank(configs=CANDIDATES)
    return rollout.background(bank, fold)


@cache
def wild_params() -> Any:
    """Parameters whose corrections reach their limit, in both directions: an encoding decides which."""
    sizes = (2, len(rollout.CONTEXT_FEATURES), len(CANDIDATE_FEATURES) + 3)
    params = FlaxNetwork(NETWORK).init(jax.random.key(0), *sizes)
    see = {"kernel": jnp.zeros((sizes[2], 2)).at[-1, 0].set(50.0), "bias": jnp.asarray([-25.0, 0.0])}
    judge = {"kernel": jnp.asarray([[1.0], [0.0]]), "bias": jnp.zeros(1)}
    return {**params, "see": see, "judge": judge}


def some_tasks(seed: int = 0) -> Task:
    return on_device(random_tasks(seed, EPISODES, CANDIDATES, KNOWN))


def some_keys(seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), EPISODES)


@partial(quick_jit, static_argnames="config")
def looked_on(config: NetworkConfig, params: Any, tasks: Task, keys: jax.Array, known: Background) -> Record:
    """Random episodes `[E, T]` in which a network only looks on and says what it would choose: from all
    candidates, and from its shortlist."""
    network = FlaxNetwork(config)

    def act(carry: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
        carry, hidden = network.advance(params, carry, view.context)
        everything = jnp.arange(CANDIDATES, dtype=jnp.int32)
        columns = players.shortlist(view, config)

        def best_of(some: jax.Array) -> jax.Array:
            inputs = players.candidate_inputs(view, config, some)
            preferences = network.advantages(params, hidden, inputs)
            place = explore.masked_argmax(preferences, view.observation.legal[some])
            return jnp.where(place >= 0, some[place], -1)

        seen = Seen(
            view.acquired.acquisition, view.observation.legal, rollout.relative(view, everything), columns,
            best_of(everything), best_of(columns),
        )  # fmt: skip
        return carry, Choice(explore.random_legal(jax.random.uniform(key), view.observation.legal), seen)

    def one(task: Task, key: jax.Array) -> Record:
        carry = network.initial_carry(params, task.metafeatures)
        return rollout.play(act, carry, known, task, key, ENV, BELIEFS)

    return jax.vmap(one)(tasks, keys)


def views(config: NetworkConfig, seed: int = 0) -> list[Seen]:
    """Every situation of some random episodes."""
    record = jax.device_get(looked_on(config, wild_params(), some_tasks(), some_keys(seed), shared()))
    return [
        Seen(*(leaf[episode, trial] for leaf in record.kept))
        for episode in range(EPISODES)
        for trial in range(TRIALS)
    ]


@pytest.mark.parametrize(("number", "residual"), [(1, True), (5, True), (11, True), (5, False)])
def test_a_shortlist_holds_the_best_legal_candidates(number: int, residual: bool) -> None:
    """By the acquisition function, best first; what is not legal fills it up."""
    scarce = 0
    for seen in views(dataclasses.replace(NETWORK, shortlist=number, residual=residual)):
        assert seen.columns.shape == (number,) and len(set(seen.columns.tolist())) == number
        best = np.sort(seen.acquisition[seen.legal])[::-1][:number]
        assert seen.legal[seen.columns[: len(best)]].all()
        np.testing.assert_array_equal(seen.acquisition[seen.columns[: len(best)]], best)
        assert not seen.legal[seen.columns[len(best) :]].any()
        scarce += len(best) < number
    assert scarce or number == 1


@pytest.mark.parametrize(
    "changes",
    [{"shortlist": 0}, {"shortlist": CANDIDATES}, {"shortlist": 99}, {"shortlist": 0, "residual": False}],
    ids=str,
)
def test_every_candidate_is_judged_without_a_shortlist(changes: dict[str, Any]) -> None:
    """Also by a network that corrects nothing."""
    config = dataclasses.replace(NETWORK, **changes)
    view = partial_view(views(NETWORK)[0])
    assert players.shortlist(view, config).tolist() == list(range(CANDIDATES))


def partial_view(seen: Seen) -> Any:
    """As much of a view as a shortlist looks at."""
    acquired = SimpleNamespace(acquisition=jnp.asarray(seen.acquisition))
    return SimpleNamespace(acquired=acquired, observation=SimpleNamespace(legal=jnp.asarray(seen.legal)))


@pytest.mark.parametrize("limit", [0.1, 0.4, 1.0])
def test_a_shortlist_leaves_out_none_that_could_win(limit: float) -> None:
    """With corrections of at most `limit`, a log-acquisition of more than twice that below the best never
    wins; so a shortlist of all that are closer chooses like the whole table."""
    config = dataclasses.replace(NETWORK, residual_limit=limit)
    exact = contested = 0
    for seen in views(config):
        if not seen.legal.any():
            assert seen.among_all == seen.listed == -1
            continue
        assert seen.start[seen.among_all] >= -2 * limit - 1e-5
        close = seen.legal & (seen.start >= -2 * limit - 1e-5)
        if close.sum() <= NETWORK.shortlist:
            assert seen.listed == seen.among_all
            exact += 1
            contested += seen.start[seen.among_all] < -1e-5
        assert seen.legal[seen.listed]
    assert exact > 20 and contested > 5, "the correction decides, and often enough"


# Softmax over the shortlist.


def drawn(seed: int, temperature: float, tasks: Task | None = None) -> Record:
    """Records `[E, T]` of the player that draws by softmax."""
    played = tasks or some_tasks()
    return jax.device_get(_drawn(wild_params(), played, some_keys(seed), temperature, shared()))


@quick_jit
def _drawn(params: Any, tasks: Task, keys: jax.Array, temperature: jax.Array, known: Background) -> Record:
    network = FlaxNetwork(NETWORK)
    act = players.q_player(network, NETWORK, params, temperature=temperature)
    luck_of = players.gumbel_noise(NETWORK, CANDIDATES)

    def one(task: Task, key: jax.Array) -> Record:
        memory = players.q_memory(network, params, None, task)
        return rollout.play(act, memory, known, task, key, ENV, BELIEFS, luck_of)

    return jax.vmap(one)(tasks, keys)


def test_draws_are_legal_and_kept_with_their_shortlist() -> None:
    """What is learned from is what was drawn, and its probability the one it was drawn with."""
    record, tasks = drawn(0, 0.5), jax.device_get(some_tasks())
    listed = record.kept.listed
    for episode in range(EPISODES):
        tried: list[int] = []
        for trial in range(TRIALS):
            action, place = int(record.action[episode, trial]), listed.place[episode, trial]
            left = np.flatnonzero(tasks.legal[episode])
            if set(left) <= set(tried):
                assert action == -1 and not record.valid[episode, trial]
                continue
            assert tasks.legal[episode, action] and action not in tried
            assert listed.legal[episode, trial].sum() == min(NETWORK.shortlist, len(left) - len(tried))
            assert listed.legal[episode, trial, place]
            features = listed.features[episode, trial, place]
            np.testing.assert_allclose(features, record.kept.features[episode, trial], atol=1e-6)
            np.testing.assert_allclose(
                listed.start[episode, trial, place], record.kept.start[episode, trial], atol=1e-6
            )
            tried.append(action)
    assert (listed.log_probability[record.valid] <= 0.0).all()


def preferences_at_first(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities `[E, C]` of the first shortlist, computed anew, and which of it is legal."""
    network, params = FlaxNetwork(NETWORK), wild_params()
    listed = record.kept.listed
    carry = network.initial_carry(params, jnp.zeros(2))

    def one(context: jax.Array, features: jax.Array, start: jax.Array, top: jax.Array) -> jax.Array:
        hidden = network.advance(params, carry, context)[1]
        return network.preferences(params, hidden, players.CandidateInputs(features, start, top))

    first = (
        jnp.asarray(leaf)[:, 0]
        for leaf in (record.kept.context, listed.features, listed.start, record.kept.top)
    )
    return np.asarray(jax.vmap(one)(*first)), listed.legal[:, 0]


@pytest.mark.parametrize("temperature", [0.8, 3.0])
def test_draws_are_as_frequent_as_the_softmax_says(temperature: float) -> None:
    task = jax.tree.map(lambda leaf: leaf[0], some_tasks(3))
    legal = jnp.ones(CANDIDATES, bool).at[4].set(False)
    many = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (EPISODES, *leaf.shape)), task._replace(legal=legal)
    )
    records = [drawn(seed, temperature, many) for seed in range(60)]
    places = np.concatenate([record.kept.listed.place[:, 0] for record in records])
    preferences, listed = preferences_at_first(records[0])
    logits = np.asarray(ordering.log_probabilities(preferences[0], listed[0], temperature))
    expected = len(places) * np.exp(logits)
    counts = np.bincount(places, minlength=NETWORK.shortlist)
    usual = expected > 5.0
    assert usual.sum() >= 2
    assert np.sum((counts - expected)[usual] ** 2 / expected[usual]) < 30.0
    told = records[0].kept.listed.log_probability[:, 0]
    np.testing.assert_allclose(told, logits[records[0].kept.listed.place[:, 0]], atol=1e-5)


def test_a_low_temperature_is_greedy_and_a_high_one_is_chance() -> None:
    cold, hot = drawn(0, 1e-3), drawn(0, 1e3)
    assert cold.kept.greedy[cold.valid].mean() > 0.99
    legal = hot.kept.listed.legal.sum(-1)
    np.testing.assert_allclose(
        hot.kept.listed.log_probability[hot.valid], -np.log(legal[hot.valid]), atol=0.02
    )
    assert hot.kept.greedy[hot.valid].mean() < 0.6
