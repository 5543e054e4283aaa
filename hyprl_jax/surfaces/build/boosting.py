"""The `boosting` recipe: four tree ensembles of scikit-learn, each with hyperparameters of its own.

`ensemble` chooses between histogram and exact gradient boosting, random forest and extra trees; learning
rates belong to boosting, bootstrapping to forests, and the size of a bootstrap sample only to those that draw
one: conditions on two levels. Cost is the processor time of fitting and predicting on one thread; `leaves` is
a deterministic stand-in.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hyprl_jax.surfaces.build.recipe import Columns, Measure, Recipe, equal_pieces, evaluate_each
from hyprl_jax.surfaces.build.scoring import balanced_error, log_loss
from hyprl_jax.surfaces.build.sources import stream
from hyprl_jax.surfaces.build.tasks import Split, TaskData

BOOSTED = ["histogram", "gradient"]
FORESTS = ["forest", "extra"]


def space() -> Any:
    """The search space: fourteen hyperparameters, most of them conditional on the kind of ensemble."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float, InCondition, Integer

    kind = Categorical("ensemble", BOOSTED + FORESTS, weights=[0.35, 0.25, 0.25, 0.15], default="histogram")
    bootstrap = Categorical("bootstrap", ["on", "off"], default="on")
    belongs: list[tuple[Any, list[str]]] = [
        (Float("learning_rate", (0.01, 1.0), log=True, default=0.1), BOOSTED),
        (Float("l2", (1e-4, 1e2), log=True, default=1e-3), ["histogram"]),
        (Integer("max_bins", (4, 255), log=True, default=64), ["histogram"]),
        (Integer("leaf_nodes", (2, 64), log=True, default=31), ["histogram", *FORESTS]),
        (Integer("depth", (1, 6), default=3), ["gradient"]),
        (Float("subsample", (0.2, 1.0), default=1.0), ["gradient"]),
        (Categorical("criterion", ["gini", "entropy"], default="gini"), FORESTS),
        (bootstrap, FORESTS),
    ]
    rows = Float("bootstrap_share", (0.1, 1.0), default=1.0)
    found = ConfigurationSpace(name="boosting")
    found.add(
        kind,
        Integer("trees", (4, 64), log=True, default=32),
        Integer("leaf_rows", (1, 40), log=True, default=5),
        Float("column_share", (0.1, 1.0), default=1.0),
        Categorical("class_weight", ["none", "balanced"], default="none"),
        rows,
        *(child for child, _ in belongs),
    )
    found.add(*(InCondition(child, kind, kinds) for child, kinds in belongs))
    found.add(InCondition(rows, bootstrap, ["on"]))
    return found


def evaluate(task: TaskData, configs: list[dict[str, Any]], seed: int) -> Columns:
    """Train every configuration on every split: columns `[C]`, in the order of `configs`."""
    return evaluate_each(_train, task, configs, seed)


def make_model(config: dict[str, Any], rows: int, seed: int) -> Any:
    """The scikit-learn estimator of a configuration for `rows` training rows; hyperparameters that are not
    active are not passed.
    """
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )

    kind = config["ensemble"]
    shared = {
        "max_features": config["column_share"],
        "min_samples_leaf": config["leaf_rows"],
        "random_state": seed,
    }
    weight = None if config["class_weight"] == "none" else "balanced"
    if kind == "histogram":
        return HistGradientBoostingClassifier(
            learning_rate=config["learning_rate"],
            max_iter=config["trees"],
            max_leaf_nodes=config["leaf_nodes"],
            l2_regularization=config["l2"],
            max_bins=config["max_bins"],
            class_weight=weight,
            early_stopping=False,
            **shared,
        )
    if kind == "gradient":
        return GradientBoostingClassifier(
            learning_rate=config["learning_rate"],
            n_estimators=config["trees"],
            max_depth=config["depth"],
            subsample=config["subsample"],
            **shared,
        )
    share = config.get("bootstrap_share")
    return (RandomForestClassifier if kind == "forest" else ExtraTreesClassifier)(
        n_estimators=config["trees"],
        max_leaf_nodes=config["leaf_nodes"],
        criterion=config["criterion"],
        bootstrap=config["bootstrap"] == "on",
        max_samples=None if share is None else max(8, round(share * rows)),
        class_weight=weight,
        **shared,
    )


def _train(task: TaskData, split: Split, config: dict[str, Any], seed: int) -> dict[str, float]:
    from sklearn.utils.class_weight import compute_sample_weight

    labels = task.training_labels[split.train]
    balanced = config["class_weight"] == "balanced" and config["ensemble"] == "gradient"
    weights = compute_sample_weight("balanced", labels) if balanced else None
    model = make_model(config, len(labels), stream(seed, "model"))
    started = time.process_time()
    model.fit(task.features[split.train], labels, sample_weight=weights)
    found = model.predict_proba(task.features[split.validation])
    cost = time.process_time() - started
    probabilities = np.zeros((len(found), task.classes))
    probabilities[:, model.classes_] = found
    truth = task.labels[split.validation]
    return {
        "objective": balanced_error(truth, probabilities.argmax(axis=1), task.classes),
        "log_loss": log_loss(truth, probabilities),
        "work": float(_leaves(model)),
        "cost": cost,
    }


def _leaves(model: Any) -> int:
    """Leaves of all trees of a fitted ensemble."""
    if hasattr(model, "_predictors"):
        return sum(tree.get_n_leaf_nodes() for trees in model._predictors for tree in trees)
    return sum(int(tree.get_n_leaves()) for tree in np.ravel(np.asarray(model.estimators_, dtype=object)))


def recipe() -> Recipe:
    """The recipe as the registry lists it."""
    return Recipe(
        name="boosting",
        title="Tree ensembles",
        description="Validation error of gradient boosting (two kinds), random forests and extra trees.",
        version=1,
        space=space,
        evaluate=evaluate,
        pieces=equal_pieces(24),
        configs=320,
        cost=Measure(
            "seconds", "s", "minimize", "processor seconds of fitting and predicting, summed over splits"
        ),
        fidelity=None,
        others=(
            Measure(
                "log_loss",
                "nat",
                "minimize",
                "mean negative log probability of the right class (clipped at 1e-6)",
            ),
            Measure(
                "work",
                "leaves",
                "minimize",
                "deterministic stand-in for the cost: leaves grown, all trees and splits",
            ),
        ),
        notes=("Every training uses one thread and the same random state in all configurations of a task.",),
    )
