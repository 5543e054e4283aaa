"""What an optimizer from outside is told of a task, and how its proposals become configurations of the table.

`TableProblem` is all that such an optimizer gets to know before the first trial: the search space, the
configurations that the table holds, which of them have a result, and for how long it will play. It never sees
results but those it is told. `TableOptimizer` is what it must offer. `Candidates` finds the untried
configuration that is nearest to a proposal made in the space itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import ConfigSpace
import numpy as np

from hyprl_jax.spaces import Parameter, SpaceEncoding, choice_text

__all__ = ["Candidates", "TableOptimizer", "TableProblem", "configurations_of"]


@dataclass(frozen=True, eq=False)
class TableProblem:
    """One task as an optimizer from outside sees it; `C` configurations, `F` features.

    Attributes:
        space: the search space, an object of this problem's own.
        configurations: `[C]` values by hyperparameter, in their own units; inactive ones are absent.
        encodings: `[C, F]` float32 in [0, 1], see `SpaceEncoding`.
        direction: "minimize" or "maximize".
        legal: columns (positions in `configurations`) that have a result on this task, ascending, int64.
        trials: how many configurations will be tested in all, starting points included.
        seed: from 0 to 2**31 - 1; all randomness must come from it.
    """

    space: ConfigSpace.ConfigurationSpace
    configurations: tuple[dict[str, Any], ...]
    encodings: np.ndarray
    direction: str
    legal: np.ndarray
    trials: int
    seed: int

    @cached_property
    def encoding(self) -> SpaceEncoding:
        """The encoding of the space."""
        return SpaceEncoding(self.space)


class TableOptimizer(Protocol):
    """An optimizer over the configurations of a table. It is made by calling a class or function with a
    `TableProblem`; starting points are told, without having been asked for, before the first `ask`.

    A class attribute `version` (a text) allows its runs to be cached: change it with the method.
    """

    def ask(self) -> int:
        """The column to test next: one of `TableProblem.legal` that was not told yet."""
        ...

    def tell(self, column: int, objective: float) -> None:
        """The result of a column in the raw unit of the objective."""
        ...


class Candidates:
    """The configurations of a table that were not tried yet, and the distance of a proposal to them.

    The distance is Gower's (Biometrics 1971), squared: numbers and ordinals differ by their distance on the
    unit interval (log scale where the space has one), categoricals by 0 or 1, and a hyperparameter that is
    active in one of the two alone by 1, the most there is.
    """

    def __init__(self, problem: TableProblem) -> None:
        self.problem = problem
        self._parameters = problem.encoding.parameters
        self._positions = np.stack([self._position(values) for values in problem.configurations])
        self._categorical = np.array([parameter.kind == "categorical" for parameter in self._parameters])
        self._free = np.zeros(len(problem.configurations), dtype=bool)
        self._free[problem.legal] = True

    @property
    def untried(self) -> np.ndarray:
        """Columns that are legal and not taken, ascending, int64."""
        return np.flatnonzero(self._free)

    def take(self, column: int) -> None:
        """From now on this column counts as tried."""
        self._free[column] = False

    def nearest(self, configuration: Mapping[str, Any]) -> int:
        """The untried column next to `configuration` (inactive values absent); the lowest of several."""
        columns = self.untried
        proposal, known = self._position(configuration), self._positions[columns]
        off, missing = np.isnan(proposal), np.isnan(known)
        gap = np.where(self._categorical, known != proposal, known - proposal)
        gap = np.where(off & missing, 0.0, np.where(off ^ missing, 1.0, gap))
        return int(columns[np.argmin((gap**2).sum(axis=1))])

    def _position(self, configuration: Mapping[str, Any]) -> np.ndarray:
        """`[P]` positions on the unit interval, numbers of choices, NaN where inactive."""
        values = [_position(parameter, configuration.get(parameter.name)) for parameter in self._parameters]
        return np.array(values, dtype=np.float64)


def configurations_of(encoding: SpaceEncoding, codes: np.ndarray) -> tuple[dict[str, Any], ...]:
    """Values by hyperparameter of codes `[C, P]` (see `SpaceEncoding.codes`), without the inactive ones."""
    rows = []
    for line in codes:
        values = zip(encoding.parameters, line, strict=True)
        rows.append({p.name: _value(p, float(code)) for p, code in values if not np.isnan(code)})
    return tuple(rows)


def _value(parameter: Parameter, code: float) -> Any:
    if parameter.is_number:
        return int(code) if parameter.kind == "integer" else code
    return parameter.choices[int(code)]


def _position(parameter: Parameter, value: Any) -> float:
    if value is None:
        return float("nan")
    if parameter.is_number:
        lower, upper, at = parameter.lower, parameter.upper, float(value)
        if parameter.log:
            lower, upper, at = np.log(lower), np.log(upper), np.log(at)
        return float((at - lower) / (upper - lower)) if upper > lower else 0.0
    texts = [choice_text(choice) for choice in parameter.choices]
    rank = texts.index(choice_text(value))
    return rank / max(len(texts) - 1, 1) if parameter.kind == "ordinal" else float(rank)
