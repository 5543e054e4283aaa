"""The `mlp` recipe: small multilayer perceptrons trained in JAX, many configurations of a task at once.

The space is mixed and conditional: an optimizer brings its own parameters, and so does a learning-rate
schedule. Validation error is recorded after every epoch (the fidelity) and, as a second fidelity, for
training on a quarter of the training rows (`quarter_error`, at the same epochs). Cost counts multiply-adds
instead of seconds: configurations are trained together, so none of them has a time of its own, and a count is
the same on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hyprl_jax.surfaces.build.recipe import Columns, Measure, Recipe
from hyprl_jax.surfaces.build.sources import stream
from hyprl_jax.surfaces.build.svm import scale
from hyprl_jax.surfaces.build.tasks import Split, TaskData

EPOCHS = 24
EPOCH_ROWS = 384
TOGETHER = 56
WIDEST, DEEPEST = 48, 3
SMALL_SHARE = 4
MOST_SPLITS = 3
BATCHES = (16, 32, 64)
UPDATE_COST = {"sgd": 2, "momentum": 4, "adam": 10, "rmsprop": 6}


def space() -> Any:
    """The search space: seventeen hyperparameters, six of them conditional on optimizer or schedule."""
    from ConfigSpace import (
        Categorical,
        ConfigurationSpace,
        Float,
        InCondition,
        Integer,
        OrdinalHyperparameter,
    )

    optimizer = Categorical("optimizer", ["sgd", "momentum", "adam", "rmsprop"], default="adam")
    schedule = Categorical("schedule", ["constant", "cosine", "exponential"], default="constant")
    belongs = [
        (Float("momentum", (0.5, 0.99), default=0.9), optimizer, ["momentum"]),
        (Categorical("nesterov", ["on", "off"], default="off"), optimizer, ["momentum"]),
        (Float("beta1", (0.5, 0.99), default=0.9), optimizer, ["adam"]),
        (Float("beta2", (0.9, 0.9999), default=0.999), optimizer, ["adam"]),
        (Float("square_decay", (0.8, 0.999), default=0.99), optimizer, ["rmsprop"]),
        (Float("final_share", (1e-3, 0.5), log=True, default=0.1), schedule, ["exponential"]),
    ]
    found = ConfigurationSpace(name="mlp")
    found.add(
        optimizer,
        schedule,
        Float("learning_rate", (1e-3, 1.0), log=True, default=1e-2),
        OrdinalHyperparameter("batch_size", list(BATCHES), default_value=32),
        Integer("width", (3, WIDEST), log=True, default=24),
        Integer("depth", (1, DEEPEST), default=2),
        Categorical("activation", ["relu", "tanh", "silu"], default="relu"),
        Float("dropout", (0.0, 0.5), default=0.0),
        Float("weight_decay", (1e-5, 0.3), log=True, default=1e-4),
        Float("label_smoothing", (0.0, 0.3), default=0.0),
        Categorical("class_weight", ["none", "balanced"], default="none"),
        *(child for child, _, _ in belongs),
    )
    found.add(*(InCondition(child, parent, values) for child, parent, values in belongs))
    return found


def pieces(configs: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Pieces of one batch size each, because a batch size is a shape of the compiled training loop."""
    cut = []
    for size in BATCHES:
        rows = [at for at, config in enumerate(configs) if config["batch_size"] == size]
        count = -(-len(rows) // TOGETHER)
        cut += [list(map(int, part)) for part in np.array_split(rows, count)] if rows else []
    return cut


def evaluate(task: TaskData, configs: list[dict[str, Any]], seed: int) -> Columns:
    """Learning curves of configurations of one batch size: columns `[C * EPOCHS]`, epochs run fastest.

    A network that diverged is scored as one that always answers the same class, `1 - 1 / classes`, and has no
    log loss; these are the values named in the card.
    """
    whole, small = [], []
    for number, split in enumerate(task.splits[:MOST_SPLITS]):
        arrays = _arrays(task, split)
        whole.append(_curves(task, arrays, len(split.train), configs, stream(seed, number)))
        few = len(split.train) // SMALL_SHARE
        small.append(_curves(task, arrays, few, configs, stream(seed, number, "small")))
    errors, losses = np.mean([one[0] for one in whole], axis=0), np.mean([one[1] for one in whole], axis=0)
    spent = np.array([multiply_adds(task, config) for config in configs])
    return {
        "config_index": np.repeat(np.arange(len(configs)), EPOCHS),
        "error": np.full(len(configs) * EPOCHS, ""),
        "fidelity": np.tile(np.arange(1, EPOCHS + 1), len(configs)),
        "objective": errors.ravel().round(6),
        "log_loss": losses.ravel().round(4),
        "quarter_error": np.mean([one[0] for one in small], axis=0).ravel().round(6),
        "cost": np.outer(spent, np.arange(1, EPOCHS + 1)).ravel() / 1e6,
    }


def multiply_adds(task: TaskData, config: dict[str, Any]) -> int:
    """Multiply-adds of one epoch of training, summed over splits: three a weight and row, and the updates."""
    width, features = config["width"], task.features.shape[1]
    weights = features * width + (config["depth"] - 1) * width**2 + width * task.classes
    total = 0
    for split in task.splits[:MOST_SPLITS]:
        batch = min(config["batch_size"], len(split.train))
        steps = passes(task) * (len(split.train) // batch)
        total += steps * weights * (3 * batch + UPDATE_COST[config["optimizer"]])
    return total


def passes(task: TaskData) -> int:
    """How often an epoch shows each training row: an epoch is about `EPOCH_ROWS` rows for every task."""
    return max(1, EPOCH_ROWS // len(task.splits[0].train))


def _arrays(task: TaskData, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardised training and validation features and labels of one split."""
    scaled = scale("standard", task.features[split.train], task.features)
    return (
        scaled[split.train],
        task.training_labels[split.train],
        scaled[split.validation],
        task.labels[split.validation],
    )


def _curves(
    task: TaskData,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    rows: int,
    configs: list[dict[str, Any]],
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Validation error and log loss `[C, EPOCHS]` of training on the first `rows` training rows."""
    from hyprl_jax.surfaces.build.mlp_training import Schedule, train_together

    features, labels, held_out, truth = arrays
    training, validation = (features[:rows], labels[:rows]), (held_out, truth)
    schedule = Schedule(EPOCHS, passes(task), seed)
    errors, losses = train_together(configs, training, validation, task.classes, schedule)
    diverged = ~np.isfinite(losses)
    return np.where(diverged, 1.0 - 1.0 / task.classes, errors), np.where(diverged, np.nan, losses)


def recipe() -> Recipe:
    """The recipe as the registry lists it."""
    return Recipe(
        name="mlp",
        title="Multilayer perceptrons",
        description="Learning curves of small MLP classifiers; optimizers and schedules have own parameters.",
        version=1,
        space=space,
        evaluate=evaluate,
        pieces=pieces,
        configs=320,
        cost=Measure(
            "multiply_adds", "10^6", "minimize", "multiply-adds of training up to this epoch, all splits"
        ),
        fidelity=Measure("epoch", "epochs", None, "one epoch shows 384 training rows"),
        others=(
            Measure("log_loss", "nat", "minimize", "mean negative log probability of the right class"),
            Measure(
                "quarter_error",
                None,
                "minimize",
                "the objective after training on a quarter of the rows",
            ),
        ),
        notes=(
            "A diverged network scores 1 - 1 / classes, like a constant answer; its log_loss is null.",
            "`quarter_error` is the second fidelity: it costs about a quarter of `cost` at the same epoch.",
            "Initial weights, batch order and dropout noise of a task are common to all its configurations.",
            f"Where a task has more than {MOST_SPLITS} splits, the first {MOST_SPLITS} are used.",
            "An epoch shows 384 training rows: a task with fewer shows each of them several times.",
            "Where the learning rate is far too high, training is chaotic: another machine, which rounds "
            "differently, gets other, equally valid values there.",
            "Schedules run over all epochs of the curve: an early epoch is not a short schedule.",
        ),
    )
