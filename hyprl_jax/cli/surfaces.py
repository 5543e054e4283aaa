"""The verbs `surfaces list | describe | validate | build | pack`: collections of response surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hyprl_jax.cli.common import FAILURE, INPUT_MISTAKE, Command, JsonFlag, Outcome, plain

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
    columns = [name for name in found[0] if name != "path"] if found else []
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
        return ", ".join(_flat(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Compute a collection by really training models; a build that was stopped goes on when started again.

    Pieces (a task and a few configurations) are trained in processes here or on a Ray cluster. One that fails
    does not stop the others, which are kept.

    Examples:
      hyprl surfaces build svm --out meta_data/my_svm --tasks 10 --configs 64
      hyprl surfaces build mlp --out meta_data/my_mlp --jobs 4 --retry
      hyprl surfaces build mlp --out shared/my_mlp --ray 10.0.0.1:6379
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """What to train: mlp, svm or boosting."""
    out: OutFolder
    """Folder of the collection; it must not exist yet."""
    seed: int = 0
    """Seed of the configurations and of the training."""
    jobs: Annotated[int | None, DefaultUnsaid] = None
    """Worker processes (default: one for each core)."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS|local", help_behavior_hint="")] = None
    """Train on a Ray cluster instead (extra `ray`), one CPU a piece; the folder of DIR must be reachable
    from all its machines."""
    retry: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train again the pieces that failed."""
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
    try:
        with building.show_progress(options.recipe) as progress:
            path = building.build(
                options.recipe, options.out, options.seed, options.jobs, tasks, options.configs, progress,
                options.ray, options.retry,
            )  # fmt: skip
    except building.PiecesFailed as fault:
        return Outcome({"path": None, "error": str(fault), "failed": fault.failed}, [str(fault)], FAILURE)
    return describe_made(path)


def describe_made(path: Path) -> Outcome:
    """What to say of a collection that was just written to `path`."""
    from hyprl_jax.surfaces import describe, read_collection

    words = plain(describe(read_collection(path)))
    return Outcome({"path": str(path), **words}, [f"wrote {path}", "\n".join(_indented(words))])


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Pack a collection for training that streams it from the disk, a shard of tasks at a time.

    Example:
      hyprl surfaces pack mlp --out packed/mlp
    """

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="COLLECTION")]
    """A folder name under meta_data/, or a path."""
    out: OutFolder
    """Folder of the packed collection; it must not exist yet."""
    json: JsonFlag = False


def run_pack(options: PackOptions) -> Outcome:
    """Packs, and says how large the result is and how to train on it."""
    from hyprl_jax.streams import Pack, pack_collection

    path = pack_collection(options.collection, options.out)
    with Pack(path) as pack:
        tasks, columns = len(pack.outline.tasks), len(pack.outline.config_ids)
        files = [file for file in path.rglob("*") if file.is_file()]
        result = {
            "path": str(path), "collection": pack.outline.collection, "tasks": tasks,
            "configurations": columns, "bytes": sum(file.stat().st_size for file in files),
            "content_hash": pack.outline.content_hash,
        }  # fmt: skip
    lines = [
        f"packed {tasks:,} tasks x {columns:,} configurations into {path}, {result['bytes']:,} bytes",
        f"train on it with: hyprl train --collections {path} --stream.tasks 64",
    ]
    return Outcome(result, lines)


LIST = Command(ListOptions, run_list)
DESCRIBE = Command(DescribeOptions, run_describe)
VALIDATE = Command(ValidateOptions, run_validate)
BUILD = Command(BuildOptions, run_build)
PACK = Command(PackOptions, run_pack)
