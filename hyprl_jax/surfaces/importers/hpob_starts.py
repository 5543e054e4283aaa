"""The starting points of HPO-B: `bo-initializations.json`, which stands beside its datasets.

`{space: {dataset: {"test0": [row, ..], .., "test4": [row, ..]}}}`: for each of five seeds the configurations
that every method tests first, as rows (from 0) of the dataset's own `X`. A row may also stand as a list of
one. They become `{dataset: [[config_id, ..] of seed 0, .. of seed 1, ..]}`, in which nobody needs to know the
order of the source's rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.importers.nested_json import scanner_of

INITIALIZATIONS = "bo-initializations.json"
MAX_BYTES = 2**28
MOST_SEEDS = 1000
_SEED = re.compile(r"test(\d{1,4})")

Rows = dict[str, tuple[tuple[int, ...], ...]]
"""Of each dataset the rows of each seed, in the order of the seeds."""

__all__ = ["INITIALIZATIONS", "Rows", "read_initializations", "starting_configurations"]


def read_initializations(file: Path) -> dict[str, Rows]:
    """Rows of all spaces; `InputError` where the file is not of its form."""
    scanner = scanner_of(file, MAX_BYTES)
    spaces: dict[str, Rows] = {}
    for space in scanner.members("the file", set()):
        rows: Rows = {}
        for dataset in scanner.members(f"space '{space}'", set()):
            where = f"{file.name}: space '{space}', dataset '{dataset}'"
            seeds: dict[int, tuple[int, ...]] = {}
            for seed in scanner.members(f"space '{space}', dataset '{dataset}'", set()):
                match = _SEED.fullmatch(seed)
                if match is None or int(match[1]) in seeds:
                    raise InputError(f"{where}: '{seed[:40]}' is no seed; they are called test0, test1, ..")
                seeds[int(match[1])] = _rows(where, seed, scanner.value())
            if not seeds or sorted(seeds) != list(range(len(seeds))) or len(seeds) > MOST_SEEDS:
                raise InputError(f"{where}: seeds must be test0, test1, .. without a gap")
            rows[dataset] = tuple(seeds[number] for number in range(len(seeds)))
        spaces[space] = rows
    scanner.end()
    return spaces


def _rows(where: str, seed: str, content: Any) -> tuple[int, ...]:
    rows = content if isinstance(content, list) else []
    rows = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    if not rows or not all(type(row) is int and row >= 0 for row in rows):
        raise InputError(f"{where}, {seed}: must be a list of rows, whole numbers from 0")
    if len(set(rows)) < len(rows):
        raise InputError(f"{where}, {seed}: a row stands twice")
    return tuple(rows)


def starting_configurations(
    rows: Rows, config_ids: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> dict[str, list[list[int]]]:
    """The starting points of the datasets that there are, as config ids.

    Args:
        rows: as read, of one space; datasets that are not in `config_ids` are left out.
        config_ids: of each dataset the configuration of each of its rows `[n]`.
        values: of each dataset the value of each row `[n]`, NaN where missing.

    Raises:
        InputError: a row that the dataset does not have or that has no value, or two of one seed that are the
        same configuration.
    """
    starts: dict[str, list[list[int]]] = {}
    for dataset, seeds in rows.items():
        if dataset not in config_ids:
            continue
        size = len(config_ids[dataset])
        starts[dataset] = []
        for number, own in enumerate(seeds):
            where = f"{INITIALIZATIONS}: dataset '{dataset}', test{number}"
            for row in own:
                if row >= size:
                    raise InputError(f"{where}: row {row}, but the dataset has the rows 0 to {size - 1}")
                if np.isnan(values[dataset][row]):
                    raise InputError(f"{where}: row {row} has no value, so nothing can start from it")
            chosen = [int(config_ids[dataset][row]) for row in own]
            if len(set(chosen)) < len(chosen):
                raise InputError(f"{where}: two rows are the same configuration; leave one of them out")
            starts[dataset].append(chosen)
    return starts
