"""Optuna's distributions as hyperparameters of a `Space`, and back: steps are counted, choices are numbered
where they are no plain values, ranges that change from trial to trial are joined, and the space of a study is
learned from its trials.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hyprl_jax.encoding import choice_text
from hyprl_jax.errors import InputError
from hyprl_jax.frontends.optuna_conditions import Row, infer_conditions
from hyprl_jax.runtime import Categorical, Config, Float, Integer, Parameter, Space

_LARGEST_INTEGER = 2**53  # a storage keeps integers as float64
_OFF_GRID = 1e-6  # share of a step by which a value may miss the grid


@dataclass(frozen=True)
class Codec:
    """One distribution as a hyperparameter of a space, and how values go to and fro.

    A *label* is the value that the space knows: a number of steps from the lower end where there is a step,
    the number of a choice where choices are no plain values, the value itself otherwise.
    """

    parameter: Parameter
    distribution: BaseDistribution

    def label(self, value: Any) -> Any:
        """The label of a value, None if the distribution does not contain it."""
        distribution = self.distribution
        try:
            number = float(distribution.to_internal_repr(value))
        except (TypeError, ValueError, OverflowError):
            return None
        if isinstance(distribution, CategoricalDistribution):
            return self.parameter.choices[int(number)]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        if not distribution.low <= number <= distribution.high:
            return None
        if not _counted(distribution):
            whole = self.parameter.kind == "integer"
            return number if not whole else int(number) if number.is_integer() else None
        steps = (number - distribution.low) / _step(distribution)
        return round(steps) if abs(steps - round(steps)) < _OFF_GRID else None

    def value(self, label: Any) -> Any:
        """The value that a label stands for."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[self.parameter.choices.index(label)]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return _grid_value(distribution, label) if _counted(distribution) else label

    def code(self, label: Any) -> float:
        """The code of a label, see `Space.codes`."""
        parameter = self.parameter
        return float(label if parameter.is_number else parameter.choices.index(label))


class Seen(NamedTuple):
    """What one trial tells about the space."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    whole: bool
    """Whether the trial ran to its end, so that what it has no value of is inactive."""


class Learned(NamedTuple):
    """The space of a study."""

    codecs: dict[str, Codec]
    space: Space

    def config(self, params: Mapping[str, Any]) -> Config | None:
        """A configuration of the space; None if a value is outside. What the space does not know is left
        out."""
        labels = {name: codec.label(params[name]) for name, codec in self.codecs.items() if name in params}
        return None if any(label is None for label in labels.values()) else labels

    def config_of_some(self, params: Mapping[str, Any]) -> Config:
        """Those of the values that are in the space."""
        found = {name: self.codecs[name].label(params[name]) for name in params if name in self.codecs}
        return {name: label for name, label in found.items() if label is not None}

    def params(self, config: Config) -> dict[str, Any]:
        """Values for Optuna of a configuration."""
        return {name: self.codecs[name].value(label) for name, label in config.items()}

    def is_whole(self, config: Config) -> bool:
        """Whether a configuration has a value of every active hyperparameter."""
        try:
            self.space.codes([config])
        except InputError:
            return False
        return True

    def same_as(self, other: Learned | None) -> bool:
        """Whether values and labels mean the same in both."""
        if other is None or self.search_space() != other.search_space():
            return False
        return self.space.to_dict() == other.space.to_dict()

    def internal(self, config: Config) -> dict[str, float]:
        """The values of a configuration as Optuna's storages keep them, by name."""
        codecs = self.codecs
        return {
            name: float(codecs[name].distribution.to_internal_repr(value))
            for name, value in self.params(config).items()
        }

    def search_space(self) -> dict[str, BaseDistribution]:
        """The distributions, by name."""
        return {name: codec.distribution for name, codec in self.codecs.items()}


def learn(
    seen: Sequence[Seen], earlier: Sequence[Seen] = (), known: Sequence[Mapping[str, Any]] = ()
) -> Learned | None:
    """The space of a study from its trials in their order; None if there is nothing to choose jointly.

    Args:
        seen: finished trials of the study.
        earlier: those of earlier studies, which tell about hyperparameters that the study has not met yet.
        known: spaces as `Space.to_dict` writes them; one that is the same but for the order of its
            hyperparameters is taken as it stands.
    """
    by_name: dict[str, list[BaseDistribution]] = {}
    for trials in (seen, earlier):
        here: dict[str, list[BaseDistribution]] = {}
        for trial in trials:
            for name, distribution in trial.distributions.items():
                mine = here.setdefault(name, [])
                if distribution not in mine:
                    mine.append(distribution)
        by_name = {**here, **by_name}
    codecs: dict[str, Codec] = {}
    for name in sorted(by_name):
        joined = joined_distribution(by_name[name])
        codec = codec_of(name, joined) if joined is not None else None
        if codec is not None:
            codecs[name] = codec
    if not codecs:
        return None
    rows = [_row(trial, codecs) for trial in (*earlier, *seen)]
    parameters = {name: codec.parameter for name, codec in codecs.items()}
    conditions, optional = infer_conditions(rows, parameters)
    try:
        space = Space(list(parameters.values()), conditions, optional=optional)
    except InputError:  # too many hyperparameters
        return None
    return Learned(codecs, _as_known(space, known))


def codec_of(name: str, distribution: BaseDistribution) -> Codec | None:
    """How a distribution is searched; None for a single value, or a range that no space can hold (wider than
    the whole numbers of a float64, narrower than its precision)."""
    if distribution.single():
        return None
    if isinstance(distribution, IntDistribution) and (
        max(abs(distribution.low), abs(distribution.high)) > _LARGEST_INTEGER
    ):
        return None
    try:
        parameter = _parameter(name, distribution)
    except (InputError, OverflowError):
        return None
    if parameter.kind == "constant":
        return None
    if parameter.log and math.log(parameter.lower) == math.log(parameter.upper):
        return None
    return Codec(parameter, distribution)


def joined_distribution(distributions: Sequence[BaseDistribution]) -> BaseDistribution | None:
    """One distribution that contains all of `distributions`; None if they are of different kinds, scales or
    choices."""
    first = distributions[0]
    if all(distribution == first for distribution in distributions):
        return first
    if all(isinstance(d, IntDistribution) for d in distributions):
        return _joined_numbers([d for d in distributions if isinstance(d, IntDistribution)])
    if all(isinstance(d, FloatDistribution) for d in distributions):
        return _joined_numbers([d for d in distributions if isinstance(d, FloatDistribution)])
    return None


def middle(distribution: BaseDistribution) -> Any:
    """The value in the middle of the scale; the first choice of a categorical, which by custom is the
    default."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(distribution, IntDistribution):
        if distribution.log:
            return math.isqrt(distribution.low * distribution.high)
        steps = (distribution.high - distribution.low) // distribution.step
        return distribution.low + steps // 2 * distribution.step
    low, high = distribution.low, distribution.high
    if distribution.log:
        return min(max(math.exp((math.log(low) + math.log(high)) / 2.0), low), high)
    if distribution.step is None:
        return low / 2.0 + high / 2.0
    return _grid_value(distribution, round((high - low) / distribution.step) // 2)


def nearest(distribution: BaseDistribution, value: Any) -> Any:
    """The contained value that is nearest to `value`, None if there is no such thing."""
    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else None
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    try:
        clipped = min(max(value, distribution.low), distribution.high)
    except TypeError:
        return None
    if not _counted(distribution):
        return float(clipped) if isinstance(distribution, FloatDistribution) else round(clipped)
    return _grid_value(distribution, round((clipped - distribution.low) / _step(distribution)))


def _parameter(name: str, distribution: BaseDistribution) -> Parameter:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return Categorical(name, choices if _plain(choices) else range(len(choices)))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if _counted(distribution):
        return Integer(name, 0, round((high - low) / _step(distribution)))
    if isinstance(distribution, IntDistribution):
        return Integer(name, distribution.low, distribution.high, distribution.log)
    return Float(name, low, high, distribution.log)


def _counted(distribution: FloatDistribution | IntDistribution) -> bool:
    """Whether the label is a number of steps."""
    if isinstance(distribution, IntDistribution):
        return distribution.step != 1
    return distribution.step is not None


def _step(distribution: FloatDistribution | IntDistribution) -> float | int:
    return 1 if distribution.step is None else distribution.step


def _grid_value(distribution: FloatDistribution | IntDistribution, steps: int) -> float | int:
    return min(distribution.low + steps * _step(distribution), distribution.high)


def _plain(choices: Sequence[Any]) -> bool:
    """Whether a space can hold the choices as they are."""
    for choice in choices:
        if type(choice) not in (str, bool, int, float) or (
            isinstance(choice, float) and not math.isfinite(choice)
        ):
            return False
    return len({choice_text(choice) for choice in choices}) == len(choices) == len(set(choices))


def _joined_numbers(
    distributions: Sequence[IntDistribution] | Sequence[FloatDistribution],
) -> BaseDistribution | None:
    first = distributions[0]
    if any(distribution.log != first.log for distribution in distributions):
        return None
    low = min(distribution.low for distribution in distributions)
    high = max(distribution.high for distribution in distributions)
    step = first.step if all(distribution.step == first.step for distribution in distributions) else None
    if step is not None:
        ends = [end for d in distributions for end in (d.low, d.high)]
        exact = [decimal.Decimal(str(end)) - decimal.Decimal(str(low)) for end in ends]
        if any(apart % decimal.Decimal(str(step)) for apart in exact):
            step = None
    if isinstance(first, IntDistribution):
        return IntDistribution(int(low), int(high), first.log, 1 if step is None else int(step))
    return FloatDistribution(low, high, first.log, step)


def _row(trial: Seen, codecs: Mapping[str, Codec]) -> Row:
    """Codes of a trial's values; NaN for one that the space does not hold."""
    codes: dict[str, float] = {}
    for name in trial.params:
        if name in codecs:
            label = codecs[name].label(trial.params[name])
            codes[name] = np.nan if label is None else codecs[name].code(label)
    return Row(codes, trial.whole)


def _as_known(space: Space, known: Sequence[Mapping[str, Any]]) -> Space:
    """The known space that this one is but for the order of its hyperparameters, else the space itself."""
    mine = space.to_dict()
    for other in known:
        try:
            candidate = Space.from_dict(other)
        except InputError:
            continue
        theirs = candidate.to_dict()
        if {**theirs, "parameters": sorted(theirs["parameters"], key=lambda part: part["name"])} == mine:
            return candidate
    return space
