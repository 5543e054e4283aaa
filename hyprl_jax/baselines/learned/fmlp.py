"""F-MLP: a factorized multilayer perceptron (Schilling, Wistuba, Drumond and Schmidt-Thieme, "Hyperparameter
Optimization with Factorized Multilayer Perceptrons", ECML PKDD 2015).

One network predicts the objective of any configuration on any dataset. Its inputs are the hyperparameters and
an indicator of the dataset, and every unit of its first layer is a factorization machine over all inputs: a
linear part and all products of two inputs, whose weights are inner products of latent vectors. Written out for
an indicator, a dataset has an *embedding*: a bias and a latent vector for each hidden unit, and the latter is
multiplied with the latent image of the hyperparameters.

The network and the embeddings of the known datasets are learned together, by Adam on the squared error. The
embedding of the task being played starts from the known ones' distribution and is fitted to the history after
every trial, a few gradient steps from where it was; the network itself, which the paper trains on, stays.
Uncertainty is that of an ensemble, one of the ways the paper compares. Members differ in their start
and in their anchor: each pulls its embedding to a draw from the distribution of the known ones, which makes
the ensemble an approximate posterior (Pearce, Leibfried, Brintrup, Zaki and Neely 2020). Expected improvement
chooses.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyprl_jax import explore, surrogate
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines.baseline import Baseline
from hyprl_jax.baselines.learned import meta, perceptron, process
from hyprl_jax.baselines.learned.meta import KnownTasks, Ranges
from hyprl_jax.baselines.learned.perceptron import Layers
from hyprl_jax.config import EnvConfig, SurrogateConfig
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


class Prepared(NamedTuple):
    """The trained ensemble; leaves lead with `[E]` but for the last."""

    networks: Network
    centre: Embedding
    """Mean over the known datasets."""
    spread: Embedding
    """Standard deviation over the known datasets."""
    anchors: Embedding
    """Draws from that distribution in units of its standard deviation."""
    noise: jax.Array
    """Variance of what a network leaves unexplained on the known datasets."""
    variance: jax.Array
    """`[E, N]` variance of the predictions over the known datasets' embeddings."""
    ranges: Ranges


class Memory(NamedTuple):
    """What the player remembers; `prepared` and `images` do not change."""

    prepared: Prepared
    images: Image
    """`[E, N, ...]`"""
    embeddings: Embedding
    """`[E, ...]` in units of the known ones' standard deviation around their mean."""


def prepare(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> Prepared:
    """The ensemble for each collection, leaves `[L, ...]`."""
    del config

    def one(known: KnownTasks, ranges: Ranges) -> Prepared:
        def member(key: jax.Array) -> tuple:
            network, embeddings = pretrain(key, known)
            return network, *_distribution(jax.random.fold_in(key, 1), network, embeddings, known)

        return Prepared(*jax.vmap(member)(jax.random.split(jax.random.key(0), MEMBERS)), ranges)

    return meta.each_collection(one, bank, fold)


def pretrain(key: jax.Array, known: KnownTasks, steps: int = _STEPS) -> tuple[Network, Embedding]:
    """A network and embeddings `[K, ...]` of the known tasks after `steps` steps of training."""
    start = begin(key, known.encodings.shape[1], known.values.shape[0])
    return meta.train(lambda both, step_key: error(*both, known, step_key), start, steps, _RATE)


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


def _distribution(
    key: jax.Array, network: Network, embeddings: Embedding, known: KnownTasks
) -> tuple[Embedding, Embedding, Embedding, jax.Array, jax.Array]:
    """Centre, spread, anchor, noise and variance of one member."""
    usable = known.usable.astype(jnp.float32)
    count = jnp.maximum(usable.sum(), 1.0)
    mean_over_tasks = lambda leaf: jnp.tensordot(usable, leaf, 1) / count
    centre = jax.tree.map(mean_over_tasks, embeddings)
    spread = jax.tree.map(
        lambda leaf, middle: jnp.sqrt(mean_over_tasks((leaf - middle) ** 2) + 1e-4), embeddings, centre
    )
    bias_key, latent_key = jax.random.split(key)
    anchor = Embedding(
        jax.random.normal(bias_key, centre.bias.shape), jax.random.normal(latent_key, centre.factors.shape)
    )
    image = image_of(network, known.encodings)
    predicted = jax.vmap(lambda embedding: predict(network, image, embedding))(embeddings)
    there = known.present & known.usable[:, None]
    noise = jnp.sum(jnp.where(there, (predicted - known.values) ** 2, 0.0)) / jnp.maximum(there.sum(), 1)
    variance = mean_over_tasks((predicted - predict(network, image, centre)) ** 2)
    return centre, spread, anchor, noise + _LEAST_NOISE, variance


def memory(shared: Background, task: Task, config: EnvConfig, prepared: Prepared) -> Memory:
    """The memory before the first trial: every member's embedding is at its anchor."""
    del config
    mine = meta.of_collection(prepared, task.collection)
    encodings = meta.of_collection(shared.encodings, task.collection)
    images = jax.vmap(image_of, in_axes=(0, None))(mine.networks, encodings)
    return Memory(mine, images, mine.anchors)


def embed(prepared: Prepared, units: Embedding) -> Embedding:
    """An embedding given in units of the known ones' standard deviation around their mean."""
    return jax.tree.map(
        lambda unit, middle, size: middle + size * unit, units, prepared.centre, prepared.spread
    )


def misfit(
    units: Embedding, prepared: Prepared, image: Image, values: jax.Array, weights: jax.Array
) -> jax.Array:
    """Minus the log-posterior of one member's embedding, anchored: squared errors of `values [T]` at the
    configurations of `image [T, ...]`, those with `weights [T]` 1, over the noise, and the squared distance
    from the anchor, both halved."""
    predicted = predict(prepared.networks, image, embed(prepared, units))
    errors = 0.5 * jnp.sum(weights * (predicted - values) ** 2) / prepared.noise
    off = jax.tree.map(lambda unit, anchor: jnp.sum((unit - anchor) ** 2), units, prepared.anchors)
    return errors + 0.5 * sum(jax.tree.leaves(off))


def adapt(
    units: Embedding, prepared: Prepared, image: Image, values: jax.Array, weights: jax.Array
) -> Embedding:
    """One member's embedding after `_ADAPTING_STEPS` steps of Adam on `misfit`."""
    optimizer = optax.adam(optax.cosine_decay_schedule(_ADAPTING_RATE, _ADAPTING_STEPS, 0.1))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        units, state = carry
        gradients = jax.grad(misfit)(units, prepared, image, values, weights)
        changes, state = optimizer.update(gradients, state)
        return (optax.apply_updates(units, changes), state), None

    (units, _), _ = jax.lax.scan(step, (units, optimizer.init(units)), None, length=_ADAPTING_STEPS)
    return units


def history_units(memory: Memory, view: View) -> process.Units:
    """Scale and shift of the task's raw objectives, from the known tasks' ranges and from what the ensemble
    expects of an unknown task at the tested configurations, as if these were independent."""
    prepared, state = memory.prepared, view.state
    expected = jax.vmap(predict)(prepared.networks, memory.images, prepared.centre).mean(0)[state.actions]
    variance = prepared.variance.mean(0)[state.actions] + prepared.noise.mean()
    seen = (jnp.arange(state.actions.shape[0]) < state.trial).astype(jnp.float32)
    facts = jnp.stack([state.objectives - prepared.ranges.lower, jnp.ones_like(expected), expected])
    moments = (facts * seen / variance) @ facts.T
    log_determinant = jnp.sum(seen * jnp.log(variance))
    return process.infer_units(moments, log_determinant, prepared.ranges, state.trial)


def act(memory: Memory, view: View, key: jax.Array) -> tuple[Memory, Choice]:
    """Fits the embeddings to the history and takes the candidate of the largest expected improvement."""
    del key
    prepared, state, legal = memory.prepared, view.state, view.observation.legal
    units = history_units(memory, view)
    values = units.scale * (state.objectives - prepared.ranges.lower) + units.shift
    seen = (jnp.arange(values.shape[0]) < state.trial).astype(jnp.float32)

    members = prepared._replace(ranges=None)  # its other leaves lead with the members

    def one(embedding: Embedding, member: Prepared, image: Image) -> tuple[Embedding, jax.Array]:
        tested = jax.tree.map(lambda leaf: leaf[state.actions], image)
        embedding = adapt(embedding, member, tested, values, seen)
        return embedding, predict(member.networks, image, embed(member, embedding))

    embeddings, predicted = jax.vmap(one)(memory.embeddings, members, memory.images)
    mean, deviation = predicted.mean(0), jnp.sqrt(predicted.var(0) + 1e-6)
    first = jnp.max(jnp.where(legal, mean, -jnp.inf), initial=-1e3)
    incumbent = jnp.where(state.trial > 0, jnp.max(jnp.where(seen > 0, values, -jnp.inf)), first)
    improvement = surrogate.expected_improvement(mean, deviation, incumbent)
    action = explore.masked_argmax(improvement, legal)
    return memory._replace(embeddings=embeddings), Choice(action, None)


FMLP = Baseline(act, memory, stochastic=False, beliefs=SurrogateConfig(), prepare=prepare)
"""The baseline `fmlp`."""
