"""The tuner of one Optuna study: told what is new among the trials, made again where the space changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.optuna_history import FINISHED, result_of, seen_in, signature
from hyprl_jax.frontends.optuna_space import Learned, Seen, learn
from hyprl_jax.runtime import Config, NothingLeft, Policy, Tuner

SUGGESTED = "hyprl:suggested"
"""Trial attribute: the joint suggestion by name, numbers as they are and choices by their index."""

_FIXED = "fixed_params"  # where Optuna keeps what `enqueue_trial` prescribes
_REPLAYED = 64  # newest results that a new tuner reads as it would have read them one by one


def suggested_values(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Those values of the joint suggestion to a trial that `distributions` name; numbers may lie outside."""
    noted = trial.system_attrs.get(SUGGESTED, {})
    if not isinstance(noted, Mapping):
        return {}
    found: dict[str, Any] = {}
    for name, distribution in distributions.items():
        number = noted.get(name)
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            continue
        if not isinstance(distribution, CategoricalDistribution):
            found[name] = distribution.to_external_repr(number)
        elif 0 <= number < len(distribution.choices):
            found[name] = distribution.choices[int(number)]
    return found


class Session:
    """The tuner of one study, and what it has been told.

    Args:
        name: of the study.
        direction: "minimize" or "maximize".
        new_tuner: makes a tuner for a space and a direction.
    """

    def __init__(self, name: str, direction: str, new_tuner: Callable[..., Tuner]) -> None:
        self.name = name
        self.read: dict[int, tuple[str, str, str]] = {}
        self.learned: Learned | None = None
        self.tuner: Tuner | None = None
        self._direction, self._new_tuner = direction, new_tuner
        self._seen = -1
        self._trials: list[FrozenTrial] = []
        self._unfinished: list[FrozenTrial] = []
        self._results: dict[int, float | None] = {}
        self._told: set[int] = set()

    def agrees(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether all that was read is still there."""
        now = {trial.number: trial for trial in trials}
        return all(number in now and signature(now[number]) == mark for number, mark in self.read.items())

    def read_trials(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes in what is new."""
        self._unfinished = [trial for trial in trials if not trial.state.is_finished()]
        self._trials = sorted((t for t in trials if t.state in FINISHED), key=lambda t: t.number)
        for trial in self._trials:
            if trial.number not in self.read:
                self.read[trial.number] = signature(trial)
                self._results[trial.number] = result_of(trial, self._trials, self._direction)

    def learn_space(self, earlier: Sequence[Seen], policy: Policy) -> None:
        """Learns the space again if new trials tell about it."""
        seen = seen_in(self._trials)
        if len(seen) == self._seen:
            return
        self._seen = len(seen)
        learned = learn(seen, earlier, list(policy.spaces.values()))
        if learned is None or not learned.same_as(self.learned):
            self.tuner = None
            self._told = set()
        self.learned = learned

    def ask(self, trial: FrozenTrial) -> Config | None:
        """The configuration that a trial is to test, with the values that are prescribed to it; None if
        nothing is left. What is running or enqueued elsewhere is taken to end as expected."""
        assert self.learned is not None
        tuner = self._up_to_date(self.learned)
        for other in self._unfinished:
            if other.number != trial.number:
                _expect(tuner, self.learned.config(self._params(other)))
        fixed = self.learned.config_of_some(trial.system_attrs.get(_FIXED, {}))
        try:
            return self._ask_with(fixed, trial.number, tuner, self.learned) if fixed else tuner.ask()
        except NothingLeft:
            return None
        finally:
            for pending in tuner.pending:
                tuner.forget(pending)

    def _up_to_date(self, learned: Learned) -> Tuner:
        """The tuner, told all results in the order in which they were read."""
        if self.tuner is None:
            self.tuner = self._new_tuner(learned, self._direction)
        waiting = [trial for trial in self._trials if trial.number not in self._told]
        for place, trial in enumerate(waiting, start=1):
            self._tell(self.tuner, trial)
            self._told.add(trial.number)
            # Asking renews the candidates around the good results, so that a tuner that is made from old
            # results is as far as one that asked for them.
            if len(waiting) - _REPLAYED <= place < len(waiting):
                _look_ahead(self.tuner)
        return self.tuner

    def _ask_with(self, fixed: Config, number: int, tuner: Tuner, learned: Learned) -> Config:
        """The best configuration with the values that an enqueued trial prescribes."""
        if learned.is_whole(fixed):
            return fixed
        space = learned.space
        places = [space.names.index(name) for name in fixed]
        codes = np.full((1, len(space.names)), np.nan)
        codes[0, places] = [learned.codecs[name].code(label) for name, label in fixed.items()]
        generator = np.random.default_rng([tuner.seed % 2**32, number])
        points = generator.random((tuner.pool, len(space.names)))
        points[:, places] = space.positions(codes)[:, places]
        found = space.from_positions(points)
        found[:, places] = np.where(np.isnan(found[:, places]), np.nan, codes[:, places])
        other = self._new_tuner(learned, self._direction, candidates=space.configs(found))
        for trial in self._trials:
            self._tell(other, trial)
        for pending in tuner.pending:
            _expect(other, pending)
        return other.ask()

    def _tell(self, tuner: Tuner, trial: FrozenTrial) -> None:
        assert self.learned is not None
        config = self.learned.config(self._params(trial))
        if config is None:
            return
        try:
            tuner.tell(config, self._results[trial.number])
        except InputError:  # the trial ended before all its hyperparameters had a value
            return

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        """The values of a trial. Those of one that has not ended, or ended early, are completed by what is
        prescribed and what was suggested to it: else one that fails before all its hyperparameters have a
        value would be suggested again and again."""
        if trial.state == TrialState.COMPLETE or self.learned is None:
            return trial.params
        suggested = suggested_values(trial, self.learned.search_space())
        return {**suggested, **trial.system_attrs.get(_FIXED, {}), **trial.params}


def _look_ahead(tuner: Tuner) -> None:
    try:
        tuner.forget(tuner.ask())
    except NothingLeft:
        return


def _expect(tuner: Tuner, config: Config | None) -> None:
    """Counts a configuration as being tested, if all its hyperparameters are known."""
    try:
        if config is not None:
            tuner.expect(config)
    except InputError:
        return
