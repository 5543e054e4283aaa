"""Optimizers of a user, good and bad, and a small conditional collection for them to play on."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pandas as pd
from surface_examples import sampled_frame, small_space

from hyprl_jax.baselines.libraries import TableProblem
from hyprl_jax.surfaces import Collection, CollectionInfo, Objective


class Ascending:
    """Columns in order; a well-behaved method whose runs may be kept."""

    version = "1"

    def __init__(self, problem: TableProblem) -> None:
        self.problem = problem
        self.left = [int(column) for column in problem.legal]
        self.told: list[tuple[int, float]] = []

    def ask(self) -> int:
        return self.left[0]

    def tell(self, column: int, objective: float) -> None:
        self.told.append((column, objective))
        self.left.remove(column)


class Unversioned(Ascending):
    version = None  # type: ignore[assignment]

    def ask(self) -> np.int64:  # type: ignore[override]
        print("noise on standard output")
        print("noise on standard error", file=sys.stderr)
        return np.int64(self.left[-1])


class Drawing(Ascending):
    """Draws from global generators too: they are seeded for every run."""

    def ask(self) -> int:
        return int(np.random.choice(self.left))  # noqa: NPY002


class Slow(Ascending):
    def ask(self) -> int:
        time.sleep(0.05)
        return super().ask()


class Faulty(Ascending):
    """Fails at its third suggestion."""

    def ask(self) -> int:
        return self.fail() if len(self.told) == 2 else super().ask()

    def fail(self) -> int:
        raise RuntimeError("no idea\nwhat to do")


class Repeating(Faulty):
    def fail(self) -> int:
        return self.told[0][0]


class OutOfRange(Faulty):
    def fail(self) -> int:
        return len(self.problem.configurations)


class Negative(Faulty):
    def fail(self) -> int:
        return -1


class WithoutResult(Faulty):
    def fail(self) -> int:
        return int(np.setdiff1d(np.arange(len(self.problem.configurations)), self.problem.legal)[0])


class Nonsense(Faulty):
    def fail(self) -> int:
        return "the best one"  # type: ignore[return-value]


class Truthful(Faulty):
    def fail(self) -> int:
        return True


class Exiting(Faulty):
    def fail(self) -> int:
        os._exit(3)


class Quitting(Faulty):
    def fail(self) -> int:
        sys.exit(5)


class Hanging(Faulty):
    def fail(self) -> int:
        time.sleep(3600)
        return 0


class Deaf(Ascending):
    def tell(self, column: int, objective: float) -> None:
        super().tell(column, objective)
        if len(self.told) == 2:
            raise ValueError("too much")


class Unmakeable(Ascending):
    def __init__(self, problem: TableProblem) -> None:
        raise ValueError("not this one")


class CheckingStarts(Ascending):
    """Knows that two starts are told before anything is asked."""

    def ask(self) -> int:
        if len(self.told) < 2:
            raise RuntimeError("asked before the starts were told")
        return super().ask()


class Wrecking(Ascending):
    """Spoils all that it was given; the next run must not notice."""

    def __init__(self, problem: TableProblem) -> None:
        super().__init__(problem)
        assert problem.configurations[0]
        assert np.isfinite(problem.encodings).all()
        problem.configurations[0].clear()
        problem.encodings[:] = np.nan
        problem.space.seed(1)


def easy_collection(tasks: int = 3, configurations: int = 120, direction: str = "minimize") -> Collection:
    """Surfaces with one smooth optimum a task in the space of `small_space`: three choices decide most."""
    space = small_space()
    configs = sampled_frame(space, configurations, seed=3)
    gamma = np.log10(configs["gamma"].to_numpy(dtype=float, na_value=np.nan))
    degree = configs["degree"].to_numpy(dtype=float, na_value=np.nan)
    depth = configs["depth"].map({"flat": 0.0, "medium": 0.5, "deep": 1.0}).to_numpy(dtype=float)
    rows = []
    for task in range(tasks):
        value = np.where(configs["kernel"] == "rbf", 0.0, np.where(configs["kernel"] == "poly", 0.3, 0.5))
        value = value + np.nan_to_num(0.01 * (gamma - task / 2) ** 2) + np.nan_to_num(0.02 * degree)
        value = value + 0.3 * depth + 0.2 * (configs["bias"].to_numpy(dtype=bool))
        sign = 1.0 if direction == "minimize" else -1.0
        rows.append(pd.DataFrame({"config_id": 10 * np.arange(len(configs)) + 3, "objective": sign * value}))
        rows[-1].insert(0, "task", f"task{task}")
        rows[-1] = rows[-1].drop(index=task)  # one configuration has no result, another one a task
    configs.insert(0, "config_id", 10 * np.arange(len(configs)) + 3)
    names = [f"task{task}" for task in range(tasks)]
    info = CollectionInfo(name="easy", objective=Objective("error", direction))
    described = pd.DataFrame({"task": names, "group": names})
    return Collection(info, space, described, configs, pd.concat(rows, ignore_index=True))
