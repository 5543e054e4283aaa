"""The svm and boosting recipes: spaces, samples of configurations, scores and trainings."""

from __future__ import annotations

import numpy as np
import pytest
from ConfigSpace import Configuration
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from hyprl_jax.surfaces.build import RECIPES, boosting, svm
from hyprl_jax.surfaces.build.engine import config_table
from hyprl_jax.surfaces.build.recipe import evaluate_each
from hyprl_jax.surfaces.build.sampling import sample_configs
from hyprl_jax.surfaces.build.scoring import balanced_error, log_loss, ranking_error
from hyprl_jax.surfaces.build.tasks import Split, TaskData, load_task

recipes = pytest.mark.parametrize("name", sorted(RECIPES))


@recipes
def test_samples_are_legal_distinct_and_fixed_by_the_seed(name: str) -> None:
    space = RECIPES[name].space()
    configs = sample_configs(space, 100, 0)
    assert configs == sample_configs(space, 100, 0)
    assert configs != sample_configs(space, 100, 1)
    assert configs[0] == dict(space.get_default_configuration())
    assert len({tuple(sorted((key, str(value)) for key, value in one.items())) for one in configs}) == 100
    for config in configs:
        Configuration(space, values=config).check_valid_configuration()


@recipes
def test_a_longer_sample_begins_with_the_shorter_one(name: str) -> None:
    space = RECIPES[name].space()
    assert sample_configs(space, 100, 5)[:40] == sample_configs(space, 40, 5)[:40]


def test_values_are_null_exactly_where_the_condition_fails() -> None:
    space = svm.space()
    table = config_table(space, sample_configs(space, 200, 0))
    kernel = table["kernel"]
    assert (table["gamma"].isna() == (kernel == "linear")).all()
    assert (table["degree"].isna() == (kernel != "poly")).all()
    assert (table["coef0"].isna() == ~kernel.isin(["poly", "sigmoid"])).all()
    assert not table[["C", "scaling", "class_weight", "tolerance"]].isna().to_numpy().any()

    space = boosting.space()
    table = config_table(space, sample_configs(space, 200, 0))
    boosted = table["ensemble"].isin(["histogram", "gradient"])
    assert (table["learning_rate"].isna() == ~boosted).all()
    assert (table["bootstrap"].isna() == boosted).all()
    assert (table["bootstrap_share"].isna() == ~(table["bootstrap"] == "on").fillna(False)).all()


@recipes
def test_pieces_cover_every_configuration_once(name: str) -> None:
    configs = sample_configs(RECIPES[name].space(), 70, 0)
    pieces = RECIPES[name].pieces(configs)
    assert sorted(at for piece in pieces for at in piece) == list(range(70))
    assert all(pieces)


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    probabilities = rng.dirichlet(np.ones(4), 300).round(2) + 0.01  # rounded: with ties
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    assert balanced_error(labels, predicted, 4) == pytest.approx(
        1 - balanced_accuracy_score(labels, predicted)
    )
    assert log_loss(labels, probabilities) == pytest.approx(reference_log_loss(labels, probabilities))
    area = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert ranking_error(labels, probabilities, 4) == pytest.approx(1 - area)
    binary = (labels > 1).astype(np.int64)
    scores = probabilities[:, 0]
    assert ranking_error(binary, scores, 2) == pytest.approx(1 - roc_auc_score(binary, scores))


def test_a_training_that_raises_is_a_missing_evaluation() -> None:
    def train(task: TaskData, split: Split, config: dict, seed: int) -> dict[str, float]:
        if config["x"] == 1:
            raise ValueError("cannot be trained")
        return {"objective": 0.25 * config["x"], "cost": 1.0}

    found = evaluate_each(train, load_task("iris-sepals", 0), [{"x": 0}, {"x": 1}, {"x": 2}], 0)
    assert found["error"].tolist() == ["", "ValueError: cannot be trained", ""]
    np.testing.assert_array_equal(found["objective"], [0.0, np.nan, 0.5])
    np.testing.assert_array_equal(found["cost"], [8.0, np.nan, 8.0])  # eight splits, summed


def test_scaling_uses_training_rows_only() -> None:
    train = np.array([[0.0, 5.0], [2.0, 5.0]])
    rows = np.array([[1.0, 5.0], [4.0, 7.0]])
    np.testing.assert_allclose(svm.scale("standard", train, rows), [[0.0, 0.0], [3.0, 2.0]])
    np.testing.assert_allclose(svm.scale("minmax", train, rows), [[0.5, 0.0], [2.0, 2.0]])
    np.testing.assert_array_equal(svm.scale("none", train, rows), rows)


@pytest.mark.parametrize("name", ["svm", "boosting"])
def test_trainings_repeat_bitwise_and_learn_something(name: str) -> None:
    recipe, task = RECIPES[name], load_task("moons-full", 0)
    configs = sample_configs(recipe.space(), 12, 0)
    first, second = recipe.evaluate(task, configs, 7), recipe.evaluate(task, configs, 7)
    for column in set(first) - {"cost"}:
        np.testing.assert_array_equal(first[column], second[column])
    assert first["objective"].min() < 0.2
    assert (first["cost"] > 0).all() and (first["work"] > 0).all()
    assert {one.name for one in recipe.others} <= set(first)


@pytest.mark.parametrize("kind", ["histogram", "gradient", "forest", "extra"])
def test_every_ensemble_takes_its_own_hyperparameters(kind: str) -> None:
    configs = sample_configs(boosting.space(), 80, 0)
    config = next(one for one in configs if one["ensemble"] == kind)
    model = boosting.make_model(config, rows=100, seed=3)
    settings = model.get_params()
    trees = settings.get("n_estimators", settings.get("max_iter"))
    assert trees == config["trees"] and settings["min_samples_leaf"] == config["leaf_rows"]
    if "learning_rate" in config:
        assert settings["learning_rate"] == config["learning_rate"]
    if "bootstrap_share" in config:
        assert settings["max_samples"] == max(8, round(100 * config["bootstrap_share"]))
