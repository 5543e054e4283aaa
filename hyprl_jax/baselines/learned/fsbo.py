"""FSBO: few-shot Bayesian optimization with a deep kernel (Wistuba and Grabocka, "Few-Shot Bayesian
Optimization with Deep Kernel Surrogates", ICLR 2021).

A Gaussian process with a kernel on the outputs of a network is trained by the marginal likelihood of batches
of the known tasks (their Algorithm 1). So that it does not depend on the range of the objective, which is
unknown for a new task, each batch's labels are scaled anew: two numbers l < u are drawn between a task's worst
and best and the labels become `(y - l) / (u - l)` (their task augmentation). The first configurations of a
new task are those that together serve the known tasks best (`initial.warm_start`), and from then on the
history, scaled to lie between 0 and 1, is all that is known of its range. Expected improvement chooses.

The paper adapts network and kernel to the history by gradient steps after every trial. Here the network stays
as it is and only what a short history can tell is adapted, the kernel's amplitude and the noise: hypotheses
around the trained values are weighted by their evidence. That costs one row of a Cholesky factor a trial.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines.baseline import Baseline
from hyprl_jax.baselines.learned import initial, meta, perceptron, players, process
from hyprl_jax.baselines.learned.meta import Batch, KnownTasks, Ranges
from hyprl_jax.baselines.learned.perceptron import Layers
from hyprl_jax.baselines.learned.players import ProcessMemory
from hyprl_jax.baselines.learned.process import Hypotheses, Prior
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background

STARTS = 5
"""Configurations of the warm start."""
_WIDTH, _FEATURES = 32, 16
_STEPS, _RATE = 300, 0.01
_TASKS, _VALUES = 16, 32  # of a batch
_LEAST_NOISE = 1e-4
_LEAST_RANGE = 0.2  # of the drawn range, in units of a task's own
_NOISES = (0.1, 1.0)  # factors on the trained noise
_LENGTHSCALES = (0.4, 0.7, 1.0, 1.5)  # factors on the trained lengthscale


class DeepKernel(NamedTuple):
    """Parameters of the process."""

    layers: Layers
    mean: jax.Array
    """Scalar: the constant prior mean."""
    log_amplitude: jax.Array
    log_noise: jax.Array


class Prepared(NamedTuple):
    """What every new task starts from."""

    kernel: DeepKernel
    ranges: Ranges
    starts: jax.Array
    """`[STARTS]` int32."""


def prepare(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> Prepared:
    """Kernel and warm start from the known tasks of each collection, leaves `[L, ...]`."""
    del config

    def one(known: KnownTasks, ranges: Ranges) -> Prepared:
        return Prepared(pretrain(known), ranges, initial.warm_start(known, STARTS))

    return meta.each_collection(one, bank, fold)


def pretrain(known: KnownTasks, steps: int = _STEPS) -> DeepKernel:
    """Parameters after `steps` steps of training."""

    def loss(kernel: DeepKernel, key: jax.Array) -> jax.Array:
        draw_key, label_key = jax.random.split(key)
        batch = meta.draw_batch(draw_key, known, _TASKS, _VALUES)
        return surprise(kernel, known.encodings, rescaled(label_key, batch))

    return meta.train(loss, begin(known.encodings.shape[1]), steps, _RATE)


def begin(inputs: int) -> DeepKernel:
    """Untrained parameters for `inputs` encoding features."""
    layers = perceptron.init_layers(jax.random.key(0), (inputs, _WIDTH, _WIDTH, _FEATURES))
    return DeepKernel(layers, jnp.float32(0.5), jnp.log(jnp.float32(0.5)), jnp.log(jnp.float32(0.01)))


def rescaled(key: jax.Array, batch: Batch) -> Batch:
    """The batch with labels `(y - l) / (u - l)`, `l < u` drawn uniformly for each task between its worst and
    best value and at least `_LEAST_RANGE` apart (section 4.2, task augmentation)."""
    ends = jnp.sort(jax.random.uniform(key, (batch.values.shape[0], 2)), axis=1)
    width = jnp.maximum(ends[:, 1] - ends[:, 0], _LEAST_RANGE)
    values = (batch.values - ends[:, :1]) / width[:, None]
    return batch._replace(values=values * batch.present)


def surprise(kernel: DeepKernel, encodings: jax.Array, batch: Batch) -> jax.Array:
    """Negative log marginal likelihood of a batch, a value, mean over tasks (their eq. 6 and 7)."""
    features = feature_map(kernel, encodings)
    noise = jnp.exp(kernel.log_noise) + _LEAST_NOISE

    def one(columns: jax.Array, values: jax.Array, present: jax.Array) -> jax.Array:
        places = features[columns]
        covariance = jnp.exp(kernel.log_amplitude) * process.matern(places, places)
        return process.surprise(values - kernel.mean, covariance, noise, present)

    return batch.weights @ jax.vmap(one)(batch.columns, batch.values, batch.present)


def feature_map(kernel: DeepKernel, encodings: jax.Array) -> jax.Array:
    """`[N, D]` features of the candidates `encodings [N, F]`."""
    return perceptron.apply_layers(kernel.layers, perceptron.centred(encodings))


def make_prior(kernel: DeepKernel, ranges: Ranges, encodings: jax.Array) -> Prior:
    """The prior over the candidates `encodings [N, F]`, a hypothesis for each pair of factors."""
    features = feature_map(kernel, encodings)
    pairs = jnp.asarray([(noise, scale) for noise in _NOISES for scale in _LENGTHSCALES], jnp.float32)
    amplitude = jnp.full(pairs.shape[0], jnp.exp(kernel.log_amplitude))
    noise = (jnp.exp(kernel.log_noise) + _LEAST_NOISE) * pairs[:, 0]
    mean = jnp.full(features.shape[0], kernel.mean)
    return Prior(mean, jnp.ones_like(mean), features, Hypotheses(amplitude, noise, pairs[:, 1]), ranges)


def memory(shared: Background, task: Task, config: EnvConfig, prepared: Prepared) -> ProcessMemory:
    """The memory before the first trial."""
    mine = meta.of_collection(prepared, task.collection)
    encodings = meta.of_collection(shared.encodings, task.collection)
    return players.begin_memory(make_prior(mine.kernel, mine.ranges, encodings), mine.starts, config)


FSBO = Baseline(
    players.process_player(process.matern_row, players.of_history, players.expected_improvement),
    memory,
    stochastic=False,
    beliefs=SurrogateConfig(),
    prepare=prepare,
)
"""The baseline `fsbo`."""
