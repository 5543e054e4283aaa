"""Import HPO-B, black-box evaluations collected from OpenML; one search space is one collection.

JSON of the form `{space: {dataset: {"X": [[..], ..], "y": [..]}}}`: `X` holds configurations that the source
has already encoded in [0, 1], different ones for each dataset, `y` what they reached, to be maximised (plain
numbers, or lists of one). A folder holds up to three such files, the sides of the published split, which
becomes the column `part` of the tasks (and the split `hpob`); any other file of this form can be given by
itself. Where the folder holds the published starting points too, they are kept beside the collection as
`starts.json` (see `hpob_starts`).

Configurations that are the same are one, and where a dataset has one several times these are repeats. A
number outside [0, 1] by no more than a rounding error is set to the bound (rule `rounding-error-clipped`).
The files are large, so they are decoded one dataset at a time, and only what is wanted is kept.
"""

from __future__ import annotations

import json
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
from hyprl_jax.surfaces.importers.hpob_starts import (
    INITIALIZATIONS,
    Rows,
    read_initializations,
    starting_configurations,
)
from hyprl_jax.surfaces.importers.nested_json import scanner_of
from hyprl_jax.surfaces.protocols import PART, STARTS_FILE
from hyprl_jax.surfaces.repairs import chosen_rules, mend
from hyprl_jax.surfaces.writing import write_collection

PARTS = {"meta-train-dataset.json": 0, "meta-validation-dataset.json": 1, "meta-test-dataset.json": 2}
CLIP_RULE = "rounding-error-clipped"
ROUNDING_ERROR = 1e-6
MAX_FILE_BYTES = 4 * 2**30
_MOST_LISTED = 30

__all__ = ["CLIP_RULE", "PARTS", "import_hpob", "import_hpob_spaces", "read_hpob"]


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
    return read_hpob(path, name, space, repair)[0]


def read_hpob(
    path: str | Path, name: str = "hpob", space: str | None = None, repair: str | tuple[str, ...] = ()
) -> tuple[Collection, dict[str, str]]:
    """As `import_hpob`, and with it the further files that belong beside the collection, by name."""
    rules = chosen_rules(repair)
    path = Path(path).expanduser()
    files = _files(path)
    found = _read_spaces(path, files, space, several=False)
    only = next(iter(found))
    return _build(name, only, found[only], files, _initializations(path).get(only, {}), rules)


def import_hpob_spaces(
    path: str | Path, out: str | Path, overwrite: bool = False, repair: str | tuple[str, ...] = ()
) -> list[Path]:
    """All search spaces of a source, each as the collection `out/hpob_SPACE`; the folders written.

    Everything is read and checked before the first folder appears; arguments are those of `import_hpob`.
    Files of the size of HPO-B take some GB of memory.

    Raises:
        InputError: as `import_hpob`, with the space in front, or a folder stands in the way.
    """
    rules = chosen_rules(repair)
    path, out = Path(path).expanduser(), Path(out).expanduser()
    files = _files(path)
    found = _read_spaces(path, files, None, several=True)
    starts = _initializations(path)
    for space, datasets in found.items():
        _info(f"hpob_{space}", space, datasets).check()  # a space's name becomes that of a folder
        if not overwrite and (out / f"hpob_{space}").exists():
            raise InputError(f"{out / f'hpob_{space}'} exists already; remove it, or ask to overwrite it")
    made = []
    for space in list(found):
        name = f"hpob_{space}"
        try:
            made.append(_build(name, space, found.pop(space), files, starts.get(space, {}), rules))
        except InputError as error:
            raise InputError(f"space '{space}': {error}") from None
    return [
        write_collection(collection, out / collection.info.name, overwrite, further)
        for collection, further in made
    ]


def _build(
    name: str, space: str, datasets: list[_Dataset], files: list[Path], rows: Rows, rules: tuple[str, ...]
) -> tuple[Collection, dict[str, str]]:
    """The collection of one space, mended, and the further files."""
    parameters = [f"x{index}" for index in range(datasets[0].encodings.shape[1])]
    configuration_space = ConfigurationSpace(name=f"hpob-{space}")
    configuration_space.add(*(UniformFloatHyperparameter(parameter, 0.0, 1.0) for parameter in parameters))
    encodings, ids = _shared_encodings(datasets)
    configs = pd.DataFrame(encodings, columns=parameters)
    configs.insert(0, "config_id", np.arange(len(configs)))
    names = [dataset.name for dataset in datasets]
    tasks = pd.DataFrame({"task": names, "group": names})
    if all(file.name in PARTS for file in files):
        tasks[PART] = [float(PARTS[dataset.file]) for dataset in datasets]
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
    collection = mend(collection, list(collection_faults(collection)), rules)
    values = {dataset.name: dataset.values for dataset in datasets}
    starts = starting_configurations(rows, dict(zip(names, ids, strict=True)), values)
    kept = {task: starts[task] for task in collection.tasks["task"] if task in starts}
    return collection, {STARTS_FILE: json.dumps(kept) + "\n"} if kept else {}


def _initializations(path: Path) -> dict[str, Rows]:
    """The published starting points in the folder, of all spaces; none where there is no such file."""
    file = path / INITIALIZATIONS
    return read_initializations(file) if path.is_dir() and file.is_file() else {}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = [path / name for name in PARTS if (path / name).is_file()]
        if not files:
            raise InputError(f"{path}: holds none of the files {', '.join(PARTS)}; give the JSON file itself")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path}: there is no such file or folder")
    return files


def _read_spaces(
    path: Path, files: list[Path], wanted: str | None, several: bool
) -> dict[str, list[_Dataset]]:
    """The datasets of the wanted space; without one, of all spaces, of which there must be one unless
    `several` are welcome. Spaces without a dataset are left out then."""
    there: dict[str, list[_Dataset]] = {}
    for file in files:
        scanner = scanner_of(file, MAX_FILE_BYTES)
        for space in scanner.members("the file", set()):
            datasets = there.setdefault(space, [])
            take = space == wanted or (wanted is None and (several or len(there) == 1))
            for name in scanner.members(f"space '{space}'", set()):
                content = scanner.value()
                if take:
                    datasets.append(_dataset(file.name, f"space '{space}', dataset '{name}'", name, content))
        scanner.end()
    listed = ", ".join(list(there)[:_MOST_LISTED]) + (", .." if len(there) > _MOST_LISTED else "")
    if wanted is None and len(there) > 1 and not several:
        raise InputError(f"{path}: holds several search spaces, {listed}; choose one with the option space")
    if wanted is not None and wanted not in there:
        raise InputError(f"{path}: no search space '{wanted}' in it; there are {listed or 'none'}")
    found = {space: datasets for space, datasets in there.items() if datasets}
    if not found:
        raise InputError(f"{path}: no dataset in it")
    for datasets in found.values():
        _check_together(datasets)
    return found


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
