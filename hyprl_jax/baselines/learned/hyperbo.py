"""HyperBO: a Gaussian process whose mean and kernel were trained before (Wang, Dahl, Swersky, Lee, Nado,
Gilmer, Snoek and Ghahramani, "Pre-trained Gaussian processes for Bayesian optimization", arXiv 2109.08215).

The mean function and a Matern kernel on the outputs of a network, with its amplitude and noise, are trained
by the mean negative log-likelihood of the known tasks (their objective NLL; each step draws some values of
some tasks). The prior is then taken as it is: only results update it, nothing is fitted again while playing.
The acquisition function is the paper's, probability of improvement over 0.1 above the best value, on the
predictive distribution of a noisy result.

The paper's objectives share a unit. Here the known tasks are in units of their ranges, and the range of the
task being played is inferred (`process.infer_units`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines.baseline import PLAIN, Baseline
from hyprl_jax.baselines.learned import meta, perceptron, players, process
from hyprl_jax.baselines.learned.meta import Batch, KnownTasks, Ranges
from hyprl_jax.baselines.learned.perceptron import Layers
from hyprl_jax.baselines.learned.players import ProcessMemory
from hyprl_jax.baselines.learned.process import Hypotheses, Posterior, Prior
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background

MARGIN = 0.1
"""How far above the best value an improvement has to lie, in units of the task's range."""
_WIDTH, _FEATURES = 32, 8
_STEPS, _RATE = 300, 0.01
_TASKS, _VALUES = 16, 32  # of a batch
_LEAST_NOISE = 1e-5


class Pretrained(NamedTuple):
    """Parameters of mean, kernel and noise."""

    mean: Layers
    features: Layers
    log_amplitude: jax.Array
    log_noise: jax.Array


def prepare(bank: SurfaceBank, fold: Fold, config: EnvConfig) -> tuple[Pretrained, Ranges]:
    """Parameters and ranges from the known tasks of each collection, leaves `[L, ...]`."""
    del config
    return meta.each_collection(lambda known, ranges: (pretrain(known), ranges), bank, fold)


def pretrain(known: KnownTasks, steps: int = _STEPS) -> Pretrained:
    """Parameters after `steps` steps of training."""

    def loss(parameters: Pretrained, key: jax.Array) -> jax.Array:
        return surprise(parameters, known, meta.draw_batch(key, known, _TASKS, _VALUES))

    return meta.train(loss, begin(known.encodings.shape[1]), steps, _RATE)


def begin(inputs: int) -> Pretrained:
    """Untrained parameters for `inputs` encoding features."""
    mean_key, feature_key = jax.random.split(jax.random.key(0))
    return Pretrained(
        perceptron.init_layers(mean_key, (inputs, _WIDTH, 1)),
        perceptron.init_layers(feature_key, (inputs, _WIDTH, _WIDTH, _FEATURES)),
        jnp.log(jnp.float32(0.05)),
        jnp.log(jnp.float32(0.005)),
    )


def surprise(parameters: Pretrained, known: KnownTasks, batch: Batch) -> jax.Array:
    """Negative log-likelihood of a batch, a value, mean over tasks."""
    mean, features = mean_and_features(parameters, known.encodings)
    noise = jnp.exp(parameters.log_noise) + _LEAST_NOISE

    def one(columns: jax.Array, values: jax.Array, present: jax.Array) -> jax.Array:
        places = features[columns]
        covariance = jnp.exp(parameters.log_amplitude) * process.matern(places, places)
        return process.surprise(values - mean[columns], covariance, noise, present)

    return batch.weights @ jax.vmap(one)(batch.columns, batch.values, batch.present)


def mean_and_features(parameters: Pretrained, encodings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Prior mean `[N]` and features `[N, D]` of the candidates `encodings [N, F]`."""
    inputs = perceptron.centred(encodings)
    mean = perceptron.apply_layers(parameters.mean, inputs)[:, 0] + 0.5
    return mean, perceptron.apply_layers(parameters.features, inputs)


def make_prior(parameters: Pretrained, ranges: Ranges, encodings: jax.Array) -> Prior:
    """The prior over the candidates `encodings [N, F]`, one hypothesis."""
    mean, features = mean_and_features(parameters, encodings)
    amplitude, noise = jnp.exp(parameters.log_amplitude), jnp.exp(parameters.log_noise) + _LEAST_NOISE
    return Prior(mean, jnp.ones_like(mean), features, Hypotheses(amplitude[None], noise[None]), ranges)


def memory(
    shared: Background, task: Task, config: EnvConfig, prepared: tuple[Pretrained, Ranges]
) -> ProcessMemory:
    """The memory before the first trial."""
    parameters, ranges = meta.of_collection(prepared, task.collection)
    encodings = meta.of_collection(shared.encodings, task.collection)
    prior = make_prior(parameters, ranges, encodings)
    return players.begin_memory(prior, jnp.full(1, -1, jnp.int32), config)


def probability_of_improvement(posterior: Posterior, prior: Prior) -> jax.Array:
    """`[1, N]` standardised gap to `MARGIN` above the incumbent, which orders candidates as the probability
    of improvement does and does not underflow."""
    deviation = jnp.sqrt(posterior.deviation**2 + prior.hypotheses.noise[:, None])
    return (posterior.mean - posterior.incumbent[:, None] - MARGIN) / deviation


HYPERBO = Baseline(
    players.process_player(process.matern_row, probability_of_improvement),
    memory,
    stochastic=False,
    beliefs=PLAIN,
    prepare=prepare,
)
"""The baseline `hyperbo`."""
