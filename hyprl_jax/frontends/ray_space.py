"""Ray Tune's search spaces as spaces of ask and tell, and configurations there and back.

Nested dicts become names with slashes ("optimizer/lr"); quantized numbers become counts of their quantum;
choices that are no plain values (lists, None, objects) become labels. What cannot be searched (a grid, a
function, a normal distribution without bounds) is refused by its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune.search import sample

from hyprl_jax.encoding import Parameter, choice_text
from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Categorical, Config, Float, Integer, Ordinal, Space

_SEPARATOR = "/"
_COUNTS = {"integer", "constant"}


@dataclass(frozen=True)
class _Domain:
    """One hyperparameter of Ray: where it is, and how its values are written in the space."""

    path: tuple[str, ...]
    parameter: Parameter
    quantum: float | None = None
    bounds: tuple[float, float] = (0.0, 0.0)
    whole: bool = False
    values: tuple[Any, ...] = ()
    """The choices, where the space has labels for them."""

    def outer(self, inner: Any) -> Any:
        """The value that Ray's trial gets."""
        if self.quantum is not None:
            if self.whole:
                return int(inner) * int(self.quantum)
            # 3 * 0.1 is to be 0.3, and within the bounds.
            return min(max(float(f"{inner * self.quantum:.12g}"), self.bounds[0]), self.bounds[1])
        return self.values[self.parameter.choices.index(inner)] if self.values else inner

    def inner(self, outer: Any) -> Any:
        """The value in the space; `InputError` if it is none of those allowed."""
        name = self.parameter.name
        if self.quantum is not None:
            if isinstance(outer, bool) or not isinstance(outer, (int, float)) or not math.isfinite(outer):
                raise InputError(f"hyperparameter '{name}': {outer!r} is no number")
            return round(outer / self.quantum)
        if not self.values:
            return outer
        for label, value in zip(self.parameter.choices, self.values, strict=True):
            if value is outer or (type(value) is type(outer) and _equal(value, outer)):
                return label
        raise InputError(f"hyperparameter '{name}': {str(outer)[:80]!r} is none of its choices")


@dataclass(frozen=True)
class RaySpace:
    """A `Space` together with the way from its configurations to Ray's nested ones and back."""

    space: Space
    domains: Mapping[str, _Domain] = field(default_factory=dict)
    """By the name in the space; empty where the space was given as a `Space` (no nesting, no labels)."""
    constants: Mapping[tuple[str, ...], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, space: Any) -> RaySpace:
        """Of a dict as `param_space` of Ray takes it, or of whatever `Space.of` takes.

        Raises:
            InputError: nothing to search in it, or something that cannot be searched; the message names it.
        """
        if not isinstance(space, dict) or _is_written_space(space):  # a ConfigSpace is a Mapping too
            return cls(Space.of(space))
        domains: dict[str, _Domain] = {}
        constants: dict[tuple[str, ...], Any] = {}
        for path, value in _leaves(space, ()):
            if isinstance(value, sample.Domain):
                domain = _convert(path, value)
                domains[domain.parameter.name] = domain
            else:
                _refuse_hidden(path, value)
                constants[path] = value
        if not domains:
            raise InputError("there is nothing to search: give param_space a tune.uniform, tune.choice, ...")
        return cls(Space([domain.parameter for domain in domains.values()]), domains, constants)

    def nest(self, config: Config) -> dict[str, Any]:
        """Ray's nested configuration of one of the space, without the constants."""
        if not self.domains:
            return dict(config)
        nested: dict[str, Any] = {}
        for name, value in config.items():
            domain = self.domains[name]
            _put(nested, domain.path, domain.outer(value))
        return nested

    def with_constants(self, nested: dict[str, Any]) -> dict[str, Any]:
        """`nested` with the constants in their places."""
        for path, value in self.constants.items():
            _put(nested, path, value)
        return nested

    def flatten(self, nested: Mapping[str, Any]) -> Config:
        """The configuration of the space of one of Ray's; constants in it may be left out.

        Raises:
            InputError: a hyperparameter is unknown, missing, or has a value that is not allowed.
        """
        if self.domains:
            flat: Config = {}
            for name, domain in self.domains.items():
                flat[name] = domain.inner(_get(nested, domain.path))
            known = {domain.path for domain in self.domains.values()} | set(self.constants)
            for path, _ in _leaves(nested, ()):
                # A choice may be a dict itself, whose leaves lie deeper.
                if not any(path[: len(one)] == one for one in known):
                    raise InputError(f"'{_SEPARATOR.join(path)}' is not in the search space")
        else:
            flat = dict(nested)
        return self.space.configs(self.space.codes([flat]))[0]

    def to_dict(self, constants: bool) -> dict[str, Any] | None:
        """What `from_dict` needs beside `Space.to_dict`, JSON-able (`constants`: with their values); None if
        something in it, such as a choice between functions, cannot be written as JSON."""
        kept = {"quantum", "bounds", "whole", "values"}
        found = {
            "domains": {
                name: {"path": list(domain.path), **{key: _listed(getattr(domain, key)) for key in kept}}
                for name, domain in self.domains.items()
            },
            "constants": [
                [list(path), value if constants else None] for path, value in self.constants.items()
            ],
        }
        return found if self.space.permits is None and _survives(found) else None

    @classmethod
    def from_dict(cls, data: Any, written: Any) -> RaySpace:
        """What `to_dict` wrote, and `Space.to_dict`; `InputError` if it is something else."""
        try:
            space = Space.from_dict(written)
            parameters = {parameter.name: parameter for parameter in space.parameters}
            domains = {
                name: _Domain(
                    _path(part["path"]),
                    parameters[name],
                    None if part["quantum"] is None else float(part["quantum"]),
                    (float(part["bounds"][0]), float(part["bounds"][1])),
                    bool(part["whole"]),
                    tuple(part["values"]),
                )
                for name, part in data["domains"].items()
            }
            constants = {_path(path): value for path, value in data["constants"]}
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            raise InputError("the search space in the state is damaged: give `param_space` again") from None
        labelled = all(len(d.values) in (0, len(d.parameter.choices)) for d in domains.values())
        numbers = all(
            d.quantum is None or d.parameter.kind in ("integer", "constant") for d in domains.values()
        )
        if (domains and set(domains) != set(parameters)) or not labelled or not numbers:
            raise InputError("the search space in the state is damaged: give `param_space` again")
        return cls(space, domains, constants)


def has_domains(config: Mapping[str, Any]) -> bool:
    """Whether there is anything in Ray's configuration that is not settled."""
    return any(isinstance(value, sample.Domain) or _is_grid(value) for _, value in _leaves(config, ()))


def _is_written_space(space: Mapping[str, Any]) -> bool:
    """Whether it is what `Space.to_dict` wrote, not a dict with a key that is named the same."""
    parts = space.get("parameters")
    return isinstance(parts, list) and all(isinstance(part, Mapping) and "kind" in part for part in parts)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _survives(value: Any) -> bool:
    """Whether JSON brings it back as it is."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _path(keys: Any) -> tuple[str, ...]:
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError(keys)
    return tuple(keys)


def _leaves(config: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of everything that is no dict; an empty dict and a grid are leaves too."""
    for key, value in config.items():
        path = (*above, key)
        if isinstance(value, Mapping) and value and not _is_grid(value):
            yield from _leaves(value, path)
        else:
            yield path, value


def _is_grid(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"grid_search"}


def _refuse_hidden(path: tuple[str, ...], value: Any) -> None:
    """Complains about a grid, and about domains where a configuration has no name for them."""
    name = _SEPARATOR.join(map(str, path))
    if _is_grid(value):
        raise InputError(f"'{name}': a search algorithm has no grid_search: use tune.choice")
    if path[-1] == "eval" and isinstance(value, str) and len(path) > 1:
        raise InputError(f"'{_SEPARATOR.join(map(str, path[:-1]))}': an 'eval' cannot be searched")
    if _holds_domain(value):
        raise InputError(f"'{name}': a search space inside a list is not supported: use a dict")


def _holds_domain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _is_grid(value) or any(_holds_domain(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_domain(part) for part in value)
    return isinstance(value, sample.Domain)


def _convert(path: tuple[str, ...], domain: sample.Domain) -> _Domain:
    if not all(isinstance(key, str) and key and _SEPARATOR not in key for key in path):
        raise InputError(f"the key {path!r} of the search space: keys are texts without '{_SEPARATOR}'")
    name = _SEPARATOR.join(path)
    if isinstance(domain, sample.Function):
        raise InputError(f"'{name}': tune.sample_from cannot be searched: use tune.uniform or tune.choice")
    sampler, quantum = domain.get_sampler(), None
    if isinstance(sampler, sample.Quantized):
        sampler, quantum = sampler.get_sampler(), sampler.q
    if isinstance(domain, sample.Categorical):
        return _convert_choice(path, name, domain.categories)
    log = isinstance(sampler, sample.LogUniform)
    if not isinstance(domain, (sample.Float, sample.Integer)) or not (
        log or isinstance(sampler, sample.Uniform)
    ):
        kind = f"{type(domain).__name__} with {sampler}"
        raise InputError(f"'{name}': {kind} cannot be searched: use tune.uniform, which has bounds")
    whole = isinstance(domain, sample.Integer)
    if quantum is not None and not (whole and quantum == 1):
        return _convert_quantized(path, name, domain, quantum, log)
    if whole:  # Ray's upper bound is excluded
        return _Domain(path, Integer(name, int(domain.lower), int(domain.upper) - 1, log))
    return _Domain(path, Float(name, domain.lower, domain.upper, log))


def _convert_quantized(
    path: tuple[str, ...], name: str, domain: sample.Float | sample.Integer, quantum: Any, log: bool
) -> _Domain:
    """Counts of the quantum between the bounds, both included, as Ray has it."""
    whole = isinstance(domain, sample.Integer)
    if isinstance(quantum, bool) or not isinstance(quantum, (int, float)) or not 0 < quantum < math.inf:
        raise InputError(f"'{name}': the quantum is {quantum!r}: give a number above 0")
    if whole and not float(quantum).is_integer():
        raise InputError(f"'{name}': the quantum {quantum!r} of whole numbers is not whole")
    for bound in (domain.lower, domain.upper):
        if not math.isfinite(bound):
            raise InputError(f"'{name}': its distribution has no bounds: use tune.quniform")
    lower, upper = _count(domain.lower / quantum, math.ceil), _count(domain.upper / quantum, math.floor)
    parameter = Integer(name, lower, upper, log)
    return _Domain(path, parameter, quantum, (float(domain.lower), float(domain.upper)), whole)


def _count(ratio: float, inwards: Any) -> int:
    nearest = round(ratio)
    return nearest if math.isclose(ratio, nearest) else int(inwards(ratio))


def _convert_choice(path: tuple[str, ...], name: str, choices: list[Any]) -> _Domain:
    if _holds_domain(choices):
        raise InputError(f"'{name}': a search space inside a choice is not supported: use a dict beside it")
    plain = all(_is_plain(choice) for choice in choices)
    if plain and len({choice_text(choice) for choice in choices}) == len(choices):
        make = Ordinal if _is_scale(choices) else Categorical
        return _Domain(path, make(name, choices))
    labels = [f"{number}: {_label(choice)}" for number, choice in enumerate(choices)]
    return _Domain(path, Categorical(name, labels), values=tuple(choices))


def _label(choice: Any) -> str:
    """A short text that is the same in every process (the text of an object may hold its address)."""
    try:
        return json.dumps(choice)[:40]
    except (TypeError, ValueError, RecursionError):
        return str(getattr(choice, "__name__", type(choice).__name__))[:40]


def _is_plain(choice: Any) -> bool:
    if isinstance(choice, float):
        return math.isfinite(choice)
    return isinstance(choice, str | bool | int)


def _is_scale(choices: list[Any]) -> bool:
    """Whether choices are three or more numbers in ascending order, such as the sizes of a batch."""
    numbers = all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices)
    return numbers and len(choices) > 2 and sorted(choices) == choices


def _equal(one: Any, other: Any) -> bool:
    """Whether two objects of one kind are equal; arrays, which do not say in one word, are not."""
    same = one == other
    return same if isinstance(same, bool) else False


def _get(nested: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = nested
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(f"hyperparameter '{_SEPARATOR.join(path)}' has no value")
        value = value[key]
    return value


def _put(nested: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        nested = nested.setdefault(key, {})
    nested[path[-1]] = value
