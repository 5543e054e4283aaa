"""Import a long table: a CSV or Parquet file with one row an evaluation and named columns.

Which column is what comes from `TableOptions`; every column that is not named there is a hyperparameter.
Equal rows of hyperparameters are one configuration. A cell that cannot be read, and every fault of the
resulting collection, is reported with file and row (0-based, the header not counted).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding
from hyprl_jax.surfaces.checks import Fault, collection_faults
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, Quantity, canonical
from hyprl_jax.surfaces.importers.infer import infer_space
from hyprl_jax.surfaces.importers.longtable import LongTable, column_names, read_long_table
from hyprl_jax.surfaces.repairs import INACTIVE_RULE, chosen_rules, mend
from hyprl_jax.surfaces.space_json import read_space

# Read without being told, where a name leaves no doubt; any other objective needs its direction.
_MAXIMIZED = ("accuracy", "auc", "auroc", "f1", "r2", "score", "return", "reward", "precision", "recall")
_MINIMIZED = ("loss", "error", "rmse", "mse", "mae", "regret", "perplexity", "nll")
_COLUMN_FIELDS = ("task", "objective", "group", "cost", "fidelity", "repeat", "config_id")
_COLUMNS_FIELDS = ("metafeatures", "other_objectives", "ignore")

__all__ = ["TableOptions", "import_table"]


@dataclass(frozen=True)
class TableOptions:
    """Which column is what, and what the card says. Several names are a tuple, or a text with commas.

    Attributes:
        task: the column of the task.
        objective: the column of the objective.
        direction: "minimize" or "maximize"; may be left out where the objective's name tells (accuracy,
            loss, ...).
        group: the column of the task's group; without one every task is its own group.
        cost: the column of the cost.
        fidelity: the column of the fidelity.
        repeat: the column of the repeat (a seed, a fold): whole numbers from 0.
        config_id: the column that numbers the configurations; without one they are numbered by appearance.
        hyperparameters: their columns; without any, all columns that nothing else names.
        metafeatures: columns that describe the task, the same in all of its rows.
        other_objectives: columns of further objectives.
        ignore: columns to leave out.
        space: a ConfigSpace JSON file; without one the space is inferred from the table.
        name: name of the collection.
        unit: the unit of the objective.
        cost_unit: the unit of the cost.
        fidelity_unit: the unit of the fidelity.
        lower: the least value the objective can have, if known.
        upper: the largest value the objective can have, if known.
        description: what the collection is.
        source: where it comes from.
        licence: its licence.
        citation: how to cite it.
        repair: names of repair rules, or "all"; without any, every fault is refused.
    """

    task: str = "task"
    objective: str = "objective"
    direction: str | None = None
    group: str | None = None
    cost: str | None = None
    fidelity: str | None = None
    repeat: str | None = None
    config_id: str | None = None
    hyperparameters: str | tuple[str, ...] = ()
    metafeatures: str | tuple[str, ...] = ()
    other_objectives: str | tuple[str, ...] = ()
    ignore: str | tuple[str, ...] = ()
    space: str | Path | None = None
    name: str = "table"
    unit: str | None = None
    cost_unit: str | None = None
    fidelity_unit: str | None = None
    lower: float | None = None
    upper: float | None = None
    description: str = ""
    source: str = ""
    licence: str = ""
    citation: str = ""
    repair: str | tuple[str, ...] = ()


def import_table(path: str | Path, options: TableOptions) -> Collection:
    """The collection in a long table (`.parquet` is Parquet, anything else is read as CSV).

    Raises:
        InputError: a column is missing, a cell cannot be read, or a fault that no chosen rule repairs.
    """
    rules = chosen_rules(options.repair)
    table = read_long_table(path)
    names = _hyperparameter_columns(table, options)
    space, values = _space_and_values(table, names, options)
    repairs: list[dict[str, Any]] = []
    if INACTIVE_RULE in rules:
        values, repairs = _blank_inactive(table, space, values)
    ids, first_rows = _config_ids(table, values, options)
    evaluations, nan_faults = _evaluations(table, options)
    evaluations.insert(1, "config_id", ids)
    configs = values.iloc[first_rows].reset_index(drop=True)
    configs.insert(0, "config_id", ids[first_rows])
    info = dataclasses.replace(_info(options), repairs=tuple(repairs))
    collection = Collection(info, space, _tasks(table, options), configs, evaluations)

    def locate(fault: Fault) -> Fault:
        in_configs = fault.row is not None and fault.file == "configs.parquet"
        row = int(first_rows[fault.row]) if in_configs else fault.row
        return dataclasses.replace(fault, file=table.name, row=row)

    try:
        info.check()
        collection = canonical(collection)
    except InputError as error:
        raise InputError(f"{table.name}: {error}") from None
    return mend(collection, [*nan_faults, *collection_faults(collection)], rules, locate)


def _hyperparameter_columns(table: LongTable, options: TableOptions) -> list[str]:
    """The hyperparameters' columns, after looking whether all columns that the options name exist."""
    single = [getattr(options, field) for field in _COLUMN_FIELDS]
    several = [name for field in _COLUMNS_FIELDS for name in column_names(getattr(options, field))]
    named = [name for name in single if name is not None] + several
    hyperparameters = list(column_names(options.hyperparameters))
    for name in [*named, *hyperparameters]:
        table.column(name)
    twice = [name for name in named if (named + hyperparameters).count(name) > 1]
    if twice:
        raise InputError(f"{table.name}: the column '{twice[0]}' is named for two things")
    hyperparameters = hyperparameters or [name for name in table.frame.columns if name not in set(named)]
    if not hyperparameters:
        raise InputError(f"{table.name}: no column is left for the hyperparameters")
    if "config_id" in hyperparameters:
        raise InputError(f"{table.name}: a hyperparameter cannot be called 'config_id'; ignore the column")
    return hyperparameters


def _space_and_values(
    table: LongTable, names: list[str], options: TableOptions
) -> tuple[ConfigSpace.ConfigurationSpace, pd.DataFrame]:
    """The space and the hyperparameters of every row, in the order of the space."""
    if options.space is None:
        values = pd.DataFrame({name: table.values(name) for name in names})
        try:
            space = infer_space(values)
        except InputError as error:
            raise InputError(f"{table.name}: {error}") from None
        return space, values[list(space)]
    space = read_space(options.space)
    differing = sorted(set(names) ^ set(space))
    if differing:
        where = "space" if differing[0] in names else "table"
        raise InputError(f"{table.name}: the hyperparameter '{differing[0]}' is not in the {where}")
    columns = {}
    for parameter in SpaceEncoding(space).parameters:
        if parameter.is_number:
            columns[parameter.name] = table.numbers(parameter.name)
        else:
            columns[parameter.name] = table.choices(parameter.name, parameter.choices)
    return space, pd.DataFrame(columns)


def _blank_inactive(
    table: LongTable, space: ConfigSpace.ConfigurationSpace, values: pd.DataFrame
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Values without those of inactive hyperparameters, before equal rows become one configuration."""
    encoding = SpaceEncoding(space)
    codes = encoding.codes(values)
    wrong = ~np.isnan(codes) & ~encoding.active(codes)
    values, repairs = values.copy(), []
    for index in np.flatnonzero(wrong.any(axis=0)):
        name, rows = encoding.parameter_names[index], np.flatnonzero(wrong[:, index])
        detail = f"hyperparameter '{name}' in {len(rows)} rows, this one first"
        repairs.append({"rule": INACTIVE_RULE, "file": table.name, "row": int(rows[0]), "detail": detail})
        values[name] = values[name].mask(wrong[:, index])
    return values, repairs


def _config_ids(
    table: LongTable, values: pd.DataFrame, options: TableOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The configuration of each row `[R]` int64, and the first row of each configuration `[C]`."""
    codes = pd.DataFrame({index: pd.factorize(values[name])[0] for index, name in enumerate(values.columns)})
    same = codes.groupby(list(codes.columns), sort=False).ngroup().to_numpy()
    if options.config_id is None:
        return same, np.unique(same, return_index=True)[1]
    ids = table.integers(options.config_id)
    _, first_rows, inverse = np.unique(ids, return_index=True, return_inverse=True)
    differs = np.flatnonzero(same != same[first_rows][inverse])
    if len(differs):
        row, earlier = differs[0], first_rows[inverse[differs[0]]]
        raise InputError(
            f"{table.name}, row {row}: config_id {ids[row]} has other hyperparameters than in row {earlier}"
        )
    return ids, first_rows


def _evaluations(table: LongTable, options: TableOptions) -> tuple[pd.DataFrame, list[Fault]]:
    """The long table without config_id, row for row, and a fault for every cell that is NaN, not empty."""
    tasks = table.texts(options.task)
    sources = {"objective": options.objective, "fidelity": options.fidelity, "cost": options.cost}
    sources |= {name: name for name in column_names(options.other_objectives)}
    used = {name: column for name, column in sources.items() if column is not None}
    columns: dict[str, Any] = {"task": tasks, **{name: table.numbers(used[name]) for name in used}}
    if options.repeat is not None:
        columns["repeat"] = table.integers(options.repeat)
    message = "'{}' is NaN; leave the cell empty where a value is missing"
    faults = [
        Fault("evaluations.parquet", str(tasks[row]), int(row), "nan", message.format(column))
        for column in used.values()
        for row in np.flatnonzero(table.is_nan(column))
    ]
    return pd.DataFrame(columns), faults


def _tasks(table: LongTable, options: TableOptions) -> pd.DataFrame:
    """One row a task in the order of appearance; what describes a task must be the same in all its rows."""
    names = table.texts(options.task)
    codes, tasks = pd.factorize(names)
    first_rows = np.unique(codes, return_index=True)[1]
    frame = pd.DataFrame({"task": tasks})
    described = {column: table.numbers(column) for column in column_names(options.metafeatures)}
    groups = names if options.group is None else table.texts(options.group).rename(options.group)
    for column, series in {"group": groups, **described}.items():
        values = pd.factorize(series)[0]  # equal numbers for equal cells, -1 for empty ones
        differs = np.flatnonzero(values != values[first_rows][codes])
        if len(differs):
            row = differs[0]
            raise InputError(
                f"{table.name}, task '{names[row]}', row {row}: '{series.name or column}' is {series[row]}, "
                f"but {series[first_rows[codes[row]]]} in an earlier row of the task"
            )
        frame[column] = series.iloc[first_rows].reset_index(drop=True)
    return frame


def _info(options: TableOptions) -> CollectionInfo:
    lower, upper = (None if bound is None else float(bound) for bound in (options.lower, options.upper))
    return CollectionInfo(
        name=options.name,
        objective=Objective(options.objective, _direction(options), options.unit, lower, upper),
        description=options.description,
        source=options.source,
        licence=options.licence,
        citation=options.citation,
        fidelity=None if options.fidelity is None else Quantity(options.fidelity, options.fidelity_unit),
        cost=None if options.cost is None else Quantity(options.cost, options.cost_unit),
        other_objectives=tuple(Quantity(name) for name in column_names(options.other_objectives)),
    )


def _direction(options: TableOptions) -> str:
    if options.direction is not None:
        return options.direction
    words = options.objective.lower().replace("-", "_").split("_")
    if words[-1] in _MINIMIZED:
        return "minimize"
    if words[-1] in _MAXIMIZED:
        return "maximize"
    raise InputError(f"is '{options.objective}' to be maximized or minimized? give the option direction")
