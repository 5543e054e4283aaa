"""Hyperparameter search for scikit-learn with a pretrained policy, in the place of `RandomizedSearchCV`.

search = HypRLSearchCV(SVC(), {"C": loguniform(1e-2, 1e3), "gamma": loguniform(1e-4, 1e1)}, n_iter=25)
search.fit(X, y).best_params_

Fitting, scoring, refitting and `cv_results_` are scikit-learn's own (`BaseSearchCV`); this module decides
what is evaluated next. See docs/sklearn.md.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from joblib import effective_n_jobs
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.sklearn_space import SearchSpace
from hyprl_jax.runtime import Policy, Space, Tuner
from hyprl_jax.runtime.candidates import enumerate_all

_ALL_FAILED = re.compile(r"\s*All the \d+ fits failed\.")
_SEVERAL = (list, tuple, set, dict)  # what `scoring` is if it names several scores


# A dataclass, because scikit-learn wants every option to be a parameter of `__init__` and an attribute.
@dataclasses.dataclass(eq=False, repr=False)
class HypRLSearchCV(BaseSearchCV):
    """Cross-validated search over hyperparameters, led by a pretrained policy.

    Args:
        estimator: what is tuned; a pipeline takes parameters as `step__name`.
        param_distributions: as for `RandomizedSearchCV`: parameter name to a list or a distribution, or a
            list of such dicts, of which each configuration follows one. Values may also be hyperparameters of
            `hyprl_jax.runtime`; the whole may be a `Space` of it or a ConfigSpace.
        n_iter: how many configurations are evaluated.
        policy: a `Policy`, the folder of an exported one, or None for the one that ships with the package.
        scoring: as in scikit-learn; the score is maximised. With several, `refit` or `metric` names
            the one to search for.
        n_jobs: processes for the folds of the `n_points` configurations that are evaluated side by side.
        n_points: configurations that are suggested together, each in view of the others.
        refit: as in scikit-learn: True, the name of a score, a function of `cv_results_`, or False.
        cv: as in scikit-learn. The folds are drawn once, so that all configurations are scored on the same.
        verbose: as in scikit-learn.
        pre_dispatch: as in scikit-learn.
        random_state: of the candidates that the policy chooses from.
        error_score: score of a fold whose fit failed, or "raise". A configuration whose mean score is NaN
            counts as failed, and the search goes on.
        return_train_score: whether `cv_results_` holds scores on the training folds too.
        earlier: results of earlier searches over the same parameters, on other data: a list with, for each,
            its `cv_results_` or a list of (params, score), or a `hyprl_jax.runtime.EarlierTask` of either
            with the metafeatures of its dataset.
        metric: which of several scores is searched for, if `refit` does not name it.
        metafeatures: of the dataset that is tuned for, by name: earlier searches on similar ones count the
            more. They are not computed here.

    Attributes beyond those of `RandomizedSearchCV`: `space_` (the `Space` that was searched) and
    `tuner_state_` (`Tuner.state()` at the end, JSON-able).

    Raises, in `fit`:
        InputError: the search space, `earlier`, `metafeatures`, `metric` or `policy` cannot be used, and why.
        ValueError: every single fit failed.
    """

    estimator: Any
    param_distributions: Any
    _: dataclasses.KW_ONLY
    n_iter: int = 25
    policy: Policy | Path | str | None = None
    scoring: Any = None
    n_jobs: int | None = None
    n_points: int = 1
    refit: bool | str | Callable[[dict[str, Any]], int] = True
    cv: Any = None
    verbose: int = 0
    pre_dispatch: int | str = "2*n_jobs"
    random_state: int | np.random.RandomState | None = None
    error_score: float | str = np.nan
    return_train_score: bool = False
    earlier: Sequence[Any] = ()
    metric: str | None = None
    metafeatures: dict[str, float] | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseSearchCV._parameter_constraints,
        "param_distributions": [dict, list, Space, HasMethods("sample_configuration")],
        "n_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "policy": [str, Path, Policy, None],
        "n_points": [Interval(numbers.Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "earlier": [list, tuple],
        "metric": [str, None],
        "metafeatures": [dict, None],
    }

    def _run_search(self, evaluate_candidates: Callable[..., Any], *, callback_ctx: Any = None) -> None:
        """Asks for configurations and tells their scores until `n_iter` are evaluated."""
        metric = self._metric(self._names_of_scores())
        search = SearchSpace.of(self.param_distributions)
        tuner = Tuner(
            search.space,
            direction="maximize",
            trials=int(self.n_iter),
            policy=self.policy,
            earlier=search.earlier(self.earlier, metric),
            metafeatures=self.metafeatures,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
        )
        rounds = _Rounds(evaluate_candidates, self, callback_ctx)
        try:
            while (done := len(tuner.results)) < self.n_iter:
                batch = tuner.ask_many(min(self.n_points, self.n_iter - done))
                if not batch:
                    self._warn_of_small_space(done, tuner.space)
                    break
                scores = rounds.evaluate([search.params(config) for config in batch])
                for config, score in zip(batch, scores, strict=True):
                    tuner.tell(config, score if math.isfinite(score) else None)
            rounds.finish()
        finally:
            self.__dict__.pop("_evaluated", None)
        self.space_ = tuner.space
        self.tuner_state_ = tuner.state()

    def _format_results(
        self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None
    ) -> dict[str, Any]:
        """`cv_results_` so far; keeps what it is made of for the last time, when failed rounds are put in."""
        self._evaluated = (candidate_params, n_splits, out, more_results)
        with warnings.catch_warnings():  # the last time tells once what each round would tell anew
            warnings.filterwarnings("ignore", "One or more of the", UserWarning)
            return super()._format_results(candidate_params, n_splits, out, more_results)

    def _complete_results(self, failed: dict[int, tuple[dict[str, Any], float]]) -> dict[str, Any]:
        """`cv_results_` with what `failed`, parameters and seconds of a fit, at its places among all."""
        evaluated, n_splits, out, more_results = self._evaluated
        rest = iter(range(len(evaluated)))
        params, rows = [], []
        for place in range(len(evaluated) + len(failed)):
            if place in failed:
                parameters, seconds = failed[place]
                params.append(parameters)
                rows += [_failed_fit(out[0], self.error_score, seconds)] * n_splits
            else:
                number = next(rest)
                params.append(evaluated[number])
                rows += out[number * n_splits : (number + 1) * n_splits]
        return super()._format_results(params, n_splits, rows, more_results)

    def _names_of_scores(self) -> list[str] | None:
        """What the scores are called, None if only calling `scoring` will tell."""
        if isinstance(self.scoring, _SEVERAL):
            return list(self.scoring)
        return None if callable(self.scoring) else ["score"]

    def _metric(self, names: list[str] | None) -> str:
        """Which of the scores `names` is searched for; a guess if they are not known yet."""
        wanted = self.metric or (self.refit if isinstance(self.refit, str) else None)
        if names is None:
            return wanted or "score"
        if names == ["score"] and self.metric in (None, "score"):
            return "score"
        if wanted in names:
            return str(wanted)
        given = "not named" if wanted is None else f"{wanted!r}"
        raise InputError(
            f"the score to search for is {given}: name one of {', '.join(names)} in refit or metric"
        )

    def _warn_of_small_space(self, done: int, space: Space) -> None:
        if enumerate_all(space) is None:
            text = f"No configuration was left to suggest after {done} of n_iter={self.n_iter}."
        else:  # in the words of RandomizedSearchCV
            text = (
                f"The total space of parameters {done} is smaller than n_iter={self.n_iter}. Running {done} "
            )
            text += "iterations. For exhaustive searches, use GridSearchCV."
        warnings.warn(text, UserWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        """Without what only the searching process needs: scikit-learn sends `self` along with each fit."""
        state = dict(super().__getstate__())
        state.pop("_evaluated", None)
        return state


class _Rounds:
    """Evaluates batches of parameters through scikit-learn, and survives those that fail as a whole.

    scikit-learn takes it for a broken model if all fits of a call fail, and forgets the call. Here a call is
    for a few of many configurations: the search goes on, and `finish` puts their rows into the results.
    """

    def __init__(self, evaluate: Callable[..., Any], search: HypRLSearchCV, context: Any) -> None:
        self._evaluate, self._search = evaluate, search
        self._splits = _SameSplits(search._checked_cv_orig)
        self._failed: dict[int, tuple[dict[str, Any], float]] = {}
        self._done = 0
        self._error: ValueError | None = None
        self._results: dict[str, Any] | None = None
        self._context = context
        if context is not None:
            most = int(search.n_iter) if search.n_points == 1 else None  # a round may get fewer points
            self._context = context.subcontext("search", max_subtasks=most)
            self._context.call_on_fit_task_begin(estimator=search)

    def evaluate(self, params: list[dict[str, Any]]) -> list[float]:
        """The mean score of each, higher is better; NaN or the `error_score` where all fits failed."""
        options: dict[str, Any] = {"cv": self._splits}
        if self._context is not None:  # absent before scikit-learn 1.9
            most = len(params) * self._search.n_splits_
            context = self._context.subcontext("round", max_subtasks=most, sequential_subtasks=False)
            options["callback_ctx"] = context
            context.call_on_fit_task_begin(estimator=self._search)
        first, self._done, began = self._done, self._done + len(params), time.perf_counter()
        try:
            self._results = self._evaluate(params, **options)
        except ValueError as error:
            if not _ALL_FAILED.match(str(error)):
                raise
            self._error = error
            fits = len(params) * self._search.n_splits_
            at_a_time = min(fits, effective_n_jobs(self._search.n_jobs))
            seconds = (time.perf_counter() - began) * at_a_time / fits
            self._failed |= {first + place: (one, seconds) for place, one in enumerate(params)}
            self._warn(error, len(params))
            return [float(self._search.error_score)] * len(params)
        finally:
            if self._context is not None:
                context.call_on_fit_task_end(estimator=self._search)
        prefix = "mean_test_"
        names = [name.removeprefix(prefix) for name in self._results if name.startswith(prefix)]
        column = self._results[prefix + self._search._metric(names)]
        return [float(score) for score in column[-len(params) :]]

    def _warn(self, error: ValueError, count: int) -> None:
        score, details = self._search.error_score, str(error).partition("Below are")
        warnings.warn(
            f"\nAll {count * self._search.n_splits_} fits failed for {count} of the configurations.\n"
            f"Their score is set to {score}, and the search goes on.\nIf these failures are not expected, "
            f"you can try to debug them by setting error_score='raise'.\n\n{''.join(details[1:])}",
            FitFailedWarning,
            stacklevel=2,
        )

    def finish(self) -> None:
        """Completes the results that `fit` goes on with.

        Raises:
            ValueError: all fits of all rounds failed.
        """
        if self._results is None:
            fits = self._done * self._search.n_splits_
            text = _ALL_FAILED.sub(f"\nAll the {fits} fits failed.", str(self._error), count=1)
            raise ValueError(text) from self._error
        complete = self._search._complete_results(self._failed)
        self._results.clear()
        self._results.update(complete)
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._search)


class _SameSplits:
    """A splitter that splits once and repeats itself, however often it is asked."""

    def __init__(self, splitter: Any) -> None:
        self._splitter = splitter
        self._splits: list[Any] | None = None

    def split(self, X: Any, y: Any = None, **params: Any) -> list[Any]:
        """Pairs of training and test rows."""
        if self._splits is None:
            self._splits = list(self._splitter.split(X, y, **params))
        return self._splits


def _failed_fit(example: dict[str, Any], error_score: Any, seconds: float) -> dict[str, Any]:
    """One fold's outcome like `example`, but of a fit that failed."""
    scores: dict[str, Any] = {
        key: dict.fromkeys(example[key], error_score) if isinstance(example[key], dict) else error_score
        for key in ("test_scores", "train_scores")
        if key in example
    }
    return {**example, **scores, "fit_time": seconds, "score_time": 0.0}
