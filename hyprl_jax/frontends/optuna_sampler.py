"""A pretrained policy as an Optuna sampler: `optuna.create_study(sampler=HypRLSampler(seed=0))`.

The sampler suggests the values of a trial jointly. It learns the search space of a define-by-run objective
from finished trials, including which hyperparameters are only active under which choice, and asks a policy
that was pretrained on thousands of tuning jobs which configuration to test next. It needs NumPy and Optuna at
run time; docs/optuna.md tells what it supports.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.optuna_history import EarlierJob, direction_of, earlier_job
from hyprl_jax.frontends.optuna_session import SUGGESTED, Session, suggested_values
from hyprl_jax.frontends.optuna_space import Learned, middle, nearest
from hyprl_jax.runtime import Config, EarlierTask, Policy, Tuner
from hyprl_jax.runtime.metafeatures import check_names, checked
from hyprl_jax.runtime.policy import as_policy

_SESSIONS = 8  # studies (or brackets of a Hyperband pruner) whose tuners are kept alive


class HypRLSampler(BaseSampler):
    """Sampler that lets a pretrained policy choose the next configuration.

    Parameters
    ----------
    policy
        A `hyprl_jax.runtime.Policy`, the folder of an exported one, or None for the one that ships with the
        package.
    seed
        Of whatever is drawn at random. In a study without parallel workers, the same seed and the same
        results give the same suggestions; None takes a new seed each time.
    n_trials
        How many trials are planned; the policy explores less when few are left. None: not known.
    earlier
        Earlier tuning jobs of the same kind, whose results are transferred to this one: each an
        `optuna.Study`, read once now, or a list of (parameters, value) in which the direction is that of
        the new study; or a `hyprl_jax.runtime.EarlierTask` of either with the metafeatures of its dataset.
        What lies outside of the new search space is left out.
    metafeatures
        Of the dataset that is tuned for, by name: earlier tasks on similar ones count the more.
    independent_sampler
        Draws the hyperparameters that cannot be chosen jointly: all those of the second and further trials
        that start before the first has finished, and those of a branch never seen before.
        `optuna.samplers.RandomSampler` by default.
    start
        "middle": the very first trial of a study has the middle of each range (of the logarithm, where the
        range is logarithmic) and the first choice of each categorical. "random": it is drawn by
        `independent_sampler`. With studies in `earlier` the policy chooses the first trial, too.
    pool
        Number of drawn configurations among which the policy chooses at a time.

    Raises
    ------
    InputError
        An argument cannot be used; or, when the first trial begins, the study has several objectives, or
        another direction than a study in `earlier`.

    Notes
    -----
    Failed trials count as bad as the worst; pruned ones as what they would probably have come to, if their
    reports are of the same kind as the results, and as failed otherwise. Trials that are running elsewhere
    are taken to end as expected. Constraints are ignored.

    Examples
    --------
    >>> import optuna
    >>> from hyprl_jax.frontends import HypRLSampler
    >>> study = optuna.create_study(sampler=HypRLSampler(seed=0))
    >>> study.optimize(lambda trial: (trial.suggest_float("x", -5.0, 5.0) - 1.0) ** 2, n_trials=25)
    >>> study.best_value < 1.0
    True
    """

    def __init__(
        self,
        policy: Policy | Path | str | None = None,
        *,
        seed: int | None = None,
        n_trials: int | None = None,
        earlier: Sequence[Study | Sequence[tuple[Mapping[str, Any], float]] | EarlierTask] = (),
        metafeatures: Mapping[str, float] | None = None,
        independent_sampler: BaseSampler | None = None,
        start: str = "middle",
        pool: int = 384,
    ) -> None:
        if seed is not None:
            _check_whole("seed", seed, 0, 2**32 - 1)
        if n_trials is not None:
            _check_whole("n_trials", n_trials, 1, 2**53)
        _check_whole("pool", pool, 8, 2**20)
        if start not in ("middle", "random"):
            raise InputError(f"start is {start!r}: use 'middle' or 'random'")
        if isinstance(earlier, (Study, str)):
            raise InputError("earlier is one job: give a list of earlier jobs, such as [study]")
        if independent_sampler is not None and not isinstance(independent_sampler, BaseSampler):
            raise InputError(
                f"independent_sampler is a {type(independent_sampler).__name__}: give an Optuna sampler"
            )
        self._policy = as_policy(policy)
        self._given_seed, self._n_trials, self._start, self._pool = seed, n_trials, start, pool
        self._earlier = tuple(earlier_job(task, place) for place, task in enumerate(earlier))
        self._metafeatures = None if metafeatures is None else checked(metafeatures)
        check_names(self._metafeatures or (), self._names_of(self._earlier), self._policy.name)
        self._independent = independent_sampler or RandomSampler(seed=seed)
        self._begin_anew()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes with it: not the tuners, which it makes again from the trials of the study."""
        left = ("_lock", "_sessions", "_seed")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_anew()

    def reseed_rng(self) -> None:
        """Takes a new seed, also for what is drawn from now on in studies that have begun."""
        with self._lock:
            self._seed = _entropy()
            if self._given_seed is not None:
                self._given_seed = self._seed
            for session in self._sessions:
                if session.tuner is not None:
                    session.tuner.seed = self._seed
        self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Refuses a study with several objectives, or another direction than those in `earlier`."""
        direction = direction_of(study)
        for place, task in enumerate(self._earlier):
            if task.direction not in (None, direction):
                raise InputError(
                    f"this study is to {direction} and earlier[{place}] to {task.direction}: give that one "
                    "as a list of (parameters, value) with the signs changed"
                )
        self._independent.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The distributions of all hyperparameters that finished trials had, by name, but for those with a
        single value and those whose kind, scale or choices changed. Ranges that changed are joined."""
        with self._lock:
            session = self._session(study)
            return session.learned.search_space() if session.learned is not None else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for one trial, by name; hyperparameters that are taken to be inactive are left out."""
        if not search_space:
            return {}
        with self._lock:
            suggestion = self._suggest(study, trial)
        if suggestion is None:  # everything has been tried
            return {
                name: self._independent.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
        return {name: value for name, value in suggestion.items() if name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one hyperparameter: the nearest to the joint suggestion, if that lies outside of a
        range that changed; the middle, in the very first trial; else what the independent sampler says."""
        suggested = suggested_values(trial, {param_name: param_distribution})
        if param_name in suggested:
            return nearest(param_distribution, suggested[param_name])
        if trial.number == 0 and self._start == "middle":
            return middle(param_distribution)
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tells the independent sampler that a trial has ended."""
        self._independent.after_trial(study, trial, state, values)

    def _begin_anew(self) -> None:
        self._lock = threading.RLock()
        self._sessions: list[Session] = []
        self._seed = _entropy() if self._given_seed is None else self._given_seed

    def _session(self, study: Study) -> Session:
        """What is known of a study, with all its finished trials read."""
        trials = study.get_trials(deepcopy=False)
        fitting = [s for s in self._sessions if s.name == study.study_name and s.agrees(trials)]
        if fitting:
            session = max(fitting, key=lambda one: len(one.read))
            self._sessions.remove(session)
        else:
            session = Session(study.study_name, direction_of(study), self._new_tuner)
        self._sessions = [*self._sessions, session][-_SESSIONS:]
        session.read_trials(trials)
        session.learn_space([seen for task in self._earlier for seen in task.seen], self._policy)
        return session

    def _suggest(self, study: Study, trial: FrozenTrial) -> dict[str, Any] | None:
        """A joint suggestion, None if nothing is left; other workers find it among the attributes."""
        session = self._session(study)
        if session.learned is None:
            return {}
        config = session.ask(trial)
        if config is None:
            return None
        attribute = session.learned.internal(config)
        # There is no public way to leave a note on a trial from here; Optuna's own samplers do the same.
        study._storage.set_trial_system_attr(trial._trial_id, SUGGESTED, attribute)
        return session.learned.params(config)

    def _new_tuner(self, learned: Learned, direction: str, **options: Any) -> Tuner:
        every = [EarlierTask(_in_space(job, learned), job.metafeatures) for job in self._earlier]
        earlier = [task for task in every if task.results]
        about, known = self._metafeatures, self._names_of(earlier)
        return Tuner(
            learned.space,
            direction=direction,
            trials=self._n_trials,
            policy=self._policy,
            earlier=earlier,
            metafeatures=about and {name: value for name, value in about.items() if name in known},
            seed=self._seed,
            pool=self._pool,
            **options,
        )

    def _names_of(self, earlier: Iterable[EarlierJob | EarlierTask]) -> list[str]:
        """The names of metafeatures that the policy or one of the `earlier` tasks knows."""
        return [
            *(name for task in earlier for name in task.metafeatures or ()),
            *self._policy.metafeature_names,
        ]


def _in_space(job: EarlierJob, learned: Learned) -> list[tuple[Config, float]]:
    """The results of an earlier tuning job that lie in the space."""
    found = []
    for params, value in job.results:
        config = learned.config(params)
        if config is not None and learned.is_whole(config):
            found.append((config, value))
    return found


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}: give a whole number from {least} to {most}")


def _entropy() -> int:
    return int(np.random.default_rng().integers(2**32))
