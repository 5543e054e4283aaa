"""The mlp recipe: the masked, vmapped training loop against plain NumPy and against narrow networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyprl_jax.surfaces.build import mlp, mlp_training
from hyprl_jax.surfaces.build.mlp_training import Hyper, Schedule, hyper_of, train_together
from hyprl_jax.surfaces.build.sampling import sample_configs
from hyprl_jax.surfaces.build.tasks import load_task

BASE = {
    "optimizer": "adam",
    "beta1": 0.8,
    "beta2": 0.95,
    "schedule": "constant",
    "learning_rate": 0.02,
    "batch_size": 16,
    "width": 5,
    "depth": 2,
    "activation": "tanh",
    "dropout": 0.0,
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "class_weight": "none",
}
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "momentum", "momentum": 0.9, "nesterov": "off"},
    "nesterov": {"optimizer": "momentum", "momentum": 0.9, "nesterov": "on"},
    "adam": {"optimizer": "adam", "beta1": 0.8, "beta2": 0.95},
    "rmsprop": {"optimizer": "rmsprop", "square_decay": 0.9},
}


def numpy_forward(weights: dict, features: np.ndarray, width: int, depth: int, activation: str) -> np.ndarray:
    """A network that really has `width` units and `depth` layers."""
    act = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "silu": lambda x: x / (1 + np.exp(-x))}[
        activation
    ]
    hidden = act(features @ weights["input"][:, :width] + weights["input_bias"][:width])
    for number in range(depth - 1):
        matrix = weights["hidden"][number][:width, :width]
        hidden = act(hidden @ matrix + weights["hidden_bias"][number][:width])
    return hidden @ weights["output"][:width] + weights["output_bias"]


def random_weights(rng: np.random.Generator, features: int) -> dict[str, np.ndarray]:
    shapes = {
        "input": (features, 48),
        "hidden": (2, 48, 48),
        "output": (48, 10),
        "input_bias": (48,),
        "hidden_bias": (2, 48),
        "output_bias": (10,),
    }
    return {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize(("width", "depth"), [(3, 1), (7, 2), (48, 3)])
def test_masked_network_equals_the_narrow_one(activation: str, width: int, depth: int) -> None:
    rng = np.random.default_rng(0)
    weights, rows = random_weights(rng, 6), rng.standard_normal((9, 6)).astype(np.float32)
    hyper = hyper_of({**BASE, "width": width, "depth": depth, "activation": activation})
    found = mlp_training.forward(hyper, weights, rows)
    expected = numpy_forward(weights, rows, width, depth, activation)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_gradients_of_masked_units_are_zero() -> None:
    rng = np.random.default_rng(1)
    weights, rows = random_weights(rng, 6), rng.standard_normal((16, 6)).astype(np.float32)
    batch = (rows, rng.integers(0, 3, 16), np.ones(16, np.float32))
    gradient = jax.grad(mlp_training.loss, argnums=1)(hyper_of(BASE), weights, batch, None, 3)
    assert np.abs(gradient["input"][:, 5:]).max() == 0 and np.abs(gradient["output"][5:]).max() == 0
    assert np.abs(gradient["hidden"][1]).max() == 0  # the network has two layers: one hidden matrix
    assert np.abs(gradient["output"][:, 3:]).max() == 0  # classes that the task does not have
    assert np.abs(gradient["hidden"][0][:5, :5]).max() > 0


def test_dropout_keeps_the_mean_and_drops_the_named_share() -> None:
    weights = random_weights(np.random.default_rng(2), 6)
    rows = np.ones((4000, 6), np.float32)
    hyper = hyper_of({**BASE, "dropout": 0.4, "depth": 1, "width": 48})
    noise = jax.random.uniform(jax.random.PRNGKey(0), (3, 4000, 48))
    dropped = mlp_training.forward(hyper, weights, rows, noise).mean(axis=0)
    np.testing.assert_allclose(dropped, mlp_training.forward(hyper, weights, rows[:1])[0], atol=0.05)


def numpy_update(kind: str, config: dict, weight: float, gradients: list[float], rate: float) -> float:
    """Textbook optimizers on one number, with decoupled weight decay."""
    m = v = 0.0
    for step, g in enumerate(gradients, start=1):
        if kind in ("momentum", "nesterov"):
            m = config["momentum"] * m + g
            move = g + config["momentum"] * m if kind == "nesterov" else m
        elif kind == "adam":
            m = config["beta1"] * m + (1 - config["beta1"]) * g
            v = config["beta2"] * v + (1 - config["beta2"]) * g * g
            corrected = v / (1 - config["beta2"] ** step)
            move = m / (1 - config["beta1"] ** step) / (np.sqrt(corrected) + 1e-8)
        elif kind == "rmsprop":
            v = config["square_decay"] * v + (1 - config["square_decay"]) * g * g
            move = g / (np.sqrt(v) + 1e-8)
        else:
            move = g
        weight = weight - rate * (move + 0.01 * weight)
    return weight


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_update_rule_equals_the_textbook_optimizer(kind: str) -> None:
    hyper = Hyper(*(jnp.float32(value) for value in hyper_of({**BASE, **OPTIMIZERS[kind]})))
    gradients = [0.5, -1.5, 0.25, 2.0]
    weights, average, square = {"w": jnp.float32(0.7)}, {"w": jnp.float32(0)}, {"w": jnp.float32(0)}
    for step, gradient in enumerate(gradients, start=1):
        weights, average, square = mlp_training.update(
            hyper, weights, average, square, {"w": jnp.float32(gradient)}, float(step), 0.1
        )
    expected = numpy_update(kind, OPTIMIZERS[kind], 0.7, gradients, 0.1)
    assert float(weights["w"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "constant"}, [0.02, 0.02, 0.02]),
        ({"schedule": "cosine"}, [0.02, 0.01, 0.0]),
        ({"schedule": "exponential", "final_share": 0.04}, [0.02, 0.004, 0.0008]),
    ],
)
def test_schedules(schedule: dict, expected: list[float]) -> None:
    hyper = hyper_of({**BASE, **schedule})
    found = [float(mlp_training.learning_rate(hyper, jnp.float32(at))) for at in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_training_together_equals_training_alone() -> None:
    """For learning rates at which training is not chaotic, where rounding errors would grow."""
    task = load_task("blobs_a-noisy", 0)
    features, labels, held_out, truth = mlp._arrays(task, task.splits[0])
    sample = [one for one in sample_configs(mlp.space(), 120, 0) if one["batch_size"] == 32]
    configs = [one for one in sample if one["learning_rate"] < 0.02][:10]
    data = ((features, labels), (held_out, truth), task.classes, Schedule(5, 1, 11))
    together = train_together(configs, *data)
    again = train_together(configs, *data)
    alone = [train_together([config], *data) for config in configs]  # a smaller compiled loop
    for number in range(2):
        np.testing.assert_array_equal(together[number], again[number])
        apart = np.concatenate([one[number] for one in alone])
        np.testing.assert_allclose(together[number], apart, rtol=1e-4, atol=2e-3)
    assert together[0].shape == (10, 5)


def test_training_learns_and_diverging_is_marked() -> None:
    task = load_task("blobs_a-full", 0)
    features, labels, held_out, truth = mlp._arrays(task, task.splits[0])
    good = {**BASE, "width": 32, "label_smoothing": 0.0}
    wild = {**good, **OPTIMIZERS["momentum"], "momentum": 0.99, "learning_rate": 1e12, "activation": "relu"}
    errors, losses = train_together(
        [good, wild], (features, labels), (held_out, truth), task.classes, Schedule(8, 1, 0)
    )
    assert errors[0, -1] < 0.35 < errors[0, 0] + 0.2 and losses[0, -1] < losses[0, 0]
    assert np.isnan(losses[1, -1])
    with pytest.raises(ValueError, match="one batch size"):
        train_together(
            [good, {**good, "batch_size": 64}], (features, labels), (held_out, truth), 7, Schedule(2, 1, 0)
        )


def test_balanced_loss_weights_rare_classes() -> None:
    np.testing.assert_allclose(mlp_training._rarity(np.array([0, 0, 0, 1]), 2)[:3], [2 / 3, 2.0, 1.0])
    task = load_task("clusters_d-full", 0)
    features, labels, held_out, truth = mlp._arrays(task, task.splits[0])
    plain = {**BASE, "width": 24, "label_smoothing": 0.0}
    data = ((features, labels), (held_out, truth), 2, Schedule(6, 1, 0))
    errors, _ = train_together([plain, {**plain, "class_weight": "balanced"}], *data)
    assert errors[1, -1] < errors[0, -1]


def test_recipe_returns_whole_curves_with_growing_cost() -> None:
    task = load_task("clusters_b-few", 0)
    found = mlp.evaluate(task, [BASE, {**BASE, "width": 40}], 0)
    assert {len(column) for column in found.values()} == {2 * mlp.EPOCHS}
    cost = found["cost"].reshape(2, -1)
    np.testing.assert_allclose(cost, cost[:, :1] * np.arange(1, mlp.EPOCHS + 1))
    assert cost[1, 0] > cost[0, 0]
    weights = 24 * 5 + 5 * 5 + 5 * 3
    assert mlp.multiply_adds(task, BASE) == 4 * 6 * weights * (3 * 16 + 10)
    assert ((found["objective"] >= 0) & (found["objective"] <= 1)).all()
    assert not np.array_equal(found["objective"], found["quarter_error"])


def test_a_batch_larger_than_the_data_is_the_whole_data() -> None:
    small = mlp_training._batches(12, 64, Schedule(epochs=2, passes=3, seed=0))
    assert int(small.steps) == 3 and small.weight.sum() == 12
    for step in range(3):
        assert sorted(small.order[0, step, :12]) == list(range(12))
    usual = mlp_training._batches(96, 64, Schedule(epochs=1, passes=4, seed=0))
    assert int(usual.steps) == 4 and usual.weight.sum() == 64
    assert len(set(usual.order[0, 0])) == 64
