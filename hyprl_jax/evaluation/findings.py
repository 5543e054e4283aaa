"""What an evaluation says, before it is drawn: who is best, where a method loses, how ranks group.

The tables, the pictures and the report page are made from these. Summaries have passed `check_summary`: what
they hold has its type, but they may lack figures that came later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyprl_jax.evaluation.comparison import Comparison

QUOTED_TRIALS = (1, 5, 10, 20, 25, 50, 100, 200, 500, 1000)
PERIODS = ("last_trial", "trial_mean")
SIGNIFICANT = 0.05
EQUAL = 1e-12  # regrets that differ by less are averages of equal numbers


@dataclass(frozen=True, eq=False)
class TaskRegrets:
    """Regret averaged over seeds of `M` methods on `D` tasks at one trial (or averaged over all of them).

    `values` is `[M, D]` float64, `methods` are in the order of the summary.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    values: np.ndarray

    def behind(self) -> np.ndarray:
        """Distance of every method to the best one of each task, `[M, D]`, 0 for the best."""
        return self.values - self.values.min(axis=0)

    def order(self, method: str) -> np.ndarray:
        """Indices of tasks, those first where `method` is farthest behind the best; ties by name."""
        behind = np.round(self.behind()[self.methods.index(method)], 12)
        return np.lexsort((np.asarray(self.tasks, dtype=object), -behind))

    def most_different(self, number: int) -> np.ndarray:
        """Indices, ascending, of the `number` tasks on which the methods differ most."""
        spans = np.round(np.ptp(self.values, axis=0), 12)
        return np.sort(np.argsort(-spans, kind="stable")[:number])


@dataclass(frozen=True)
class Bar:
    """Methods that a test does not tell apart, from one mean rank to another; `level` counts rows of bars."""

    low: float
    high: float
    level: int


@dataclass(frozen=True)
class RankDiagram:
    """A critical-difference diagram: methods by mean rank, best first, and the bars that join them."""

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    difference: float
    bars: tuple[Bar, ...]

    @property
    def left(self) -> int:
        """How many of the methods are written on the left side; the others stand on the right."""
        return (len(self.methods) + 1) // 2


def quoted_trials(trials: int) -> list[int]:
    """The trials to show: those of `QUOTED_TRIALS` that exist, and the last one."""
    return sorted({trial for trial in QUOTED_TRIALS if trial <= trials} | {trials})


def middle_trial(trials: int) -> int:
    """The largest quoted trial in the first half, 1 where there is none."""
    return max((trial for trial in QUOTED_TRIALS if trial <= trials / 2), default=1)


def ordered_methods(summary: dict[str, Any]) -> list[str]:
    """Method names by regret averaged over trials, best first; ties keep their order."""
    return sorted(summary["methods"], key=lambda name: mean_regret(summary, name))


def best_last(summary: dict[str, Any]) -> str:
    """The method with the lowest mean regret at the last trial; of several, the best over all trials."""
    return min(ordered_methods(summary), key=lambda name: summary["methods"][name]["normalized_regret"][-1])


def mean_regret(summary: dict[str, Any], name: str) -> float:
    """A method's regret averaged over trials."""
    values = summary["methods"][name]["normalized_regret"]
    return float(sum(values) / len(values))


def emphasised(name: str) -> bool:
    """Methods called `policy...` are drawn heavier and on top."""
    return name.startswith("policy")


def focus_method(summary: dict[str, Any]) -> str:
    """Whose losses are looked at: the policy, else the best `policy...`, else the best at the last trial."""
    names = ordered_methods(summary)
    policies = (name for name in ("policy", *names) if name in names and emphasised(name))
    return next(policies, best_last(summary))


def task_regrets(comparison: Comparison, methods: Sequence[str], trial: int | None) -> TaskRegrets:
    """Regrets a task at `trial` (1-based), or averaged over all trials where it is None."""
    means = comparison.task_means()  # [M, D, T]
    place = [comparison.methods.index(name) for name in methods]
    values = means.mean(axis=2) if trial is None else means[:, :, trial - 1]
    return TaskRegrets(tuple(methods), tuple(comparison.task_names()), values[place])


def told_apart(summary: dict[str, Any], period: str, method: str) -> tuple[list[str], list[str]] | None:
    """The other methods, best first: those that Wilcoxon-Holm tells apart from `method`, and the others.

    None where the test could not be made.
    """
    p_values = summary["tests"][period]["wilcoxon_holm"]["p_values"]
    if p_values is None:
        return None
    others = [name for name in ordered_methods(summary) if name != method]
    apart = [name for name in others if p_values[method][name] < SIGNIFICANT]
    return apart, [name for name in others if name not in apart]


def rank_diagram(summary: dict[str, Any], period: str) -> RankDiagram | str:
    """The critical-difference diagram of a period, or the reason in words why there is none."""
    found = summary["tests"][period].get("critical_difference")
    if found is None:
        return "the summary comes from a version that did not note critical differences"
    if found["difference"] is None:
        return str(found["reason"])
    ranks = {name: float(found["mean_ranks"][name]) for name in summary["methods"]}
    order = sorted(ranks, key=lambda name: ranks[name])
    spans = [
        (min(ranks[name] for name in members), max(ranks[name] for name in members))
        for members in found["cliques"]
        if len(members) > 1
    ]
    shown = tuple(ranks[name] for name in order)
    return RankDiagram(tuple(order), shown, float(found["difference"]), _stacked(spans))


def _stacked(spans: Sequence[tuple[float, float]], gap: float = 0.02) -> tuple[Bar, ...]:
    """Each span on the first level where it does not touch another."""
    ends: list[float] = []  # right end of the last bar of each level
    bars = []
    for low, high in sorted(spans):
        level = next((index for index, end in enumerate(ends) if end + gap < low), len(ends))
        ends[level : level + 1] = [high]
        bars.append(Bar(low, high, level))
    return tuple(bars)


def p_words(p_value: float) -> str:
    """A p-value in words: `p = 0.023`, `p < 0.0001`."""
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"
