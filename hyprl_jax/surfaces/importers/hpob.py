"""Import HPO-B, black-box evaluations collected from OpenML; one search space is one collection.

JSON of the form `{space: {dataset: {"X": [[..], ..], "y": [..]}}}`: `X` holds configurations that the source
has already encoded in [0, 1], different ones for each dataset, `y` what they reached, to be maximised (plain
numbers, or lists of one). A folder holds up to three such files, the sides of the published split, which
becomes the column `part` of the tasks; any other file of this form can be given by itself.

Configurations that are the same are one, and where a dataset has one several times these are repeats. A
number outside [0, 1] by no more than a rounding error is set to the bound (rule `rounding-error-clipped`).
The files are large, so they are decoded one dataset at a time, and only the wanted space is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.checks import collection_faults
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, canonical
from hyprl_jax.surfaces.importers.arrays import LARGEST
from hyprl_jax.surfaces.repairs import chosen_rules, mend

PARTS = {"meta-train-dataset.json": 0, "meta-validation-dataset.json": 1, "meta-test-dataset.json": 2}
CLIP_RULE = "rounding-error-clipped"
ROUNDING_ERROR = 1e-6
MAX_FILE_BYTES = 4 * 2**30
MAX_NAME = 200
_MOST_LISTED = 30

__all__ = ["CLIP_RULE", "PARTS", "import_hpob"]

_SPACE_BETWEEN = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class _Dataset:
    """One dataset of the wanted space: encodings `[n, d]` and values `[n]`, NaN where missing."""

    file: str
    name: str
    encodings: np.ndarray
    values: np.ndarray
    clipped: int


def import_hpob(
    path: str | Path, name: str = "hpob", space: str | None = None, repair: str | tuple[str, ...] = ()
) -> Collection:
    """The collection of one search space, from a folder with files of the split or from one JSON file.

    Args:
        path: the folder, or the file.
        name: name of the collection.
        space: which search space; may be left out where there is one only.
        repair: names of repair rules, or "all"; without any, every fault is refused.

    Raises:
        InputError: a file is not of this form, named with space and dataset, or a fault that no chosen rule
        repairs.
    """
    rules = chosen_rules(repair)
    path = Path(path).expanduser()
    files = _files(path)
    space, datasets = _read_space(path, files, space)
    parameters = [f"x{index}" for index in range(datasets[0].encodings.shape[1])]
    configuration_space = ConfigurationSpace(name=f"hpob-{space}")
    configuration_space.add(*(UniformFloatHyperparameter(parameter, 0.0, 1.0) for parameter in parameters))
    encodings, ids = _shared_encodings(datasets)
    configs = pd.DataFrame(encodings, columns=parameters)
    configs.insert(0, "config_id", np.arange(len(configs)))
    names = [dataset.name for dataset in datasets]
    tasks = pd.DataFrame({"task": names, "group": names})
    if all(file.name in PARTS for file in files):
        tasks["part"] = [float(PARTS[dataset.file]) for dataset in datasets]
    evaluations = pd.DataFrame(
        {
            "task": pd.Categorical(np.repeat(names, [len(part) for part in ids]), categories=names),
            "config_id": np.concatenate(ids),
            "objective": np.concatenate([dataset.values for dataset in datasets]),
        }
    )
    repeat = evaluations.groupby(["task", "config_id"], observed=True).cumcount()
    if repeat.any():
        evaluations["repeat"] = repeat
    info = _info(name, space, datasets)
    collection = canonical(Collection(info, configuration_space, tasks, configs, evaluations))
    return mend(collection, list(collection_faults(collection)), rules)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = [path / name for name in PARTS if (path / name).is_file()]
        if not files:
            raise InputError(f"{path}: holds none of the files {', '.join(PARTS)}; give the JSON file itself")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path}: there is no such file or folder")
    for file in files:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file.name}: larger than the {MAX_FILE_BYTES} bytes that are read")
    return files


def _read_space(path: Path, files: list[Path], wanted: str | None) -> tuple[str, list[_Dataset]]:
    """The datasets of the wanted space, or of the only one if none is given, and its name."""
    there: dict[str, None] = {}
    datasets: list[_Dataset] = []
    for file in files:
        scanner = _Scanner(file.name, _text(file))
        spaces: set[str] = set()
        for space in scanner.members("the file", spaces):
            there.setdefault(space)
            take = space == wanted or (wanted is None and len(there) == 1)
            names: set[str] = set()
            for name in scanner.members(f"space '{space}'", names):
                content = scanner.value()
                if take:
                    datasets.append(_dataset(file.name, f"space '{space}', dataset '{name}'", name, content))
        scanner.end()
    listed = ", ".join(list(there)[:_MOST_LISTED]) + (", .." if len(there) > _MOST_LISTED else "")
    if wanted is None and len(there) > 1:
        raise InputError(f"{path}: holds several search spaces, {listed}; choose one with the option space")
    if wanted is not None and wanted not in there:
        raise InputError(f"{path}: no search space '{wanted}' in it; there are {listed or 'none'}")
    if not datasets:
        raise InputError(f"{path}: no dataset in it")
    _check_together(datasets)
    return wanted if wanted is not None else next(iter(there)), datasets


def _check_together(datasets: list[_Dataset]) -> None:
    first: dict[str, _Dataset] = {}
    for dataset in datasets:
        width, expected = dataset.encodings.shape[1], datasets[0].encodings.shape[1]
        if dataset.name in first:
            known = first[dataset.name].file
            raise InputError(f"{dataset.file}: the dataset '{dataset.name}' of this space is in {known} too")
        if width != expected:
            words = f"X has {width} columns, but that of '{datasets[0].name}' has {expected}"
            raise InputError(f"{dataset.file}: dataset '{dataset.name}': {words}")
        first[dataset.name] = dataset


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name}: byte {error.start} is no text; this is not a JSON file") from None
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read ({error.strerror or error})") from None


class _Scanner:
    """Walks through nested JSON objects, so that only one value at a time is in memory decoded."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text, self.position = file, text, 0
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def members(self, where: str, seen: set[str]) -> Iterator[str]:
        """Keys of the object that starts here; whoever gets one must walk through its value."""
        self._expect("{", f"{where} must be an object")
        if self._next() == "}":
            self.position += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME or not key.isprintable():
                raise InputError(f"{self.file}: {where}: a name is no text, empty, too long or not printable")
            if key in seen:
                raise InputError(f"{self.file}: {where} holds '{key}' twice")
            seen.add(key)
            self._expect(":", f"no colon after '{key}'")
            self._next()
            yield key
            if self._next() == "}":
                self.position += 1
                return
            self._expect(",", f"no comma after '{key}'")

    def value(self) -> Any:
        """The value that starts here, decoded."""
        self._next()
        try:
            value, self.position = self._decoder.raw_decode(self.text, self.position)
        except (ValueError, RecursionError) as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(f"{self.file}: not valid JSON ({words})") from None
        return value

    def end(self) -> None:
        """Raise `InputError` if anything is left."""
        if self._next():
            raise InputError(f"{self.file}: not valid JSON (more after the end, character {self.position})")

    def _next(self) -> str:
        match = _SPACE_BETWEEN.match(self.text, self.position)
        assert match is not None, "matches the empty text too"
        self.position = match.end()
        return self.text[self.position : self.position + 1]

    def _expect(self, letter: str, words: str) -> None:
        if self._next() != letter:
            raise InputError(f"{self.file}: not of this form ({words}, character {self.position})")
        self.position += 1


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null where a value is missing")


def _dataset(file: str, where: str, name: str, content: Any) -> _Dataset:
    """One dataset, checked: a rectangle of numbers in [0, 1] and a number or null for each of its rows."""
    if not isinstance(content, dict) or not {"X", "y"} <= content.keys():
        raise InputError(f"{file}: {where} must be an object with X and y")
    encodings = _numbers(file, f"{where}, X", content["X"], 2) + 0.0  # adding 0 turns -0 into 0
    if encodings.size == 0:
        raise InputError(f"{file}: {where}, X: no configuration, or none with a number")
    values = content["y"] if isinstance(content["y"], list) else []
    values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
    present = np.array([value is not None for value in values], dtype=bool)
    objective = np.full(len(values), np.nan)
    objective[present] = _numbers(file, f"{where}, y", [value for value in values if value is not None], 1)
    if len(objective) != len(encodings):
        raise InputError(f"{file}: {where}: y has {len(objective)} values for {len(encodings)} rows of X")
    inside = np.clip(encodings, 0.0, 1.0)
    outside = inside != encodings
    far = np.argwhere(np.abs(inside - encodings) > ROUNDING_ERROR)
    if len(far):
        row, column = far[0]
        shown = f"{encodings[row, column]:g}"
        raise InputError(f"{file}: {where}, X, row {row}: {shown} in column {column} is outside [0, 1]")
    return _Dataset(file, name, inside, objective, int(outside.sum()))


def _numbers(file: str, where: str, values: Any, axes: int) -> np.ndarray:
    try:
        array = np.array(values) if isinstance(values, list) and values else np.zeros((0,) * axes)
    except (ValueError, OverflowError):  # rows of different lengths
        array = np.zeros(0, dtype=object)
    if array.dtype.kind not in "iuf" or array.ndim != axes:
        shape = "a list of rows of the same length, all" if axes == 2 else "a list of"
        raise InputError(f"{file}: {where} is not {shape} numbers")
    numbers = array.astype(np.float64)
    wrong = np.argwhere(np.abs(numbers) > LARGEST)
    if len(wrong):
        raise InputError(f"{file}: {where}, row {wrong[0][0]}: a number is not finite")
    return numbers


def _shared_encodings(datasets: list[_Dataset]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All configurations `[C, d]`, each once, in the order they appear, and the numbers of each dataset's."""
    together = np.concatenate([dataset.encodings for dataset in datasets])
    _, first, same = np.unique(together, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    numbers = np.argsort(order)[same.ravel()]
    lengths = [len(dataset.encodings) for dataset in datasets]
    return together[first[order]], np.split(numbers, np.cumsum(lengths)[:-1])


def _info(name: str, space: str, datasets: list[_Dataset]) -> CollectionInfo:
    repairs = tuple(
        {
            "rule": CLIP_RULE,
            "file": dataset.file,
            "task": dataset.name,
            "row": None,
            "detail": f"{dataset.clipped} numbers of X were outside [0, 1] by less than {ROUNDING_ERROR:g}",
        }
        for dataset in datasets
        if dataset.clipped
    )
    return CollectionInfo(
        name=name,
        description=(
            f"Search space {space} of HPO-B on {len(datasets)} datasets (named by their ids). The source "
            "encoded the hyperparameters in [0, 1] and the files do not name them. Where tasks have a column "
            "part, it is their side of the published split: 0 meta-train, 1 meta-validation, 2 meta-test."
        ),
        source="HPO-B, its JSON files",
        licence="not stated in the files",
        citation=(
            "Pineda Arango, Jomaa, Wistuba, Grabocka: HPO-B: A Large-Scale Reproducible Benchmark for "
            "Black-Box HPO based on OpenML. NeurIPS Datasets and Benchmarks, 2021"
        ),
        objective=Objective("response", "maximize"),
        repairs=repairs,
    )
