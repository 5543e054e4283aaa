"""Importers: what turns a source in its own format into a collection, one module a source.

`import_collection` reads and checks everything before the target folder appears, so an import that fails or
is interrupted leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.surfaces.collection import Collection
from hyprl_jax.surfaces.importers.arlbench import import_arlbench
from hyprl_jax.surfaces.importers.ecml2016 import import_ecml2016
from hyprl_jax.surfaces.importers.folder import import_folder
from hyprl_jax.surfaces.importers.hpob import import_hpob_spaces, read_hpob
from hyprl_jax.surfaces.importers.lcbench import import_lcbench
from hyprl_jax.surfaces.importers.nnmeta import import_nnmeta
from hyprl_jax.surfaces.importers.table import TableOptions, import_table
from hyprl_jax.surfaces.importers.taskset import import_taskset
from hyprl_jax.surfaces.writing import write_collection

__all__ = ["SOURCES", "Source", "import_collection", "import_hpob_spaces"]


@dataclass(frozen=True)
class Source:
    """A kind of source: what it is in words, the function `(path, **options) -> Collection`, and its
    options. The function may answer further text files by name with the collection, as a pair.
    """

    summary: str
    read: Callable[..., Collection | tuple[Collection, dict[str, str]]]
    options: tuple[str, ...]


def _read_table(path: str | Path, **options: Any) -> Collection:
    return import_table(path, TableOptions(**options))


SOURCES: dict[str, Source] = {
    "arlbench": Source(
        "a reinforcement-learning algorithm on many environments (folder of npz files, or one)",
        import_arlbench,
        ("name", "algorithm", "last_only"),
    ),
    "collection": Source("a collection made elsewhere (folder)", import_folder, ("name", "repair")),
    "ecml2016": Source("SVM on 50 datasets (folder or tar archive)", import_ecml2016, ("name",)),
    "hpob": Source(
        "a search space of HPO-B (folder of JSON files, or one)", read_hpob, ("name", "space", "repair")
    ),
    "hyprl-nnmeta": Source(
        "neural networks on 50 datasets (folder or tar archive)", import_nnmeta, ("name",)
    ),
    "lcbench": Source(
        "multi-layer perceptrons on 34 tasks (npz file)", import_lcbench, ("name", "last_only")
    ),
    "table": Source(
        "a long CSV or Parquet file, one row an evaluation",
        _read_table,
        tuple(field.name for field in dataclasses.fields(TableOptions)),
    ),
    "taskset": Source(
        "optimizer hyperparameters on 12 problems (npz file)", import_taskset, ("name", "last_only")
    ),
}


def import_collection(
    source: str, path: str | Path, out: str | Path, overwrite: bool = False, **options: Any
) -> Path:
    """Import `path`, which is of the kind `source` (a key of `SOURCES`), as the collection folder `out`.

    Args:
        source: the kind of source.
        path: the source's file or folder.
        out: the folder to make; it appears whole or not at all.
        overwrite: replace a collection that stands there.
        options: what the source's importer takes (`SOURCES[source].options`). Every importer takes `name`,
            the name on the card, which is that of the folder if it is not given.

    Raises:
        InputError: unknown source or option, or a fault in the source, named with file and row.
    """
    if source not in SOURCES:
        raise InputError(f"there is no importer '{source}'; available are {', '.join(sorted(SOURCES))}")
    importer = SOURCES[source]
    unknown = sorted(set(options) - set(importer.options))
    if unknown:
        known = ", ".join(importer.options) or "none"
        raise InputError(f"the importer '{source}' has no option '{unknown[0]}'; it takes {known}")
    out = Path(out).expanduser()
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another folder, remove it, or ask to overwrite it")
    options.setdefault("name", out.absolute().name)
    read = importer.read(path, **options)
    collection, further = read if isinstance(read, tuple) else (read, {})
    return write_collection(collection, out, overwrite, further)
