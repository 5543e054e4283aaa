"""FSBO: few-shot Bayesian optimization with a deep kernel (Wistuba and Grabocka, "Few-Shot Bayesian
Optimization with Deep Kernel Surrogates", ICLR 2021, arXiv 2101.07667).

A Gaussian process with a kernel on the outputs of a network (their eq. 6) is trained by the marginal
likelihood of batches of the known tasks (eq. 8, algorithm 1). So that it does not depend on the range of the
objective, which is unknown for a new task, labels are scaled anew for each task of each batch: two limits l <
u are drawn and the labels become `(y - l) / (u - l)` (eq. 10 and 11). The first five configurations of a new
task are those that together serve the known tasks best (section 6, `initial.warm_start`). After every further
trial kernel and network are fine-tuned on the history by a few gradient steps on its marginal likelihood,
from where they were, and expected improvement (eq. 1) chooses.

Unlike in the paper, the history is scaled to lie between 0 and 1 (known tasks are in units of their ranges,
and a raw objective may be of any size), hidden units are tanh, the kernel is a Matern kernel of smoothness
5/2 and each step of training takes several tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from hyprl_jax import explore, surrogate
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines.baseline import PLAIN, Baseline
from hyprl_jax.baselines.learned import initial, meta, perceptron, players, process
from hyprl_jax.baselines.learned.meta import Batch, KnownTasks, Ranges
from hyprl_jax.baselines.learned.perceptron import Layers
from hyprl_jax.config import EnvConfig
from hyprl_jax.env import Task
from hyprl_jax.rollout import Background, Choice, View

STARTS = 5
"""Configurations of the warm start."""
_WIDTH, _FEATURES = 32, 16
_STEPS, _RATE = 300, 0.01
_TASKS, _VALUES = 16, 32  # of a batch
_LEAST_NOISE = 1e-4
_LEAST_RANGE = 0.2  # of the drawn range, in units of a task's own
_TUNING_STEPS, _TUNING_RATE = 5, 0.003  # after every trial
_LEAST_HISTORY = 1e-3  # range of a history, in units of a known task's range


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


class Memory(NamedTuple):
    """What the player remembers; only `kernel` changes."""

    kernel: DeepKernel
    ranges: Ranges
    starts: jax.Array
    """`[STARTS]` int32."""
    encodings: jax.Array
    """`[N, F]`"""


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
    best value and at least `_LEAST_RANGE` apart (eq. 10 and 11)."""
    ends = jnp.sort(jax.random.uniform(key, (batch.values.shape[0], 2)), axis=1)
    width = jnp.maximum(ends[:, 1] - ends[:, 0], _LEAST_RANGE)
    values = (batch.values - ends[:, :1]) / width[:, None]
    return batch._replace(values=values * batch.present)


def surprise(kernel: DeepKernel, encodings: jax.Array, batch: Batch) -> jax.Array:
    """Negative log marginal likelihood of a batch, a value, mean over tasks (eq. 8)."""
    features = feature_map(kernel, encodings)
    noise = noise_of(kernel)

    def one(columns: jax.Array, values: jax.Array, present: jax.Array) -> jax.Array:
        places = features[columns]
        covariance = jnp.exp(kernel.log_amplitude) * process.matern(places, places)
        return process.surprise(values - kernel.mean, covariance, noise, present)

    return batch.weights @ jax.vmap(one)(batch.columns, batch.values, batch.present)


def noise_of(kernel: DeepKernel) -> jax.Array:
    """Variance of the noise, bounded from below."""
    return jnp.exp(kernel.log_noise) + _LEAST_NOISE


def feature_map(kernel: DeepKernel, encodings: jax.Array) -> jax.Array:
    """`[N, D]` features of the candidates `encodings [N, F]`."""
    return perceptron.apply_layers(kernel.layers, perceptron.centred(encodings))


def memory(shared: Background, task: Task, config: EnvConfig, prepared: Prepared) -> Memory:
    """The memory before the first trial."""
    del config
    mine = meta.of_collection(prepared, task.collection)
    encodings = meta.of_collection(shared.encodings, task.collection)
    return Memory(mine.kernel, mine.ranges, mine.starts, encodings)


class History(NamedTuple):
    """The T trials of an episode, those still to come with weight 0."""

    encodings: jax.Array
    """`[T, F]`"""
    labels: jax.Array
    """`[T]` scaled to lie between 0 (the worst) and 1 (the best so far)."""
    seen: jax.Array
    """`[T]` 1 or 0."""


def look_back(memory: Memory, view: View) -> History:
    """The history of the task being played."""
    state = view.state
    seen = jnp.arange(state.actions.shape[0]) < state.trial
    worst = jnp.min(jnp.where(seen, state.objectives, jnp.inf))
    best = jnp.max(jnp.where(seen, state.objectives, -jnp.inf))
    width = jnp.maximum(best - worst, _LEAST_HISTORY * jnp.exp(-memory.ranges.log_scale))
    labels = jnp.where(seen, 1.0 - (best - state.objectives) / width, 0.0)
    return History(memory.encodings[state.actions], labels, seen.astype(jnp.float32))


def history_surprise(kernel: DeepKernel, history: History) -> jax.Array:
    """Negative log marginal likelihood of the history, a result."""
    features = feature_map(kernel, history.encodings)
    covariance = jnp.exp(kernel.log_amplitude) * process.matern(features, features)
    return process.surprise(history.labels - kernel.mean, covariance, noise_of(kernel), history.seen)


def fine_tune(kernel: DeepKernel, history: History, trial: jax.Array) -> DeepKernel:
    """The kernel after `_TUNING_STEPS` steps of Adam; as it was before the second of the `trial` results."""
    optimizer = optax.adam(_TUNING_RATE)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        kernel, state = carry
        gradients = jax.grad(history_surprise)(kernel, history)
        gradients = jax.tree.map(lambda leaf: jnp.where(trial > 1, leaf, 0.0), gradients)
        changes, state = optimizer.update(gradients, state)
        return (optax.apply_updates(kernel, changes), state), None

    (kernel, _), _ = jax.lax.scan(step, (kernel, optimizer.init(kernel)), None, length=_TUNING_STEPS)
    return kernel


def posterior(kernel: DeepKernel, encodings: jax.Array, history: History) -> tuple[jax.Array, jax.Array]:
    """Posterior mean and standard deviation `[N]` of the labels of candidates `encodings [N, F]` (Rasmussen
    and Williams 2006, algorithm 2.1)."""
    tested, features = feature_map(kernel, history.encodings), feature_map(kernel, encodings)
    amplitude, seen = jnp.exp(kernel.log_amplitude), history.seen
    gram = amplitude * process.matern(tested, tested) * seen[:, None] * seen
    factor = jnp.linalg.cholesky(gram + jnp.diag(noise_of(kernel) * seen + 1.0 - seen))
    cross = amplitude * process.matern(tested, features) * seen[:, None]
    rows = jax.scipy.linalg.solve_triangular(factor, cross, lower=True)
    white = jax.scipy.linalg.solve_triangular(factor, (history.labels - kernel.mean) * seen, lower=True)
    variance = amplitude - (rows**2).sum(0)
    return kernel.mean + white @ rows, jnp.sqrt(jnp.maximum(variance, 1e-8))


def act(memory: Memory, view: View, key: jax.Array) -> tuple[Memory, Choice]:
    """Fine-tunes the kernel and takes the candidate of the largest expected improvement, after the warm
    start."""
    del key
    history = look_back(memory, view)
    kernel = fine_tune(memory.kernel, history, view.state.trial)
    mean, deviation = posterior(kernel, memory.encodings, history)
    improvement = surrogate.expected_improvement(mean, deviation, jnp.float32(1.0))
    best = explore.masked_argmax(improvement, view.observation.legal)
    return memory._replace(kernel=kernel), Choice(players.started(memory.starts, view, best), None)


FSBO = Baseline(act, memory, stochastic=False, beliefs=PLAIN, prepare=prepare)
"""The baseline `fsbo`."""
