"""Small files of the form of HPO-B, and its protocol played the way its own loader does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SPACES = {"5971": 2, "6766": 3}
SEEDS = [f"test{number}" for number in range(5)]
FIRST = 5
TRAIN, VALIDATION, TEST = ("10", "12", "3"), ("31",), ("37", "43")
ROWS = 24

Files = dict[str, dict[str, dict[str, dict[str, Any]]]]


def hpob_files(seed: int = 0) -> Files:
    """The three parts, two spaces. Datasets share some configurations; dataset 3 has one twice and a missing
    value, dataset 37 one twice with the same value."""
    rng = np.random.default_rng(seed)
    files: Files = {}
    parts = zip(("train", "validation", "test"), (TRAIN, VALIDATION, TEST), strict=True)
    for part, datasets in parts:
        spaces: dict[str, dict[str, dict[str, Any]]] = {}
        for space, width in SPACES.items():
            common = np.round(np.random.default_rng(width).random((8, width)), 3)
            spaces[space] = {}
            for dataset in datasets:
                encodings = np.concatenate([common, np.round(rng.random((ROWS - 8, width)), 3)])
                order = rng.permutation(ROWS)
                values: list[list[float | None]] = [
                    [value] for value in np.round(rng.random(ROWS), 3).tolist()
                ]
                content = {"X": encodings[order].tolist(), "y": values}
                if dataset in ("3", "37"):
                    content["X"].append(content["X"][4])
                    content["y"].append(content["y"][4] if dataset == "37" else [0.5])
                if dataset == "3":
                    content["y"][7] = [None]
                spaces[space][dataset] = content
        files[f"meta-{part}-dataset.json"] = spaces
    return files


def initializations(seed: int = 1) -> dict[str, dict[str, dict[str, list[int]]]]:
    """Rows to begin with; one dataset that is not there, as in the published file."""
    rng = np.random.default_rng(seed)
    return {
        space: {
            dataset: {name: rng.permutation(ROWS)[:FIRST].tolist() for name in SEEDS}
            for dataset in (*TEST, "9999")
        }
        for space in SPACES
    }


def written(folder: Path, files: dict[str, Any]) -> Path:
    """The files as JSON in a folder; texts as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


def source(folder: Path) -> Path:
    """A folder like that of HPO-B."""
    return written(folder, {**hpob_files(), "bo-initializations.json": initializations()})


def chosen_rows(space: str, dataset: str, name: str, trials: int, method: int = 0) -> list[int]:
    """What a method that ignores results tests: the starting rows, then others in a random order."""
    first = initializations()[space][dataset][name]
    rng = np.random.default_rng([method, int(space), int(dataset), int(name[4:])])
    return [*first, *(row for row in rng.permutation(ROWS).tolist() if row not in first)][: FIRST + trials]


def results(trials: int = 12, method: int = 0) -> dict[str, dict[str, dict[str, list[float]]]]:
    """A result file as HPO-B's loader makes it: responses scaled by the dataset's least and largest, the best
    after the starting rows and after every further trial."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for space, datasets in hpob_files()["meta-test-dataset.json"].items():
        found[space] = {}
        for dataset, content in datasets.items():
            values = np.array(content["y"], dtype=float).ravel()
            scaled = (values - values.min()) / (values.max() - values.min())
            found[space][dataset] = {}
            for name in SEEDS:
                rows = chosen_rows(space, dataset, name, trials, method)
                steps = [scaled[rows[: FIRST + step]].max() for step in range(trials + 1)]
                found[space][dataset][name] = [float(step) for step in steps]
    return found
