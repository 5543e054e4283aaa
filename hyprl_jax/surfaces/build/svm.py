"""The `svm` recipe: support vector classifiers (libsvm, through scikit-learn) with kernel-dependent
hyperparameters.

A kernel brings its own hyperparameters: `gamma` for all but the linear one, `degree` for the polynomial,
`coef0` for the polynomial and the sigmoid. The number of libsvm iterations is capped, as any tuning job
would: a capped model is scored as it stands. Cost is the processor time of fitting and predicting; `work` is
a deterministic stand-in for it.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from hyprl_jax.surfaces.build.recipe import Columns, Measure, Recipe, equal_pieces, evaluate_each
from hyprl_jax.surfaces.build.scoring import balanced_error, ranking_error
from hyprl_jax.surfaces.build.tasks import Split, TaskData

ITERATION_CAP = 20_000


def space() -> Any:
    """The search space: nine hyperparameters, three of them conditional on the kernel."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float, InCondition, Integer

    kernel = Categorical(
        "kernel", ["rbf", "poly", "sigmoid", "linear"], weights=[0.4, 0.25, 0.15, 0.2], default="rbf"
    )
    gamma = Float("gamma", (1e-4, 1e1), log=True, default=0.1)
    degree = Integer("degree", (2, 5), default=3)
    coef0 = Float("coef0", (-1.0, 1.0), default=0.0)
    found = ConfigurationSpace(name="svm")
    found.add(
        kernel,
        Float("C", (1e-3, 1e3), log=True, default=1.0),
        gamma,
        degree,
        coef0,
        Categorical("scaling", ["standard", "minmax", "none"], weights=[0.5, 0.3, 0.2], default="standard"),
        Categorical("class_weight", ["none", "balanced"], default="none"),
        Categorical("shrinking", ["on", "off"], default="on"),
        Float("tolerance", (1e-4, 1e-1), log=True, default=1e-3),
    )
    found.add(
        InCondition(gamma, kernel, ["rbf", "poly", "sigmoid"]),
        InCondition(degree, kernel, ["poly"]),
        InCondition(coef0, kernel, ["poly", "sigmoid"]),
    )
    return found


def evaluate(task: TaskData, configs: list[dict[str, Any]], seed: int) -> Columns:
    """Train every configuration on every split: columns `[C]`, in the order of `configs`; `seed` is not
    needed here.
    """
    return evaluate_each(_train, task, configs, seed)


def _train(task: TaskData, split: Split, config: dict[str, Any], seed: int) -> dict[str, float]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVC

    del seed  # libsvm draws no random numbers here
    scaled = scale(config["scaling"], task.features[split.train], task.features)
    model = SVC(
        C=config["C"],
        kernel=config["kernel"],
        gamma=config.get("gamma", 1.0),
        degree=config.get("degree", 3),
        coef0=config.get("coef0", 0.0),
        class_weight=None if config["class_weight"] == "none" else "balanced",
        shrinking=config["shrinking"] == "on",
        tol=config["tolerance"],
        max_iter=ITERATION_CAP,
        decision_function_shape="ovr",
    )
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled[split.train], task.training_labels[split.train])
    scores = model.decision_function(scaled[split.validation])
    cost = time.process_time() - started
    predicted = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
    labels = task.labels[split.validation]
    products = int(np.sum(model.n_iter_)) * len(split.train) + len(model.support_) * len(labels)
    return {
        "objective": balanced_error(labels, predicted, task.classes),
        "ranking_error": ranking_error(labels, scores, task.classes),
        "work": products * task.features.shape[1] / 1e6,
        "cost": cost,
    }


def scale(how: str, train: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Scale `features` `[N, D]` by statistics of the training rows alone; a constant column becomes zero."""
    if how == "none":
        return features
    low, high = train.min(axis=0), train.max(axis=0)
    centre, width = (train.mean(axis=0), train.std(axis=0)) if how == "standard" else (low, high - low)
    return (features - centre) / np.where(width > 0, width, 1.0)


def recipe() -> Recipe:
    """The recipe as the registry lists it."""
    return Recipe(
        name="svm",
        title="Support vector classifiers",
        description="Validation error of scikit-learn's SVC over kernels with their own hyperparameters.",
        version=1,
        space=space,
        evaluate=evaluate,
        pieces=equal_pieces(48),
        configs=384,
        cost=Measure(
            "seconds", "s", "minimize", "processor seconds of fitting and predicting, summed over splits"
        ),
        fidelity=None,
        others=(
            Measure(
                "ranking_error",
                None,
                "minimize",
                "one less the area under the ROC curve, class against rest",
            ),
            Measure(
                "work", "10^6 products", "minimize", "deterministic stand-in for the cost: kernel products"
            ),
        ),
        notes=(
            f"libsvm stops after {ITERATION_CAP} iterations; such a model is scored as it stands.",
            "Features are scaled by statistics of the training rows, in the way the configuration names.",
        ),
    )
