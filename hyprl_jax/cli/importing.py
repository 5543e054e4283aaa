"""The verb `surfaces import`: somebody's files as a collection, with the options of each kind of source."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from hyprl_jax.cli.common import Command, JsonFlag, Outcome, UsageError, read_options
from hyprl_jax.cli.surfaces import OutFolder, describe_made

_Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")]
_Column = Annotated[str | None, tyro.conf.arg(metavar="COLUMN", help_behavior_hint="")]
_Columns = Annotated[str | None, tyro.conf.arg(metavar="COLUMN[,COLUMN..]", help_behavior_hint="")]
_Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
_Rules = Annotated[str | None, tyro.conf.arg(metavar="RULE[,RULE..]|all", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Turn a source in its own format into a collection; a source with a fault leaves nothing behind.

    Examples:
      hyprl surfaces import table results.csv --out meta_data/mine --task dataset --objective accuracy
      hyprl surfaces import ecml2016 ecml2016-svm.tar.xz --out meta_data/svm288

    SOURCE is one of collection, table, hyprl-nnmeta, ecml2016, lcbench, taskset, arlbench, hpob. Some have
    options of their own: `hyprl surfaces import table --help` shows those of a table.
    """

    kind: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The kind of source."""
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """The file, folder or archive to read."""
    out: OutFolder
    """Folder of the new collection."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a collection that stands there."""
    name: _Text = None
    """Name of the collection (default: that of the folder)."""
    json: JsonFlag = False


@dataclass(frozen=True, kw_only=True)
class CollectionImportOptions(ImportOptions):
    """Check a collection that somebody made elsewhere, mend it by named rules if asked to, and copy it.

    Example:
      hyprl surfaces import collection path/to/collection --out meta_data/theirs
    """

    repair: _Rules = None
    """Rules that may repair faults; without any, every fault is refused."""


@dataclass(frozen=True, kw_only=True)
class TableImportOptions(ImportOptions):
    """Import a long CSV or Parquet file: one row an evaluation, one column a hyperparameter.

    Example:
      hyprl surfaces import table results.csv --out meta_data/mine --task dataset --objective accuracy
    """

    task: _Column = None
    """Column of the task (default: task)."""
    objective: _Column = None
    """Column of the objective (default: objective)."""
    direction: Annotated[str | None, tyro.conf.arg(metavar="minimize|maximize", help_behavior_hint="")] = None
    """May be left out where the objective's name tells (accuracy, loss, ...)."""
    group: _Column = None
    """Column of the task's group, tasks from the same data; without one, each task is its own."""
    cost: _Column = None
    """Column of the cost."""
    fidelity: _Column = None
    """Column of the fidelity, as epochs or a share of the data."""
    repeat: _Column = None
    """Column of the repeat (a seed, a fold): whole numbers from 0."""
    config_id: _Column = None
    """Column that numbers the configurations (default: they are numbered as they appear)."""
    hyperparameters: _Columns = None
    """Columns of the hyperparameters (default: all columns that nothing else names)."""
    metafeatures: _Columns = None
    """Columns that describe the task, the same in all of its rows."""
    other_objectives: _Columns = None
    """Columns of further objectives."""
    ignore: _Columns = None
    """Columns to leave out."""
    space: _File = None
    """A ConfigSpace JSON file (default: the space is inferred from the table)."""
    unit: _Text = None
    """Unit of the objective."""
    cost_unit: _Text = None
    """Unit of the cost."""
    fidelity_unit: _Text = None
    """Unit of the fidelity."""
    lower: _Number = None
    """The least value that the objective can have, if known."""
    upper: _Number = None
    """The largest value that the objective can have, if known."""
    description: _Text = None
    """What the collection is, for its card."""
    source: _Text = None
    """Where it comes from, for its card."""
    licence: _Text = None
    """Its licence, for its card."""
    citation: _Text = None
    """How to cite it, for its card."""
    repair: _Rules = None
    """Rules that may repair faults; without any, every fault is refused."""


@dataclass(frozen=True, kw_only=True)
class CurvesImportOptions(ImportOptions):
    """Import learning curves of many tasks from one npz file (lcbench, taskset).

    Examples:
      hyprl surfaces import lcbench lcbench_surrogate.npz --out meta_data/lcbench
      hyprl surfaces import taskset taskset12.npz --out meta_data/taskset --last-only
    """

    last_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out all points of the curves but the last."""


@dataclass(frozen=True, kw_only=True)
class ArlbenchImportOptions(CurvesImportOptions):
    """Import one reinforcement-learning algorithm of ARLBench from a folder of npz files, or from one.

    Example:
      hyprl surfaces import arlbench arlbench --out meta_data/arlbench_ppo --algorithm ppo
    """

    algorithm: _Text = None
    """Which algorithm, as dqn or ppo; may be left out where there is one only."""


@dataclass(frozen=True, kw_only=True)
class HpobImportOptions(ImportOptions):
    """Import one search space of HPO-B from a folder of its JSON files, or from one; or all of them.

    Examples:
      hyprl surfaces import hpob hpob-data --out meta_data/hpob_5971 --space 5971
      hyprl surfaces import hpob hpob-data --out meta_data --space all

    The second makes meta_data/hpob_SPACE for each space. The published starting points, in the file
    bo-initializations.json, come along: `hyprl evaluate --split hpob --starts published --trials 105` plays
    the benchmark.
    """

    space: _Text = None
    """Which search space, or `all`; may be left out where there is one only."""
    repair: _Rules = None
    """Rules that may repair faults; without any, every fault is refused."""


OPTIONS: dict[str, type[ImportOptions]] = {
    "arlbench": ArlbenchImportOptions,
    "collection": CollectionImportOptions,
    "hpob": HpobImportOptions,
    "lcbench": CurvesImportOptions,
    "table": TableImportOptions,
    "taskset": CurvesImportOptions,
}


def read_import_options(words: list[str], program: str) -> ImportOptions:
    """The options, among them those that only the source in `words` has."""
    kind = next((word for word in words if not word.startswith("-")), "")
    return read_options(OPTIONS.get(kind, ImportOptions), words, program)


def run_import(options: ImportOptions) -> Outcome:
    """Imports and says what came out."""
    from hyprl_jax.surfaces import import_collection

    if isinstance(options, HpobImportOptions) and options.space == "all":
        return _import_spaces(options)
    own = {item.name for item in fields(ImportOptions)} - {"name"}
    special = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in own}
    given = {name: value for name, value in special.items() if value is not None}
    path = import_collection(options.kind, options.path, options.out, options.overwrite, **given)
    return describe_made(path)


def _import_spaces(options: HpobImportOptions) -> Outcome:
    """All search spaces of HPO-B at once, each as a collection below `--out`."""
    from hyprl_jax.surfaces import import_hpob_spaces

    if options.name is not None:
        raise UsageError("--name is for one collection: leave it out with --space all")
    paths = import_hpob_spaces(options.path, options.out, options.overwrite, options.repair or ())
    made = [describe_made(path) for path in paths]
    return Outcome({"collections": [one.result for one in made]}, [line for one in made for line in one.text])


IMPORT = Command(ImportOptions, run_import, read_import_options)
