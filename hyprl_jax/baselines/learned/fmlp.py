"""F-MLP: a factorized multilayer perceptron (Schilling, Wistuba, Drumond and Schmidt-Thieme, "Hyperparameter
Optimization with Factorized Multilayer Perceptrons", ECML PKDD 2015).

One network predicts the objective of any configuration on any dataset. Its inputs are the hyperparameters and
an indicator of the dataset, and every unit of its first layer is a factorization machine over all inputs: a
linear part and all products of two inputs, whose weights are inner products of latent vectors. Written out
for an indicator, a dataset has an *embedding*: a bias and a latent vector for each hidden unit, and the
latter is multiplied with the latent image of the hyperparameters.

The network and the embeddings of the known datasets are learned together, by Adam on the squared error. While
playing, training goes on for the new dataset: after every trial its embedding, which starts from the known
ones' distribution, and its own copy of the network, held near the shared one, are fitted to the history by a
few gradient steps from where they were. Uncertainty is that of an ensemble, one of the ways the paper
compares. Members differ in their start and in their anchor: each is pulled to a draw from the distribution of
embeddings and weights, which makes the ensemble an approximate posterior (Pearce, Leibfried, Brintrup, Zaki
and Neely 2020). Expected improvement chooses.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyprl_jax import explore, surrogate
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines.baseline import PLAIN, Baseline
from hyprl_jax.baselines.learned import meta, perceptron, process
from hyprl_jax.baselines.learned.meta import KnownTasks, Ranges
from hyprl_jax.baselines.learned.perceptron import Layers
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background, Choice, View

MEMBERS = 6
"""Networks of the ensemble."""
_HIDDEN, _FACTORS = 16, 3
_STEPS, _RATE = 400, 0.02
_COLUMNS = 64  # of a batch; all known tasks are in it
_DECAY = 1e-4  # on the weights, as a penalty
_ADAPTING_STEPS, _ADAPTING_RATE = 12, 0.15  # after every trial
_LEAST_NOISE = 1e-3  # variance
_DRIFT = 0.07  # standard deviation of a task's own weights around the shared ones
_CLOSER = 0.1  # an adapted network may leave this share of the variance that the shared one leaves


class Embedding(NamedTuple):
    """What the first layer knows of a dataset (leading axis `[K]` for K of them)."""

    bias: jax.Array
    """`[H]`"""
    factors: jax.Array
    """`[H, R]`"""


class Network(NamedTuple):
    """Parameters of one member."""

    bias: jax.Array
    """`[H]`"""
    weights: jax.Array
    """`[F, H]` linear part of the factorization machines."""
    factors: jax.Array
    """`[F, H, R]` latent vectors of the hyperparameters."""
    output: Layers
    """From H hidden units to the prediction."""


class Image(NamedTuple):
    """What the first layer makes of configurations before it knows the dataset."""

    own: jax.Array
    """`[N, H]` all terms without the dataset."""
    latent: jax.Array
    """`[N, H, R]` what the dataset's latent vectors are multiplied with."""


class Model(NamedTuple):
    """All that is fitted to a task: its embedding and a network (also: deviations of these)."""

    embedding: Embedding
    network: Network


class Member(NamedTuple):
    """A trained network and what it knows of unknown datasets."""

    centre: Model
    """The network, and the mean embedding of the known datasets."""
    spread: Model
    """Standard deviations, around it, of what an unknown dataset needs."""
    anchor: Model
    """A draw of deviations, in units of `spread`."""
    noise: jax.Array
    """Variance of what an adapted network may leave unexplained."""
    variance: jax.Array
    """`[N]` variance of an unknown dataset's objectives around the prediction for the mean embedding."""


class Prepared(NamedTuple):
    """The trained ensemble."""

    members: Member
    """Leaves `[E, ...]`."""
    ranges: Ranges


class Memory(NamedTuple):
    """What the player remembers; only `deviations` change."""

    prepared: Prepared
    encodings: jax.Array
    """`[N, F]`"""
    deviations: Model
    """Leaves `[E, ...]`: every member's model, in units of `spread` around its `centre`."""


def prepare(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> Prepared:
    """The ensemble for each collection, leaves `[L, ...]`."""
    del config

    def one(known: KnownTasks, ranges: Ranges) -> Prepared:
        def member(key: jax.Array) -> Member:
            network, embeddings = pretrain(key, known)
            return describe(jax.random.fold_in(key, 1), network, embeddings, known)

        return Prepared(jax.vmap(member)(jax.random.split(jax.random.key(0), MEMBERS)), ranges)

    return meta.each_collection(one, bank, fold)


def pretrain(key: jax.Array, known: KnownTasks, steps: int = _STEPS) -> tuple[Network, Embedding]:
    """A network and embeddings `[K, ...]` of the known tasks after `steps` steps of training."""

    def loss(both: tuple[Network, Embedding], step_key: jax.Array) -> jax.Array:
        return error(both[0], both[1], known, step_key)

    start = begin(key, known.encodings.shape[1], known.values.shape[0])
    return meta.train(loss, start, steps, _RATE)


def begin(key: jax.Array, inputs: int, tasks: int) -> tuple[Network, Embedding]:
    """An untrained network for `inputs` encoding features, and embeddings of `tasks` tasks."""
    weight_key, factor_key, output_key, bias_key, latent_key = jax.random.split(key, 5)
    size = 1.0 / jnp.sqrt(jnp.float32(inputs))
    network = Network(
        jnp.zeros(_HIDDEN),
        size * jax.random.normal(weight_key, (inputs, _HIDDEN)),
        size * jax.random.normal(factor_key, (inputs, _HIDDEN, _FACTORS)),
        perceptron.init_layers(output_key, (_HIDDEN, 1)),
    )
    embeddings = Embedding(
        0.3 * jax.random.normal(bias_key, (tasks, _HIDDEN)),
        0.3 * jax.random.normal(latent_key, (tasks, _HIDDEN, _FACTORS)),
    )
    return network, embeddings


def error(network: Network, embeddings: Embedding, known: KnownTasks, key: jax.Array) -> jax.Array:
    """Mean squared error over the measured values of all usable known tasks at some configurations, and a
    penalty on the size of embeddings and latent vectors."""
    size = known.encodings.shape[0]
    columns = jax.random.choice(key, size, (min(_COLUMNS, size),), replace=False)
    image = image_of(network, known.encodings[columns])
    predicted = jax.vmap(lambda embedding: predict(network, image, embedding))(embeddings)
    there = known.present[:, columns] & known.usable[:, None]
    squared = jnp.where(there, (predicted - known.values[:, columns]) ** 2, 0.0)
    penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((network.weights, network.factors)))
    own = [jnp.where(known.usable[:, None], leaf.reshape(leaf.shape[0], -1), 0.0) for leaf in embeddings]
    penalty = penalty + sum(jnp.sum(leaf**2) for leaf in own) / jnp.maximum(known.usable.sum(), 1)
    return squared.sum() / jnp.maximum(there.sum(), 1) + _DECAY * penalty


def image_of(network: Network, encodings: jax.Array) -> Image:
    """The first layer's terms without the dataset, for configurations `encodings [N, F]`: bias, linear part
    and products of two hyperparameters (Rendle 2010, eq. 5: half of the square of the sum less the sum of
    squares)."""
    inputs = perceptron.centred(encodings)
    latent = jnp.einsum("nf,fhr->nhr", inputs, network.factors)
    squares = jnp.einsum("nf,fhr->nh", inputs**2, network.factors**2)
    products = 0.5 * ((latent**2).sum(-1) - squares)
    return Image(network.bias + inputs @ network.weights + products, latent)


def predict(network: Network, image: Image, embedding: Embedding) -> jax.Array:
    """`[N]` predicted objectives, in units of the range, on the dataset of `embedding`."""
    with_dataset = image.own + embedding.bias + jnp.sum(image.latent * embedding.factors, axis=-1)
    return perceptron.apply_layers(network.output, jnp.tanh(with_dataset))[:, 0] + 0.5


def describe(key: jax.Array, network: Network, embeddings: Embedding, known: KnownTasks) -> Member:
    """A member from its network and the embeddings `[K, ...]` of the known tasks."""
    usable = known.usable.astype(jnp.float32)
    count = jnp.maximum(usable.sum(), 1.0)
    mean_over_tasks = lambda leaf: jnp.tensordot(usable, leaf, 1) / count
    middle = jax.tree.map(mean_over_tasks, embeddings)
    around = lambda leaf, mean: jnp.sqrt(mean_over_tasks((leaf - mean) ** 2) + 1e-4)
    centre = Model(middle, network)
    spread = Model(
        jax.tree.map(around, embeddings, middle),
        jax.tree.map(lambda leaf: jnp.full(leaf.shape, _DRIFT), network),
    )
    leaves, structure = jax.tree.flatten(centre)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(one, leaf.shape) for one, leaf in zip(keys, leaves, strict=True)]
    anchor = jax.tree.unflatten(structure, drawn)

    image = image_of(network, known.encodings)
    predicted = jax.vmap(lambda embedding: predict(network, image, embedding))(embeddings)
    there = known.present & known.usable[:, None]
    noise = jnp.sum(jnp.where(there, (predicted - known.values) ** 2, 0.0)) / jnp.maximum(there.sum(), 1)
    variance = mean_over_tasks((predicted - predict(network, image, middle)) ** 2)
    return Member(centre, spread, anchor, _CLOSER * noise + _LEAST_NOISE, variance + noise + _LEAST_NOISE)


def memory(shared: Background, task: Task, config: EnvConfig, prepared: Prepared) -> Memory:
    """The memory before the first trial: every member is at its anchor."""
    del config
    mine = meta.of_collection(prepared, task.collection)
    encodings = meta.of_collection(shared.encodings, task.collection)
    return Memory(mine, encodings, mine.members.anchor)


def believed(member: Member, deviations: Model, encodings: jax.Array) -> jax.Array:
    """`[N]` predictions for configurations `encodings [N, F]` by a model given by its deviations."""
    model = jax.tree.map(
        lambda unit, mean, size: mean + size * unit, deviations, member.centre, member.spread
    )
    return predict(model.network, image_of(model.network, encodings), model.embedding)


def misfit(
    deviations: Model, member: Member, encodings: jax.Array, values: jax.Array, weights: jax.Array
) -> jax.Array:
    """Minus the log-posterior of one member's model, anchored: half the squared errors of `values [T]` at
    `encodings [T, F]`, those with `weights [T]` 1, over the noise, and half the squared distance from the
    anchor."""
    errors = jnp.sum(weights * (believed(member, deviations, encodings) - values) ** 2) / member.noise
    off = jax.tree.map(lambda unit, anchor: jnp.sum((unit - anchor) ** 2), deviations, member.anchor)
    return 0.5 * (errors + sum(jax.tree.leaves(off)))


def adapt(
    deviations: Model, member: Member, encodings: jax.Array, values: jax.Array, weights: jax.Array
) -> Model:
    """One member's deviations after `_ADAPTING_STEPS` steps of Adam on `misfit`."""
    optimizer = optax.adam(optax.cosine_decay_schedule(_ADAPTING_RATE, _ADAPTING_STEPS, 0.1))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        deviations, state = carry
        gradients = jax.grad(misfit)(deviations, member, encodings, values, weights)
        changes, state = optimizer.update(gradients, state)
        return (optax.apply_updates(deviations, changes), state), None

    start = (deviations, optimizer.init(deviations))
    (deviations, _), _ = jax.lax.scan(step, start, None, length=_ADAPTING_STEPS)
    return deviations


def history_units(memory: Memory, view: View) -> process.Units:
    """Scale and shift of the task's raw objectives, from the known tasks' ranges and from what the ensemble
    expects of an unknown task at the tested configurations, as if these were independent."""
    members, state = memory.prepared.members, view.state
    none = jax.tree.map(jnp.zeros_like, memory.deviations)
    tested = memory.encodings[state.actions]
    expected = jax.vmap(believed, in_axes=(0, 0, None))(members, none, tested).mean(0)
    variance = members.variance.mean(0)[state.actions]
    seen = (jnp.arange(state.actions.shape[0]) < state.trial).astype(jnp.float32)
    ranges = memory.prepared.ranges
    facts = jnp.stack([state.objectives - ranges.lower, jnp.ones_like(expected), expected])
    moments = (facts * seen / variance) @ facts.T
    return process.infer_units(moments, jnp.sum(seen * jnp.log(variance)), ranges, state.trial)


def act(memory: Memory, view: View, key: jax.Array) -> tuple[Memory, Choice]:
    """Fits the members to the history and takes the candidate of the largest expected improvement."""
    del key
    members, state, legal = memory.prepared.members, view.state, view.observation.legal
    units = history_units(memory, view)
    values = units.scale * (state.objectives - memory.prepared.ranges.lower) + units.shift
    seen = (jnp.arange(values.shape[0]) < state.trial).astype(jnp.float32)
    tested = memory.encodings[state.actions]

    def one(deviations: Model, member: Member) -> tuple[Model, jax.Array]:
        deviations = adapt(deviations, member, tested, values, seen)
        return deviations, believed(member, deviations, memory.encodings)

    deviations, predicted = jax.vmap(one)(memory.deviations, members)
    mean, deviation = predicted.mean(0), jnp.sqrt(predicted.var(0) + 1e-6)
    incumbent = jnp.max(jnp.where(seen > 0, values, -jnp.inf))
    improvement = surrogate.expected_improvement(mean, deviation, incumbent)
    # Nothing can be improved before the first result: the best prediction is tested first.
    action = explore.masked_argmax(jnp.where(state.trial > 0, improvement, mean), legal)
    return memory._replace(deviations=deviations), Choice(action, None)


FMLP = Baseline(act, memory, stochastic=False, beliefs=PLAIN, prepare=prepare)
"""The baseline `fmlp`."""
