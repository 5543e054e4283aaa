"""How long a suggestion takes beside those of other libraries: milliseconds of one ask and tell at trial 50.

    python benchmarks/suggestions.py [--trials 50] [--repeats 3] [--methods hyprl optuna_tpe] [--json]

The policy that ships with the package (`hyprl_jax.runtime.Tuner()`), Optuna's TPE and Gaussian process, and
SMAC (the extra `baselines`; what is not installed is left out) minimise the same function of five numbers, on
tables of 288 and 3000 quasi-random configurations and in the continuous space itself. On one core; methods
take turns after every trial, so that what else the machine does hits all alike. Timed are the ten suggestions
around the given trial of every repeat. Besides their median stands their mean: SMAC trains its forest at
every eighth trial only, which the median does not see. Takes some minutes, most of them for Optuna's Gaussian
process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np  # noqa: E402 - the number of threads is set before

from hyprl_jax.baselines.libraries import TableProblem, check_installed, make_optimizer  # noqa: E402
from hyprl_jax.errors import MissingExtraError  # noqa: E402
from hyprl_jax.runtime import Float, Space, Tuner  # noqa: E402

METHODS = ("hyprl", "optuna_tpe", "optuna_gp", "smac")
DIMENSIONS = 5
SIZES = (288, 3000, None)
WINDOW = 10  # suggestions that are timed, around the trial asked for
NAMES = tuple(f"x{number}" for number in range(DIMENSIONS))


class Player(Protocol):
    """One optimizer in the middle of a search."""

    def play(self) -> None:
        """Ask, evaluate and tell once; the evaluation takes microseconds."""
        ...


class Problem(NamedTuple):
    """`table` `[N, 5]` float64, the only configurations to choose from, or None in the continuous space."""

    table: np.ndarray | None
    trials: int
    seed: int


def loss(point: np.ndarray) -> float:
    """A valley with ripples over `point [5]` in the unit cube; the first coordinates matter most."""
    away = (point - 0.3) * 0.6 ** np.arange(DIMENSIONS)
    return float((away**2).sum() + 0.05 * (1.0 - np.cos(9.0 * away)).sum())


def main() -> None:
    options = _options()
    methods = [method for method in options.methods if _installed(method)]
    seconds = {size: measure(size, methods, options.trials, options.repeats) for size in SIZES}
    if options.json:
        figures = {
            _title(size): {m: _figures(times) for m, times in s.items()} for size, s in seconds.items()
        }
        print(json.dumps({"trial": options.trials, "milliseconds": figures}))
        return
    print(f"milliseconds of a suggestion at trial {options.trials}, one core")
    print(f"{'candidates':<12}{'method':<12}{'median':>10}{'mean':>10}{'median / TPE':>15}{'mean / TPE':>13}")
    for size, by_method in seconds.items():
        yardstick = _figures(by_method["optuna_tpe"]) if "optuna_tpe" in by_method else None
        for method, times in by_method.items():
            mine = _figures(times)
            row = f"{_title(size):<12}{method:<12}{mine['median']:10.2f}{mine['mean']:10.2f}"
            if yardstick:
                row += f"{mine['median'] / yardstick['median']:15.2f}{mine['mean'] / yardstick['mean']:13.2f}"
            print(row)


def measure(size: int | None, methods: Sequence[str], trials: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each timed suggestion by method; `size`: rows of the table, or None for none."""
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    begin = max(trials - WINDOW // 2, 0)
    for seed in range(repeats):
        problem = Problem(None if size is None else _table(size, seed), begin + WINDOW, seed)
        players = {method: _player(method, problem) for method in methods}
        for trial in range(begin + WINDOW):
            for method, player in players.items():
                start = time.perf_counter()
                player.play()
                if trial >= begin:
                    seconds[method].append(time.perf_counter() - start)
    return seconds


class HypRL:
    """The policy that ships with the package."""

    def __init__(self, problem: Problem) -> None:
        rows = None if problem.table is None else [_config(row) for row in problem.table]
        space = Space([Float(name, 0.0, 1.0) for name in NAMES])
        self._tuner = Tuner(space, candidates=rows, trials=problem.trials, seed=problem.seed)

    def play(self) -> None:
        config = self._tuner.ask()
        self._tuner.tell(config, loss(_point(config)))


class Table:
    """A library over the rows of a table, as `hyprl evaluate` compares it."""

    def __init__(self, method: str, problem: Problem, table: np.ndarray) -> None:
        self._table = table
        configurations = tuple(_config(row) for row in table)
        columns = np.arange(len(table))
        self._optimizer = make_optimizer(
            method,
            TableProblem(
                _config_space(), configurations, table.astype(np.float32), "minimize", columns,
                problem.trials, problem.seed,
            ),
        )  # fmt: skip

    def play(self) -> None:
        column = self._optimizer.ask()
        self._optimizer.tell(column, loss(self._table[column]))


class Optuna:
    """A sampler of Optuna in the continuous space, with its defaults."""

    def __init__(self, name: str, problem: Problem) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(sampler=getattr(optuna.samplers, name)(seed=problem.seed))
        self._space: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in NAMES
        }

    def play(self) -> None:
        trial = self._study.ask(self._space)
        self._study.tell(trial, loss(_point(trial.params)))


class SMAC:
    """SMAC's facade for hyperparameters in the continuous space, with its defaults."""

    def __init__(self, problem: Problem) -> None:
        from smac import HyperparameterOptimizationFacade, Scenario

        with tempfile.TemporaryDirectory() as folder:
            scenario = Scenario(
                _config_space(), output_directory=Path(folder), deterministic=True,
                n_trials=problem.trials, seed=problem.seed,
            )  # fmt: skip
            self._facade: Any = HyperparameterOptimizationFacade(
                scenario, logging_level=False, overwrite=True
            )

    def play(self) -> None:
        from smac.runhistory import TrialValue

        info = self._facade.ask()
        self._facade.tell(info, TrialValue(cost=loss(_point(dict(info.config)))), save=False)


def _player(method: str, problem: Problem) -> Player:
    if method == "hyprl":
        return HypRL(problem)
    if problem.table is not None:
        return Table(method, problem, problem.table)
    inside: dict[str, Callable[[], Player]] = {
        "optuna_tpe": lambda: Optuna("TPESampler", problem),
        "optuna_gp": lambda: Optuna("GPSampler", problem),
        "smac": lambda: SMAC(problem),
    }
    return inside[method]()


def _installed(method: str) -> bool:
    """Whether a method can be played; says so if not. Torch is held to one thread if it is there."""
    if method == "hyprl":
        return True
    try:
        check_installed(method)
    except MissingExtraError as error:
        print(f"{method} is left out: {error}")
        return False
    if method == "optuna_gp":
        import torch

        torch.set_num_threads(1)
    return True


def _config_space() -> Any:
    import ConfigSpace

    return ConfigSpace.ConfigurationSpace(dict.fromkeys(NAMES, (0.0, 1.0)))


def _table(size: int, seed: int) -> np.ndarray:
    from scipy.stats import qmc

    return np.asarray(qmc.Halton(DIMENSIONS, rng=np.random.default_rng(seed)).random(size))


def _config(point: np.ndarray) -> dict[str, Any]:
    return dict(zip(NAMES, point.tolist(), strict=True))


def _point(config: Any) -> np.ndarray:
    return np.asarray([config[name] for name in NAMES])


def _figures(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": 1e3 * float(np.median(seconds)), "mean": 1e3 * float(np.mean(seconds))}


def _each(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {method: _figures(times) for method, times in seconds.items()}


def _title(size: int | None) -> str:
    return "continuous" if size is None else str(size)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Milliseconds of one suggestion.")
    parser.add_argument("--trials", type=int, default=50, help="the trial at which suggestions are timed")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each method, one a seed")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    if options.trials < 1 or options.repeats < 1:
        parser.error("--trials and --repeats are at least 1")
    return options


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries say of being experimental
        main()
