"""One update of the Q-learner: play a batch of whole episodes on synthetic tasks, make targets, fit the
network.

Episodes start from a zero carry and are played to the end, so there is no burn-in, no stored recurrent state
and no bootstrap past the end. The fit needs of each step only what the chosen candidate looked like
(`players.Kept`), because the value of a state, a maximum over all candidates, is already known from playing:
the gradient pass costs one candidate a step instead of all.

The default target is Peng's Q(lambda) without replay or target network (PQN, Gallici et al. 2024). Rewards
may be shaped by a task-wise potential: with `Phi(t)` the mean return-to-go of the plays of a task after t
trials,
`r'_t = r_t + gamma Phi(t + 1) - Phi(t)` (Ng, Harada and Russell 1999) has the same optimal policy, but does
not ask the network to tell hard tasks from easy ones.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyprl_jax import augment, ordering, players, replay, returns, rollout
from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.config import LearnerConfig, TrainConfig
from hyprl_jax.env import Task
from hyprl_jax.errors import InputError
from hyprl_jax.explore import SCHEDULES
from hyprl_jax.knowledge import Numbers
from hyprl_jax.mesh import ALONE, Sharing
from hyprl_jax.networks import SIZE_HEADS, CandidateInputs, FlaxNetwork, Params
from hyprl_jax.pieces import gradients_of
from hyprl_jax.players import Kept
from hyprl_jax.rollout import CONTEXT_FEATURES, Record
from hyprl_jax.surrogate import CANDIDATE_FEATURES


class LearnerState(NamedTuple):
    """Everything that learning carries from one update to the next."""

    params: Params
    average: Params
    """Moving average of the parameters: the policy that is evaluated and kept."""
    target: Params | None
    optimizer: Any
    replay: Any
    key: jax.Array
    updates: jax.Array
    """int32: updates done."""


class Batch(NamedTuple):
    """Episodes to fit, `[E, ...]`."""

    kept: Kept
    metafeatures: jax.Array
    targets: jax.Array
    """`[E, T]`"""
    valid: jax.Array
    """`[E, T]` bool."""
    weights: jax.Array
    """`[E]` importance weights."""
    merits: jax.Array | None
    """`[E, T]` advantages of the choices, if the order is learned from them."""


class Stored(NamedTuple):
    """An episode as the replay buffer keeps it: enough to look at it again with other parameters."""

    task: Task
    actions: jax.Array
    columns: jax.Array


def make_optimizer(config: LearnerConfig) -> optax.GradientTransformation:
    """The optax optimizer of a configuration, with clipping, warm-up and decay over the run's gradient
    steps."""
    total = config.updates * config.epochs * config.minibatches
    warmup = min(config.warmup, max(total - 1, 0))
    shapes = {
        "constant": optax.constant_schedule(config.learning_rate),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, max(total - warmup, 1)),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, max(total - warmup, 1), 0.02),
    }
    ramp = optax.linear_schedule(0.0, config.learning_rate, max(warmup, 1))
    rate = optax.join_schedules([ramp, shapes[config.decay]], [warmup])
    kinds = {
        "adam": lambda: optax.adam(rate, eps=1e-5),
        "adamw": lambda: optax.adamw(rate, eps=1e-5, weight_decay=config.weight_decay),
        "rmsprop": lambda: optax.rmsprop(rate, momentum=0.95, eps=0.01),
        "sgd": lambda: optax.sgd(rate, momentum=0.9),
    }
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), kinds[config.optimizer]())


def candidate_width(bank: SurfaceBank, config: TrainConfig) -> int:
    """Number of inputs that the network's head sees of a candidate; with the head `fixed`, that the network
    reads of the previous one: its encoding and its result."""
    if config.network.head == "fixed":
        return bank.encodings.shape[-1] + 1
    widths = {"surrogate": len(CANDIDATE_FEATURES), "encodings": bank.encodings.shape[-1]}
    widths["both"] = sum(widths.values())
    return widths[config.network.candidates]


def init(key: jax.Array, bank: SurfaceBank, fold: Fold, config: TrainConfig) -> LearnerState:
    """The state before the first update.

    Raises InputError if the head `fixed` has not one output for each configuration.
    """
    _check_outputs(bank, config)
    network = FlaxNetwork(config.network)
    own, start = jax.random.split(key)
    width = candidate_width(bank, config)
    params = network.init(start, bank.metafeatures.shape[1], len(CONTEXT_FEATURES), width)
    learner = config.learner
    buffer = None
    if learner.replay != "none":
        example = jax.eval_shape(lambda k: _example(k, bank, fold, config), start)
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), example)
        buffer = replay.init(example, learner.replay_capacity)
    return LearnerState(
        params=params,
        average=jax.tree.map(jnp.copy, params),
        target=jax.tree.map(jnp.copy, params) if learner.target_period else None,
        optimizer=make_optimizer(learner).init(params),
        replay=buffer,
        key=own,
        updates=jnp.int32(0),
    )


def _check_outputs(bank: SurfaceBank, config: TrainConfig) -> None:
    outputs, configurations = config.network.outputs, bank.legal.shape[1]
    if config.network.head == "fixed" and outputs != configurations:
        raise InputError(
            f"the fixed head has {outputs} outputs and the collection {configurations} configurations: "
            f"set network.outputs to {configurations}"
        )


def update(
    state: LearnerState, bank: SurfaceBank, fold: Fold, config: TrainConfig, numbers: Numbers,
    sharing: Sharing = ALONE,
) -> tuple[LearnerState, dict[str, jax.Array]]:  # fmt: skip
    """One update, with the surrogate's `numbers [L, ...]`, on the devices that `sharing` says; metrics are
    float32 scalars."""
    learner = config.learner
    key, play_key, fit_key, replay_key = jax.random.split(state.key, 4)
    task_key, column_key, episode_key = jax.random.split(play_key, 3)
    columns = augment.draw_columns(column_key, bank.legal.shape[1], config.augment.candidates)
    offered = banks.take_candidates(bank, columns, sharing)
    tasks = draw_tasks(task_key, offered, fold, config)
    epsilon = _epsilon(state.updates, learner)
    play = partial(_play, state, offered, fold, epsilon=epsilon, config=config, numbers=numbers)
    record = sharing.over_episodes(play, tasks, jax.random.split(episode_key, learner.episodes))
    batch = make_batch(record, tasks, config)
    metrics = {
        "regret_behaviour": _mean(record.regret, record.valid),
        "epsilon": epsilon,
        "return": jnp.mean(jnp.sum(jnp.where(record.valid, record.reward, 0.0), axis=1)),
        "value": _mean(record.kept.value, record.valid),
    }
    buffer, sampled = state.replay, None
    if learner.replay != "none":
        stored = Stored(tasks, record.action, jnp.broadcast_to(columns, (learner.episodes, columns.shape[0])))
        buffer = replay.add(buffer, stored)
        batch, sampled = _from_replay(state, buffer, bank, fold, replay_key, config, numbers, sharing)
    params, optimizer, loss, errors = fit(state, batch, fit_key, config, sharing)
    if learner.replay == "prioritised" and sampled is not None:
        buffer = replay.update_priorities(buffer, sampled, errors)
    updates = state.updates + 1
    average = jax.tree.map(
        lambda a, p: learner.average * a + (1.0 - learner.average) * p, state.average, params
    )
    target = state.target
    if learner.target_period:
        copy = updates % learner.target_period == 0
        target = jax.tree.map(lambda t, p: jnp.where(copy, p, t), target, params)
    return LearnerState(params, average, target, optimizer, buffer, key, updates), {**metrics, "loss": loss}


def draw_tasks(key: jax.Array, offered: SurfaceBank, fold: Fold, config: TrainConfig) -> Task:
    """Synthetic tasks `[E, ...]` over the columns of `offered`, each drawn one repeated for its `plays`."""
    learner = config.learner
    metafeatures = banks.standardised_metafeatures(offered, fold)
    make = partial(
        augment.synthetic_task, bank=offered, fold=fold, metafeatures=metafeatures, config=config.augment,
        leave_out=config.surrogate.leave_out,
    )  # fmt: skip
    drawn = jax.vmap(make)(jax.random.split(key, learner.episodes // learner.plays))
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, learner.plays, axis=0), drawn)


def make_batch(record: Record, tasks: Task, config: TrainConfig) -> Batch:
    """Targets for the played episodes `[E, T]`."""
    learner = config.learner
    rewards = jnp.where(record.valid, record.reward, 0.0) * learner.reward_scale
    discounts = jnp.where(record.over, 0.0, learner.gamma)
    if learner.baseline:
        rewards = shaped_rewards(rewards, discounts, record.valid, learner)
    following = jnp.concatenate([record.kept.value[:, 1:], jnp.zeros_like(record.kept.value[:, :1])], axis=1)
    if learner.target == "lambda":
        targets = jax.vmap(lambda r, d, v, ok: returns.lambda_returns(r, d, v, learner.lambda_, valid=ok))(
            rewards, discounts, following, record.valid
        )
    else:
        targets = jax.vmap(lambda r, d, v, ok: returns.n_step_returns(r, d, v, learner.n_step, valid=ok))(
            rewards, discounts, following, record.valid
        )
    ones, merits = jnp.ones(targets.shape[0], jnp.float32), None
    if learner.ordering == "policy_gradient":
        merits = ordering.advantages(
            record.reward, record.regret, record.over, record.valid, learner.plays, learner.gamma
        )
    return Batch(record.kept, tasks.metafeatures, jax.lax.stop_gradient(targets), record.valid, ones, merits)


def shaped_rewards(
    rewards: jax.Array, discounts: jax.Array, valid: jax.Array, config: LearnerConfig
) -> jax.Array:
    """Rewards `[E, T]` shaped by the task-wise potential; consecutive `plays` episodes are of one task."""

    def to_go(reward: jax.Array, discount: jax.Array, ok: jax.Array) -> jax.Array:
        return returns.lambda_returns(reward, discount, jnp.zeros_like(reward), 1.0, valid=ok)

    grouped = jax.vmap(to_go)(rewards, discounts, valid).reshape(-1, config.plays, rewards.shape[1])
    potential = jnp.repeat(grouped.mean(axis=1), config.plays, axis=0)
    after = jnp.concatenate([potential[:, 1:], jnp.zeros_like(potential[:, :1])], axis=1)
    return rewards + discounts * after - potential


def fit(
    state: LearnerState, batch: Batch, key: jax.Array, config: TrainConfig, sharing: Sharing = ALONE
) -> tuple[Params, Any, jax.Array, jax.Array]:
    """Epochs of minibatches over `batch`: new parameters, optimizer state, mean loss, and the mean absolute
    error of each episode `[E]` in the last epoch."""
    learner = config.learner
    network, optimizer = FlaxNetwork(config.network), make_optimizer(config.learner)
    episodes = batch.targets.shape[0]

    def minibatch(carry: tuple, rows: jax.Array) -> tuple[tuple, tuple]:
        params, optimizer_state = carry
        own = sharing.part_of(rows)
        part = jax.tree.map(lambda leaf: leaf[own], batch)
        (loss, errors), gradients = gradients_of(partial(loss_function, network, learner), params, part)
        # Means over valid steps, of which every device has a number of its own.
        loss, gradients = sharing.mean((loss, gradients), part.valid.sum())
        errors = sharing.gathered(errors)
        changes, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return (optax.apply_updates(params, changes), optimizer_state), (loss, errors)

    orders = jax.vmap(lambda k: jax.random.permutation(k, episodes))(jax.random.split(key, learner.epochs))
    rows = orders.reshape(learner.epochs * learner.minibatches, -1)
    (params, optimizer_state), (losses, errors) = jax.lax.scan(
        minibatch, (state.params, state.optimizer), rows
    )
    last = errors.reshape(learner.epochs, -1)[-1]
    by_episode = jnp.zeros(episodes, jnp.float32).at[orders[-1]].set(last)
    return params, optimizer_state, losses.mean(), by_episode


def loss_function(
    network: FlaxNetwork, config: LearnerConfig, params: Params, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """The loss, and the mean absolute error of the Q-values of each episode `[E]`.

    The loss is the mean Huber loss of Q-values over valid steps. With `ordering` `policy_gradient` it teaches
    only the size of Q-values (`SIZE_HEADS`); the clipped policy gradient is added and teaches the rest.
    """
    hidden = network.contexts(params, batch.metafeatures, batch.kept.context)
    chosen = CandidateInputs(batch.kept.features[:, :, None], batch.kept.start[:, :, None], batch.kept.top)
    apart = batch.merits is not None
    sizing = _only(params, SIZE_HEADS) if apart else params
    q = network.values(sizing, jax.lax.stop_gradient(hidden) if apart else hidden, chosen)
    errors = jnp.where(batch.valid, q[..., 0] - batch.targets, 0.0)
    weights = batch.weights[:, None] * batch.valid
    loss = jnp.sum(weights * optax.huber_loss(errors, delta=config.huber)) / jnp.maximum(batch.valid.sum(), 1)
    if batch.merits is not None and (listed := batch.kept.listed) is not None:
        inputs = CandidateInputs(listed.features, listed.start, batch.kept.top)
        preferences = network.preferences(params, hidden, inputs)
        every = ordering.log_probabilities(preferences, listed.legal, config.temperature)
        new = jnp.take_along_axis(every, listed.place[..., None], axis=-1)[..., 0]
        loss += ordering.clipped_loss(
            new, listed.log_probability, batch.merits, batch.valid, config.ratio_clip
        )
    return loss, jnp.abs(errors).sum(1) / jnp.maximum(batch.valid.sum(1), 1)


def _only(params: Params, names: tuple[str, ...]) -> Params:
    """`params`, through which gradients reach only those called `names`."""
    return {name: part if name in names else jax.lax.stop_gradient(part) for name, part in params.items()}


def _play(
    state: LearnerState,
    offered: SurfaceBank,
    fold: Fold,
    tasks: Task,
    keys: jax.Array,
    epsilon: jax.Array | float,
    config: TrainConfig,
    numbers: Numbers,
    forced: jax.Array | None = None,
) -> Record:
    """Plays `tasks [E, ...]` with the current parameters (`forced [E, T]`: with given actions)."""
    network, learner = FlaxNetwork(config.network), config.learner
    temperature = learner.temperature if learner.ordering == "policy_gradient" else None
    shared, candidates = rollout.background(offered, fold, numbers), offered.legal.shape[1]
    luck_of = None if temperature is None else players.gumbel_noise(config.network, candidates)

    def one(task: Task, episode_key: jax.Array, actions: Any) -> Record:
        act = players.q_player(
            network, config.network, state.params, epsilon, target=state.target,
            double=learner.double, exploration=learner.exploration, forced=actions, temperature=temperature,
        )  # fmt: skip
        memory = players.q_memory(network, state.params, state.target, task)
        return rollout.play(act, memory, shared, task, episode_key, config.env, config.surrogate, luck_of)

    return rollout.over_episodes(one, tasks, keys, forced, candidates=candidates)


def _from_replay(
    state: LearnerState,
    buffer: Any,
    bank: SurfaceBank,
    fold: Fold,
    key: jax.Array,
    config: TrainConfig,
    numbers: Numbers,
    sharing: Sharing,
) -> tuple[Batch, jax.Array]:
    """A batch of stored episodes seen with the current parameters, and their places in the buffer `[E]`.

    Stored episodes were played over different candidates, so each is looked at with its own columns.
    """
    learner = config.learner
    pick_key, play_key = jax.random.split(key)
    if learner.replay == "prioritised":
        places, weights = replay.sample_prioritised(
            buffer, pick_key, learner.episodes, learner.replay_alpha, learner.replay_beta
        )
    else:
        places = replay.sample_uniform(buffer, pick_key, learner.episodes)
        weights = jnp.ones(learner.episodes, jnp.float32)
    stored: Stored = replay.take(buffer, places)

    def again(task: Task, actions: jax.Array, columns: jax.Array, episode_key: jax.Array) -> Record:
        offered = banks.take_candidates(bank, columns)
        one = jax.tree.map(lambda leaf: leaf[None], task)
        keys = jax.random.split(episode_key, 1)
        record = _play(state, offered, fold, one, keys, 0.0, config, numbers, actions[None])
        return jax.tree.map(lambda leaf: leaf[0], record)

    keys = jax.random.split(play_key, learner.episodes)
    record = sharing.over_episodes(jax.vmap(again), stored.task, stored.actions, stored.columns, keys)
    # Sampled episodes are of different tasks: there are no plays of one task to take a baseline from.
    plain = make_batch(record, stored.task, _without_baseline(config))
    return plain._replace(weights=weights), places


def _without_baseline(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, learner=dataclasses.replace(config.learner, baseline=False))


def _example(key: jax.Array, bank: SurfaceBank, fold: Fold, config: TrainConfig) -> Stored:
    """One stored episode, for its shapes."""
    columns = augment.draw_columns(key, bank.legal.shape[1], config.augment.candidates)
    tasks = draw_tasks(key, banks.take_candidates(bank, columns), fold, config)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    return Stored(task, jnp.zeros(config.env.trials, jnp.int32), columns)


def _epsilon(updates: jax.Array, config: LearnerConfig) -> jax.Array:
    steps = config.epsilon_fraction * config.updates
    return SCHEDULES[config.epsilon_schedule](updates, config.epsilon_start, config.epsilon_end, steps)


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(valid.sum(), 1)
