"""SMAC3's random forest over a table (Lindauer et al., JMLR 2022; Hutter et al., LION 2011).

The library's `HyperparameterOptimizationFacade` with its defaults, in ask-and-tell, but for what a table
demands:

- its acquisition maximiser, a local search among sampled configurations, scores every untried configuration
  of the table instead, and the configurations that it interleaves at random are drawn from these as well;
- starting points stand at the head of its initial design, and the points of its Sobol sequence that follow
  become the nearest untried configurations, as many fewer as there are starting points;
- at the very end of a table, where fewer configurations are left than it wants to choose at once, what it
  samples instead becomes the nearest untried configuration.

Conditions, inactive values (imputed by the forest) and forbidden clauses are the library's own business, as
the configurations are its own objects. Its forest is trained anew after every eighth configuration, the
library's default.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ConfigSpace

from hyprl_jax.baselines.libraries.problem import Candidates, TableProblem

__all__ = ["SMACForest"]


class SMACForest:
    """`smac.HyperparameterOptimizationFacade`."""

    def __init__(self, problem: TableProblem) -> None:
        logging.getLogger("smac").setLevel(logging.CRITICAL)
        self._problem = problem
        self._table = _Table(problem)
        self._sign = 1.0 if problem.direction == "minimize" else -1.0
        self._facade: Any = None
        self._starts: list[tuple[int, float]] = []  # told before the facade was made
        self._asked: dict[int, Any] = {}
        self._seed = 0

    def ask(self) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._facade is None:
                self._begin()
            info = self._next()
        return self._column(info)

    def tell(self, column: int, objective: float) -> None:
        if self._facade is None:
            self._table.candidates.take(column)
            self._starts.append((column, self._sign * objective))
            return
        self._finish(self._asked.pop(column, None) or self._unasked(column), self._sign * objective)
        self._table.candidates.take(column)

    def _begin(self) -> None:
        """Make the facade, and let it ask for the starting points first."""
        self._facade = _make_facade(self._problem, self._table, [column for column, _ in self._starts])
        for column, cost in self._starts:
            info = self._next()
            known = info is not None and info.config == self._table.configurations[column]
            self._finish(info if known else self._unasked(column), cost)

    def _next(self) -> Any:
        """What the library wants to test next; None where it finds nothing new."""
        from smac.main.exceptions import ConfigurationSpaceExhaustedException

        try:
            info = self._facade.ask()
            self._seed = info.seed  # of the function to be optimised: one and the same in all trials
            return info
        except (StopIteration, ConfigurationSpaceExhaustedException):
            return None

    def _column(self, info: Any) -> int:
        """The column of what was asked for, which is remembered so that it can be told."""
        if info is None:
            return int(self._table.candidates.untried[0])
        column = self._table.columns.get(info.config)
        if column is None or column not in self._table.candidates.untried:
            return self._table.candidates.nearest(dict(info.config))
        self._asked[column] = info
        return column

    def _unasked(self, column: int) -> Any:
        from smac.runhistory import TrialInfo

        return TrialInfo(self._table.configurations[column], seed=self._seed)

    def _finish(self, info: Any, cost: float) -> None:
        from smac.runhistory import TrialValue

        self._facade.tell(info, TrialValue(cost=cost), save=False)


class _Table:
    """The configurations of the table as the library's objects; `columns` leads back."""

    def __init__(self, problem: TableProblem) -> None:
        self.candidates = Candidates(problem)
        self.configurations: dict[int, ConfigSpace.Configuration] = {
            int(column): ConfigSpace.Configuration(problem.space, values=problem.configurations[column])
            for column in problem.legal
        }
        self.columns = {configuration: column for column, configuration in self.configurations.items()}

    def untried(self) -> list[ConfigSpace.Configuration]:
        return [self.configurations[int(column)] for column in self.candidates.untried]


def _make_facade(problem: TableProblem, table: _Table, starts: list[int]) -> Any:
    from smac import HyperparameterOptimizationFacade, Scenario

    with tempfile.TemporaryDirectory(prefix="hyprl-smac-") as folder:
        scenario = Scenario(
            problem.space,
            name="table",
            output_directory=Path(folder),
            deterministic=True,
            n_trials=max(problem.trials, 1),
            seed=problem.seed,
        )
        return HyperparameterOptimizationFacade(
            scenario,
            initial_design=_initial_design(scenario, table, starts),
            acquisition_maximizer=_maximizer(scenario, table),
            logging_level=False,
            overwrite=True,
        )


def _initial_design(scenario: Any, table: _Table, starts: list[int]) -> Any:
    """The facade's Sobol design with the starting points in front and its points moved into the table."""
    from smac.initial_design.sobol_design import SobolInitialDesign

    class TableDesign(SobolInitialDesign):
        def _select_configurations(self) -> list[ConfigSpace.Configuration]:
            chosen = list(starts)
            free = Candidates(table.candidates.problem)
            for column in chosen:
                free.take(column)
            for point in super()._select_configurations()[: max(self._n_configs - len(starts), 0)]:
                if len(free.untried):
                    chosen.append(free.nearest(dict(point)))
                    free.take(chosen[-1])
            return [table.configurations[column] for column in chosen]

    return TableDesign(scenario=scenario)


def _maximizer(scenario: Any, table: _Table) -> Any:
    """Sorts the untried configurations of the table by acquisition value, some drawn at random in between."""
    from smac.acquisition.maximizer.abstract_acquisition_maximizer import AbstractAcquisitionMaximizer

    class TableMaximizer(AbstractAcquisitionMaximizer):
        def maximize(
            self, previous_configs: Any, n_points: int | None = None, random_design: Any = None
        ) -> Iterator[ConfigSpace.Configuration]:
            ordered = [configuration for _, configuration in self._maximize(previous_configs, 0)]
            iteration = 0
            while ordered:
                iteration += 1
                drawn = random_design is not None and random_design.check(iteration)
                yield ordered.pop(int(self._rng.randint(len(ordered))) if drawn else 0)
            if random_design is not None:
                random_design.next_iteration()

        def _maximize(self, previous_configs: Any, n_points: int) -> Any:
            return self._sort_by_acquisition_value(table.untried())

    return TableMaximizer(scenario.configspace, seed=scenario.seed)
