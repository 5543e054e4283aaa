"""The splits that papers published with their benchmarks, by name: MetaBO on the SVM surfaces, and HPO-B.

`metabo`: Volpp et al., "Meta-Learning Acquisition Functions for Transfer Learning in Bayesian Optimization",
ICLR 2020, on the SVM surfaces of the importer `ecml2016`: 15 test and 35 training datasets, and of the 288
configurations the 143 with RBF kernel whose logarithms of C and gamma are both written in the source's
files, which leave out zeros (11 of 12 values of C times 13 of 14 of gamma). One dataset of the published
training side, breast-cancer, is the same data as the test dataset wisconsin; `metabo` leaves it out, and
`metabo:published` keeps it, for figures that must be comparable to the letter. The test side is the same.

`hpob`: Pineda Arango et al., "HPO-B: A Large-Scale Reproducible Benchmark for Black-Box HPO based on OpenML",
NeurIPS Datasets and Benchmarks 2021. The meta-train, meta-validation and meta-test datasets of a search
space, which the importer `hpob` keeps in the column `part` of the tasks. In the words of its authors' loader
this is the mode `v3`; its mode `v3-test` loads the same test datasets and nothing to learn from,
`v3-train-augmented` adds search spaces that have no test side to those that are trained on, and `v1` and `v2`
know no sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.tables import TaskTables

_TEST = """
    seismic housevotes letter sonar-scale wine haberman wisconsin winequality-red coil2000 monk-2 twonorm
    appendicitis kr-vs-k A9A led7digit"""
_TRAIN = """
    ecoli magic W8A australian ring saheart usps colon-cancer shuttle pima diabetes lymphography abalone
    splice bupa pendigits wdbc spambase automobile spectfheart chess ijcnn1 tic-tac-toe german-numer segment
    cod-rna crx phoneme titanic car bands breast-cancer banana yeast vehicle"""
METABO_TEST, METABO_TRAIN = tuple(_TEST.split()), tuple(_TRAIN.split())
METABO_CONFIGURATIONS = 143
PART = "part"
"""The metafeature that tells the published side of a task: 0 train, 1 validation, 2 test."""
STARTS_FILE = "starts.json"
"""Beside a collection: its published starting points, `{task: [[config_id, ...], ...]}`, a list a seed."""

PROTOCOLS = ("metabo", "metabo:published", "hpob")

__all__ = [
    "METABO_TEST",
    "METABO_TRAIN",
    "PART",
    "PROTOCOLS",
    "STARTS_FILE",
    "Sides",
    "published_sides",
]


@dataclass(frozen=True)
class Sides:
    """Tasks of the sides of a split, in no order; `validation` None where it is still to be taken out of
    `train`. The rest as in `Split`."""

    train: frozenset[str]
    validation: frozenset[str] | None
    test: frozenset[str]
    config_ids: tuple[int, ...] | None = None
    note: str = ""


def published_sides(tables: TaskTables, name: str) -> Sides:
    """The sides of a split in `PROTOCOLS`; `InputError` for a collection that it was not published for."""
    if name == "hpob":
        return _hpob(tables)
    return _metabo(tables, as_published=name == "metabo:published")


def _metabo(tables: TaskTables, as_published: bool) -> Sides:
    if set(tables.tasks) != {*METABO_TEST, *METABO_TRAIN}:
        raise InputError(
            f"split 'metabo' is made for the 50 datasets of the SVM surfaces that `surfaces import ecml2016` "
            f"reads; collection '{tables.collection}' has other tasks"
        )
    group_of = dict(zip(tables.tasks, tables.groups, strict=True))
    tested = {group_of[task]: task for task in METABO_TEST}
    relatives = [task for task in METABO_TRAIN if group_of[task] in tested]
    pairs = ", ".join(f"{task} (as {tested[group_of[task]]})" for task in relatives)
    if as_published:
        train, note = frozenset(METABO_TRAIN), f"trained on the same data as a test task: {pairs}"
    else:
        train = frozenset(METABO_TRAIN) - set(relatives)
        note = f"left out of training, the same data as a test task: {pairs}"
    return Sides(train, None, frozenset(METABO_TEST), _metabo_configurations(tables), note if pairs else "")


def _metabo_configurations(tables: TaskTables) -> tuple[int, ...]:
    """The RBF kernel with neither C = 1 nor gamma = 1, recognised by the encodings: both are on a log scale,
    C from 2^-5 to 2^6 and gamma from 10^-4 to 10^3."""
    columns = {name: index for index, name in enumerate(tables.feature_names)}
    chosen = np.zeros(len(tables.config_ids), dtype=bool)
    if {"kernel=rbf", "C", "gamma"} <= set(columns):
        at = tables.encodings.astype(np.float64)
        one = np.isclose(at[:, columns["C"]], 5 / 11, atol=1e-4)
        one |= np.isclose(at[:, columns["gamma"]], 4 / 7, atol=1e-4)
        chosen = (at[:, columns["kernel=rbf"]] == 1.0) & ~one
    if chosen.sum() != METABO_CONFIGURATIONS:
        raise InputError(
            f"split 'metabo' plays {METABO_CONFIGURATIONS} configurations of the RBF kernel, of which "
            f"collection '{tables.collection}' has {chosen.sum()}; take what `surfaces import ecml2016` makes"
        )
    return tuple(tables.config_ids[chosen].tolist())


def _hpob(tables: TaskTables) -> Sides:
    if PART not in tables.metafeature_names:
        raise InputError(
            f"split 'hpob' needs tasks with the column '{PART}' (0 train, 1 validation, 2 test), which "
            f"collection '{tables.collection}' lacks; import the folder of HPO-B with its three files"
        )
    parts = tables.metafeatures[:, tables.metafeature_names.index(PART)]
    for task, part in zip(tables.tasks, parts, strict=True):
        if part not in (0.0, 1.0, 2.0):
            raise InputError(f"split 'hpob': task '{task}' has {PART} {part}, which is none of 0, 1, 2")
    sides = [
        frozenset(task for task, part in zip(tables.tasks, parts, strict=True) if part == side)
        for side in range(3)
    ]
    return Sides(sides[0], sides[1] or None, sides[2])
