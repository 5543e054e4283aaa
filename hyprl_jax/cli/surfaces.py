"""The verbs `surfaces list | describe | validate | import | build`: collections of response surfaces."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hyprl_jax.cli.common import INPUT_MISTAKE, Command, JsonFlag, Outcome, plain, read_options

_MOST_FAULTS_SHOWN = 100

OutFolder = Annotated[Path, tyro.conf.arg(metavar="DIR")]
DefaultUnsaid = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List the collections of response surfaces that are at hand.

    Example:
      hyprl surfaces list
    """

    root: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder to look in (default: meta_data/ of the current folder, or the one shipped with the package)."""
    json: JsonFlag = False


@dataclass(frozen=True, kw_only=True)
class DescribeOptions:
    """Describe one collection in words and numbers.

    Example:
      hyprl surfaces describe mlp
    """

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="COLLECTION")]
    """A folder name under meta_data/, or a path."""
    json: JsonFlag = False


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Show every fault of a collection, each with file, task and row; exit code 2 if there is any.

    Example:
      hyprl surfaces validate path/to/collection
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """The folder of the collection."""
    json: JsonFlag = False


def run_list(options: ListOptions) -> Outcome:
    """Name, size and description of every collection."""
    from rich.table import Table

    from hyprl_jax.surfaces import list_collections

    found = [plain(item) for item in list_collections(options.root)]
    table = Table()
    columns = list(found[0]) if found else []
    for column in columns:
        table.add_column(column)
    for item in found:
        table.add_row(*(str(item[column]) for column in columns))
    nothing = "no collections here: make one with `hyprl surfaces import` or `hyprl surfaces build`"
    return Outcome({"collections": found}, [table if found else nothing])


def run_describe(options: DescribeOptions) -> Outcome:
    """Everything worth knowing of one collection."""
    from hyprl_jax.surfaces import describe, find_collection, read_collection

    words = plain(describe(read_collection(find_collection(options.collection))))
    return Outcome(words, ["\n".join(_indented(words))])


def run_validate(options: ValidateOptions) -> Outcome:
    """The faults, or the news that there are none."""
    from hyprl_jax.surfaces import validate_path

    faults = validate_path(options.path)
    result = {"path": str(options.path), "valid": not faults, "faults": plain(faults)}
    if not faults:
        return Outcome(result, [f"{options.path}: no faults"])
    lines = [str(fault) for fault in faults[:_MOST_FAULTS_SHOWN]]
    if len(faults) > _MOST_FAULTS_SHOWN:
        lines.append(f"... and {len(faults) - _MOST_FAULTS_SHOWN} more; --json shows all")
    lines.append(f"{options.path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    return Outcome(result, lines, INPUT_MISTAKE)


def _indented(value: dict[str, Any], depth: int = 0) -> list[str]:
    """A nested dict as indented lines."""
    lines = []
    for name, item in value.items():
        label = f"{'  ' * depth}{name.replace('_', ' ')}"
        if isinstance(item, dict):
            lines += [f"{label}:", *_indented(item, depth + 1)]
        elif isinstance(item, list) and any(isinstance(part, dict) for part in item):
            lines.append(f"{label}:")
            lines += [f"{'  ' * (depth + 1)}- {_flat(part)}" for part in item]
        else:
            lines.append(f"{label}: {_flat(item)}")
    return lines


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(_flat(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "unknown" if value is None else str(value)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Compute a collection by really training models; a build that was stopped goes on when started again.

    Example:
      hyprl surfaces build svm --out meta_data/my_svm --tasks 10 --configs 64
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """What to train: mlp, svm or boosting."""
    out: OutFolder
    """Folder of the collection; it must not exist yet."""
    seed: int = 0
    """Seed of the configurations and of the training."""
    jobs: Annotated[int | None, DefaultUnsaid] = None
    """Worker processes (default: one for each core)."""
    tasks: Annotated[tuple[str, ...], DefaultUnsaid] = ()
    """Names of tasks, or how many of the recipe's tasks to take (default: all)."""
    configs: Annotated[int | None, DefaultUnsaid] = None
    """How many configurations to sample (default: the recipe's own number)."""
    json: JsonFlag = False


def run_build(options: BuildOptions) -> Outcome:
    """Builds with a progress bar and says what came out."""
    from hyprl_jax.surfaces import build as building

    tasks: int | tuple[str, ...] | None = options.tasks or None
    if len(options.tasks) == 1 and options.tasks[0].isdecimal():
        tasks = int(options.tasks[0])
    with building.show_progress(options.recipe) as progress:
        path = building.build(
            options.recipe, options.out, options.seed, options.jobs, tasks, options.configs, progress
        )
    return _made(path)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Turn a source in its own format into a collection; nothing is left behind where the source has a fault.

    Examples:
      hyprl surfaces import table results.csv --out meta_data/mine --help
      hyprl surfaces import ecml2016 ecml2016-svm.tar.xz --out meta_data/svm288

    SOURCE is one of collection, table, hyprl-nnmeta, ecml2016; --help after it shows its own options.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The kind of source."""
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """The file, folder or archive to read."""
    out: OutFolder
    """Folder of the new collection."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace a collection that stands there."""
    json: JsonFlag = False


def read_import_options(words: list[str], program: str) -> ImportOptions:
    """The options, among them those that only the source in `words` has."""
    named = [word for word in words if not word.startswith("-")]
    kind = _with_source_options(named[0]) if named else ImportOptions
    return read_options(kind, words, program)


def run_import(options: ImportOptions) -> Outcome:
    """Imports and says what came out."""
    from hyprl_jax.surfaces import import_collection

    general = {item.name for item in fields(ImportOptions)}
    special = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in general}
    return _made(import_collection(options.source, options.path, options.out, options.overwrite, **special))


def _with_source_options(source: str) -> type[ImportOptions]:
    """`ImportOptions` and a field for each further parameter of the function that reads `source`."""
    from docstring_parser import parse

    from hyprl_jax.surfaces import SOURCES

    if source not in SOURCES:
        return ImportOptions
    read = SOURCES[source].read
    helps = {item.arg_name: item.description for item in parse(inspect.getdoc(read) or "").params}
    extra: list[tuple[str, Any, Any]] = []
    for parameter in list(inspect.signature(read, eval_str=True).parameters.values())[1:]:
        hint = tyro.conf.arg(help=helps.get(parameter.name) or "", constructor=None)
        kind = Annotated[parameter.annotation, hint]
        default = field() if parameter.default is parameter.empty else field(default=parameter.default)
        extra.append((parameter.name, kind, default))
    made = make_dataclass("ImportOptions", extra, bases=(ImportOptions,), frozen=True, kw_only=True)
    example = f"hyprl surfaces import {source} PATH --out DIR"
    made.__doc__ = f"Import {SOURCES[source].summary}.\n\nExample:\n  {example}"
    return made


def _made(path: Path) -> Outcome:
    """What to say of a collection that was just written."""
    from hyprl_jax.surfaces import describe, read_collection

    words = plain(describe(read_collection(path)))
    return Outcome({"path": str(path), **words}, [f"wrote {path}", "\n".join(_indented(words))])


LIST = Command(ListOptions, run_list)
DESCRIBE = Command(DescribeOptions, run_describe)
VALIDATE = Command(ValidateOptions, run_validate)
IMPORT = Command(ImportOptions, run_import, read_import_options)
BUILD = Command(BuildOptions, run_build)
