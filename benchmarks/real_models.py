"""Does a pretrained policy help somebody who tunes a model of their own? Real models, real data, real tuning.

Four kinds of models on data sets that come with scikit-learn, in search spaces that no collection contains
(define-by-run, with conditions): random forests, logistic regression, a pipeline of scaling, reduction and
classifier, and a small neural network. Each is tuned by the policy that ships with the package
(`HypRLSampler()`), Optuna's TPE and Gaussian process, and random search, all as Optuna samplers with their
defaults. Every configuration is really trained, by cross-validation.

    python benchmarks/real_models.py --out runs/real_models          # about half an hour on two cores
    python benchmarks/real_models.py --out runs/real_models --seeds 2 --trials 10 --tasks logistic-wine

Finished studies are kept under OUT and not repeated. Printed are the mean normalized regret, `(incumbent -
best known) / (median of random configurations - best known)`, within 0 and 1, and the average rank at 10, 25
and 50 trials with 95% bootstrap intervals over tasks and seeds, and the seconds a suggestion took.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # a process a core

import numpy as np  # noqa: E402 - the number of threads is set before
import optuna  # noqa: E402
import scipy.stats  # noqa: E402
from sklearn import (  # noqa: E402
    datasets,
    ensemble,
    linear_model,
    model_selection,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
)
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.feature_selection import SelectKBest  # noqa: E402

METHODS = ("hyprl", "optuna_tpe", "optuna_gp", "random")
BUDGETS = (10, 25, 50)
_TRAINING: list[float] = []  # seconds of each configuration of this process


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets; of the digits every third image, so that a configuration takes little time."""
    loader = {
        "digits": datasets.load_digits,
        "wine": datasets.load_wine,
        "cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
    }[name]
    x, y = loader(return_X_y=True)
    return (x[::3], y[::3]) if name == "digits" else (x, y)


def loss(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Cross-validated error: the share of wrong classes, or 1 - R^2 in regression."""
    start = time.perf_counter()
    classes = not np.issubdtype(y.dtype, np.floating)
    kind = model_selection.StratifiedKFold if classes else model_selection.KFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a network has not converged is part of its configuration
        scores = model_selection.cross_val_score(model, x, y, cv=kind(3, shuffle=True, random_state=0))
    _TRAINING.append(time.perf_counter() - start)
    return float(1.0 - scores.mean())


def forest(trial: optuna.Trial, x: np.ndarray, y: np.ndarray) -> float:
    options: dict[str, Any] = {
        "max_depth": trial.suggest_int("max_depth", 2, 32, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 20, log=True),
        "max_features": trial.suggest_float("max_features", 0.05, 1.0),
        "min_impurity_decrease": trial.suggest_float("min_impurity_decrease", 1e-6, 0.1, log=True),
        "bootstrap": trial.suggest_categorical("bootstrap", [True, False]),
    }
    if options["bootstrap"]:
        options["max_samples"] = trial.suggest_float("max_samples", 0.3, 1.0)
    regression = np.issubdtype(y.dtype, np.floating)
    kind = ensemble.RandomForestRegressor if regression else ensemble.RandomForestClassifier
    return loss(kind(n_estimators=15, random_state=0, **options), x, y)


def logistic(trial: optuna.Trial, x: np.ndarray, y: np.ndarray) -> float:
    model = linear_model.LogisticRegression(
        C=trial.suggest_float("C", 1e-5, 1e3, log=True),
        class_weight=trial.suggest_categorical("class_weight", [None, "balanced"]),
        fit_intercept=trial.suggest_categorical("fit_intercept", [True, False]),
        tol=trial.suggest_float("tol", 1e-5, 1e-1, log=True),
        max_iter=trial.suggest_int("max_iter", 10, 100, log=True),
    )
    power = trial.suggest_float("power", 0.25, 2.0)
    scaler = preprocessing.FunctionTransformer(_signed_power, kw_args={"power": power})
    return loss(pipeline.make_pipeline(preprocessing.StandardScaler(), scaler, model), x, y)


def _signed_power(x: np.ndarray, power: float) -> np.ndarray:
    return np.sign(x) * np.abs(x) ** power


def chain(trial: optuna.Trial, x: np.ndarray, y: np.ndarray) -> float:
    scaling = trial.suggest_categorical("scaling", ["none", "standard", "minmax", "rank"])
    scaler = {
        "none": "passthrough",
        "standard": preprocessing.StandardScaler(),
        "minmax": preprocessing.MinMaxScaler(),
        "rank": preprocessing.QuantileTransformer(n_quantiles=50),
    }[scaling]
    reduction = trial.suggest_categorical("reduction", ["none", "pca", "best"])
    reducer: Any = "passthrough"
    if reduction == "pca":
        reducer = PCA(trial.suggest_float("variance", 0.5, 0.999), svd_solver="full")
    elif reduction == "best":
        reducer = SelectKBest(k=max(1, round(trial.suggest_float("share", 0.1, 1.0) * x.shape[1])))
    if trial.suggest_categorical("classifier", ["svm", "neighbours"]) == "svm":
        model: Any = svm.SVC(
            C=trial.suggest_float("C", 1e-3, 1e3, log=True),
            gamma=trial.suggest_float("gamma", 1e-5, 10.0, log=True),
        )
    else:
        model = neighbors.KNeighborsClassifier(
            n_neighbors=trial.suggest_int("n_neighbors", 1, 40, log=True),
            weights=trial.suggest_categorical("weights", ["uniform", "distance"]),
            p=trial.suggest_float("p", 1.0, 4.0),
        )
    return loss(pipeline.make_pipeline(scaler, reducer, model), x, y)


def network(trial: optuna.Trial, x: np.ndarray, y: np.ndarray) -> float:
    layers = trial.suggest_int("layers", 1, 2)
    solver = trial.suggest_categorical("solver", ["adam", "sgd"])
    options: dict[str, Any] = {
        "hidden_layer_sizes": [trial.suggest_int("units", 8, 96, log=True)] * layers,
        "activation": trial.suggest_categorical("activation", ["relu", "tanh"]),
        "alpha": trial.suggest_float("alpha", 1e-6, 10.0, log=True),
        "learning_rate_init": trial.suggest_float("learning_rate", 1e-4, 1.0, log=True),
        "batch_size": trial.suggest_int("batch_size", 16, 128, log=True),
    }
    if solver == "sgd":
        options["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
    regression = np.issubdtype(y.dtype, np.floating)
    kind = neural_network.MLPRegressor if regression else neural_network.MLPClassifier
    model = kind(solver=solver, max_iter=12, random_state=0, **options)
    if regression:  # targets of the order of 1, so that no solver diverges for that alone
        y = (y - y.mean()) / y.std()
    return min(loss(pipeline.make_pipeline(preprocessing.StandardScaler(), model), x, y), 1e6)


MODELS = {"forest": forest, "logistic": logistic, "pipeline": chain, "network": network}
TASKS = (
    "forest-digits", "forest-diabetes", "logistic-digits", "logistic-cancer",
    "pipeline-digits", "pipeline-wine", "network-digits", "network-diabetes",
)  # fmt: skip


def sampler(method: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of a method, with its defaults."""
    if method == "hyprl":
        from hyprl_jax.frontends import HypRLSampler

        return HypRLSampler(seed=seed, n_trials=trials)
    kinds: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "optuna_tpe": optuna.samplers.TPESampler,
        "optuna_gp": optuna.samplers.GPSampler,
        "random": optuna.samplers.RandomSampler,
    }
    return kinds[method](seed=seed)


def tune(task: str, method: str, seed: int, trials: int) -> dict[str, Any]:
    """One study: its values in their order (None where a trial failed) and the seconds its suggestions
    took."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kind, _, data = task.partition("-")
    x, y = load(data)
    _TRAINING.clear()
    study = optuna.create_study(sampler=sampler(method, seed, trials))
    start = time.perf_counter()
    study.optimize(lambda trial: MODELS[kind](trial, x, y), n_trials=trials, catch=(ValueError,))
    spent = sum(_TRAINING)
    seconds = time.perf_counter() - start - spent
    values = [trial.value for trial in study.trials]
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "values": values,
        "seconds": seconds,
        "spent": spent,
    }


def run_all(
    out: Path, tasks: list[str], methods: list[str], seeds: int, trials: int, jobs: int
) -> list[dict]:
    """Every study that is not yet in `out`, by several processes; all results."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = [(task, method, seed) for seed in range(seeds) for task in tasks for method in methods]
    files = {key: out / f"{key[0]}-{key[1]}-{key[2]}-{trials}.json" for key in wanted}
    missing = [key for key in wanted if not files[key].exists()]
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {pool.submit(tune, *key, trials): key for key in missing}
        for number, done in enumerate(as_completed(waiting)):
            part = files[waiting[done]].with_suffix(".part")
            part.write_text(json.dumps(done.result()))
            part.rename(files[waiting[done]])
            print(f"{number + 1}/{len(missing)} studies: {'-'.join(map(str, waiting[done]))}", flush=True)
    return [json.loads(file.read_text()) for file in files.values()]


def regrets(results: list[dict], methods: list[str]) -> np.ndarray:
    """Normalized regret `[tasks * seeds, methods, trials]` of the incumbents."""
    rows = []
    for task in sorted({result["task"] for result in results}):
        mine = [result for result in results if result["task"] == task]
        values = {
            (result["seed"], result["method"]): np.asarray(
                [np.inf if value is None else value for value in result["values"]]
            )
            for result in mine
        }
        best = min(float(value.min()) for value in values.values())
        usual = np.concatenate([value for (_, method), value in values.items() if method == "random"])
        scale = max(float(np.median(usual)) - best, 1e-12)
        for seed in sorted({seed for seed, _ in values}):
            curves = [np.minimum.accumulate(values[seed, method]) for method in methods]
            rows.append([np.clip((curve - best) / scale, 0.0, 1.0) for curve in curves])
    return np.asarray(rows)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of `values [R]`."""
    picks = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def table(results: list[dict], methods: list[str], trials: int) -> str:
    """Markdown: regret and rank of each method at each budget, and milliseconds a suggestion."""
    regret = regrets(results, methods)
    rank = scipy.stats.rankdata(regret, axis=1)
    budgets = [budget for budget in BUDGETS if budget <= trials] or [trials]
    head = [
        "method",
        *(f"regret at {b}" for b in budgets),
        *(f"rank at {b}" for b in budgets),
        "ms a suggestion",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for place, method in enumerate(methods):
        cells = []
        for what, form in ((regret, "{:.3f} [{:.3f}, {:.3f}]"), (rank, "{:.2f} [{:.2f}, {:.2f}]")):
            for budget in budgets:
                column = what[:, place, budget - 1]
                cells.append(form.format(column.mean(), *interval(column)))
        seconds = [r["seconds"] / len(r["values"]) for r in results if r["method"] == method]
        lines.append("| " + " | ".join([method, *cells, f"{1e3 * np.median(seconds):.1f}"]) + " |")
    return "\n".join(lines)


def keep(results: list[dict], methods: list[str], trials: int, text: str) -> None:
    """Writes docs/results/real_models.md, with a table of the tasks one by one, and the README's table."""
    root = Path(__file__).resolve().parent.parent
    budgets = [budget for budget in BUDGETS if budget <= trials] or [trials]
    lines = ["| task | " + " | ".join(methods) + " |", "| --- |" + " --- |" * len(methods)]
    for task in sorted({result["task"] for result in results}):
        mean = regrets([result for result in results if result["task"] == task], methods).mean(0)
        cells = [", ".join(f"{mean[place, b - 1]:.3f}" for b in budgets) for place in range(len(methods))]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    head = (
        "# Real models, tuned\n\nMade by `python benchmarks/real_models.py --keep`, which says what is tuned "
        f"and how: {len(lines) - 2} tasks, {len({r['seed'] for r in results})} seeds, {trials} trials. "
        "Normalized regret (0: the best known configuration, 1: a typical random one) and average rank, with "
        "95% intervals; then the mean regret task by task at " + ", ".join(map(str, budgets)) + " trials.\n\n"
    )
    page = root / "docs" / "results" / "real_models.md"
    page.write_text(head + text + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    readme = root / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split("<!-- real models: made by", 1)
    marks = "<!-- real models: made by benchmarks/real_models.py -->", "<!-- end of real models -->"
    after = rest.split(marks[1], 1)[1]
    readme.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/real_models"))
    parser.add_argument("--tasks", default=",".join(TASKS), help="of " + ", ".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS), help="of " + ", ".join(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--keep", action="store_true", help="write the tables into docs/results and the README"
    )
    given = parser.parse_args()
    tasks, methods = given.tasks.split(","), given.methods.split(",")
    results = run_all(given.out, tasks, methods, given.seeds, given.trials, given.jobs)
    text = table(results, methods, given.trials)
    (given.out / "table.md").write_text(text + "\n")
    if given.keep:
        keep(results, methods, given.trials, text)
    print(f"\n{len(tasks)} tasks, {given.seeds} seeds, {given.trials} trials\n\n{text}")


if __name__ == "__main__":
    main()
