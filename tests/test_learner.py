"""The learner: values of probe tasks that are known, targets against loops, every option alive, nothing
leaked."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from itertools import permutations
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from probes import (
    PLAIN,
    make_tables,
    on_device,
    probe_bank,
    probe_config,
    quick_jit,
    random_tasks,
    small_bank,
    split_of,
    tables_of,
    with_learner,
)

from hyprl_jax import bank as banks
from hyprl_jax import fitting, learner, players, rollout
from hyprl_jax.augment import real_task
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import (
    AugmentConfig,
    EnvConfig,
    LearnerConfig,
    NetworkConfig,
    SurrogateConfig,
    TrainConfig,
)
from hyprl_jax.learner import LearnerState
from hyprl_jax.networks import SIZE_HEADS, CandidateInputs, FlaxNetwork, Params
from hyprl_jax.players import Kept
from hyprl_jax.rollout import Record

TINY = TrainConfig(
    env=EnvConfig(trials=3),
    augment=AugmentConfig(candidates=6, forget=0.3),
    network=NetworkConfig(context=4, hidden=4, shortlist=4),
    learner=LearnerConfig(episodes=8, plays=2, minibatches=2, epochs=2, updates=10, warmup=0, average=0.5),
)


@partial(quick_jit, static_argnames=("config", "number"))
def trained(
    state: LearnerState, bank: SurfaceBank, fold: Fold, config: TrainConfig, number: int
) -> tuple[LearnerState, dict[str, jax.Array]]:
    """The state after `number` updates, and all metrics `[number]`, in one program."""
    numbers = fitting.numbers_of(bank, config.surrogate)
    one = lambda state, _: learner.update(state, bank, fold, config, numbers)
    return jax.lax.scan(one, state, None, length=number)


def learned(
    state: LearnerState, bank: SurfaceBank, fold: Fold, config: TrainConfig, number: int
) -> tuple[LearnerState, list[dict[str, jax.Array]]]:
    """The state after `number` calls of one update, and the metrics of each."""
    metrics = []
    for _ in range(number):
        state, one = trained(state, bank, fold, config, 1)
        metrics.append(one)
    return state, metrics


def begun(bank: SurfaceBank, fold: Fold, config: TrainConfig, seed: int = 0) -> LearnerState:
    return learner.init(jax.random.key(seed), bank, fold, config)


@partial(quick_jit, static_argnames="config")
def looked_at(
    params: Any, bank: SurfaceBank, fold: Fold, row: jax.Array, actions: jax.Array, config: TrainConfig
) -> tuple[Record, jax.Array]:
    """Episodes of task `row` with forced `actions [S, T]`, and the Q-values `[S, T]` of those actions."""
    network = FlaxNetwork(config.network)
    shared, task = rollout.background(bank, fold), real_task(bank, fold, metafeatures_of(bank, fold), row)

    def one(forced: jax.Array) -> tuple[Record, jax.Array]:
        act = players.q_player(network, config.network, params, forced=forced)
        memory = players.q_memory(network, params, None, task)
        key = jax.random.key(0)
        record = rollout.play(act, memory, shared, task, key, config.env, config.surrogate)
        return record, chosen_values(network, params, record.kept, task.metafeatures)

    return jax.vmap(one)(actions)


def chosen_values(network: FlaxNetwork, params: Params, kept: Kept, metafeatures: jax.Array) -> jax.Array:
    """Q-values `[T]` of the chosen candidates of one episode, by the contexts of the fit."""
    hidden = network.contexts(params, metafeatures[None], kept.context[None])[0]
    inputs = CandidateInputs(kept.features[:, None], kept.start[:, None], kept.top)
    return jax.vmap(partial(network.values, params))(hidden, inputs)[:, 0]


def metafeatures_of(bank: SurfaceBank, fold: Fold) -> jax.Array:
    return banks.standardised_metafeatures(bank, fold)


# Probe tasks: one question each, and the answer known.

PROBES = {
    # which of four is worth what
    "bandit": ([0.1, 0.9, -0.5, 0.4], EnvConfig(trials=1, reward="raw"), 1.0),
    # the bad configuration first makes the good one an improvement: 0.9 times 1.6 instead of 0.6
    "patience": ([0.6, -1.0], EnvConfig(trials=2, reward="hyprl"), 0.9),
    # three times the same reward, the later ones counting half and a quarter
    "discount": ([1.0, 1.0, 1.0], EnvConfig(trials=3, reward="raw"), 0.5),
}


@pytest.mark.parametrize("name", ["bandit", "patience", pytest.param("discount", marks=pytest.mark.slow)])
def test_probe_tasks_are_solved(name: str) -> None:
    """Learned Q-values are the optimal ones, whatever happened before."""
    objective, env, gamma = PROBES[name]
    config = probe_config({"gamma": gamma}, env=env)
    bank, fold = probe_bank(objective)
    state, metrics = trained(begun(bank, fold, config), bank, fold, config, config.learner.updates)
    assert all(np.isfinite(values).all() for values in metrics.values())
    sequences = list(permutations(range(len(objective)), env.trials))
    record, values = looked_at(
        state.params, bank, fold, jnp.int32(0), jnp.asarray(sequences, jnp.int32), config
    )
    legal = np.ones(len(objective), bool)
    optimal = oracles.optimal_values(np.asarray(objective), legal, env.trials, env.reward, gamma)
    expected = [[optimal[s[:trial]][s[trial]] for trial in range(env.trials)] for s in sequences]
    np.testing.assert_allclose(values, expected, atol=0.12)
    greedy = np.asarray(record.kept.greedy)
    np.testing.assert_allclose(np.asarray(record.kept.value)[greedy], np.asarray(values)[greedy], atol=1e-5)
    first = dict(zip([s[0] for s in sequences], np.asarray(values)[:, 0], strict=True))
    if name != "discount":
        assert max(first, key=first.__getitem__) == max(optimal[()], key=optimal[()].__getitem__)


def wrongly_started() -> tuple[SurfaceBank, Fold]:
    """One task to train on, whose best configuration the only other known task ranks second: so does the
    acquisition function that policies start from."""
    values = np.asarray([[0.3, 1.0, 0.0], [1.0, 0.8, 0.0]])
    tables = tables_of("probe", values, np.eye(3, dtype=np.float32))
    bank, index = banks.pack([tables])
    return on_device(bank), on_device(banks.make_fold(index, [split_of(tables, [0], [1])]))


@pytest.mark.parametrize("candidates", ["surrogate", "both"])
def test_the_policy_gradient_mends_a_wrong_order(candidates: Any) -> None:
    """It makes the better of two candidates likely and then the greedy choice, and leaves the worst alone;
    when nothing is better than anything, nothing is learned."""
    bank, fold = wrongly_started()
    changes = {"ordering": "policy_gradient", "plays": 16, "temperature": 0.5, "updates": 40}
    network = NetworkConfig(context=4, hidden=8, candidates=candidates)
    config = probe_config(changes, network=network, surrogate=SurrogateConfig())
    before = begun(bank, fold, config)
    after, metrics = trained(before, bank, fold, config, 40)
    assert np.asarray(metrics["return"])[-5:].mean() > 0.9 > np.asarray(metrics["return"])[:3].mean()
    actions = jnp.arange(3, dtype=jnp.int32)[:, None]
    for state, best in ((before, 0), (after, 1)):
        record, _ = looked_at(state.params, bank, fold, jnp.int32(0), actions, config)
        assert np.asarray(record.kept.greedy)[:, 0].tolist() == [column == best for column in range(3)]
    flat = bank._replace(unit=bank.unit.at[0].set(1.0))
    idle, _ = trained(before, flat, fold, config, 40)
    record, _ = looked_at(idle.params, bank, fold, jnp.int32(0), actions, config)
    assert np.asarray(record.kept.greedy)[:, 0].tolist() == [True, False, False]


# What teaches what.


def played_batch(config: TrainConfig) -> tuple[Params, learner.Batch]:
    """A batch by shaken parameters, and other parameters to be taught by it."""
    bank, _, fold = small_bank()
    state = begun(bank, fold, config)
    leaves, structure = jax.tree.flatten(state.params)
    random = np.random.default_rng(0)
    move = lambda size: structure.unflatten([leaf + size * random.normal(size=leaf.shape) for leaf in leaves])
    state = state._replace(params=move(0.3))

    @quick_jit
    def play(state: LearnerState) -> learner.Batch:
        tasks = learner.draw_tasks(jax.random.key(1), bank, fold, config)
        numbers = fitting.numbers_of(bank, config.surrogate)
        keys = jax.random.split(jax.random.key(2), config.learner.episodes)
        record = learner._play(state, bank, fold, tasks, keys, 0.0, config, numbers)
        return learner.make_batch(record, tasks, config)

    return jax.tree.map(lambda a, b: a + 0.02 * b, state.params, move(1.0)), play(state)


def test_regression_teaches_the_size_and_the_policy_gradient_the_order() -> None:
    """The heads of size learn from targets alone, just what they would learn by Q-learning; all others from
    advantages alone."""
    config = with_learner(TINY, episodes=16, plays=4)
    params, batch = played_batch(config)
    network = FlaxNetwork(config.network)
    loss = partial(learner.loss_function, network, config.learner)
    gradient = quick_jit(lambda batch: jax.grad(loss, has_aux=True)(params, batch)[0])
    found = gradient(batch)
    assert batch.merits is not None and all(np.any(leaf != 0.0) for leaf in jax.tree.leaves(found))

    def sizes(tree: Params) -> Params:
        return {name: tree[name] for name in SIZE_HEADS}

    def order(tree: Params) -> Params:
        return {name: part for name, part in tree.items() if name not in SIZE_HEADS}

    others = gradient(batch._replace(targets=batch.targets + 1.0))
    chex.assert_trees_all_equal(order(others), order(found))
    assert not np.allclose(others["value"]["bias"], found["value"]["bias"])
    turned = gradient(batch._replace(merits=-batch.merits))
    chex.assert_trees_all_equal(sizes(turned), sizes(found))
    assert not np.allclose(turned["see"]["kernel"], found["see"]["kernel"])
    nothing = gradient(batch._replace(merits=jnp.zeros_like(batch.merits)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(order(nothing)))
    alone = gradient(batch._replace(merits=None))
    chex.assert_trees_all_close(sizes(alone), sizes(found), rtol=1e-4, atol=1e-6)


def test_the_loss_is_that_of_a_loop() -> None:
    """The Huber loss of Q-values and the clipped objective, step by step, with parameters that have moved on
    since the episodes were played."""
    config = with_learner(TINY, episodes=16, plays=4, huber=0.7, ratio_clip=0.1)
    params, batch = played_batch(config)
    network, (episodes, trials) = FlaxNetwork(config.network), batch.targets.shape
    valid = batch.valid.at[3, 1:].set(False)  # one ends early
    batch = batch._replace(valid=valid)
    listed, merits = batch.kept.listed, batch.merits
    assert listed is not None and merits is not None
    huber, gain = 0.0, 0.0
    for episode in range(episodes):
        kept = jax.tree.map(lambda leaf, e=episode: leaf[e], batch.kept)
        values = chosen_values(network, params, kept, batch.metafeatures[episode])
        hidden = network.contexts(params, batch.metafeatures[episode][None], kept.context[None])[0]
        for t in range(trials):
            if not bool(valid[episode, t]):
                continue
            error = abs(float(values[t] - batch.targets[episode, t]))
            huber += 0.5 * error**2 if error < 0.7 else 0.7 * (error - 0.35)
            inputs = CandidateInputs(kept.listed.features[t], kept.listed.start[t], kept.top[t])
            scores = np.asarray(network.preferences(params, hidden[t], inputs), np.float64)
            weights = np.where(kept.listed.legal[t], np.exp(scores / config.learner.temperature), 0.0)
            chance = weights[kept.listed.place[t]] / weights.sum()
            ratio = chance / np.exp(float(kept.listed.log_probability[t]))
            merit = float(merits[episode, t])
            gain += min(ratio * merit, np.clip(ratio, 0.9, 1.1) * merit)
    loss, errors = quick_jit(partial(learner.loss_function, network, config.learner))(params, batch)
    np.testing.assert_allclose(loss, (huber - gain) / int(valid.sum()), rtol=2e-3)
    assert errors.shape == (episodes,)


# Targets and fitting.


def test_values_in_the_fit_are_those_seen_while_playing() -> None:
    bank, _, fold = small_bank()
    network = dataclasses.replace(TINY.network, cell="lstm", metafeatures=True, candidates="both")
    config = dataclasses.replace(TINY, network=network)
    params = begun(bank, fold, config).params
    leaves, structure = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    params = structure.unflatten([leaf + 0.3 * random.normal(size=leaf.shape) for leaf in leaves])
    task = real_task(bank, fold, metafeatures_of(bank, fold), jnp.int32(4))
    shared, flax = rollout.background(bank, fold), FlaxNetwork(network)

    @quick_jit
    def greedy() -> tuple[Record, jax.Array]:
        act, memory = players.q_player(flax, network, params), players.q_memory(flax, params, None, task)
        record = rollout.play(act, memory, shared, task, jax.random.key(0), config.env, config.surrogate)
        return record, chosen_values(flax, params, record.kept, task.metafeatures)

    record, values = greedy()
    assert bool(record.kept.greedy.all()) and np.std(values) > 1e-3
    np.testing.assert_allclose(values, record.kept.value, atol=1e-5)


def random_record(seed: int, episodes: int, trials: int) -> Record:
    """Episodes of different lengths as a player would leave them."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, trials + 1, episodes)
    steps = np.arange(trials)
    valid = steps < lengths[:, None]
    over = steps >= lengths[:, None] - 1
    shape = (episodes, trials)
    draw = lambda: random.normal(size=shape).astype(np.float32)
    wide = np.zeros((*shape, 1), np.float32)
    kept = Kept(wide, wide, start=draw(), top=draw(), value=draw(), greedy=valid, listed=None)
    actions = np.zeros(shape, np.int32)
    return on_device(Record(actions, draw(), draw(), over, valid, draw(), kept))


@pytest.mark.parametrize("target", ["lambda", "n_step"])
def test_targets_are_those_of_a_loop(target: str) -> None:
    """Rewards are scaled, nothing is bootstrapped at the end of an episode, invalid steps do not count."""
    config = with_learner(
        TINY, target=target, baseline=False, gamma=0.8, lambda_=0.6, n_step=2, reward_scale=3.0
    )
    record, tasks = random_record(1, 8, 5), on_device(random_tasks(0, 8, 6, 4))
    batch = quick_jit(learner.make_batch, static_argnames="config")(record, tasks, config=config)
    rewards, values = np.asarray(record.reward) * 3.0, np.asarray(record.kept.value)
    for episode, valid in enumerate(np.asarray(record.valid)):
        length = int(valid.sum())
        for trial in range(length):
            returns = []
            for n in range(1, length - trial + 1):
                end = trial + n
                total = sum(0.8**k * rewards[episode, trial + k] for k in range(n))
                returns.append(total + (0.8**n * values[episode, end] if end < length else 0.0))
            if target == "n_step":
                expected = returns[min(2, len(returns)) - 1]
            else:
                last = len(returns) - 1
                expected = sum(0.4 * 0.6**k * g for k, g in enumerate(returns[:-1])) + 0.6**last * returns[-1]
            np.testing.assert_allclose(batch.targets[episode, trial], expected, atol=1e-4)
    assert np.array_equal(batch.valid, record.valid)


def discounted(rewards: np.ndarray, gamma: float) -> float:
    return float(sum(gamma**k * reward for k, reward in enumerate(rewards)))


def test_shaping_shifts_all_returns_of_a_task_alike() -> None:
    """Potentials telescope: the return of every play of a task changes by the same number, its mean to 0,
    so the best
    play stays the best; nothing passes from one task to another."""
    config = dataclasses.replace(TINY.learner, plays=4, gamma=0.9)
    record = random_record(2, 12, 5)
    rewards = jnp.where(record.valid, record.reward, 0.0)
    discounts = jnp.where(record.over, 0.0, config.gamma)
    shaped = np.asarray(learner.shaped_rewards(rewards, discounts, record.valid, config))
    valid, before = np.asarray(record.valid), np.asarray(rewards)
    change, after = [], []
    for episode in range(12):
        length = valid[episode].sum()
        after.append(discounted(shaped[episode, :length], 0.9))
        change.append(after[-1] - discounted(before[episode, :length], 0.9))
    grouped = np.reshape(change, (3, 4))
    np.testing.assert_allclose(grouped, grouped[:, :1] * np.ones(4), atol=1e-4)
    np.testing.assert_allclose(np.reshape(after, (3, 4)).mean(1), 0.0, atol=1e-4)
    other = rewards.at[4:8].add(7.0)
    moved = np.asarray(learner.shaped_rewards(other, discounts, record.valid, config))
    assert np.array_equal(moved[:4], shaped[:4]) and np.array_equal(moved[8:], shaped[8:])


def test_shaping_leaves_the_best_policy_as_it_is() -> None:
    """With every order of a tiny task as its plays, the order of all returns, from every prefix on, is
    kept."""
    values, trials, gamma = np.array([0.2, 1.0, 0.5]), 3, 0.7
    orders = list(permutations(range(3)))
    found = []
    for order in orders:
        episode = oracles.EpisodeOracle(values, np.ones(3, bool), 1.0, 0.2, trials, "regret", False)
        found.append([episode.step(action)["reward"] for action in order])
    rewards = jnp.asarray(found, jnp.float32)
    over = np.arange(trials) == trials - 1
    discounts = jnp.broadcast_to(jnp.where(over, 0.0, gamma), rewards.shape)
    config = dataclasses.replace(TINY.learner, plays=len(orders), gamma=gamma)
    shaped = np.asarray(learner.shaped_rewards(rewards, discounts, jnp.ones(rewards.shape, bool), config))
    for trial in range(trials):
        before = np.array([discounted(rewards[e, trial:], gamma) for e in range(len(orders))])
        after = np.array([discounted(shaped[e, trial:], gamma) for e in range(len(orders))])
        np.testing.assert_allclose(after - before, (after - before)[0] * np.ones(len(orders)), atol=1e-5)


# Options.

ARMS: dict[str, dict[str, Any]] = {
    "policy gradient": {"learning_rate": 1e-2},
    "policy gradient, double, no baseline": {
        "learning_rate": 1e-2, "target_period": 3, "double": True, "baseline": False, "plays": 4,
    },
    "lambda, baseline": {"learning_rate": 1e-2, "ordering": "q"},
    "n-step, uniform replay, target network": {
        "target": "n_step", "n_step": 2, "replay": "uniform", "replay_capacity": 12, "target_period": 3,
        "optimizer": "rmsprop", "decay": "linear", "epsilon_schedule": "constant", "exploration": "uniform",
        "baseline": False, "plays": 1, "ordering": "q",
    },
    "double, prioritised replay": {
        "target_period": 2, "double": True, "replay": "prioritised", "replay_capacity": 16,
        "optimizer": "adamw", "decay": "constant", "epsilon_schedule": "exponential",
        "ordering": "q",
    },
}  # fmt: skip


@cache
def after_updates(arm: str, updates: int) -> tuple[LearnerState, LearnerState, list[dict[str, jax.Array]]]:
    bank, _, fold = small_bank(missing=0.1)
    config = with_learner(TINY, **ARMS[arm])
    before = begun(bank, fold, config)
    after, metrics = learned(before, bank, fold, config, updates)
    return before, after, metrics


@pytest.mark.parametrize("arm", ARMS)
def test_every_option_learns_something_finite(arm: str) -> None:
    before, after, metrics = after_updates(arm, 4)
    assert int(after.updates) == 4
    assert all(np.isfinite(values).all() for values in jax.tree.leaves(metrics))
    floats = [leaf for leaf in jax.tree.leaves(after.params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(np.isfinite(leaf).all() for leaf in floats)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    ]
    assert all(changed), "an optimizer step moves every parameter"
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


def test_target_networks_are_copied_every_so_many_updates() -> None:
    _, after, _ = after_updates("double, prioritised replay", 4)
    chex.assert_trees_all_equal(after.target, after.params)
    before, after, _ = after_updates("n-step, uniform replay, target network", 4)
    for one in (before, after):
        assert not np.array_equal(jax.tree.leaves(after.target)[0], jax.tree.leaves(one.params)[0])


def test_replay_holds_the_latest_episodes() -> None:
    """12 places for 32 episodes of 8 an update: all filled; priorities are those of the episodes learned
    from."""
    _, after, _ = after_updates("n-step, uniform replay, target network", 4)
    assert int(after.replay.size) == 12 and int(after.replay.position) == 32 % 12
    _, after, _ = after_updates("double, prioritised replay", 4)
    assert int(after.replay.size) == 16 and len(np.unique(after.replay.priorities)) > 2


def test_the_average_moves_half_way_each_update() -> None:
    bank, _, fold = small_bank(missing=0.1)
    config = with_learner(TINY, **ARMS["policy gradient"])
    state = begun(bank, fold, config)
    for _ in range(2):
        after, _ = learned(state, bank, fold, config, 1)
        expected = jax.tree.map(lambda a, p: 0.5 * a + 0.5 * p, state.average, after.params)
        chex.assert_trees_all_close(after.average, expected, atol=1e-6)
        state = after


def test_updates_are_bitwise_functions_of_the_state() -> None:
    """The same state gives the same next one; keys move on; another seed is another run."""
    bank, _, fold = small_bank(missing=0.1)
    config = with_learner(TINY, **ARMS["policy gradient"])
    state = begun(bank, fold, config)
    one, _ = learned(state, bank, fold, config, 1)
    again, _ = learned(state, bank, fold, config, 1)
    chex.assert_trees_all_equal(data(one), data(again))
    assert not np.array_equal(jax.random.key_data(one.key), jax.random.key_data(state.key))
    other, _ = learned(begun(bank, fold, config, seed=1), bank, fold, config, 1)
    assert not np.array_equal(jax.tree.leaves(other.params)[0], jax.tree.leaves(one.params)[0])


def data(state: LearnerState) -> Any:
    """Keys as plain numbers."""
    return state._replace(key=jax.random.key_data(state.key))


@pytest.mark.parametrize("arm", ["policy gradient", "lambda, baseline"])
def test_test_tasks_do_not_reach_the_parameters(arm: str) -> None:
    """Bitwise the same training, whatever the values and metafeatures of the test tasks."""
    table = make_tables("one", 6, 9, missing=0.1)
    config = with_learner(TINY, **ARMS[arm])
    random = np.random.default_rng(0)
    objective, metafeatures = table.objective.copy(), table.metafeatures.copy()
    objective[4:], metafeatures[4:] = random.normal(scale=30, size=(2, 9)), 100.0
    states = []
    for version in (table, dataclasses.replace(table, objective=objective, metafeatures=metafeatures)):
        bank, index = banks.pack([version])
        fold = on_device(banks.make_fold(index, [split_of(version, [0, 1, 2], [3])]))
        bank = on_device(bank)
        states.append(learned(begun(bank, fold, config), bank, fold, config, 4)[0])
    chex.assert_trees_all_equal(*map(data, states))


def test_drawn_tasks_are_repeated_for_their_plays() -> None:
    bank, _, fold = small_bank()
    draw = quick_jit(learner.draw_tasks, static_argnames="config")
    tasks = draw(jax.random.key(0), bank, fold, config=TINY)
    for leaf in jax.tree.leaves(tasks):
        assert leaf.shape[0] == 8
        assert np.array_equal(leaf[0::2], leaf[1::2])
    assert len(np.unique(np.asarray(tasks.objective)[::2, 0])) > 1


@pytest.mark.slow
def test_flat_surfaces_and_single_candidates_are_harmless() -> None:
    """A constant surface of one candidate: nothing to learn, nothing to divide by."""
    bank, fold = probe_bank([0.25])
    config = dataclasses.replace(TINY, augment=PLAIN, surrogate=SurrogateConfig())
    state, metrics = learned(begun(bank, fold, config), bank, fold, config, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))
