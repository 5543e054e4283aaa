"""Collections of precomputed response surfaces on disk: read, write, check, describe, import, and split
them.
"""

from hyprl_jax.surfaces.checks import Fault
from hyprl_jax.surfaces.collection import Collection, CollectionInfo, Objective, Quantity
from hyprl_jax.surfaces.describe import describe, list_collections
from hyprl_jax.surfaces.importers import SOURCES, import_collection, import_hpob_spaces
from hyprl_jax.surfaces.reading import find_collection, read_collection
from hyprl_jax.surfaces.splits import Split, make_split, number_of_folds, restrict
from hyprl_jax.surfaces.tables import TaskTables, load_tables, task_tables
from hyprl_jax.surfaces.validate import validate_path
from hyprl_jax.surfaces.writing import write_collection

__all__ = [
    "SOURCES",
    "Collection",
    "CollectionInfo",
    "Fault",
    "Objective",
    "Quantity",
    "Split",
    "TaskTables",
    "describe",
    "find_collection",
    "import_collection",
    "import_hpob_spaces",
    "list_collections",
    "load_tables",
    "make_split",
    "number_of_folds",
    "read_collection",
    "restrict",
    "task_tables",
    "validate_path",
    "write_collection",
]
