"""Optimizers that people use, as the libraries themselves, made to choose configurations of a table.

    optimizer = make_optimizer("optuna_tpe", problem)
    column = optimizer.ask()
    optimizer.tell(column, objective)

- `optuna_tpe`, `optuna_gp`: Optuna's tree-structured Parzen estimator and Gaussian process;
- `smac`: SMAC3 with its random forest;
- `botorch`: BoTorch's single-task Gaussian process with log expected improvement;
- `package.module:Name`: any class or function that makes a `TableOptimizer` of a `TableProblem`.

Each adapter keeps its library's defaults but where a table demands otherwise, and says so. All of them draw
from the seed of the problem alone: two runs agree to the last digit (same machine, same versions).
`evaluation.hosted` plays them in processes of their own.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from importlib import metadata
from typing import Any

from hyprl_jax.baselines.libraries.problem import (
    Candidates,
    TableOptimizer,
    TableProblem,
    configurations_of,
)
from hyprl_jax.errors import InputError, MissingExtraError

__all__ = [
    "LIBRARIES",
    "Candidates",
    "TableOptimizer",
    "TableProblem",
    "check_installed",
    "configurations_of",
    "find_optimizer",
    "is_users",
    "library_versions",
    "make_optimizer",
]


@dataclasses.dataclass(frozen=True)
class Library:
    """Where an adapter lives, what it needs, and which packages decide what it proposes.

    `version` is the adapter's own: runs kept under another one are played anew.
    """

    module: str
    attribute: str
    needs: tuple[str, ...]
    packages: tuple[str, ...]
    version: int = 1


_HERE = "hyprl_jax.baselines.libraries"
_CORE = ("numpy", "scipy", "ConfigSpace")
LIBRARIES = {
    "optuna_tpe": Library(f"{_HERE}.optuna_samplers", "OptunaTPE", ("optuna",), ("optuna", *_CORE), 2),
    "optuna_gp": Library(
        f"{_HERE}.optuna_samplers", "OptunaGP", ("optuna", "torch"), ("optuna", "torch", *_CORE)
    ),
    "smac": Library(f"{_HERE}.smac_forest", "SMACForest", ("smac",), ("smac", "scikit-learn", *_CORE)),
    "botorch": Library(
        f"{_HERE}.botorch_process",
        "BoTorchGP",
        ("botorch", "torch"),
        ("botorch", "gpytorch", "linear-operator", "torch", *_CORE),
    ),
}
"""The adapters by the name of their method."""


def is_users(method: str) -> bool:
    """Whether a method is named `package.module:Name`."""
    module, colon, name = method.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def check_installed(method: str) -> None:
    """Raises `InputError` for a method that is neither an adapter nor a user's, `MissingExtraError` for an
    adapter whose library is missing. Nothing is imported.
    """
    if is_users(method):
        return
    if method not in LIBRARIES:
        raise InputError(f"unknown method {method!r}: use {', '.join(LIBRARIES)}, or package.module:Name")
    for package in LIBRARIES[method].needs:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "baselines")


def library_versions(method: str) -> dict[str, str]:
    """Versions of all that decides what an adapter proposes, its own among them."""
    library = LIBRARIES[method]
    found = {package: metadata.version(package) for package in library.packages}
    return {"adapter": str(library.version), **found}


def find_optimizer(method: str) -> Callable[[TableProblem], TableOptimizer]:
    """What makes the optimizer of a method; imports its library or the user's module.

    Raises InputError for an unknown method; a user's module may raise anything on import.
    """
    check_installed(method)
    if is_users(method):
        name, _, attribute = method.partition(":")
    else:
        name, attribute = LIBRARIES[method].module, LIBRARIES[method].attribute
    found: Any = importlib.import_module(name)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def make_optimizer(method: str, problem: TableProblem) -> TableOptimizer:
    """The optimizer of a method on one problem."""
    return find_optimizer(method)(problem)
