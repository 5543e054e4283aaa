"""What a collection of response surfaces is in memory: its card, its search space and three tables.

A collection says, for many tasks and many configurations of one search space, which objective value a
configuration reached on a task. Missing evaluations are missing rows or nulls (NaN in memory), never
made-up numbers. The frames are kept in one canonical form (`canonical`), so that equal collections are
equal column by column and have the same `content_hash` whoever wrote them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.space_json import space_to_json

FORMAT_VERSION = 1
EVALUATION_COLUMNS = ("task", "config_id", "objective", "fidelity", "repeat", "cost")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TEXTS = ("name", "version", "description", "source", "licence", "citation", "content_hash")

__all__ = [
    "FORMAT_VERSION",
    "Collection",
    "CollectionInfo",
    "Objective",
    "Quantity",
    "canonical",
    "content_hash",
]


@dataclass(frozen=True)
class Objective:
    """What the surfaces hold: `direction` is "minimize" or "maximize", bounds are None where unknown."""

    name: str
    direction: str
    unit: str | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Quantity:
    """A fidelity, a cost or a further objective: its name, its unit and, for an objective, its direction."""

    name: str
    unit: str | None = None
    direction: str | None = None


@dataclass(frozen=True)
class CollectionInfo:
    """The card of a collection (`collection.json`); `repairs` are the named rules an import applied, with
    places.
    """

    name: str
    objective: Objective
    version: str = "1"
    description: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    fidelity: Quantity | None = None
    cost: Quantity | None = None
    other_objectives: tuple[Quantity, ...] = ()
    repairs: tuple[dict[str, Any], ...] = ()
    content_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of `collection.json` as plain Python values."""
        return {"format_version": FORMAT_VERSION, **json.loads(json.dumps(dataclasses.asdict(self)))}

    @classmethod
    def from_json(cls, data: Any) -> CollectionInfo:
        """The card in parsed JSON, every field checked.

        Raises:
            InputError: a field is missing, unknown or of the wrong kind; the message names it.
        """
        if not isinstance(data, dict):
            raise InputError("the top level must be an object")
        data = dict(data)
        version = data.pop("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise InputError(
                f"format_version {version!r} is not {FORMAT_VERSION}, the one this program reads"
            )
        _only_keys(data, [field.name for field in dataclasses.fields(cls)], "the card")
        for key in ("name", "objective"):
            if key not in data:
                raise InputError(f"the field '{key}' is missing")
        texts = {key: _text(data.get(key), key) for key in _TEXTS if data.get(key) is not None}
        others = data.get("other_objectives") or []
        repairs = data.get("repairs") or []
        if not isinstance(others, list) or not isinstance(repairs, list):
            raise InputError("other_objectives and repairs must be lists")
        if not all(isinstance(repair, dict) and isinstance(repair.get("rule"), str) for repair in repairs):
            raise InputError("every entry of repairs must be an object with the name of its 'rule'")
        info = cls(
            **texts,
            objective=_objective(data["objective"]),
            fidelity=_quantity(data.get("fidelity"), "fidelity"),
            cost=_quantity(data.get("cost"), "cost"),
            other_objectives=tuple(_required_quantity(item, "other_objectives") for item in others),
            repairs=tuple(repairs),
        )
        info.check()
        return info

    def check(self) -> None:
        """Raise `InputError` where the fields do not fit together (name, direction, bounds, reserved
        names).
        """
        if not _NAME.fullmatch(self.name):
            raise InputError(f"name {self.name[:120]!r} must be 1-100 letters, digits, '.', '_' or '-'")
        objective = self.objective
        if objective.direction not in ("minimize", "maximize"):
            raise InputError(
                f"objective direction {objective.direction!r} is neither 'minimize' nor 'maximize'"
            )
        for bound in (objective.lower, objective.upper):
            if bound is not None and not np.isfinite(bound):
                raise InputError("objective bounds must be finite numbers, or null where unknown")
        if objective.lower is not None and objective.upper is not None and objective.lower >= objective.upper:
            raise InputError(
                f"objective lower bound {objective.lower} is not below its upper bound {objective.upper}"
            )
        names = [quantity.name for quantity in self.other_objectives]
        if len(set(names)) < len(names) or set(names) & set(EVALUATION_COLUMNS):
            raise InputError(f"names of other objectives repeat or are reserved: {', '.join(names)}")


@dataclass(frozen=True)
class Collection:
    """A collection of response surfaces: card, search space, and the tables of tasks, configurations,
    evaluations.

    `tasks` has the columns task, group and one a metafeature; `configs` has config_id and one column a
    hyperparameter; `evaluations` has task, config_id, objective and, where the card declares them,
    fidelity, cost and the other objectives by name, and optionally repeat.
    """

    info: CollectionInfo
    space: ConfigSpace.ConfigurationSpace
    tasks: pd.DataFrame
    configs: pd.DataFrame
    evaluations: pd.DataFrame


def canonical(collection: Collection) -> Collection:
    """The same collection with columns in the fixed order and dtypes, row order kept, index 0..n-1.

    Raises:
        InputError: a column is missing, undeclared, or of a kind that does not convert.
    """
    info = collection.info
    encoding = SpaceEncoding(collection.space)
    metafeatures = [name for name in collection.tasks.columns if name not in ("task", "group")]
    tasks = _take(
        collection.tasks, "tasks", {"task": "str", "group": "str", **dict.fromkeys(metafeatures, "float64")}
    )
    configs = _take(collection.configs, "configs", {"config_id": "int64"}, extra=encoding.parameter_names)
    configs = pd.concat([configs, _hyperparameters(encoding, collection.configs)], axis=1)
    wanted = {"task": "str", "config_id": "int64", "objective": "float64"}
    if info.fidelity is not None:
        wanted["fidelity"] = "float64"
    if "repeat" in collection.evaluations.columns:
        wanted["repeat"] = "int64"
    if info.cost is not None:
        wanted["cost"] = "float64"
    wanted |= {quantity.name: "float64" for quantity in info.other_objectives}
    evaluations = _take(collection.evaluations, "evaluations", wanted)
    return dataclasses.replace(collection, tasks=tasks, configs=configs, evaluations=evaluations)


def content_hash(collection: Collection) -> str:
    """SHA-256 (hex) of what a canonical collection means: space, tables, and what their columns are.

    The texts of the card (name, description, licence, repairs, ...) are not part of it, nor is how the
    tables are compressed.
    """
    digest = hashlib.sha256()
    card = collection.info.to_json()
    meaning = {key: card[key] for key in ("objective", "fidelity", "cost", "other_objectives")}
    digest.update(json.dumps(meaning, sort_keys=True).encode())
    digest.update(space_to_json(collection.space).encode())
    for frame in (collection.tasks, collection.configs, collection.evaluations):
        digest.update(json.dumps([len(frame), [str(name) for name in frame.columns]]).encode())
        for name in frame.columns:
            for part in _column_bytes(frame[name]):
                digest.update(part)
    return digest.hexdigest()


def _hyperparameters(encoding: SpaceEncoding, configs: pd.DataFrame) -> pd.DataFrame:
    """The columns of the hyperparameters in their dtypes; one with a value that has no place in it stays as
    it is.
    """
    codes = encoding.codes(configs)
    whole = np.array([parameter.kind == "integer" for parameter in encoding.parameters])
    choice = np.array([not parameter.is_number for parameter in encoding.parameters])
    strange = choice & (codes < 0) | whole & ((codes != np.round(codes)) | (np.abs(codes) > 2**53))
    strange &= ~np.isnan(codes)
    values = encoding.frame(np.where(strange, np.nan, codes))
    for index in np.flatnonzero(strange.any(axis=0)):
        name = encoding.parameter_names[index]
        values[name] = configs[name].reset_index(drop=True)
    return values


def _column_bytes(series: pd.Series) -> Iterable[bytes]:
    """The bytes that stand for one canonical column, whatever pandas stores it in."""
    if isinstance(series.dtype, pd.StringDtype) or series.dtype == object:
        codes, values = pd.factorize(series)
        yield b"text" + json.dumps([str(value) for value in values]).encode()
        yield codes.astype("<i8").tobytes()
    else:
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan) + 0.0  # adding 0 turns -0 into 0
        numbers[np.isnan(numbers)] = np.nan  # one bit pattern for all NaN
        yield b"number" + numbers.astype("<f8").tobytes()


def _take(
    frame: pd.DataFrame, table: str, columns: dict[str, str], extra: Iterable[str] = ()
) -> pd.DataFrame:
    """The named columns of a frame in their dtypes; any other column but `extra` is an error."""
    for name in columns:
        if name not in frame.columns:
            raise InputError(f"{table}: the column '{name}' is missing")
    undeclared = [str(name) for name in frame.columns if name not in columns and name not in set(extra)]
    if undeclared:
        raise InputError(f"{table}: column '{undeclared[0]}' is declared nowhere; remove it or declare it")
    if len(set(frame.columns)) < len(frame.columns):
        raise InputError(f"{table}: two columns have the same name")
    return pd.DataFrame(
        {name: _as(frame[name], kind, f"{table}, column '{name}'") for name, kind in columns.items()}
    )


def _as(series: pd.Series, kind: str, where: str) -> pd.Series:
    series = series.reset_index(drop=True)
    if kind == "str":
        if not (pd.api.types.is_string_dtype(series.dtype) or isinstance(series.dtype, pd.CategoricalDtype)):
            raise InputError(f"{where}: holds {series.dtype}, not text")
        return series.astype("str")
    if series.isna().all() and kind == "float64":
        return pd.Series(np.full(len(series), np.nan))
    if not pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        raise InputError(f"{where}: holds {series.dtype}, not numbers")
    if kind == "float64":
        return pd.Series(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if series.isna().any():
        raise InputError(f"{where}: row {int(np.argmax(series.isna()))} is empty")
    numbers = series.to_numpy()
    if numbers.dtype.kind == "f" and not (
        np.isfinite(numbers).all() and (numbers == np.round(numbers)).all()
    ):
        raise InputError(f"{where}: holds numbers that are no integers")
    if len(numbers) and (numbers.max() > 2**53 or numbers.min() < -(2**53)):
        raise InputError(f"{where}: holds integers beyond +-2**53")
    return pd.Series(numbers.astype(np.int64))


def _only_keys(data: dict[str, Any], allowed: Iterable[str], where: str) -> None:
    unknown = [str(key) for key in data if key not in set(allowed)]
    if unknown:
        raise InputError(f"{where} has the unknown field '{unknown[0][:100]}'")


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"the field '{field}' must be text")
    return value


def _bound(value: Any, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300:
        raise InputError(f"objective {field} must be a number, or null where unknown")
    return float(value)


def _objective(data: Any) -> Objective:
    if not isinstance(data, dict):
        raise InputError("the field 'objective' must be an object")
    _only_keys(data, ("name", "direction", "unit", "lower", "upper"), "objective")
    unit = data.get("unit")
    return Objective(
        name=_text(data.get("name"), "objective.name"),
        direction=_text(data.get("direction"), "objective.direction"),
        unit=None if unit is None else _text(unit, "objective.unit"),
        lower=_bound(data.get("lower"), "lower"),
        upper=_bound(data.get("upper"), "upper"),
    )


def _quantity(data: Any, field: str) -> Quantity | None:
    return None if data is None else _required_quantity(data, field)


def _required_quantity(data: Any, field: str) -> Quantity:
    if not isinstance(data, dict):
        raise InputError(f"'{field}' must hold an object with name and unit")
    _only_keys(data, ("name", "unit", "direction"), field)
    unit, direction = data.get("unit"), data.get("direction")
    if direction not in (None, "minimize", "maximize"):
        raise InputError(f"{field}: direction {direction!r} is neither 'minimize' nor 'maximize'")
    return Quantity(
        _text(data.get("name"), f"{field}.name"),
        None if unit is None else _text(unit, f"{field}.unit"),
        direction,
    )
