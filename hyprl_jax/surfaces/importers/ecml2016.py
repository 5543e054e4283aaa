"""Import the SVM surfaces of Schilling, Wistuba and Schmidt-Thieme (ECML PKDD 2016).

One sparse text file a dataset; a row is the accuracy (to be maximised) followed by `index:value` pairs: 0-2
the kernel one-hot (RBF, polynomial, linear), 3 = log2(C) / 6, 4 = log10(gamma) / 4 of the RBF kernel, 5 =
log10(degree) of the polynomial one, 6-27 the dataset's metafeatures. A value that is not written is 0, so
the kernel decides whether index 4 is missing (inactive) or 0 (gamma = 1). The search space has these
conditions for real, in units that a program understands: C, gamma and degree themselves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    EqualsCondition,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective
from hyprl_jax.surfaces.importers.archive import source_files

KERNELS = ("rbf", "poly", "linear")
FEATURES, FIRST_METAFEATURE = 28, 6

# The same source data under two names: australian (Statlog) and crx (UCI) are the Australian credit
# approvals; diabetes (LIBSVM) and pima (KEEL) are the Pima Indians diabetes data; breast-cancer (LIBSVM)
# and wisconsin (KEEL) are the original Wisconsin breast cancer data (wdbc, the diagnostic one, has other
# patients and features). Their metafeatures agree to the second digit.
GROUPS = {
    "australian": "australian-credit",
    "crx": "australian-credit",
    "diabetes": "pima-diabetes",
    "pima": "pima-diabetes",
    "breast-cancer": "wisconsin-original",
    "wisconsin": "wisconsin-original",
}

__all__ = ["GROUPS", "import_ecml2016", "svm_space"]


def svm_space() -> ConfigurationSpace:
    """The search space: kernel, C, and gamma or degree where the kernel has it."""
    space = ConfigurationSpace(name="svm")
    kernel = CategoricalHyperparameter("kernel", KERNELS)
    cost = UniformFloatHyperparameter("C", 2.0**-5, 2.0**6, log=True)
    gamma = UniformFloatHyperparameter("gamma", 1e-4, 1e3, log=True)
    degree = UniformIntegerHyperparameter("degree", 2, 10, log=True)
    space.add(kernel, cost, gamma, degree)
    space.add(EqualsCondition(gamma, kernel, "rbf"), EqualsCondition(degree, kernel, "poly"))
    return space


def import_ecml2016(path: str | Path, name: str = "svm288") -> Collection:
    """The collection in the original files, given as a folder or as a tar archive.

    Raises:
        InputError: a file is not of this format; the message names file and row (0-based).
    """
    config_ids: dict[tuple[float, ...], int] = {}
    names, metafeatures, evaluations = [], [], []
    for file, content in source_files(path):
        rows = _read_rows(file, content)
        tail = rows[:, 1 + FIRST_METAFEATURE :]
        changed = np.flatnonzero((tail != tail[0]).any(axis=1))
        if len(changed):
            raise InputError(
                f"{file}, row {changed[0]}: the metafeatures differ from those of the rows before"
            )
        keys = [tuple(row) for row in rows[:, 1 : 1 + FIRST_METAFEATURE].tolist()]
        for row, key in enumerate(keys):
            if key not in config_ids:
                _configuration(file, row, key)
                config_ids[key] = len(config_ids)
        names.append(file)
        metafeatures.append(tail[0])
        ids = [config_ids[key] for key in keys]
        evaluations.append(pd.DataFrame({"task": file, "config_id": ids, "objective": rows[:, 0]}))
    configs = pd.DataFrame([_configuration("", 0, key) for key in config_ids])
    configs.insert(0, "config_id", np.arange(len(configs)))
    configs["degree"] = configs["degree"].astype("Int64")
    columns = [f"metafeature_{index}" for index in range(FIRST_METAFEATURE, FEATURES)]
    tasks = pd.DataFrame(np.stack(metafeatures), columns=columns)
    tasks.insert(0, "task", names)
    tasks.insert(1, "group", [GROUPS.get(task, task) for task in names])
    return Collection(_info(name), svm_space(), tasks, configs, pd.concat(evaluations, ignore_index=True))


def _info(name: str) -> CollectionInfo:
    return CollectionInfo(
        name=name,
        description="Accuracy of support vector machines on 50 datasets, a grid of 288 configurations each.",
        source="https://github.com/nicoschilling/ECML2016, its original text files",
        licence="not stated by the source",
        citation=(
            "Schilling, Wistuba, Schmidt-Thieme: Scalable Hyperparameter Optimization with Products of "
            "Gaussian Process Experts. ECML PKDD 2016"
        ),
        objective=Objective("accuracy", "maximize", None, 0.0, 1.0),
    )


def _read_rows(file: str, content: bytes) -> np.ndarray:
    """Response and features of a file, dense: `[rows, 1 + FEATURES]` float64."""
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is no text; this is not a file of this source"
        ) from None
    if not lines:
        raise InputError(f"{file}: the file is empty")
    rows = np.zeros((len(lines), 1 + FEATURES))
    for row, line in enumerate(lines):
        tokens = line.split()
        try:
            rows[row, 0] = float(tokens[0])
            pairs = [token.split(":") for token in tokens[1:]]
            indices = [int(index) for index, _ in pairs]
            values = [float(value) for _, value in pairs]
        except (ValueError, IndexError):
            raise InputError(f"{file}, row {row}: not a number followed by index:value pairs") from None
        if len(set(indices)) < len(indices) or not all(0 <= index < FEATURES for index in indices):
            raise InputError(f"{file}, row {row}: an index stands twice or is not in 0..{FEATURES - 1}")
        rows[row, [1 + index for index in indices]] = values
        if not np.isfinite(rows[row]).all():
            raise InputError(f"{file}, row {row}: a value is not finite")
    return rows


def _configuration(file: str, row: int, key: tuple[float, ...]) -> dict[str, object]:
    """One configuration in its own units, inactive ones as None."""
    where = f"{file}, row {row}"
    kernels = [kernel for kernel, on in zip(KERNELS, key[:3], strict=True) if on == 1.0]
    if len(kernels) != 1 or sum(key[:3]) != 1.0:
        raise InputError(f"{where}: the kernel is not one-hot")
    kernel = kernels[0]
    exponent, degree = 6 * key[3], 10 ** key[5]
    for active, value, words in ((kernel == "rbf", key[4], "gamma"), (kernel == "poly", key[5], "degree")):
        if value != 0.0 and not active:
            raise InputError(f"{where}: {words} is set for the {kernel} kernel, which has none")
    if abs(exponent - round(exponent)) > 1e-9 or (kernel == "poly" and abs(degree - round(degree)) > 1e-9):
        raise InputError(f"{where}: C is no power of two, or the degree no integer")
    return {
        "kernel": kernel,
        "C": 2.0 ** round(exponent),
        # the source holds rounded logarithms: twelve digits give 0.05, not 0.0500000000000001
        "gamma": float(f"{10 ** (4 * key[4]):.12g}") if kernel == "rbf" else np.nan,
        "degree": round(degree) if kernel == "poly" else None,
    }
