"""The plan of a sweep: a file -> checked settings -> groups, each for one compiled program.

A file is TOML or JSON with the fields of `TrainConfig` (nested as in a run's `config.json`, or dotted), and

    config             a JSON file of such fields to start from
    grid               field -> list of values: every combination is a setting
    list               tables of field -> value: each is a setting, or with a grid, is combined with all of it
    settings_per_job   most settings that one compiled program trains (0, the default: no limit)
    evaluate           methods, trials, seeds: test tasks are played in the end, for the report alone

Every setting is a complete, checked `TrainConfig`. Settings are compared by their regret on validation tasks,
so whatever these are made of is the same for all and cannot be an axis. Mistakes are InputErrors of one line
that name the file and the field.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyprl_jax.config import TrainConfig, from_dict, sweepable_fields, to_dict
from hyprl_jax.errors import InputError

__all__ = ["Evaluate", "Group", "Plan", "Setting", "parse_plan", "read_plan", "value_of"]

MOST_SETTINGS = 10_000
_LARGEST_FILE = 1_000_000  # bytes
_OWN_KEYS = ("config", "grid", "list", "settings_per_job", "evaluate")
_MEASURE = "it is part of what settings are measured by: run a sweep for each"
_FIXED = {
    "collections": _MEASURE,
    "split": _MEASURE,
    "folds": "all folds of the sweep are trained for every setting: put them beside the axes",
    "seeds": "all seeds of the sweep are trained for every setting: put them beside the axes",
    "validation_fraction": _MEASURE,
    "validation_plays": _MEASURE,
    "env.trials": "regrets over episodes of different lengths cannot be compared: run a sweep for each",
    "checkpoint_seconds": "it changes nothing that is learned",
}
_ODD = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST_NAME = 80

Values = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One point of the sweep."""

    name: str
    """Of its folder; different for each setting."""
    config: TrainConfig


@dataclass(frozen=True)
class Group:
    """Settings that differ in sweepable fields alone."""

    name: str
    fields: tuple[str, ...]
    """Those in which they differ."""
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Evaluate:
    """What is played with the policy of every setting in the end."""

    methods: tuple[str, ...] = ("policy",)
    trials: int | None = None
    """None: as many as in training."""
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Plan:
    """A sweep, checked: `settings` follow from the other fields."""

    base: TrainConfig
    grid: dict[str, tuple[Any, ...]]
    entries: tuple[Values, ...]
    settings: tuple[Setting, ...]
    settings_per_job: int = 0
    evaluate: Evaluate | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Dotted names of all fields that are axes, in the order of the file."""
        return tuple(dict.fromkeys([*(name for entry in self.entries for name in entry), *self.grid]))

    def as_json(self) -> Values:
        """What `parse_plan` makes this plan of again."""
        values: Values = {**to_dict(self.base), "settings_per_job": self.settings_per_job}
        values["grid"] = {name: list(given) for name, given in self.grid.items()}
        values["list"] = [dict(entry) for entry in self.entries]
        if self.evaluate is not None:
            one = self.evaluate
            values["evaluate"] = {"methods": list(one.methods), "seeds": list(one.seeds)}
            values["evaluate"] |= {} if one.trials is None else {"trials": one.trials}
        return values

    def groups(self) -> tuple[Group, ...]:
        """The settings by what shapes their compiled program, at most `settings_per_job` in one group."""
        sweepable = sweepable_fields(self.base)
        alike: dict[str, list[Setting]] = {}
        for setting in self.settings:
            alike.setdefault(_shape_of(setting.config, sweepable), []).append(setting)
        parts = []
        for settings in alike.values():
            most = self.settings_per_job or len(settings)
            parts += [settings[at : at + most] for at in range(0, len(settings), most)]
        width = len(str(len(parts) - 1))
        return tuple(
            Group(f"group-{number:0{width}d}", _differing(part, sweepable), tuple(part))
            for number, part in enumerate(parts)
        )


def read_plan(path: Path) -> Plan:
    """The plan in a TOML or JSON file; InputError, naming the file, where there is none."""
    values = _read_file(path)
    try:
        return parse_plan(values, path.parent)
    except InputError as mistake:
        raise InputError(f"{path}: {_short(str(mistake))}") from None


def parse_plan(values: Mapping[str, Any], folder: Path = Path()) -> Plan:
    """The plan that the values of a file say; a relative `config` is looked for in `folder`.

    Raises InputError, naming the field, for whatever is unknown, missing, of the wrong kind or in vain.
    """
    own = {name: values[name] for name in _OWN_KEYS if name in values}
    fields = _flat({name: value for name, value in values.items() if name not in own}, "")
    start = _read_base(own["config"], folder) if "config" in own else {}
    all_folds = fields.get("folds") == "all"
    if all_folds:
        del fields["folds"]
    base = from_dict(_nested(start | fields))
    if not base.collections:
        raise InputError('nothing to train on: name collections (`collections = ["mlp"]`)')
    base = _completed(base, all_folds)
    grid = _read_grid(own.get("grid", {}))
    entries = _read_list(own.get("list", []))
    _check_axes(grid, entries)
    settings = _make_settings(base, grid, entries)
    limit = own.get("settings_per_job", 0)
    if type(limit) is not int or limit < 0:
        raise InputError(f"settings_per_job is {_shown(limit)}: give a whole number, 0 for no limit")
    evaluate = _read_evaluate(own["evaluate"]) if "evaluate" in own else None
    return Plan(base, grid, entries, settings, limit, evaluate)


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of a field by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _read_file(path: Path) -> Mapping[str, Any]:
    kind = path.suffix.lower()
    if kind not in (".toml", ".json"):
        raise InputError(f"{path}: give a file that ends in .toml or .json")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: larger than {_LARGEST_FILE:,} bytes, which no sweep needs")
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if kind == ".toml" else json.loads(text, object_pairs_hook=_once)
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror or fault}); name a file") from None
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not {kind[1:].upper()} ({_short(str(fault))}); mend it") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object; see `hyprl sweep --help` for an example")
    return values


def _once(pairs: list[tuple[str, Any]]) -> Values:
    """A JSON object of which no name stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"'{twice}' stands twice")
    return found


def _read_base(path: Any, folder: Path) -> Values:
    """The fields of the configuration file that a plan starts from."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise InputError(f"config is {_shown(path)}: give the path of a JSON file like a run's config.json")
    file = folder / path
    if file.suffix.lower() != ".json":
        raise InputError(f"config is {_shown(path)}: give a JSON file like a run's config.json")
    return _flat(_read_file(file), "")


def _read_grid(values: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(values, Mapping):
        raise InputError(f"grid is {_shown(values)}: give a table of field -> list of values")
    grid: dict[str, tuple[Any, ...]] = {}
    for name, given in _flat(values, "").items():
        if not isinstance(given, list):
            raise InputError(f"axis '{name}' is {_shown(given)}: give a list of values")
        if not given:
            raise InputError(f"axis '{name}' has no values: give some, or leave the axis out")
        if len(given) > MOST_SETTINGS:
            raise InputError(f"axis '{name}' has {len(given):,} values: {MOST_SETTINGS:,} is the limit")
        texts = [_same(value) for value in given]
        for at, text in enumerate(texts):
            if text in texts[:at]:
                raise InputError(f"axis '{name}' has the value {_shown(given[at])} twice: name each once")
        grid[name] = tuple(given)
    return grid


def _read_list(values: Any) -> tuple[Values, ...]:
    if not isinstance(values, list):
        raise InputError(f"list is {_shown(values)}: give tables of field -> value (`[[list]]`)")
    if len(values) > MOST_SETTINGS:
        raise InputError(f"list has {len(values):,} entries: {MOST_SETTINGS:,} is the limit")
    for number, entry in enumerate(values):
        if not isinstance(entry, Mapping):
            raise InputError(f"list entry {number + 1} is {_shown(entry)}: give a table of field -> value")
    return tuple(_flat(entry, "") for entry in values)


def _check_axes(grid: Mapping[str, Any], entries: Sequence[Values]) -> None:
    if not grid and not any(entries):
        raise InputError("there is nothing to sweep: add axes (`[grid]` or `[[list]]`), or use `hyprl train`")
    named = dict.fromkeys([*grid, *(name for entry in entries for name in entry)])
    known = set(_flat(to_dict(TrainConfig()), ""))
    for name in named:
        if name in _FIXED:
            raise InputError(f"'{name}' cannot be an axis: {_FIXED[name]}")
        if name not in known:
            near = [one for one in sorted(known) if one.rpartition(".")[2] == name.rpartition(".")[2]]
            hint = f"did you mean '{near[0]}'" if near else "`hyprl train --help` lists the fields"
            raise InputError(f"unknown configuration field '{_short(name)}' as an axis: {hint}")
    both = [name for name in grid if any(name in entry for entry in entries)]
    if both:
        raise InputError(f"'{both[0]}' stands in the grid and in the list: leave it in one of them")


def _make_settings(
    base: TrainConfig, grid: Mapping[str, tuple[Any, ...]], entries: Sequence[Values]
) -> tuple[Setting, ...]:
    """All combinations, the last axis of the grid changing fastest."""
    number = max(len(entries), 1)
    for given in grid.values():
        number *= len(given)
    if number > MOST_SETTINGS:
        raise InputError(f"the axes make {number:,} settings: {MOST_SETTINGS:,} is the limit")
    plain, width = _flat(to_dict(base), ""), len(str(number - 1))
    settings: list[Setting] = []
    seen: dict[str, str] = {}
    for place, changes in enumerate(_combinations(grid, entries)):
        name = _name(f"{place:0{width}d}", changes)
        try:
            config = _completed(from_dict(_nested(plain | changes)))
        except InputError as mistake:
            raise InputError(f"setting {name}: {_short(str(mistake))}") from None
        twin = seen.setdefault(json.dumps(to_dict(config)), name)
        if twin != name:
            fields = ", ".join(f"'{field}'" for field in changes) or "none"
            raise InputError(f"settings {twin} and {name} are the same (fields {fields}): name each once")
        settings.append(Setting(name, config))
    return tuple(settings)


def _combinations(grid: Mapping[str, tuple[Any, ...]], entries: Sequence[Values]) -> Iterator[Values]:
    for entry in entries or ({},):
        for combination in itertools.product(*grid.values()):
            yield entry | dict(zip(grid, combination, strict=True))


def _read_evaluate(values: Any) -> Evaluate:
    if not isinstance(values, Mapping):
        raise InputError(f"evaluate is {_shown(values)}: give a table with methods, trials, seeds")
    unknown = sorted(set(values) - {"methods", "trials", "seeds"})
    if unknown:
        raise InputError(f"unknown field 'evaluate.{_short(unknown[0])}': use methods, trials, seeds")
    methods, seeds = values.get("methods", ["policy"]), values.get("seeds", [0])
    trials = values.get("trials")
    names = isinstance(methods, list) and all(isinstance(name, str) for name in methods)
    if not names or len(set(methods)) != len(methods) or "policy" not in methods:
        raise InputError(
            f"evaluate.methods is {_shown(methods)}: give a list of methods, 'policy' among them"
        )
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"evaluate.seeds is {_shown(seeds)}: give a list of different numbers from 0 on")
    if "trials" in values and (type(trials) is not int or not 1 <= trials <= 100_000):
        raise InputError(f"evaluate.trials is {_shown(trials)}: give a whole number from 1 on")
    return Evaluate(tuple(methods), trials, tuple(seeds))


def _completed(config: TrainConfig, all_folds: bool = False) -> TrainConfig:
    """The configuration with paths in full, all folds counted, and the outputs of a fixed head."""
    import dataclasses

    from hyprl_jax.training import anchored, every_fold, with_outputs

    config = dataclasses.replace(config, collections=tuple(anchored(name) for name in config.collections))
    if all_folds:
        config = dataclasses.replace(config, folds=every_fold(config))
    return with_outputs(config)


def _flat(values: Mapping[str, Any], path: str) -> Values:
    """Nested tables as dotted names; InputError for a field that is given twice."""
    found: Values = {}
    for name, value in values.items():
        inner = _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
        if isinstance(value, Mapping) and path:
            raise InputError(f"'{_short(path + name)}' is a table: give a field of the configuration a value")
        for dotted, item in inner.items():
            if dotted in found:
                raise InputError(f"the field '{_short(dotted)}' is given twice: leave one of them out")
            found[dotted] = item
    return found


def _nested(values: Mapping[str, Any]) -> Values:
    """Dotted names as nested tables; InputError for a name that cannot be one."""
    found: Values = {}
    for dotted, value in values.items():
        part, _, name = dotted.partition(".")
        if not name:
            found[part] = value
            continue
        inner = found.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(
                f"'{_short(part)}' is given a value and fields of its own: leave one of them out"
            )
        inner[name] = value
    return found


def _shape_of(config: TrainConfig, sweepable: Sequence[str]) -> str:
    """What shapes the compiled program, as text."""
    plain = _flat(to_dict(config), "")
    return json.dumps({name: value for name, value in plain.items() if name not in sweepable})


def _differing(settings: Sequence[Setting], sweepable: Sequence[str]) -> tuple[str, ...]:
    found = [{value_of(setting.config, name) for setting in settings} for name in sweepable]
    return tuple(name for name, values in zip(sweepable, found, strict=True) if len(values) > 1)


def _name(number: str, changes: Values) -> str:
    """A name that is fit for a folder: the number, and what the setting is."""
    parts = [f"{field.rpartition('.')[2]}-{_word(value)}" for field, value in changes.items()]
    return _ODD.sub("_", "-".join([number, *parts]))[:_LONGEST_NAME].rstrip("-._")


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:_LONGEST_NAME]


def _same(value: Any) -> str:
    """Equal texts for equal values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: Any) -> str:
    return _short(repr(value), 60)


def _short(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 2]}.."
