"""What the trials of an Optuna study tell: results of finished and pruned trials, and earlier studies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.optuna_space import Seen
from hyprl_jax.runtime import EarlierTask
from hyprl_jax.runtime.metafeatures import checked

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_COMPARABLE = 0.5  # share of the range of results by which last reports may differ from them
_COMPARABLE_ALONE = 0.1  # share of the only result


class EarlierJob(NamedTuple):
    """Results of an earlier tuning job."""

    results: tuple[tuple[Mapping[str, Any], float], ...]
    """Parameters and value of each trial, all values finite."""
    seen: tuple[Seen, ...]
    """What its trials tell about the space (nothing if it was given as a list)."""
    direction: str | None
    """"minimize", "maximize", or None if it was given as a list."""
    metafeatures: Mapping[str, float]
    """Of its dataset, as far as known."""


def direction_of(study: Study) -> str:
    """ "minimize" or "maximize"; InputError for a study with several objectives."""
    directions = study.directions
    if len(directions) != 1:
        raise InputError(
            f"HypRLSampler is for studies with one objective, and this one has {len(directions)}: "
            "use NSGAIISampler or TPESampler for it"
        )
    return "maximize" if directions[0] == StudyDirection.MAXIMIZE else "minimize"


def seen_in(trials: Iterable[FrozenTrial]) -> list[Seen]:
    """What completed and pruned trials tell about the space."""
    wanted = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        Seen(trial.params, trial.distributions, trial.state == TrialState.COMPLETE)
        for trial in trials
        if trial.state in wanted
    ]


def signature(trial: FrozenTrial) -> tuple[str, str, str]:
    """Changes if a finished trial is not the one that it was."""
    return trial.state.name, repr(trial.values), str(trial.datetime_complete)


def result_of(trial: FrozenTrial, trials: Sequence[FrozenTrial], direction: str) -> float | None:
    """The value of a finished trial; None if it failed, has no finite value, or was pruned without one that
    can be compared with the others."""
    if trial.state == TrialState.COMPLETE:
        return _finite(trial.value)
    return _pruned_value(trial, trials, direction) if trial.state == TrialState.PRUNED else None


def _pruned_value(trial: FrozenTrial, trials: Sequence[FrozenTrial], direction: str) -> float | None:
    """What a pruned trial would have come to: its last report, plus what completed trials typically gained
    from that step on, but never better than the best of these. Only completed trials with smaller
    numbers count, so that the value stays what it is."""
    report = _last_report(trial, math.inf)
    before = [t for t in trials if t.state == TrialState.COMPLETE and t.number < trial.number]
    values = [value for value in (_finite(t.value) for t in before) if value is not None]
    if report is None or not values:
        return None
    step = max(trial.intermediate_values)
    apart, gains = [], []
    for other in before:
        value, last, then = _finite(other.value), _last_report(other, math.inf), _last_report(other, step)
        if value is not None and last is not None:
            apart.append(abs(value - last))
            gains += [value - then] if then is not None else []
    spread = max(values) - min(values)
    allowed = _COMPARABLE * spread if spread > 0 else _COMPARABLE_ALONE * abs(values[0])
    if not apart or statistics.median(apart) > allowed:
        return None
    value = report + (statistics.median(gains) if gains else 0.0)
    return min(value, max(values)) if direction == "maximize" else max(value, min(values))


def _last_report(trial: FrozenTrial, step: float) -> float | None:
    """The last intermediate value up to a step, None if there is none or it is not finite."""
    steps = [s for s in trial.intermediate_values if s <= step]
    return _finite(trial.intermediate_values[max(steps)]) if steps else None


def earlier_job(given: Any, place: int) -> EarlierJob:
    """One entry of `earlier`: a study, or a list of (parameters, value), or an `EarlierTask` of either.

    Raises:
        InputError: it is none of these, has several objectives, or no finite value.
    """
    task = EarlierTask.of(given)
    given, described = task.results, checked(task.metafeatures or {}, f"metafeatures of earlier[{place}]")
    if isinstance(given, Study):
        direction: str | None = direction_of(given)
        trials = given.get_trials(states=(TrialState.COMPLETE,))
        pairs: list[Any] = [(trial.params, trial.value) for trial in trials]
        seen = tuple(seen_in(trials))
    elif isinstance(given, Sequence) and not isinstance(given, str):
        direction, pairs, seen = None, list(given), ()
    else:
        raise InputError(
            f"earlier[{place}] is a {type(given).__name__}: give a study, or a list of (parameters, value)"
        )
    results = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], Mapping):
            raise InputError(f"earlier[{place}] holds {str(pair)[:80]}: give pairs of (parameters, value)")
        if isinstance(pair[1], bool) or not isinstance(pair[1], (int, float, np.number, type(None))):
            raise InputError(f"earlier[{place}] holds the value {str(pair[1])[:80]!r}, which is no number")
        value = _finite(pair[1])
        if value is not None:
            results.append((dict(pair[0]), value))
    if not results:
        raise InputError(f"earlier[{place}] has no finite value: leave it out")
    return EarlierJob(tuple(results), seen, direction, described)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
