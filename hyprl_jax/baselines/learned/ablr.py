"""ABLR: Bayesian linear regression for each task on features that all tasks share (Perrone, Jenatton, Seeger
and Archambeau, "Scalable Hyperparameter Transfer Learning", NeurIPS 2018).

Task t has `y_t ~ N(Phi w_t, 1 / beta_t)` with `w_t ~ N(0, 1 / alpha_t)` (section 3), where the features Phi
come from a network of three tanh layers that all tasks share; objectives are counted from the mean of the
known tasks. The network and every known task's alpha and beta are learned together by the sum of the tasks'
marginal likelihoods, of which each step takes some tasks and some of their values.

The weights of the task being played are found by the same regression from its history. The network stays as
it is, as in the comparison of Wistuba and Grabocka (2021), and the task's own alpha and beta are not
fitted to a handful of results but averaged: several pairs around those of the known tasks are weighted by
their evidence. Before there is a history all predictions are the same: the first configuration is the one
that is best on average over the known tasks. The acquisition function is expected improvement, as in the
paper.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines.baseline import PLAIN, Baseline
from hyprl_jax.baselines.learned import initial, meta, perceptron, players
from hyprl_jax.baselines.learned.meta import Batch, KnownTasks, Ranges
from hyprl_jax.baselines.learned.perceptron import Layers
from hyprl_jax.baselines.learned.players import ProcessMemory
from hyprl_jax.baselines.learned.process import Hypotheses, Prior
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background

_WIDTH = 50
_STEPS, _RATE = 300, 0.01
_TASKS, _VALUES = 16, 64  # of a batch
_LEAST_NOISE = 1e-5
_NOISES = (-1.0, 0.0, 1.0)  # in standard deviations of the known tasks' log-noises
_AMPLITUDES = (0.1, 1.0)  # factors on that of the known tasks
_LEAST_SPREAD = 0.5  # of log-alpha and log-beta of an unknown task


class Network(NamedTuple):
    """Parameters of features and of every task's regression."""

    layers: Layers
    log_alpha: jax.Array
    """`[K]` precision of each known task's weights."""
    log_beta: jax.Array
    """`[K]` precision of each known task's noise."""


class Prepared(NamedTuple):
    """What a task that nobody has seen starts from."""

    layers: Layers
    mean: jax.Array
    """Scalar: what objectives are counted from."""
    hypotheses: Hypotheses
    """`[G]`: amplitude `1 / alpha` and noise `1 / beta`."""
    ranges: Ranges
    starts: jax.Array
    """`[1]` int32."""


def prepare(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> Prepared:
    """Features, hypotheses and start from the known tasks of each collection, leaves `[L, ...]`."""
    del config

    def one(known: KnownTasks, ranges: Ranges) -> Prepared:
        network = pretrain(known)
        start = initial.best_on_average(known)[None]
        return Prepared(
            network.layers, typical_value(known), hypotheses(network, known.usable), ranges, start
        )

    return meta.each_collection(one, bank, fold)


def pretrain(known: KnownTasks, steps: int = _STEPS) -> Network:
    """Parameters after `steps` steps of training."""

    counted = known._replace(values=known.values - typical_value(known))

    def loss(network: Network, key: jax.Array) -> jax.Array:
        return surprise(network, counted, meta.draw_batch(key, counted, _TASKS, _VALUES))

    return meta.train(loss, begin(known.values.shape[0], known.encodings.shape[1]), steps, _RATE)


def typical_value(known: KnownTasks) -> jax.Array:
    """Mean (scalar) over the usable known tasks of the mean of their measured values."""
    present = known.present.astype(jnp.float32)
    means = (known.values * present).sum(1) / jnp.maximum(present.sum(1), 1.0)
    return jnp.sum(jnp.where(known.usable, means, 0.0)) / jnp.maximum(known.usable.sum(), 1)


def begin(tasks: int, inputs: int) -> Network:
    """Untrained parameters for `tasks` known tasks and `inputs` encoding features."""
    layers = perceptron.init_layers(jax.random.key(0), (inputs, _WIDTH, _WIDTH, _WIDTH))
    return Network(layers, jnp.full(tasks, jnp.log(_WIDTH / 4.0)), jnp.full(tasks, jnp.log(100.0)))


def surprise(network: Network, known: KnownTasks, batch: Batch) -> jax.Array:
    """Negative log marginal likelihood of a batch, a value, mean over tasks."""
    features = feature_map(network.layers, known.encodings)

    def one(task: jax.Array, columns: jax.Array, values: jax.Array, present: jax.Array) -> jax.Array:
        alpha, beta = jnp.exp(network.log_alpha[task]), precision(network.log_beta[task])
        return regression_surprise(features[columns], values, present, alpha, beta)

    return batch.weights @ jax.vmap(one)(batch.tasks, batch.columns, batch.values, batch.present)


def precision(log_beta: jax.Array) -> jax.Array:
    """Precision of the noise, bounded from above."""
    return 1.0 / (jnp.exp(-log_beta) + _LEAST_NOISE)


def feature_map(layers: Layers, encodings: jax.Array) -> jax.Array:
    """`[N, D]` features of the candidates `encodings [N, F]`."""
    return perceptron.apply_layers(layers, perceptron.centred(encodings), last_linear=False)


def regression_surprise(
    features: jax.Array, values: jax.Array, present: jax.Array, alpha: jax.Array, beta: jax.Array
) -> jax.Array:
    """Negative log marginal likelihood, a value, of `values [M]` at `features [M, D]`, of those `present [M]`
    only, by a `D x D` factor: with `K = I + beta / alpha Phi' Phi = L L'` and `e = L^-1 Phi' y` it is `(beta
    |y|^2 - beta^2 / alpha |e|^2 - n log beta + n log 2 pi) / 2 + log det L`."""
    features, values = features * present[:, None], values * present
    ratio = beta / alpha
    factor = jnp.linalg.cholesky(jnp.eye(features.shape[1]) + ratio * features.T @ features)
    projected = jax.scipy.linalg.solve_triangular(factor, features.T @ values, lower=True)
    count = present.sum()
    misfit = beta * (values @ values - ratio * projected @ projected)
    total = 0.5 * (misfit + count * jnp.log(2.0 * jnp.pi / beta)) + jnp.log(jnp.diag(factor)).sum()
    return total / jnp.maximum(count, 1.0)


def hypotheses(network: Network, usable: jax.Array) -> Hypotheses:
    """Pairs of amplitude and noise for an unknown task, around the means of the `usable [K]` known ones."""
    count = jnp.maximum(usable.sum(), 1)
    amplitude = jnp.sum(jnp.where(usable, -network.log_alpha, 0.0)) / count
    logs = -jnp.log(precision(network.log_beta))
    noise = jnp.sum(jnp.where(usable, logs, 0.0)) / count
    spread = jnp.sqrt(jnp.sum(jnp.where(usable, (logs - noise) ** 2, 0.0)) / count + _LEAST_SPREAD**2)
    pairs = jnp.asarray([(a, offset) for a in _AMPLITUDES for offset in _NOISES], jnp.float32)
    return Hypotheses(
        pairs[:, 0] * jnp.exp(amplitude),
        jnp.maximum(jnp.exp(noise + spread * pairs[:, 1]), _LEAST_NOISE),
    )


def make_prior(prepared: Prepared, encodings: jax.Array) -> Prior:
    """The prior over the candidates `encodings [N, F]`: a constant mean and covariance `Phi Phi'`."""
    features = feature_map(prepared.layers, encodings)
    mean = jnp.full(features.shape[0], prepared.mean)
    return Prior(mean, jnp.sum(features**2, axis=1), features, prepared.hypotheses, prepared.ranges)


def memory(shared: Background, task: Task, config: EnvConfig, prepared: Prepared) -> ProcessMemory:
    """The memory before the first trial."""
    mine = meta.of_collection(prepared, task.collection)
    encodings = meta.of_collection(shared.encodings, task.collection)
    return players.begin_memory(make_prior(mine, encodings), mine.starts, config)


def linear_row(features: jax.Array, action: jax.Array) -> jax.Array:
    """`[N]` inner products of candidate `action` with all of `features [N, D]`."""
    return features @ features[action]


ABLR = Baseline(
    players.process_player(linear_row, players.expected_improvement),
    memory,
    stochastic=False,
    beliefs=PLAIN,
    prepare=prepare,
)
"""The baseline `ablr`."""
