"""Named rules that mend faults of a collection during an import; each use of one is recorded on the card.

No rule makes up a number: values that cannot be become missing, rows that contradict the rest are dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.checks import Fault, collection_faults
from hyprl_jax.surfaces.collection import Collection

INACTIVE_RULE = "inactive-value-becomes-null"
MOST_PLACES = 20  # of one rule on the card; the rest is a number

__all__ = ["INACTIVE_RULE", "REPAIRS", "Repair", "chosen_rules", "mend"]

Rows = np.ndarray


@dataclass(frozen=True)
class Repair:
    """A rule: the faults it mends (rules of `checks`), in words, and what it does to the faulty rows `[n]`.

    `action` gets the collection, the faulty rows and the tasks named in the faults.
    """

    mends: tuple[str, ...]
    summary: str
    action: Callable[[Collection, Rows, set[str]], Collection]


def chosen_rules(rules: str | Iterable[str]) -> tuple[str, ...]:
    """Names of rules from a list or a text with commas; `all` stands for every rule (`InputError` if
    unknown).
    """
    names = rules.split(",") if isinstance(rules, str) else list(rules)
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        if name != "all" and name not in REPAIRS:
            raise InputError(f"there is no repair rule '{name}'; there are all, {', '.join(REPAIRS)}")
    return tuple(REPAIRS) if "all" in names else tuple(name for name in REPAIRS if name in names)


def mend(
    collection: Collection,
    faults: list[Fault],
    rules: Iterable[str],
    locate: Callable[[Fault], Fault] = lambda fault: fault,
) -> Collection:
    """The collection after the chosen rules mended its faults, with a record of each on the card.

    Rules run in the order of `REPAIRS`; row numbers in faults are those of the collection as it was given,
    so rows are only dropped at the end. `locate` turns a fault into one that names the place in the file it
    came from.

    Raises:
        InputError: a fault that none of the chosen rules mends; the message names the rule that would.
    """
    chosen = [name for name in REPAIRS if name in set(rules)]
    mended = {rule for name in chosen for rule in REPAIRS[name].mends}
    for fault in faults:
        if fault.rule not in mended:
            would = [name for name, repair in REPAIRS.items() if fault.rule in repair.mends]
            hint = f"; the repair rule '{would[0]}' would mend it" if would else ""
            raise InputError(f"{locate(fault)}{hint}")
        if fault.row is None and fault.task is None:  # the line that says how many more there are
            raise InputError(f"{locate(fault)}: too many faults of one kind to be repaired; mend the source")
    records: list[dict[str, Any]] = []
    for name in chosen:
        here = [fault for fault in faults if fault.rule in REPAIRS[name].mends]
        if here:
            rows = np.unique([fault.row for fault in here if fault.row is not None]).astype(np.int64)
            collection = REPAIRS[name].action(collection, rows, {fault.task for fault in here if fault.task})
            records += _records(name, [locate(fault) for fault in here[:MOST_PLACES]], len(here))
    info = dataclasses.replace(collection.info, repairs=(*collection.info.repairs, *records), content_hash="")
    collection = _drop(dataclasses.replace(collection, info=info))
    return _mend_again(collection, chosen, mended) if records else collection


def _mend_again(collection: Collection, chosen: list[str], mended: set[str]) -> Collection:
    """What the repairs laid bare (a surface that is empty now, say) is mended by the same rules."""
    faults = list(collection_faults(collection))
    mendable = bool(faults) and all(fault.rule in mended for fault in faults)
    return mend(collection, faults, chosen) if mendable else collection


def _records(rule: str, faults: list[Fault], count: int) -> list[dict[str, Any]]:
    places = [
        {"rule": rule, "file": fault.file, "task": fault.task, "row": fault.row, "detail": fault.message}
        for fault in faults
    ]
    if count > len(faults):
        places.append({"rule": rule, "detail": f"and {count - len(faults)} more"})
    return places


# Rows to drop are marked in this column until every rule has run, so that row numbers stay true meanwhile.
_DROP = "__drop__"


def _marked(frame: pd.DataFrame, rows: Rows) -> pd.DataFrame:
    frame = frame.copy()
    marks = frame[_DROP].to_numpy().copy() if _DROP in frame.columns else np.zeros(len(frame), dtype=bool)
    marks[rows] = True
    return frame.assign(**{_DROP: marks})


def _drop(collection: Collection) -> Collection:
    frames = {}
    for name in ("tasks", "configs", "evaluations"):
        frame = getattr(collection, name)
        if _DROP in frame.columns:
            frame = frame[~frame[_DROP]].drop(columns=_DROP).reset_index(drop=True)
        frames[name] = frame
    evaluations = frames["evaluations"]
    kept = evaluations["task"].isin(frames["tasks"]["task"])
    kept &= evaluations["config_id"].isin(frames["configs"]["config_id"])
    frames["evaluations"] = evaluations[kept].reset_index(drop=True)
    return dataclasses.replace(collection, **frames)


def _nothing(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    return collection  # NaN is how a missing value looks in memory: writing turns it into null


def _objectives_missing(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    evaluations = collection.evaluations.copy()
    info = collection.info.objective
    names = ["objective", *(quantity.name for quantity in collection.info.other_objectives)]
    for name in names:
        values = evaluations[name].to_numpy().copy()
        values[np.isinf(values)] = np.nan
        if name == "objective":
            lower = -np.inf if info.lower is None else info.lower
            upper = np.inf if info.upper is None else info.upper
            wrong = np.zeros(len(values), dtype=bool)
            wrong[rows] = True
            values[wrong & ((values < lower) | (values > upper))] = np.nan
        evaluations[name] = values
    return dataclasses.replace(collection, evaluations=evaluations)


def _costs_missing(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    cost = collection.evaluations["cost"].to_numpy().copy()
    cost[rows] = np.nan
    return dataclasses.replace(collection, evaluations=collection.evaluations.assign(cost=cost))


def _metafeatures_missing(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    frame = collection.tasks.copy()
    for name in frame.columns[2:]:
        if name != _DROP:
            frame[name] = frame[name].replace([np.inf, -np.inf], np.nan)
    return dataclasses.replace(collection, tasks=frame)


def _evaluations_dropped(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    return dataclasses.replace(collection, evaluations=_marked(collection.evaluations, rows))


def _configs_dropped(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    return dataclasses.replace(collection, configs=_marked(collection.configs, rows))


def _inactive_null(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    encoding = SpaceEncoding(collection.space)
    codes = encoding.codes(collection.configs)
    wrong = ~np.isnan(codes) & ~encoding.active(codes)
    configs = collection.configs.copy()
    for index, name in enumerate(encoding.parameter_names):
        configs[name] = configs[name].mask(wrong[:, index])
    return dataclasses.replace(collection, configs=configs)


def _tasks_dropped(collection: Collection, rows: Rows, tasks: set[str]) -> Collection:
    rows = np.flatnonzero(collection.tasks["task"].isin(tasks).to_numpy())
    return dataclasses.replace(collection, tasks=_marked(collection.tasks, rows))


REPAIRS: dict[str, Repair] = {
    "nan-becomes-missing": Repair(("nan",), "NaN in a file becomes null", _nothing),
    "infinite-becomes-missing": Repair(
        ("infinite-objective",), "an infinite objective becomes a missing evaluation", _objectives_missing
    ),
    "out-of-bounds-becomes-missing": Repair(
        ("objective-out-of-bounds",),
        "an objective outside the declared bounds becomes a missing evaluation",
        _objectives_missing,
    ),
    "bad-cost-becomes-missing": Repair(
        ("bad-cost",), "a negative or infinite cost becomes null", _costs_missing
    ),
    "infinite-metafeature-becomes-missing": Repair(
        ("infinite-metafeature",), "an infinite metafeature becomes null", _metafeatures_missing
    ),
    "duplicate-keeps-first": Repair(
        ("duplicate-evaluation",), "of evaluations that stand twice the first is kept", _evaluations_dropped
    ),
    "unknown-reference-dropped": Repair(
        ("unknown-task", "unknown-config"),
        "evaluations of tasks or configurations that do not exist are dropped",
        _evaluations_dropped,
    ),
    "bad-fidelity-dropped": Repair(
        ("bad-fidelity",), "evaluations without a finite fidelity are dropped", _evaluations_dropped
    ),
    INACTIVE_RULE: Repair(
        ("inactive-with-value",), "a value of a hyperparameter that is inactive becomes null", _inactive_null
    ),
    "illegal-configuration-dropped": Repair(
        ("illegal-value", "active-without-value", "forbidden-configuration"),
        "configurations that the space does not allow are dropped with their evaluations",
        _configs_dropped,
    ),
    "uninformative-task-dropped": Repair(
        ("constant-surface", "empty-surface"),
        "tasks whose surface is empty or constant are dropped",
        _tasks_dropped,
    ),
}
