"""A collection on disk becomes a packed one without ever being in memory as a whole.

The table of evaluations is read in batches of rows, in whatever order they are; what they say goes into
temporary files of sums and counts beside the pack, and from there, by blocks of tasks, into the pack. Tasks
and configurations obey the rules of `surfaces validate`. Of evaluations that is checked which needs no look
at all of them at once: names, numbers, bounds, empty and constant surfaces, and repeated rows where the
collection has no column `repeat`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hyprl_jax.errors import InputError
from hyprl_jax.streams.writing import PackWriter
from hyprl_jax.surfaces import Collection, TaskTables, find_collection
from hyprl_jax.surfaces.reading import TABLES, check_types, read_description
from hyprl_jax.surfaces.tables import outline as outline_of

__all__ = ["pack_collection"]

_BATCH = 2**18  # rows of evaluations that are read at once
_BLOCK_BYTES = 64 * 2**20  # of raw objectives that are packed at once
_EVALUATIONS = TABLES[2]


def pack_collection(name_or_path: str | Path, out: str | Path) -> Path:
    """Packs a collection for streamed training into the new folder `out`, which appears whole or not at all.

    Beside the pack, 12 bytes a task and configuration are needed on the disk meanwhile.

    Raises InputError for a collection that is not there or has a fault, `out` that exists, a full disk.
    """
    folder, out = find_collection(name_or_path), Path(out)
    frame = read_description(folder)
    outline = outline_of(frame)
    shape = (len(outline.tasks), len(outline.config_ids))
    with PackWriter(out, outline, described=frame) as writer:
        try:
            scratch = Path(
                tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".sums", dir=out.absolute().parent)
            )
        except OSError as fault:
            raise InputError(f"{out}: cannot be written ({fault.strerror or fault})") from None
        try:
            if shape[0] * shape[1] * 12 > shutil.disk_usage(scratch).free:
                raise InputError(f"{out}: the disk is too full to pack {outline.collection!r}")
            sums = _on_disk(scratch / "sums", np.float64, shape)
            counts = _on_disk(scratch / "counts", np.uint32, shape)
            _add_up(folder / _EVALUATIONS, frame, outline, sums, counts)
            rows = max(1, _BLOCK_BYTES // (8 * shape[1]))
            for begin in range(0, shape[0], rows):
                count = np.asarray(counts[begin : begin + rows])
                mean = np.full(count.shape, np.nan)
                np.divide(sums[begin : begin + rows], count, out=mean, where=count > 0)
                writer.append(mean)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return out


def _on_disk(path: Path, kind: Any, shape: tuple[int, int]) -> np.ndarray:
    """Zeros that need memory only where they are being used; a file without blocks until it is written to."""
    return np.memmap(path, dtype=kind, mode="w+", shape=shape)


def _add_up(
    file: Path, collection: Collection, outline: TaskTables, sums: np.ndarray, counts: np.ndarray
) -> None:
    """Adds the objective of every evaluation at the highest fidelity of its task to `sums` and `counts`."""
    info, columns = collection.info, len(outline.config_ids)
    top = None
    if info.fidelity is not None:
        top = np.full(len(outline.tasks), -np.inf)
        for batch in _batches(file, outline, ("fidelity",)):
            if not np.isfinite(batch["fidelity"]).all():
                raise _fault(file, "fidelity is not a finite number", "bad-fidelity")
            np.maximum.at(top, batch["task"], batch["fidelity"])
    for batch in _batches(file, outline, ("objective", *(("fidelity",) if top is not None else ()))):
        values, given = batch["objective"], ~np.isnan(batch["objective"])
        low, high = info.objective.lower, info.objective.upper
        if np.isinf(values).any():
            raise _fault(file, "objective is infinite", "infinite-objective")
        if (low is not None and (values < low).any()) or (high is not None and (values > high).any()):
            raise _fault(file, f"objective is outside [{low}, {high}]", "objective-out-of-bounds")
        if top is not None:
            given &= batch["fidelity"] == top[batch["task"]]
        cells, place = np.unique((batch["task"] * columns + batch["config"])[given], return_inverse=True)
        where = np.divmod(cells, columns)
        sums[where] += np.bincount(place, weights=values[given], minlength=len(cells))
        counts[where] += np.bincount(place, minlength=len(cells)).astype(np.uint32)
        if not batch["repeats"] and len(cells) and counts[where].max() > 1:
            raise _fault(file, "an evaluation stands in an earlier row too", "duplicate-evaluation")


def _batches(file: Path, outline: TaskTables, numbers: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Batches of evaluations: codes of `task` and `config`, `numbers` as float64 (NaN for null), and whether
    the table has a column `repeat`."""
    tasks, configs = pd.Index(outline.tasks), pd.Index(outline.config_ids)
    wanted = ("task", "config_id", *numbers)
    try:
        with pq.ParquetFile(file, memory_map=False) as parquet:
            check_types(parquet.schema_arrow)
            there = parquet.schema_arrow.names
            if lacking := [name for name in wanted if name not in there]:
                raise _fault(file, f"the column '{lacking[0]}' is missing", "bad-columns")
            for batch in parquet.iter_batches(_BATCH, columns=list(wanted)):
                batch.validate(full=True)
                frame = batch.replace_schema_metadata(None).to_pandas()
                found = {"task": tasks.get_indexer(frame["task"]), "repeats": "repeat" in there}
                found["config"] = configs.get_indexer(frame["config_id"])
                for name, rule in (("task", "unknown-task"), ("config", "unknown-config")):
                    if (found[name] < 0).any():
                        raise _fault(file, f"a {name} is not in the table of {name}s", rule)
                for name in numbers:
                    if not pd.api.types.is_numeric_dtype(frame[name].dtype):
                        raise _fault(file, f"column '{name}' holds no numbers", "bad-columns")
                    found[name] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
                yield found
    except FileNotFoundError:
        raise _fault(file, "the file is missing", "bad-parquet") from None
    except (pa.ArrowException, OSError, MemoryError, OverflowError, ValueError, TypeError) as fault:
        if isinstance(fault, InputError):
            raise
        words = " ".join(str(fault).split())[:200]
        raise _fault(file, f"not a readable Parquet file ({words})", "bad-parquet") from None


def _fault(file: Path, words: str, rule: str) -> InputError:
    return InputError(f"{file.parent.name}/{file.name}: {words} [{rule}]; see `surfaces validate`")
