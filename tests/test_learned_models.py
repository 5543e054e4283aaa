"""The models behind the learned baselines against plain NumPy and SciPy versions of their formulas."""

from __future__ import annotations

import math
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit
from scipy.stats import multivariate_normal, norm

from hyprl_jax.baselines.learned import ablr, fmlp, fsbo, hyperbo, initial, meta, perceptron, process
from hyprl_jax.baselines.learned.meta import KnownTasks, Ranges
from hyprl_jax.baselines.learned.process import Hypotheses, Prior, Units

RANDOM = np.random.default_rng(5)
CANDIDATES, FEATURES, TRIALS = 12, 3, 6
ACTIONS = (4, 0, 9, 7)
OBJECTIVES = np.array([31.0, 35.5, 29.0, 36.25])
RANGES = Ranges(*(jnp.float32(x) for x in (-math.log(9.0), 0.4, 28.0, 2.5)))


def matern_oracle(a: np.ndarray, b: np.ndarray) -> float:
    """Matern covariance of smoothness 5/2 and lengthscale 1."""
    r = math.sqrt(5.0) * math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    return (1.0 + r + r * r / 3.0) * math.exp(-r)


def gram(features: np.ndarray) -> np.ndarray:
    return np.array([[matern_oracle(a, b) for b in features] for a in features])


def dense(
    mean: np.ndarray,
    covariance: np.ndarray,
    noise: float,
    values: np.ndarray,
    actions: tuple[int, ...] = ACTIONS,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and variance by an inverse (Rasmussen and Williams 2006, eq. 2.25)."""
    tested = list(actions)
    inverse = np.linalg.inv(covariance[np.ix_(tested, tested)] + noise * np.eye(len(tested)))
    cross = covariance[tested]
    posterior = mean + cross.T @ inverse @ (values - mean[tested])
    return posterior, np.diag(covariance) - np.einsum("tn,ts,sn->n", cross, inverse, cross)


def played(prior: Prior, covariance: process.Covariance) -> process.Trace:
    """The traces after `ACTIONS` brought `OBJECTIVES`."""
    trace = process.begin(prior, TRIALS)
    trace = process.learn_latest(prior, trace, covariance, jnp.int32(0), jnp.int32(0), jnp.float32(0.0))
    for trial, (action, objective) in enumerate(zip(ACTIONS, OBJECTIVES, strict=True), start=1):
        trace = process.learn_latest(
            prior, trace, covariance, jnp.int32(trial), jnp.int32(action), jnp.float32(objective)
        )
    return trace


def known_tasks(tasks: int = 7, missing: float = 0.3) -> KnownTasks:
    """Random known tasks, the fourth and the last of no use."""
    random = np.random.default_rng(1)
    present = random.random((tasks, CANDIDATES)) >= missing
    present[:, 0] = True
    usable = ~np.isin(np.arange(tasks), (3, tasks - 1))
    values = random.random((tasks, CANDIDATES))
    encodings = random.random((CANDIDATES, FEATURES))
    return KnownTasks(*(jnp.asarray(x) for x in (np.float32(values), present, usable, np.float32(encodings))))


def test_process_agrees_with_the_dense_posterior_for_every_hypothesis() -> None:
    features = RANDOM.normal(size=(CANDIDATES, FEATURES)).astype(np.float32)
    mean = RANDOM.random(CANDIDATES).astype(np.float32)
    hypotheses = Hypotheses(jnp.asarray([0.05, 0.3]), jnp.asarray([0.01, 0.1]))
    prior = Prior(jnp.asarray(mean), jnp.ones(CANDIDATES), jnp.asarray(features), hypotheses, RANGES)
    trace = played(prior, process.matern_row)
    units = Units(jnp.asarray([0.1, 0.2]), jnp.asarray([0.3, -0.4]), jnp.asarray([0.0, math.log(3.0)]))
    posterior = process.read(prior, trace, units, jnp.float32(OBJECTIVES.max()), jnp.ones(CANDIDATES, bool))
    np.testing.assert_allclose(posterior.weights, [0.25, 0.75], rtol=1e-5)
    for g, (amplitude, noise) in enumerate(((0.05, 0.01), (0.3, 0.1))):
        values = float(units.scale[g]) * (OBJECTIVES - 28.0) + float(units.shift[g])
        expected, variance = dense(mean, amplitude * gram(features), noise, values)
        np.testing.assert_allclose(posterior.mean[g], expected, atol=2e-5)
        np.testing.assert_allclose(posterior.deviation[g], np.sqrt(variance), atol=2e-4)
        assert float(posterior.incumbent[g]) == pytest.approx(values.max(), abs=1e-5)
        tested = list(ACTIONS)
        covariance = amplitude * gram(features)[np.ix_(tested, tested)] + noise * np.eye(len(tested))
        assert float(trace.log_determinant[g]) == pytest.approx(np.linalg.slogdet(covariance)[1], abs=1e-3)


def test_before_the_first_trial_the_best_prior_mean_is_the_incumbent() -> None:
    mean = jnp.asarray([0.2, 0.9, 0.5])
    prior = Prior(mean, jnp.ones(3), mean[:, None], Hypotheses(jnp.ones(1), jnp.ones(1)), RANGES)
    trace, units = process.begin(prior, 2), Units(jnp.ones(1), jnp.zeros(1), jnp.zeros(1))
    legal = jnp.asarray([True, False, True])
    posterior = process.read(prior, trace, units, jnp.float32(-jnp.inf), legal)
    np.testing.assert_allclose(posterior.mean[0], mean)
    assert float(posterior.incumbent[0]) == 0.5


def test_units_are_the_posterior_under_the_known_ranges() -> None:
    """Every scale's likelihood is that of a normal distribution, its shift a conditional mean of one."""
    features = RANDOM.normal(size=(CANDIDATES, FEATURES)).astype(np.float32)
    mean = RANDOM.random(CANDIDATES).astype(np.float32)
    prior = Prior(
        jnp.asarray(mean),
        jnp.ones(CANDIDATES),
        jnp.asarray(features),
        Hypotheses(jnp.asarray([0.2]), jnp.asarray([0.02])),
        RANGES,
    )
    trace = jax.tree.map(lambda leaf: leaf[0], played(prior, process.matern_row))
    found = process.infer_units(trace.moments, trace.log_determinant, RANGES, jnp.int32(len(ACTIONS)))
    tested = list(ACTIONS)
    covariance = 0.2 * gram(features)[np.ix_(tested, tested)] + 0.02 * np.eye(len(tested))
    offsets, ones = np.linspace(-2.5, 2.5, 15), np.ones(len(tested))
    scales = np.exp(-math.log(9.0) + 0.4 * offsets)
    logs, shifts = [], []
    for scale in scales:
        width = (scale * 2.5) ** 2
        whole = covariance + width * np.outer(ones, ones)
        off = scale * (OBJECTIVES - 28.0) - mean[tested]
        logs.append(multivariate_normal(np.zeros(4), whole).logpdf(off) + 4 * math.log(scale))
        # z = a (y - l) + c: the data say -off = c + process, with prior c ~ N(0, width).
        shifts.append(-width * ones @ np.linalg.solve(whole, off))
    prior_weights = np.exp(-0.5 * offsets**2) / np.exp(-0.5 * offsets**2).sum()
    joint = prior_weights * np.exp(np.array(logs) - max(logs))
    assert float(found.scale) == pytest.approx(joint @ scales / joint.sum(), rel=1e-4)
    assert float(found.shift) == pytest.approx(joint @ np.array(shifts) / joint.sum(), abs=1e-4)
    evidence = math.log(joint.sum()) + max(logs) + 2 * math.log(2 * math.pi)
    assert float(found.evidence) == pytest.approx(evidence, abs=1e-3)


def test_surprise_is_the_normal_density_of_what_is_present() -> None:
    features = RANDOM.normal(size=(6, 2)).astype(np.float32)
    values, present = RANDOM.normal(size=6), np.array([1, 1, 0, 1, 0, 1.0])
    found = process.surprise(
        jnp.asarray(values, jnp.float32),
        process.matern(jnp.asarray(features), jnp.asarray(features)),
        jnp.float32(0.1),
        jnp.asarray(present, jnp.float32),
    )
    there = np.flatnonzero(present)
    whole = gram(features[there]) + 0.1 * np.eye(4)
    assert float(found) == pytest.approx(
        -multivariate_normal(np.zeros(4), whole).logpdf(values[there]) / 4, rel=1e-4
    )


@pytest.mark.parametrize(("alpha", "beta"), [(3.0, 40.0), (0.5, 7.0)])
def test_linear_regression_in_feature_space_is_a_normal_density(alpha: float, beta: float) -> None:
    features, values = RANDOM.normal(size=(9, 4)), RANDOM.normal(size=9)
    present = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1.0])
    found = ablr.regression_surprise(
        *(jnp.asarray(x, jnp.float32) for x in (features, values, present, alpha, beta))
    )
    there = np.flatnonzero(present)
    covariance = features[there] @ features[there].T / alpha + np.eye(7) / beta
    expected = -multivariate_normal(np.zeros(7), covariance).logpdf(values[there]) / 7
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_ablr_predicts_like_regression_on_weights() -> None:
    """The posterior of Bayesian linear regression (Bishop 2006, eq. 3.53 and 3.54)."""
    features = RANDOM.normal(size=(CANDIDATES, FEATURES))
    alpha, beta, mean = 2.0, 25.0, 0.4
    prior = Prior(
        jnp.full(CANDIDATES, mean),
        jnp.asarray((features**2).sum(1), jnp.float32),
        jnp.asarray(features, jnp.float32),
        Hypotheses(jnp.asarray([1 / alpha]), jnp.asarray([1 / beta])),
        RANGES,
    )
    units = Units(jnp.asarray([0.11]), jnp.asarray([0.05]), jnp.zeros(1))
    posterior = process.read(
        prior, played(prior, ablr.linear_row), units, jnp.float32(36.25), jnp.ones(CANDIDATES, bool)
    )
    design, values = features[list(ACTIONS)], 0.11 * (OBJECTIVES - 28.0) + 0.05 - mean
    covariance = np.linalg.inv(alpha * np.eye(FEATURES) + beta * design.T @ design)
    weights = beta * covariance @ design.T @ values
    np.testing.assert_allclose(posterior.mean[0], features @ weights + mean, atol=5e-5)
    deviation = np.sqrt(np.einsum("nd,de,ne->n", features, covariance, features))
    np.testing.assert_allclose(posterior.deviation[0], deviation, rtol=5e-3, atol=1e-4)


def test_networks_are_chains_of_affine_maps_and_tanh() -> None:
    layers = perceptron.init_layers(jax.random.key(0), (3, 5, 2))
    inputs = RANDOM.normal(size=(4, 3))
    hidden = np.tanh(inputs @ np.asarray(layers[0][0]) + np.asarray(layers[0][1]))
    linear = hidden @ np.asarray(layers[1][0]) + np.asarray(layers[1][1])
    given = jnp.asarray(inputs, jnp.float32)
    np.testing.assert_allclose(perceptron.apply_layers(layers, given), linear, atol=1e-5)
    np.testing.assert_allclose(perceptron.apply_layers(layers, given, False), np.tanh(linear), atol=1e-5)


def test_deep_kernel_posterior_is_the_dense_one_on_features() -> None:
    kernel = fsbo.begin(FEATURES)._replace(mean=jnp.float32(0.3))
    encodings = RANDOM.random((CANDIDATES, FEATURES)).astype(np.float32)
    labels, seen = np.zeros(TRIALS), np.arange(TRIALS) < len(ACTIONS)
    labels[: len(ACTIONS)] = [0.2, 0.9, 0.0, 1.0]
    places = np.zeros(TRIALS, int)
    places[: len(ACTIONS)] = ACTIONS
    history = fsbo.History(
        jnp.asarray(encodings[places]), jnp.asarray(labels, jnp.float32), jnp.asarray(seen, jnp.float32)
    )
    mean, deviation = fsbo.posterior(kernel, jnp.asarray(encodings), history)
    features = np.asarray(fsbo.feature_map(kernel, jnp.asarray(encodings)), np.float64)
    covariance = math.exp(float(kernel.log_amplitude)) * gram(features)
    noise = float(fsbo.noise_of(kernel))
    expected, variance = dense(np.full(CANDIDATES, 0.3), covariance, noise, labels[: len(ACTIONS)])
    np.testing.assert_allclose(mean, expected, atol=2e-4)
    np.testing.assert_allclose(deviation, np.sqrt(np.maximum(variance, 1e-8)), atol=2e-3)
    tested = list(ACTIONS)
    whole = covariance[np.ix_(tested, tested)] + noise * np.eye(len(tested))
    density = multivariate_normal(np.full(4, 0.3), whole).logpdf(labels[: len(ACTIONS)])
    assert float(fsbo.history_surprise(kernel, history)) == pytest.approx(-density / 4, rel=1e-3)
    tune = quick_jit(fsbo.fine_tune)
    tuned = tune(kernel, history, jnp.int32(4))
    assert float(fsbo.history_surprise(tuned, history)) < float(fsbo.history_surprise(kernel, history))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, tune(kernel, history, jnp.int32(1)), kernel))


def test_rescaled_labels_keep_their_order_and_lie_between_random_limits() -> None:
    batch = meta.draw_batch(jax.random.key(0), known_tasks(), 5, 6)
    scaled = fsbo.rescaled(jax.random.key(1), batch)
    for before, after, present in zip(batch.values, scaled.values, batch.present, strict=True):
        before, after = np.asarray(before)[present > 0], np.asarray(after)[present > 0]
        slope, shift = np.polyfit(before, after, 1)
        np.testing.assert_allclose(after, slope * before + shift, atol=1e-4)
        limits = (-shift / slope, (1 - shift) / slope)
        assert 1.0 <= slope <= 5.001 and -1e-4 <= limits[0] < limits[1] <= 1.2
    assert np.all(np.asarray(scaled.values)[np.asarray(batch.present) == 0] == 0)


def test_warm_start_is_greedy_and_nearly_the_best_set() -> None:
    known = known_tasks(missing=0.0)
    starts = np.asarray(initial.warm_start(known, 3)).tolist()
    surfaces = np.asarray(known.values, np.float64)[np.asarray(known.usable)]
    served = lambda chosen: surfaces[:, list(chosen)].max(axis=1).mean()
    chosen: list[int] = []
    for _ in range(3):
        left = [column for column in range(CANDIDATES) if column not in chosen]
        chosen.append(max(left, key=lambda column: served([*chosen, column])))
    for size in (1, 2, 3):  # by value, for there may be ties
        assert served(starts[:size]) == pytest.approx(served(chosen[:size]))
    best = max(served(three) for three in combinations(range(CANDIDATES), 3))
    assert served(starts) >= (1 - 1 / math.e) * best
    assert int(initial.best_on_average(known)) == surfaces.mean(axis=0).argmax()


def test_batches_hold_measured_values_of_usable_tasks_alone() -> None:
    known = known_tasks()
    for seed in range(20):
        batch = meta.draw_batch(jax.random.key(seed), known, 6, 8)
        weights, tasks = np.asarray(batch.weights), np.asarray(batch.tasks)
        assert weights.sum() == pytest.approx(1.0)
        assert set(tasks[weights > 0].tolist()) == {0, 1, 2, 4, 5}
        for place in np.flatnonzero(weights):
            there = np.asarray(batch.present[place]) > 0
            columns = np.asarray(batch.columns[place])[there]
            assert np.asarray(known.present)[tasks[place], columns].all()
            assert (
                len(set(columns.tolist())) == len(columns) == min(8, int(known.present[tasks[place]].sum()))
            )
            np.testing.assert_array_equal(
                np.asarray(batch.values[place])[there], np.asarray(known.values)[tasks[place], columns]
            )


def factorization_machine(inputs: np.ndarray, bias: float, weights: np.ndarray, factors: np.ndarray) -> float:
    """Bias, linear part and all products of two inputs weighted by inner products of latent vectors."""
    total = bias + float(weights @ inputs)
    for i, j in combinations(range(len(inputs)), 2):
        total += float(factors[i] @ factors[j]) * inputs[i] * inputs[j]
    return total


def test_factorized_perceptron_is_a_factorization_machine_over_dataset_indicators() -> None:
    network, embeddings = fmlp.begin(jax.random.key(3), FEATURES, 4)
    encodings = RANDOM.random((5, FEATURES)).astype(np.float32)
    image = fmlp.image_of(network, jnp.asarray(encodings))
    (output, shift), hidden = network.output[0], network.bias.shape[0]
    for dataset in range(4):
        embedding = jax.tree.map(lambda leaf, dataset=dataset: leaf[dataset], embeddings)
        predicted = fmlp.predict(network, image, embedding)
        for place in range(5):
            inputs = np.concatenate([2.0 * encodings[place] - 1.0, np.eye(4)[dataset]])
            units = [
                factorization_machine(
                    inputs,
                    float(network.bias[unit]),
                    np.concatenate([network.weights[:, unit], embeddings.bias[:, unit]]),
                    np.concatenate([network.factors[:, unit], embeddings.factors[:, unit]]),
                )
                for unit in range(hidden)
            ]
            expected = float(np.tanh(units) @ np.asarray(output)[:, 0] + shift[0]) + 0.5
            assert float(predicted[place]) == pytest.approx(expected, abs=1e-5)


def test_fitting_an_embedding_lowers_its_misfit_and_follows_the_history() -> None:
    known = known_tasks(missing=0.0)
    network, embeddings = quick_jit(lambda key: fmlp.pretrain(key, known, 100))(jax.random.key(0))
    member = fmlp.describe(jax.random.key(1), network, embeddings, known)
    history = known.encodings[jnp.asarray(ACTIONS)], known.values[3, jnp.asarray(ACTIONS)], jnp.ones(4)
    deviations = member.anchor
    error = lambda model: float(jnp.mean((fmlp.believed(member, model, history[0]) - history[1]) ** 2))
    before, start = fmlp.misfit(deviations, member, *history), error(deviations)
    adapt = quick_jit(fmlp.adapt)
    for _ in range(8):
        deviations = adapt(deviations, member, *history)
    assert float(fmlp.misfit(deviations, member, *history)) < 0.5 * float(before)
    assert error(deviations) < 0.3 * start
    unseen = adapt(member.anchor, member, history[0], history[1], jnp.zeros(4))
    assert jax.tree.all(jax.tree.map(jnp.allclose, unseen, member.anchor))


def test_probability_of_improvement_orders_as_the_probability() -> None:
    mean, deviation = RANDOM.normal(size=(1, 8)), RANDOM.uniform(0.1, 0.5, (1, 8))
    posterior = process.Posterior(*(jnp.asarray(x, jnp.float32) for x in (mean, deviation, [0.7], [1.0])))
    prior = Prior(
        jnp.zeros(8), jnp.ones(8), jnp.zeros((8, 1)), Hypotheses(jnp.ones(1), jnp.asarray([0.04])), RANGES
    )
    score = np.asarray(hyperbo.probability_of_improvement(posterior, prior))[0]
    probability = 1 - norm.cdf(0.7 + 0.1, loc=mean[0], scale=np.sqrt(deviation[0] ** 2 + 0.04))
    np.testing.assert_allclose(norm.cdf(score), probability, atol=1e-5)
