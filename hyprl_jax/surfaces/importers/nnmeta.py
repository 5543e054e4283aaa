"""Import nnMeta, the neural-network surfaces published with Hyp-RL (Jomaa, Grabocka, Schmidt-Thieme 2019).

One space-separated text file a dataset, 30 columns: 0 the response in [0, 1] (to be maximised; scaled to
the range of each dataset by its authors), 1-13 the hyperparameters of a grid of 2916, 14-29 the dataset's
metafeatures, the same in every row. What the hyperparameters mean is not documented by the source, so they
carry the likely meaning where the values give it away, and the columns' numbers where they do not.

Two faults are known and handled by rules that the card of the collection records, each with its place: a
row whose response is missing becomes a missing evaluation (`empty-response-becomes-missing`), and a
response outside [0, 1] becomes one too (`out-of-range-response-becomes-missing`): a number that cannot be
is not made into another one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace, UniformFloatHyperparameter

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective
from hyprl_jax.surfaces.importers.archive import source_files

FIELDS, HYPERPARAMETERS, METAFEATURES = 30, 13, 16

# Samples of one source dataset. A1A and A9A are two sizes of Adult and W1A and W8A two of a web-page set,
# by their LIBSVM names; census is the same bureau's survey in other years, so it is kept on the same side;
# australian and credit-a are both the Australian credit approval data (Statlog and UCI form).
GROUPS = {
    "A1A": "adult",
    "A9A": "adult",
    "census": "adult",
    "W1A": "webpages",
    "W8A": "webpages",
    "australian": "australian-credit",
    "credit-a": "australian-credit",
}

_CHOICES = {"choice_2_4": (2, 3, 4), "choice_6_7": (6, 7), "choice_9_11": (9, 10, 11)}
_NUMBERS = {
    "epochs_share": (1, 0.1, 1.0, True),
    "dropout": (5, 0.0, 0.4, False),
    "regularization": (8, 1e-4, 1e-2, True),
    "layers_share": (12, 0.2, 1.0, True),
    "neurons_share": (13, 0.25, 1.0, True),
}

__all__ = ["GROUPS", "import_nnmeta", "nnmeta_space"]


def nnmeta_space() -> ConfigurationSpace:
    """The search space: five numbers on a grid and three choices."""
    space = ConfigurationSpace(name="nnmeta")
    for name, (_, lower, upper, log) in _NUMBERS.items():
        space.add(UniformFloatHyperparameter(name, lower, upper, log=log))
    for name, columns in _CHOICES.items():
        space.add(CategoricalHyperparameter(name, [f"column{column}" for column in columns]))
    return space


@dataclass
class _Reading:
    """What has been read so far: configurations in order of first appearance, and the long table."""

    config_ids: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    metafeatures: list[list[float]] = field(default_factory=list)
    evaluations: list[pd.DataFrame] = field(default_factory=list)
    repairs: list[dict[str, Any]] = field(default_factory=list)


def import_nnmeta(path: str | Path, name: str = "nnmeta") -> Collection:
    """The collection in the original files, given as a folder or as a tar archive.

    Raises:
        InputError: a file is not of this format; the message names file and row (0-based).
    """
    reading = _Reading()
    for file, content in source_files(path):
        _read_file(reading, file, content)
    configs = pd.DataFrame([_configuration(key) for key in reading.config_ids])
    configs.insert(0, "config_id", np.arange(len(configs)))
    columns = [f"metafeature_{column}" for column in range(FIELDS - METAFEATURES, FIELDS)]
    tasks = pd.DataFrame(reading.metafeatures, columns=columns)
    tasks.insert(0, "task", reading.names)
    tasks.insert(1, "group", [GROUPS.get(task, task) for task in reading.names])
    info = CollectionInfo(
        name=name,
        description=(
            "Neural networks on 50 datasets, a grid of 2916 configurations each. The source scaled the "
            "responses to [0, 1] per dataset and does not document the hyperparameters: names are their "
            "likely meaning, or the columns of the source where that is unclear; shares are of an unstated "
            "maximum."
        ),
        source="https://github.com/hadijomaa/HypRL, the meta-dataset of its original text files",
        licence="not stated by the source",
        citation=(
            "Jomaa, Grabocka, Schmidt-Thieme: Hyp-RL: Hyperparameter Optimization by Reinforcement Learning. "
            "arXiv:1906.11527, 2019"
        ),
        objective=Objective("response", "maximize", None, 0.0, 1.0),
        repairs=tuple(reading.repairs),
    )
    return Collection(info, nnmeta_space(), tasks, configs, pd.concat(reading.evaluations, ignore_index=True))


def _read_file(reading: _Reading, file: str, content: bytes) -> None:
    lines = _lines(file, content)
    tail = ""
    ids, values = [], []
    for row, line in enumerate(lines):
        fields = line.split(" ", HYPERPARAMETERS + 1)
        if len(line.split(" ")) == FIELDS - 1:
            fields = ["", *line.split(" ", HYPERPARAMETERS)]
            _repair(reading, "empty-response-becomes-missing", file, row, "the row has no response")
        elif len(fields) != HYPERPARAMETERS + 2 or line.count(" ") != FIELDS - 1:
            raise InputError(f"{file}, row {row}: has {line.count(' ') + 1} columns instead of {FIELDS}")
        tail = tail or fields[-1]
        if fields[-1] != tail:
            raise InputError(f"{file}, row {row}: the metafeatures differ from those of the rows before")
        value = _number(file, row, fields[0]) if fields[0] else np.nan
        if not np.isnan(value) and not 0.0 <= value <= 1.0:
            _repair(reading, "out-of-range-response-becomes-missing", file, row, f"the response is {value:g}")
            value = np.nan
        key = " ".join(fields[1:-1])
        if key not in reading.config_ids:
            _check_configuration(reading, file, row, key)
        ids.append(reading.config_ids[key])
        values.append(value)
    reading.metafeatures.append([_number(file, 0, text) for text in tail.split(" ")])
    reading.names.append(file)
    reading.evaluations.append(pd.DataFrame({"task": file, "config_id": ids, "objective": values}))


def _lines(file: str, content: bytes) -> list[str]:
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is no text; this is not a file of nnMeta") from None
    if not lines:
        raise InputError(f"{file}: the file is empty")
    return [line.rstrip() for line in lines]


def _number(file: str, row: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{file}, row {row}: '{text[:50]}' is not a number") from None
    if not np.isfinite(value):
        raise InputError(f"{file}, row {row}: '{text[:50]}' is not a finite number")
    return value


def _repair(reading: _Reading, rule: str, file: str, row: int, detail: str) -> None:
    reading.repairs.append({"rule": rule, "file": file, "task": file, "row": row, "detail": detail})


def _check_configuration(reading: _Reading, file: str, row: int, key: str) -> None:
    """Note a new configuration after looking whether its one-hot columns are what they should be."""
    values = [_number(file, row, text) for text in key.split(" ")]
    for columns in _CHOICES.values():
        if sorted(values[column - 1] for column in columns) != [0.0] * (len(columns) - 1) + [1.0]:
            raise InputError(f"{file}, row {row}: columns {columns} are not one-hot")
    reading.config_ids[key] = len(reading.config_ids)


def _configuration(key: str) -> dict[str, Any]:
    values = [float(text) for text in key.split(" ")]
    row: dict[str, Any] = {name: values[column - 1] for name, (column, *_) in _NUMBERS.items()}
    for name, columns in _CHOICES.items():
        row[name] = next(f"column{column}" for column in columns if values[column - 1] == 1.0)
    return row
