"""Playing whole episodes: only legal and new actions, the same alone as in a batch, and repeatable."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import EpisodeOracle
from probes import on_device, quick_jit, random_tasks, small_bank

from hyprl_jax import augment, players, rollout
from hyprl_jax.bank import standardised_metafeatures
from hyprl_jax.config import EnvConfig, NetworkConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.knowledge import Numbers
from hyprl_jax.networks import FlaxNetwork
from hyprl_jax.rollout import Background, Record
from hyprl_jax.surrogate import CANDIDATE_FEATURES

EPISODES, CANDIDATES, KNOWN, TRIALS = 16, 6, 4, 5
ENV = EnvConfig(trials=TRIALS)
BELIEFS = SurrogateConfig()
NETWORK = NetworkConfig(context=4, hidden=4)
TRACES: list[Any] = []
CONTEXT = len(rollout.CONTEXT_FEATURES)
FEATURES = len(CANDIDATE_FEATURES)


@cache
def shared() -> Background:
    bank, _, fold = small_bank(configs=CANDIDATES)
    return rollout.background(bank, fold)


@cache
def fresh(seed: int = 0) -> Any:
    return FlaxNetwork(NETWORK).init(jax.random.key(seed), 2, CONTEXT, FEATURES)


@cache
def shaken(seed: int = 0) -> Any:
    """Parameters whose policy is not just the acquisition function."""
    leaves, structure = jax.tree.flatten(fresh())
    random = np.random.default_rng(seed)
    moved = [leaf + 0.5 * random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return structure.unflatten(moved)


def one_episode(
    params: Any,
    task: Task,
    key: jax.Array,
    epsilon: jax.Array,
    forced: jax.Array | None,
    known: Background,
    **options: Any,
) -> Record:
    network, config, beliefs = FlaxNetwork(NETWORK), options.pop("env", ENV), options.pop("beliefs", BELIEFS)
    act = players.q_player(network, NETWORK, params, epsilon, forced=forced, **options)
    memory = players.q_memory(network, params, options.get("target"), task)
    luck_of = players.gumbel_noise(NETWORK, CANDIDATES) if "temperature" in options else None
    return rollout.play(act, memory, known, task, key, config, beliefs, luck_of)


def played(
    params: Any,
    tasks: Task,
    keys: jax.Array,
    epsilon: float,
    forced: jax.Array | None = None,
    known: Background | None = None,
    **options: Any,
) -> Record:
    """Records `[E, T]` of the epsilon-greedy Q-player."""
    return _played(params, tasks, keys, epsilon, forced, known or shared(), **options)


@partial(quick_jit, static_argnames=("exploration", "env", "beliefs"))
def _played(
    params: Any,
    tasks: Task,
    keys: jax.Array,
    epsilon: float,
    forced: jax.Array | None,
    known: Background,
    **options: Any,
) -> Record:
    TRACES.append(options)
    play = lambda task, key, actions: one_episode(params, task, key, epsilon, actions, known, **options)
    return jax.vmap(play)(tasks, keys, forced)


@quick_jit
def scored(tasks: Task, keys: jax.Array, known: Background, scores: jax.Array, listed: jax.Array) -> Record:
    """Records of the player that goes by `scores [N]` if `listed`, else by the acquisition."""
    act = players.score_player(lambda view, key: jnp.where(listed, scores, view.acquired.acquisition))
    return jax.vmap(lambda task, key: rollout.play(act, None, known, task, key, ENV, BELIEFS))(tasks, keys)


def some_tasks(seed: int = 0) -> Task:
    return on_device(random_tasks(seed, EPISODES, CANDIDATES, KNOWN))


def some_keys(seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), EPISODES)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 1.0, "softmax"]))
@settings(max_examples=20)
def test_episodes_are_those_of_a_plain_loop(seed: int, chance: float | str) -> None:
    """Never an illegal or repeated action; rewards, ends and regrets are those of the oracle."""
    tasks = random_tasks(seed, EPISODES, CANDIDATES, KNOWN)
    options: dict[str, Any] = {"temperature": 0.5} if isinstance(chance, str) else {}
    epsilon = 0.0 if isinstance(chance, str) else chance
    record = jax.device_get(played(shaken(seed % 3), on_device(tasks), some_keys(seed), epsilon, **options))
    for episode in range(EPISODES):
        oracle = EpisodeOracle(
            tasks.objective[episode], tasks.legal[episode], float(tasks.best[episode]),
            float(tasks.worst[episode]), TRIALS, ENV.reward, False,
        )  # fmt: skip
        for trial in range(TRIALS):
            action = int(record.action[episode, trial])
            if oracle.over:
                assert action == -1 and not record.valid[episode, trial]
            else:
                assert action in oracle.choices() and record.valid[episode, trial]
            expected = oracle.step(action)
            assert record.over[episode, trial] == expected["over"]
            for name in ("reward", "regret"):
                np.testing.assert_allclose(getattr(record, name)[episode, trial], expected[name], atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(record))


def test_an_episode_is_the_same_alone_as_in_a_batch() -> None:
    tasks, keys = some_tasks(), some_keys()
    batch = played(shaken(), tasks, keys, 0.3)
    single = quick_jit(partial(one_episode, epsilon=0.3, forced=None, known=shared()))
    for episode in range(4):
        alone = single(shaken(), jax.tree.map(lambda leaf, e=episode: leaf[e], tasks), keys[episode])
        together = jax.tree.map(lambda leaf, e=episode: leaf[e], batch)
        assert np.array_equal(alone.action, together.action)
        chex.assert_trees_all_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("episodes", [1, 8, 11])
def test_episodes_in_blocks_are_those_side_by_side(episodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they fill their last block of four or not; arguments that are no arrays are passed on."""
    monkeypatch.setattr(rollout, "_MOST", 4)
    tasks, keys = (jax.tree.map(lambda leaf: leaf[:episodes], part) for part in (some_tasks(), some_keys()))

    def one(task: Task, key: jax.Array, forced: jax.Array | None) -> Record:
        return one_episode(shaken(), task, key, jnp.float32(0.3), forced, shared())

    shared(), shaken()  # made outside of the compiled functions
    in_blocks = partial(rollout.over_episodes, one, candidates=CANDIDATES)
    blocks = quick_jit(in_blocks)(tasks, keys, None)
    beside = quick_jit(jax.vmap(one))(tasks, keys, None)
    assert np.array_equal(blocks.action, beside.action) and blocks.action.shape == (episodes, TRIALS)
    chex.assert_trees_all_close(blocks, beside, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("episodes", [1, 15, 16, 17, 70])
def test_blocks_keep_the_order_of_the_episodes(episodes: int) -> None:
    numbers = jnp.arange(episodes, dtype=jnp.float32)
    found = rollout.over_episodes(lambda x, y: (2.0 * x, y["y"] + x), numbers, {"y": -numbers}, candidates=9)
    np.testing.assert_array_equal(found[0], 2.0 * numbers)
    np.testing.assert_array_equal(found[1], np.zeros(episodes))


def test_blocks_are_smaller_the_more_candidates_there_are() -> None:
    sizes = {count: rollout.episodes_at_once(count) for count in (1, 288, 2916, 3072, 3073, 20_480, 10**6)}
    assert sizes == {1: 16, 288: 16, 2916: 16, 3072: 16, 3073: 8, 20_480: 4, 10**6: 4}


def test_numbers_of_a_collection_replace_those_of_the_configuration() -> None:
    """Of two collections, an episode uses the numbers and encodings of its own task's."""
    known, many = shared(), some_tasks()
    scalars = *(jnp.asarray(pair) for pair in NUMBERS.values()), jnp.zeros(2)
    numbers = Numbers(jnp.asarray([[0.3] * 3, [2.0] * 3]), *scalars)
    two = known._replace(
        encodings=jnp.concatenate([known.encodings, 1.0 - 2.0 * known.encodings]), numbers=numbers
    )
    for place in (0, 1):
        mine = many._replace(collection=jnp.full(EPISODES, place, jnp.int32))
        told = dataclasses.replace(
            BELIEFS, lengthscale=(0.3, 2.0)[place], **{name: pair[place] for name, pair in NUMBERS.items()}
        )
        alone = known._replace(encodings=two.encodings[place : place + 1])
        expected = played(shaken(), many, some_keys(), 0.3, known=alone, beliefs=told)
        there = two._replace(collection=jnp.full_like(known.collection, place))
        found = played(shaken(), mine, some_keys(), 0.3, known=there)
        assert np.array_equal(found.action, expected.action)
        chex.assert_trees_all_close(found, expected, atol=1e-4, rtol=1e-4)
    here, there = (
        played(shaken(), many._replace(collection=jnp.full(EPISODES, place)), some_keys(), 0.3, known=two)
        for place in (0, 1)
    )
    assert not np.allclose(here.kept.features, there.kept.features)


NUMBERS = {
    "encoding_variance": (0.3, 0.05), "learned_variance": (0.5, 1.5), "noise": (0.02, 0.001),
    "gain_weight": (0.1, 1.0), "similarity_width": (0.1, 0.3), "similarity_floor": (0.3, 0.8),
}  # fmt: skip


def test_the_same_key_gives_the_same_episode_and_another_another() -> None:
    first, again = (played(shaken(), some_tasks(), some_keys(1), 1.0) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    other = played(shaken(), some_tasks(), some_keys(2), 1.0)
    assert not np.array_equal(first.action, other.action)
    greedy = [played(shaken(), some_tasks(), some_keys(seed), 0.0) for seed in (1, 2)]
    chex.assert_trees_all_equal(*greedy)


def test_forced_actions_are_played() -> None:
    """And an episode that is forced to repeat itself looks the same to the network."""
    explored = played(shaken(), some_tasks(), some_keys(), 0.7)
    forced = played(shaken(), some_tasks(), some_keys(9), 0.0, explored.action)
    valid = np.asarray(explored.valid)
    assert np.array_equal(np.asarray(forced.action)[valid], np.asarray(explored.action)[valid])
    compared = (explored._replace(action=forced.action), forced)
    for one, other in zip(*map(jax.tree.leaves, compared), strict=True):
        np.testing.assert_allclose(np.asarray(one)[valid], np.asarray(other)[valid], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exploration", ["uniform", "acquisition"])
def test_exploration_is_as_frequent_as_told(exploration: str) -> None:
    """First actions of one task: alike for all legal candidates, or in proportion to the acquisition."""
    task = jax.tree.map(lambda leaf: leaf[0], some_tasks(3))
    task = task._replace(legal=jnp.array([True, True, False, True, True, True]))
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (EPISODES, *leaf.shape)), task)
    actions, start = [], np.full(CANDIDATES, -np.inf)
    for seed in range(120):
        record = played(shaken(), many, some_keys(seed), 1.0, exploration=exploration)
        first = np.asarray(record.action[:, 0])
        actions += first.tolist()
        start[first] = np.asarray(record.kept.start[:, 0])
    counts = np.bincount(actions, minlength=CANDIDATES)
    weights = np.exp(start) if exploration == "acquisition" else np.asarray(task.legal, float)
    expected = len(actions) * weights / weights.sum()
    assert counts[2] == 0
    assert np.sum((counts - expected)[expected > 0] ** 2 / expected[expected > 0]) < 30.0


def test_greedy_choices_are_known_as_such() -> None:
    record = jax.device_get(played(shaken(), some_tasks(), some_keys(), 0.0))
    assert record.kept.greedy[record.valid].all()
    explored = jax.device_get(played(shaken(), some_tasks(), some_keys(), 1.0))
    assert 0.05 < explored.kept.greedy[explored.valid].mean() < 0.9


def test_an_untrained_residual_policy_is_the_acquisition_function() -> None:
    tasks, keys = some_tasks(), some_keys()
    classical = scored(tasks, keys, shared(), jnp.zeros(CANDIDATES), False)
    policy = played(fresh(), tasks, keys, 0.0)
    assert np.array_equal(policy.action, classical.action)


def test_score_players_take_the_best_legal_candidate() -> None:
    """A static list, written as scores, plays its legal entries in order."""
    order = np.array([4, 1, 0, 5, 2, 3])
    scores = jnp.asarray(-np.argsort(order), jnp.float32)
    tasks = some_tasks(5)
    actions = np.asarray(scored(tasks, some_keys(), shared(), scores, True).action)
    for legal, found in zip(np.asarray(tasks.legal), actions, strict=True):
        expected = [column for column in order if legal[column]][:TRIALS]
        assert found.tolist() == expected + [-1] * (TRIALS - len(expected))


def test_an_ensemble_of_one_network_is_that_network() -> None:
    network, tasks, keys = FlaxNetwork(NETWORK), some_tasks(), some_keys()
    members = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), shaken())
    act = players.ensemble_player(network, NETWORK, members)

    def one(task: Task, key: jax.Array) -> Record:
        memory = jax.vmap(lambda params: network.initial_carry(params, task.metafeatures))(members)
        return rollout.play(act, memory, shared(), task, key, ENV, BELIEFS)

    together = quick_jit(jax.vmap(one))(tasks, keys)
    assert np.array_equal(together.action, played(shaken(), tasks, keys, 0.0).action)


def test_target_networks_judge_states() -> None:
    """The same parameters as target change nothing; others change values but no greedy action."""
    tasks, keys = some_tasks(), some_keys()

    @partial(quick_jit, static_argnames="double")
    def with_target(target: Any, double: bool) -> Record:
        play = lambda task, key: one_episode(
            shaken(), task, key, 0.0, None, shared(), target=target, double=double
        )
        return jax.vmap(play)(tasks, keys)

    plain = played(shaken(), tasks, keys, 0.0)
    for double in (False, True):
        same, other = with_target(shaken(), double), with_target(shaken(1), double)
        chex.assert_trees_all_close(same, plain, atol=1e-5)
        assert np.array_equal(other.action, plain.action)
        assert not np.allclose(other.kept.value, plain.kept.value)
    largest, chosen = with_target(shaken(1), False).kept.value, with_target(shaken(1), True).kept.value
    assert (np.asarray(largest) >= np.asarray(chosen) - 1e-5).all(), "double Q-learning never judges higher"


def test_repeats_end_the_episode_if_allowed() -> None:
    config = EnvConfig(trials=TRIALS, stop_on_repeat=True)
    record = jax.device_get(played(shaken(), some_tasks(), some_keys(), 1.0, env=config))
    repeats = 0
    for actions, valid, over in zip(record.action, record.valid, record.over, strict=True):
        for trial in range(TRIALS):
            repeated = actions[trial] in actions[:trial]
            if valid[trial]:
                assert over[trial] == (repeated or trial == TRIALS - 1)
                repeats += repeated
            else:
                assert over[trial - 1] and over[trial]
    assert repeats > 0


def test_the_own_group_is_never_looked_at() -> None:
    """Bitwise: what the bank knows of the played task and of its group does not influence the episode."""
    bank, _, fold = small_bank(configs=CANDIDATES)
    metafeatures = standardised_metafeatures(bank, fold)
    task = augment.real_task(bank, fold, metafeatures, jnp.int32(0))
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (EPISODES, *leaf.shape)), task)
    own = np.asarray(bank.group) == int(bank.group[0])
    random = np.random.default_rng(0)
    hidden = bank._replace(
        unit=jnp.where(own[:, None], random.uniform(size=bank.unit.shape), bank.unit).astype(np.float32),
        worst=jnp.where(own, 50.0, bank.worst),
        best=jnp.where(own, 99.0, bank.best),
    )
    before, after = (
        played(shaken(), many, some_keys(), 0.3, known=rollout.background(b, fold)) for b in (bank, hidden)
    )
    chex.assert_trees_all_equal(before, after)


@pytest.mark.parametrize("prior", ["learned", "constant"])
def test_raw_units_do_not_matter(prior: str) -> None:
    """An affine change of all raw objectives changes neither actions nor what the network sees."""
    tasks, beliefs = some_tasks(), SurrogateConfig(prior=prior)  # type: ignore[arg-type]
    factor, shift = jnp.float32(7.0), jnp.float32(-20.0)
    moved = tasks._replace(
        objective=factor * tasks.objective + shift,
        best=factor * tasks.best + shift,
        worst=factor * tasks.worst + shift,
    )
    known = shared()
    there = known._replace(lower=factor * known.lower + shift, span=factor * known.span)
    order = played(shaken(), tasks, some_keys(), 1.0).action
    before = played(shaken(), tasks, some_keys(), 0.0, order, known=known, beliefs=beliefs)
    after = played(shaken(), moved, some_keys(), 0.0, order, known=there, beliefs=beliefs)
    valid = np.asarray(before.valid)
    for name in ("context", "features", "value"):
        one, other = (np.asarray(getattr(record.kept, name))[valid] for record in (before, after))
        np.testing.assert_allclose(other, one, atol=0.05, err_msg=name)


def test_playing_is_traced_once() -> None:
    """Other tasks, parameters, keys and exploration rates are values of one compiled program."""
    played(shaken(), some_tasks(), some_keys(), 0.5)
    before = len(TRACES)
    for seed in range(3):
        played(shaken(seed), some_tasks(seed), some_keys(seed), 0.1 * seed)
    assert len(TRACES) == before
