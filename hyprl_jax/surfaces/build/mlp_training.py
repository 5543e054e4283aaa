"""Training many small perceptrons at once: one compiled loop, configurations vmapped, shapes shared by masks.

Every network has the shapes of the widest and deepest one; units beyond its width are multiplied by zero and
layers beyond its depth are skipped, so it computes exactly what the narrow network would. Optimizers share
one update rule with different coefficients. Initial weights, batch order and dropout noise do not depend on
the configuration, so a result does not depend on what it was trained together with, but for rounding. (Where
the learning rate is far too high, training is chaotic and rounding grows into visible differences.)

`train_together` is the entry; `forward`, `update` and `Hyper` are pure functions and arrays of single
configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax.surfaces.build.mlp import BATCHES, DEEPEST, EPOCH_ROWS, TOGETHER, WIDEST
from hyprl_jax.surfaces.build.tasks import VALIDATION_ROWS

MOST_CLASSES = 10
FEATURE_BUCKETS = (8, 24, 64)
VALIDATION_BUCKETS = (400, VALIDATION_ROWS)
PLACES = (8, TOGETHER)  # how many configurations the compiled loop may hold
EPSILON = 1e-8
ACTIVATIONS = ("relu", "tanh", "silu")


class Hyper(NamedTuple):
    """One configuration as numbers; every field is a scalar, or `[C]` when stacked."""

    learning_rate: Any
    keep_average: Any  # a of m <- a m + b g
    take_gradient: Any  # b of the same
    look_ahead: Any  # 1 for Nesterov's form of momentum
    square_decay: Any  # c of v <- c v + (1 - c) g^2
    adaptive: Any  # 1 if the step is divided by sqrt(v)
    debias: Any  # 1 if m and v are divided by 1 - a^t and 1 - c^t
    weight_decay: Any
    dropout: Any
    label_smoothing: Any
    cosine: Any  # 1 for the cosine schedule
    final_share: Any  # share of the learning rate left at the end of an exponential schedule, else 1
    width: Any
    depth: Any
    balanced: Any  # 1 if rows are weighted against the frequency of their class
    activation: Any  # index into ACTIVATIONS


class Task(NamedTuple):
    """Padded data of one split: rows `[N, D]`, labels `[N]`, validation `[M, D]`, `[M]`, validity `[M]`.

    classes and width (columns) are true counts, `rarity` `[K]` the class weights of a balanced loss.
    """

    features: Any
    labels: Any
    held_out: Any
    truth: Any
    valid: Any
    classes: Any
    width: Any
    rarity: Any


class Schedule(NamedTuple):
    """How long to train: recorded epochs, passes over the rows in each, the seed of all random numbers."""

    epochs: int
    passes: int
    seed: int


class Batches(NamedTuple):
    """Row numbers `[E, S, B]`, which of a batch count `[B]`, steps an epoch, and the key of the dropout
    noise.
    """

    order: Any
    weight: Any
    steps: Any
    key: Any


Weights = dict[str, jax.Array]


def hyper_of(config: dict[str, Any]) -> Hyper:
    """The numbers of one configuration; what is inactive gets the value that switches it off."""
    kind = config["optimizer"]
    averages = {"sgd": (0.0, 1.0), "rmsprop": (0.0, 1.0)}
    averages["momentum"] = (config.get("momentum", 0.0), 1.0)
    averages["adam"] = (config.get("beta1", 0.0), 1.0 - config.get("beta1", 0.0))
    squares = {"adam": config.get("beta2", 0.0), "rmsprop": config.get("square_decay", 0.0)}
    return Hyper(
        learning_rate=config["learning_rate"],
        keep_average=averages[kind][0],
        take_gradient=averages[kind][1],
        look_ahead=float(config.get("nesterov") == "on"),
        square_decay=squares.get(kind, 0.0),
        adaptive=float(kind in squares),
        debias=float(kind == "adam"),
        weight_decay=config["weight_decay"],
        dropout=config["dropout"],
        label_smoothing=config["label_smoothing"],
        cosine=float(config["schedule"] == "cosine"),
        final_share=config.get("final_share", 1.0),
        width=float(config["width"]),
        depth=float(config["depth"]),
        balanced=float(config["class_weight"] == "balanced"),
        activation=float(ACTIVATIONS.index(config["activation"])),
    )


def train_together(
    configs: Sequence[dict[str, Any]],
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    schedule: Schedule,
) -> tuple[np.ndarray, np.ndarray]:
    """Validation error (balanced) and log loss after each epoch, `[C, E]` float64, for configs of one batch
    size.

    training: features `[N, D]` and labels `[N]`; validation likewise. A log loss that is not finite marks a
    network that diverged. Raises ValueError if batch sizes differ.
    """
    sizes = {config["batch_size"] for config in configs}
    if len(sizes) != 1 or not sizes <= set(BATCHES):
        raise ValueError(
            f"configurations trained together need one batch size of {BATCHES}, not {sorted(sizes)}"
        )
    data = _padded(training, validation, classes)
    batches = _batches(len(training[0]), sizes.pop(), schedule)
    noise = initial_noise(schedule.seed, data.features.shape[1])
    results = []
    for at in range(0, len(configs), TOGETHER):
        hypers = [hyper_of(config) for config in configs[at : at + TOGETHER]]
        places = next(size for size in PLACES if size >= len(hypers))
        filled = hypers + hypers[:1] * (places - len(hypers))
        stacked = Hyper(*(np.asarray(column, dtype=np.float32) for column in zip(*filled, strict=True)))
        errors, losses = _train_stacked(stacked, data, batches, noise)
        results.append(np.stack([errors, losses])[:, : len(hypers)])
    errors, losses = np.concatenate(results, axis=1).astype(np.float64)
    return errors, losses


def initial_noise(seed: int, features: int) -> dict[str, np.ndarray]:
    """Standard normal numbers of the shapes of the weights, the same for all configurations."""
    rng = np.random.default_rng(seed)
    shapes = {"input": (features, WIDEST), "hidden": (DEEPEST - 1, WIDEST, WIDEST)}
    shapes["output"] = (WIDEST, MOST_CLASSES)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def initial_weights(hyper: Hyper, noise: dict[str, Any], features: Any) -> Weights:
    """Weights with variance 2 / fan-in (He et al. 2015) and zero biases; `features` is the true number of
    columns.
    """
    inner = jnp.sqrt(2.0 / hyper.width)
    return {
        "input": noise["input"] * jnp.sqrt(2.0 / features),
        "hidden": noise["hidden"] * inner,
        "output": noise["output"] * inner * 0.5,
        "input_bias": jnp.zeros(WIDEST),
        "hidden_bias": jnp.zeros((DEEPEST - 1, WIDEST)),
        "output_bias": jnp.zeros(MOST_CLASSES),
    }


def forward(hyper: Hyper, weights: Weights, features: jax.Array, noise: jax.Array | None = None) -> jax.Array:
    """Logits `[B, MOST_CLASSES]` of rows `[B, D]`; `noise` `[DEEPEST, B, WIDEST]` uniform switches dropout
    on.
    """
    units = (jnp.arange(WIDEST) < hyper.width).astype(jnp.float32)

    def layer(inputs: jax.Array, matrix: jax.Array, bias: jax.Array, number: int) -> jax.Array:
        found = _activate(hyper.activation, inputs @ matrix + bias) * units
        if noise is None:
            return found
        return found * (noise[number] >= hyper.dropout) / (1.0 - hyper.dropout)

    hidden = layer(features, weights["input"], weights["input_bias"], 0)
    for number in range(1, DEEPEST):
        deeper = layer(hidden, weights["hidden"][number - 1], weights["hidden_bias"][number - 1], number)
        hidden = jnp.where(number < hyper.depth, deeper, hidden)
    return hidden @ weights["output"] + weights["output_bias"]


def update(
    hyper: Hyper, weights: Weights, average: Weights, square: Weights, gradient: Weights, step: Any, rate: Any
) -> tuple[Weights, Weights, Weights]:
    """One step of any of the four optimizers: new weights, average and square; `step` counts from 1.

    `m <- a m + b g`, `v <- c v + (1 - c) g^2`, and weights move by `rate` times `m`, or `g + a m` in
    Nesterov's form, divided by `sqrt(v)` where the optimizer is adaptive (Kingma and Ba 2015, Tieleman and
    Hinton 2012). Weight decay is decoupled (Loshchilov and Hutter 2019).
    """
    correct_average = 1.0 - hyper.debias * hyper.keep_average**step
    correct_square = 1.0 - hyper.debias * hyper.square_decay**step

    def move(weight: jax.Array, m: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
        ahead = hyper.look_ahead * (g + (hyper.keep_average - 1.0) * m) + m
        scale = jnp.where(hyper.adaptive > 0, jnp.sqrt(v / correct_square) + EPSILON, 1.0)
        return weight - rate * (ahead / correct_average / scale + hyper.weight_decay * weight)

    average = jax.tree.map(lambda m, g: hyper.keep_average * m + hyper.take_gradient * g, average, gradient)
    square = jax.tree.map(
        lambda v, g: hyper.square_decay * v + (1.0 - hyper.square_decay) * g * g, square, gradient
    )
    return jax.tree.map(move, weights, average, square, gradient), average, square


def learning_rate(hyper: Hyper, progress: jax.Array) -> jax.Array:
    """The learning rate when a share `progress` in [0, 1] of all steps is done."""
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return hyper.learning_rate * jnp.where(hyper.cosine > 0, cosine, hyper.final_share**progress)


def loss(hyper: Hyper, weights: Weights, batch: tuple, noise: jax.Array | None, classes: Any) -> jax.Array:
    """Mean cross-entropy of a batch (features `[B, D]`, labels `[B]`, weights `[B]`) with smoothed labels."""
    features, labels, weight = batch
    logs = _log_probabilities(forward(hyper, weights, features, noise), classes)
    right = jnp.take_along_axis(logs, labels[:, None], axis=1)[:, 0]
    real = jnp.arange(MOST_CLASSES) < classes
    spread = jnp.where(real, logs, 0.0).sum(axis=1) / classes
    mixed = (1.0 - hyper.label_smoothing) * right + hyper.label_smoothing * spread
    return -(mixed * weight).sum() / weight.sum()


def _activate(kind: jax.Array, inputs: jax.Array) -> jax.Array:
    smooth = jnp.where(kind == 1, jnp.tanh(inputs), jax.nn.silu(inputs))
    return jnp.where(kind == 0, jax.nn.relu(inputs), smooth)


def _log_probabilities(logits: jax.Array, classes: Any) -> jax.Array:
    return jax.nn.log_softmax(jnp.where(jnp.arange(MOST_CLASSES) < classes, logits, -1e9), axis=1)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None, None))
def _train_stacked(hyper: Hyper, data: Task, batches: Batches, noise: Weights) -> tuple[jax.Array, jax.Array]:
    """Error and log loss after every epoch of one configuration, `[E]`; vmapped over configurations."""
    epochs = batches.order.shape[0]
    weights = initial_weights(hyper, noise, data.width)
    empty = jax.tree.map(jnp.zeros_like, weights)

    def one_epoch(state: tuple, epoch: jax.Array) -> tuple:
        def one_step(at: jax.Array, state: tuple) -> tuple:
            weights, average, square = state
            rows, number = batches.order[epoch, at], epoch * batches.steps + at
            shape = (DEEPEST, len(rows), WIDEST)
            dropout = jax.random.uniform(jax.random.fold_in(batches.key, number), shape)
            labels = data.labels[rows]
            weight = batches.weight * (1.0 + hyper.balanced * (data.rarity[labels] - 1.0))
            batch = (data.features[rows], labels, weight)
            gradient = jax.grad(loss, argnums=1)(hyper, weights, batch, dropout, data.classes)
            rate = learning_rate(hyper, number / (epochs * batches.steps))
            return update(hyper, weights, average, square, gradient, number + 1.0, rate)

        state = jax.lax.fori_loop(0, batches.steps, one_step, state)
        return state, _score(hyper, state[0], data)

    return jax.lax.scan(one_epoch, (weights, empty, empty), jnp.arange(epochs))[1]


def _score(hyper: Hyper, weights: Weights, data: Task) -> tuple[jax.Array, jax.Array]:
    """Balanced error and log loss on the validation rows."""
    logs = _log_probabilities(forward(hyper, weights, data.held_out), data.classes)
    truth = jax.nn.one_hot(data.truth, MOST_CLASSES) * data.valid[:, None]
    wrong = (logs.argmax(axis=1) != data.truth).astype(jnp.float32)
    counts = truth.sum(axis=0)
    shares = (truth * wrong[:, None]).sum(axis=0) / jnp.maximum(counts, 1.0)
    right = jnp.maximum(jnp.where(truth > 0, logs, 0.0).sum(axis=1), jnp.log(1e-6))
    right = jnp.where(jnp.isfinite(logs).all(), right, jnp.nan)
    return shares.sum() / (counts > 0).sum(), -(right * data.valid).sum() / data.valid.sum()


def _padded(training: tuple, validation: tuple, classes: int) -> Task:
    """Pad features, rows and validation rows to one of few shapes, so that few loops are compiled."""
    width = training[0].shape[1]
    columns = next(size for size in FEATURE_BUCKETS if size >= width)
    held = next(size for size in VALIDATION_BUCKETS if size >= len(validation[0]))

    def fill(rows: np.ndarray, count: int) -> np.ndarray:
        padding = [(0, count - len(rows)), (0, columns - width)][: rows.ndim]
        return np.pad(rows, padding).astype(np.float32 if rows.ndim == 2 else np.int32)

    return Task(
        features=fill(training[0], EPOCH_ROWS),
        labels=fill(training[1], EPOCH_ROWS),
        held_out=fill(validation[0], held),
        truth=fill(validation[1], held),
        valid=(np.arange(held) < len(validation[0])).astype(np.float32),
        classes=np.int32(classes),
        width=np.float32(width),
        rarity=_rarity(training[1], classes),
    )


def _rarity(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weight of a row by its class, `N / (K N_k)`, `[MOST_CLASSES]`; one where a class has no row."""
    counts = np.bincount(labels, minlength=MOST_CLASSES)
    return np.where(counts > 0, len(labels) / (classes * np.maximum(counts, 1)), 1.0).astype(np.float32)


def _batches(rows: int, size: int, schedule: Schedule) -> Batches:
    """A new order of the rows each pass, cut into full batches; what is left over is not used."""
    rng = np.random.default_rng([schedule.seed, 1])
    batch = min(size, rows)
    steps = rows // batch
    order = np.zeros((schedule.epochs, EPOCH_ROWS // size, size), dtype=np.int32)
    for epoch in range(schedule.epochs):
        for turn in range(schedule.passes):
            cut = rng.permutation(rows)[: steps * batch].reshape(steps, batch)
            order[epoch, turn * steps : (turn + 1) * steps, :batch] = cut
    weight = (np.arange(size) < batch).astype(np.float32)
    return Batches(order, weight, np.int32(schedule.passes * steps), jax.random.PRNGKey(schedule.seed))
