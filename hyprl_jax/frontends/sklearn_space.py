"""Search spaces as scikit-learn's users write them, turned into a `Space` of the runtime and back.

`SearchSpace.of` takes what `RandomizedSearchCV` takes for `param_distributions` (a dict or a list of dicts),
a `Space` of the runtime or a ConfigSpace. `SearchSpace.params` turns a suggestion into parameters of an
estimator, `SearchSpace.config` the reverse.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.frontends.sklearn_dimensions import Dimension, Fixed, dimension
from hyprl_jax.runtime import Categorical, Config, Constant, EarlierTask, Space, when


class SearchSpace:
    """A `Space`, and for each of its sub-spaces the parameters of an estimator.

    Args:
        space: what the tuner searches.
        parts: for each sub-space, parameter name to dimension.
        selector: the hyperparameter that chooses the sub-space; None if there is but one.
    """

    def __init__(self, space: Space, parts: Sequence[Mapping[str, Dimension]], selector: str | None) -> None:
        self.space, self.parts, self.selector = space, parts, selector

    @classmethod
    def of(cls, distributions: Any) -> SearchSpace:
        """The search space that `param_distributions` describes; InputError if it describes none."""
        if isinstance(distributions, Space):
            return cls._whole(distributions)
        if hasattr(distributions, "parent_conditions_of"):
            return cls._whole(Space.from_configspace(distributions))
        listed = [distributions] if isinstance(distributions, Mapping) else distributions
        if not isinstance(listed, (list, tuple)) or not listed:
            raise InputError("param_distributions is a dict, a list of dicts, a Space or a ConfigSpace")
        if not all(isinstance(part, Mapping) for part in listed):
            raise InputError("param_distributions is a list: each of its elements has to be a dict")
        return cls._composed([{k: dimension(k, v) for k, v in _by_name(part)} for part in listed])

    @classmethod
    def _whole(cls, space: Space) -> SearchSpace:
        return cls(space, [{p.name: Dimension(p) for p in space.parameters}], None)

    @classmethod
    def _composed(cls, parts: list[dict[str, Dimension]]) -> SearchSpace:
        """Sub-spaces side by side: dimensions that are the same in several are one hyperparameter."""
        names = sorted({name for part in parts for name in part})
        selector = _unused("subspace", names)
        parameters = [Categorical(selector, range(len(parts)))] if len(parts) > 1 else []
        conditions = {}
        renamed: list[dict[str, Dimension]] = [dict(part) for part in parts]
        for name in names:
            where = [i for i, part in enumerate(parts) if name in part]
            for group in _groups([i for i in where if not isinstance(parts[i][name], Fixed)], name, parts):
                mine = parts[group[0]][name].parameter
                taken = [*names, *(p.name for p in parameters)]
                free = name if name not in [p.name for p in parameters] else _unused(name, taken)
                parameters.append(dataclasses.replace(mine, name=free))
                for i in group:
                    renamed[i][name] = dataclasses.replace(parts[i][name], parameter=parameters[-1])
                if len(group) < len(parts):
                    conditions[free] = when(selector, group)
        # A space needs at least one hyperparameter, be it one that nobody can choose.
        space = Space(parameters or [Constant(selector, 0)], conditions)
        return cls(space, renamed, selector if len(parts) > 1 else None)

    def params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of an estimator for a configuration of the space."""
        part = self.parts[config[self.selector] if self.selector else 0]
        found = {}
        for name, one in part.items():
            if isinstance(one, Fixed):
                found[name] = one.only
            elif one.parameter.name in config:
                found[name] = one.value(config[one.parameter.name])
        return found

    def config(self, params: Mapping[str, Any]) -> Config:
        """The configuration of the space for parameters of an estimator; InputError if there is none."""
        fault = "no sub-space has these parameters"
        for number, part in enumerate(self.parts):
            chosen: Config = {self.selector: number} if self.selector else {}
            missing = set(part) - set(params) if self._dense else set()
            if missing or set(params) - set(part):
                continue
            try:
                for name, value in params.items():
                    plain = part[name].plain(value)
                    if not isinstance(part[name], Fixed):
                        chosen[part[name].parameter.name] = plain
                codes = self.space.codes([chosen or self._nothing()])
                return self.space.configs(codes)[0]
            except InputError as error:
                fault = str(error)
        raise InputError(f"{str(dict(params))[:200]} is not in the search space: {fault}")

    def earlier(self, tasks: Any, metric: str) -> list[EarlierTask]:
        """Results of earlier searches as the tuner takes them: each task a `cv_results_` (the column
        `mean_test_<metric>` counts) or a list of (parameters, score), or an `EarlierTask` of either; scores
        that are not finite are left out."""
        if isinstance(tasks, Mapping) or not isinstance(tasks, Sequence):
            raise InputError("earlier is a list with a cv_results_, or a list of (params, score), per task")
        found = []
        for number, task in enumerate(map(EarlierTask.of, tasks)):
            results = task.results
            try:
                pairs = [(self.config(p), float(s)) for p, s in _pairs(results, metric) if math.isfinite(s)]
            except (InputError, TypeError, ValueError) as error:
                raise InputError(f"earlier task {number} cannot be used: {error}") from None
            found.append(EarlierTask(pairs, task.metafeatures))
        return found

    @property
    def _dense(self) -> bool:
        """Whether every parameter of a sub-space has a value in each of its configurations."""
        return self.selector is not None or not (self.space.conditions or self.space.optional)

    def _nothing(self) -> Config:
        return {p.name: p.choices[0] for p in self.space.parameters if p.kind == "constant"}


def _by_name(part: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    wrong = [name for name in part if not isinstance(name, str)]
    if wrong:
        raise InputError(f"param_distributions: {wrong[0]!r} is no name of a parameter")
    return sorted(part.items())  # so that the order of a dict plays no role, as in scikit-learn


def _groups(numbers: Sequence[int], name: str, parts: Sequence[Mapping[str, Dimension]]) -> list[list[int]]:
    """Sub-spaces in which the dimension `name` is the same."""
    found: list[list[int]] = []
    for number in numbers:
        group = next((g for g in found if parts[g[0]][name].same(parts[number][name])), None)
        if group is None:
            found.append([number])
        else:
            group.append(number)
    return found


def _pairs(task: Any, metric: str) -> list[tuple[Mapping[str, Any], float]]:
    if hasattr(task, "cv_results_"):
        raise InputError("give the cv_results_ of a search, not the search: cloning would empty it")
    if not isinstance(task, Mapping):
        return [(params, score) for params, score in task]
    column = f"mean_test_{metric}"
    if "params" not in task or column not in task:
        raise InputError(f"a cv_results_ has the columns 'params' and '{column}'")
    return list(zip(task["params"], task[column], strict=True))


def _unused(name: str, taken: Sequence[str]) -> str:
    number = 2
    while name in taken:
        name, number = f"{name.partition('@')[0]}@{number}", number + 1
    return name
