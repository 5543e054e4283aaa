"""One tuning job as the policy sees it, in NumPy: results are read in their order, candidates are judged.

The same inputs as `hyprl_jax.rollout` computes in training: whatever has been tested, the policy's own
choice or not, is replayed through its recurrent state.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hyprl_jax.runtime.belief import SMALL, Belief, Posterior
from hyprl_jax.runtime.cold import ColdPosterior

if TYPE_CHECKING:
    from hyprl_jax.runtime.policy import Policy

CANDIDATE_FEATURES = (
    "log_acquisition", "log_acquisition_relative", "log_expected_improvement", "log_gain_gentle",
    "log_gain_sharp", "posterior_gap", "posterior_deviation", "standardised_gap", "retrieved_gap_gentle",
    "retrieved_gap_sharp", "prior_mean", "prior_deviation", "explored",
)  # fmt: skip
CONTEXT_FEATURES = (
    "share_of_trials", "trials_done", "trials_left", "begun", "latest_improvement", "latest_gap", "surprise",
    "expected_deviation", "concentration_gentle", "concentration_sharp", "top_acquisition", "top_gap",
    "incumbent", "latest_start",
)  # fmt: skip


class Judgement(NamedTuple):
    """The policy's view of the next trial."""

    columns: np.ndarray
    """`[C]` candidates on the shortlist, best first by the acquisition function."""
    values: np.ndarray
    """`[S, C]` Q-values of each member."""
    choice: int
    """The column that is to be tested, -1 if nothing is legal."""


class _Latest(NamedTuple):
    incumbent_before: float = 0.0
    expected: float = 0.0
    deviation: float = 0.0
    start: float = 0.0
    objective: float = 0.0


class Episode:
    """The policy's state over N candidates.

    Args:
        policy: whose networks judge.
        posterior: the belief before the first trial.
        encodings: `[N, F]` features of the candidates.
        trials: the budget, or None.
        metafeatures: `[M]` standardised, of the dataset; only read by policies that were trained with them.
    """

    def __init__(
        self,
        policy: Policy,
        posterior: Posterior | ColdPosterior,
        encodings: np.ndarray,
        trials: int | None,
        metafeatures: np.ndarray | None = None,
    ) -> None:
        self._policy, self._trials = policy, trials
        self.posterior = posterior
        self.encodings = encodings
        self.legal = np.ones(posterior.size, bool)
        self._carry = policy.network.initial_carry(metafeatures)
        self._latest = _Latest()
        self._seen: tuple[Belief, Any, np.ndarray] | None = None

    def copy(self) -> Episode:
        """An independent copy."""
        twin = copy.copy(self)
        twin.posterior, twin.legal = self.posterior.copy(), self.legal.copy()
        return twin

    def replace(self, columns: np.ndarray, encodings: np.ndarray, surfaces: np.ndarray) -> None:
        """Other candidates `[M, F]` in the place of `columns [M]`; see `Posterior.replace`."""
        self.posterior.replace(columns, encodings, surfaces)
        self.encodings = self.encodings.copy()
        self.encodings[columns] = encodings
        self.legal[columns] = True
        self._seen = None

    def append(self, encodings: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
        """More candidates `[M, F]`; returns their columns `[M]`."""
        columns = self.posterior.append(encodings, surfaces)
        self.encodings = np.concatenate([self.encodings, encodings])
        self.legal = np.concatenate([self.legal, np.ones(len(columns), bool)])
        self._seen = None
        return columns

    def observe(self, column: int, objective: float) -> None:
        """Candidate `column` has been tested with the raw result `objective` (higher is better)."""
        belief, self._carry, _ = self._look()
        posterior = self.posterior
        expected = (belief.mean[column] - belief.shift) / belief.factor
        foreseen = posterior.informed or posterior.trial > 0
        self._latest = _Latest(
            posterior.incumbent,
            expected if foreseen else objective,
            belief.deviation[column],
            float(relative(belief, np.asarray([column]))[0]),
            objective,
        )
        posterior.update(column, objective)
        self.exclude(column)

    def exclude(self, column: int) -> None:
        """Candidate `column` may not be chosen any more."""
        self.legal[column] = False
        self._seen = None

    def judge(self) -> Judgement:
        """Q-values of the shortlist, and the choice by their mean over the members."""
        belief, _, hidden = self._look()
        network = self._policy.network
        columns = self._shortlist(belief)
        inputs = self._inputs(belief, columns)
        start = relative(belief, columns)
        advantages = network.advantages(hidden, inputs, start, belief.top)
        values = network.values(hidden, inputs, start, belief.top)
        mean = np.where(self.legal[columns], advantages.mean(0), -np.inf)
        choice = int(columns[np.argmax(mean)]) if self.legal[columns].any() else -1
        return Judgement(columns, values, choice)

    def promise(self) -> np.ndarray:
        """The acquisition `[N]` of all candidates, 0 where one is not legal."""
        return self._look()[0].acquisition

    def expectation(self, column: int) -> float:
        """The posterior mean of a candidate as a raw objective (higher is better)."""
        belief, _, _ = self._look()
        return float((belief.mean[column] - belief.shift) / belief.factor)

    def _look(self) -> tuple[Belief, Any, np.ndarray]:
        """The belief, and the recurrent state after reading the context of this moment."""
        if self._seen is None:
            belief = self.posterior.believe(self.legal)
            self._seen = (belief, *self._policy.network.advance(self._carry, self._context(belief)))
        return self._seen

    def _shortlist(self, belief: Belief) -> np.ndarray:
        architecture, total = self._policy.network.architecture, self.posterior.size
        length = architecture.shortlist
        if not 0 < length < total:
            return np.arange(total)
        ranked = np.where(self.legal, belief.acquisition, -1.0)
        least = np.partition(ranked, total - length)[total - length]
        columns = np.flatnonzero(ranked >= least)
        return columns[np.argsort(-ranked[columns], kind="stable")[:length]]

    def _inputs(self, belief: Belief, columns: np.ndarray) -> np.ndarray:
        kind = self._policy.network.architecture.candidates
        parts = []
        if kind in ("surrogate", "both"):
            parts.append(self.posterior.features(belief, columns))
        if kind in ("encodings", "both"):
            missing = max(self._policy.encoding_features - self.encodings.shape[1], 0)
            parts.append(np.pad(self.encodings[columns], ((0, 0), (0, missing))))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    def _context(self, belief: Belief) -> np.ndarray:
        trial, latest = self.posterior.trial, self._latest
        budget = self._budget(trial)
        begun = trial > 0
        incumbent = self.posterior.incumbent if begun else 0.0
        improvement = belief.factor * (incumbent - latest.incumbent_before) if trial > 1 else 0.0
        highest = float(np.max(np.where(self.legal, belief.mean, -np.inf), initial=-10.0))
        columns = [
            trial / budget,
            math.log1p(trial) / 4.0,
            math.log1p(max(budget - trial, 0.0)) / 4.0,
            float(begun),
            _clip(improvement, 0.0, 1.0) * 4.0 if begun else 0.0,
            _clip(belief.factor * (latest.objective - incumbent), -2.0, 0.0) if begun else 0.0,
            _clip(belief.factor * (latest.objective - latest.expected), -1.0, 1.0) * 2.0 if begun else 0.0,
            latest.deviation * 4.0,
            belief.concentration[0],
            belief.concentration[1],
            math.log(belief.top + SMALL) / 5.0 + 1.0,
            _clip(highest - belief.incumbent, -1.0, 1.0) * 4.0,
            _clip(belief.incumbent, -2.0, 2.0),
            latest.start / 4.0,
        ]
        return np.asarray(columns)

    def _budget(self, trial: int) -> float:
        """The budget; without one, the length the policy was trained on, and never less than twice what is
        done."""
        planned = self._trials or max(self._policy.trials, 2 * trial)
        return float(max(planned, trial + 1))  # a budget that was overrun is taken to be nearly spent


def relative(belief: Belief, columns: np.ndarray) -> np.ndarray:
    """Log-acquisition `[C]` relative to the best legal candidate; see `rollout.relative`."""
    return np.minimum(np.log((belief.acquisition[columns] / belief.top + 1e-3) / 1.001), 0.0)


def _clip(value: float, lower: float, upper: float) -> float:
    return min(max(value, lower), upper)
