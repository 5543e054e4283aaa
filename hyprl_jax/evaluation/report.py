"""An evaluation on disk: written so that no half of it is ever seen, read back with distrust.

    trajectories.parquet   one row a (method, task, seed, trial)
    summary.json           the figures made from it
    table.md               the same for people
    regret.png .svg, rank.png .svg
    report.html            a report with everything, in one file; with `report` only, as are the following
    table.tex              the table of a paper
    critical_difference.png .svg, tasks.png .svg, speed.png .svg

`write_evaluation` prepares every file in a hidden sibling folder first. A new folder then appears whole by
one rename; in an existing one each file is replaced by one rename, `summary.json` last. `read_evaluation`
checks both files and that the summary belongs to the trajectories, so a mixture of two evaluations does not
pass. `rebuild_report` makes a report of an evaluation that is there already.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.comparison import compare, pooled
from hyprl_jax.evaluation.protocol import COLUMNS
from hyprl_jax.evaluation.summary import check_summary
from hyprl_jax.evaluation.table import markdown_table

TRAJECTORIES, SUMMARY, TABLE = "trajectories.parquet", "summary.json", "table.md"
REPORT, LATEX = "report.html", "table.tex"
PLOTS = ("regret", "rank")
MORE_PLOTS = ("critical_difference", "tasks", "speed")  # those of a report
IMAGES = tuple(f"{stem}.{kind}" for stem in PLOTS + MORE_PLOTS for kind in ("png", "svg"))
MAX_ROWS = 100_000_000
MAX_SUMMARY_BYTES = 256 * 2**20
MAX_TABLE_BYTES = 16 * 2**30  # uncompressed


def write_evaluation(
    out_dir: Path | str,
    trajectories: pd.DataFrame | Sequence[pd.DataFrame],
    summary: dict[str, Any],
    plots: bool = True,
    report: bool = False,
) -> Path:
    """Writes all files of an evaluation into `out_dir` (made if missing) and returns it.

    `report` adds the page, the table for LaTeX and, with `plots`, more pictures. Files of an earlier
    evaluation are replaced, or removed where this one has none of that name; others are left alone. Raises
    `InputError` where the summary does not belong to the trajectories or the folder cannot be written.
    """
    out = Path(out_dir)
    frame = pooled(trajectories)
    _check_belongs(frame, check_summary(summary))
    with _staged(out) as stage:
        names = [_write_trajectories(stage, frame), *_write_derived(stage, frame, summary, plots, report)]
        text = json.dumps(summary, allow_nan=False, ensure_ascii=False, indent=2)
        (stage / SUMMARY).write_text(text + "\n", encoding="utf-8")
        names.append(SUMMARY)
        _publish(stage, out, names)
    return out


def rebuild_report(folder: Path | str, plots: bool = True) -> Path:
    """Makes the report of an evaluation folder anew from its trajectories and summary; the page's path.

    Everything but these two files is replaced: tables, page and, with `plots`, pictures. Raises `InputError`
    where the folder holds no evaluation or cannot be written.
    """
    out = Path(folder)
    frame, summary = read_evaluation(out)
    with _staged(out.resolve()) as stage:
        names = _write_derived(stage, frame, summary, plots, report=True)
        for name in names:
            _sync(stage / name)
        for name in names:
            os.replace(stage / name, out / name)
        _sync(out)
    return out / REPORT


def read_evaluation(folder: Path | str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Trajectories and summary of a folder, checked each and against each other."""
    frame = read_trajectories(Path(folder) / TRAJECTORIES)
    summary = read_summary(Path(folder) / SUMMARY)
    try:
        _check_belongs(frame, summary)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return frame, summary


def read_trajectories(path: Path | str) -> pd.DataFrame:
    """Trajectories from Parquet with the dtypes of `COLUMNS`; `InputError` names the file and the fault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.metadata
            groups = range(metadata.num_row_groups)
            size = sum(metadata.row_group(index).total_byte_size for index in groups)
            if metadata.num_rows > MAX_ROWS or size > MAX_TABLE_BYTES:
                raise InputError(
                    f"{path}: {metadata.num_rows} rows ({size} bytes) are too many for trajectories"
                )
            missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"{path}: the column {missing[0]!r} is missing")
            table = file.read(columns=list(COLUMNS)).select(list(COLUMNS))
        frame = _to_pandas(table.cast(_schema(pa)))
        compare(frame)
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        words = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not readable as trajectories ({words})") from error
    return frame


def read_summary(path: Path | str) -> dict[str, Any]:
    """A summary from JSON, checked; `InputError` names the file and the fault."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        if os.path.getsize(path) > MAX_SUMMARY_BYTES:
            raise InputError(f"{path}: larger than {MAX_SUMMARY_BYTES} bytes; this is no summary")
        return check_summary(json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse))
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not readable as a summary ({words})") from error


def _check_belongs(frame: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Same tasks, trials and methods, and the regret of the summary follows from the trajectories."""
    comparison = compare(frame)
    own = (comparison.collection(), comparison.task_names(), comparison.trials, sorted(comparison.methods))
    if own != (summary["collection"], summary["tasks"], summary["trials"], sorted(summary["methods"])):
        raise InputError(
            "the summary has other tasks, trials or methods than the trajectories; evaluate again"
        )
    for name, means in zip(comparison.methods, comparison.task_means(), strict=True):
        stated = np.asarray(summary["methods"][name]["normalized_regret"], dtype=np.float64)
        if not np.allclose(means.mean(axis=0), stated, rtol=0.0, atol=1e-9):
            raise InputError(
                f"method {name!r}: the summary's regret differs from the trajectories'; evaluate again"
            )


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to prepare files in, gone afterwards; `InputError` if that cannot be."""
    stage = out.parent / f".{out.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage.mkdir()
    except OSError as error:
        raise InputError(f"{out}: cannot write here ({error.strerror}); choose another folder") from error
    try:
        yield stage
    except OSError as error:
        reason = f"{out}: writing the evaluation failed ({error.strerror})"
        raise InputError(f"{reason}; make room or choose another folder") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write_trajectories(stage: Path, frame: pd.DataFrame) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, schema=_schema(pa), preserve_index=False)
    table = table.replace_schema_metadata(None)
    pq.write_table(table, stage / TRAJECTORIES, compression="zstd", write_page_checksum=True)
    return TRAJECTORIES


def _write_derived(
    stage: Path, frame: pd.DataFrame, summary: dict[str, Any], plots: bool, report: bool
) -> list[str]:
    """Writes what is made from trajectories and summary into `stage`; the names in order of publication."""
    texts = {TABLE: markdown_table(summary)}
    if report:
        from hyprl_jax.evaluation.latex import latex_table
        from hyprl_jax.evaluation.page import html_page

        texts[LATEX] = latex_table(summary)
        texts[REPORT] = html_page(frame, summary)
    for name, text in texts.items():
        (stage / name).write_text(text, encoding="utf-8")
    names = list(texts)
    if plots:
        from hyprl_jax.evaluation.plots import rank_figure, regret_figure, render

        figures = {"regret": regret_figure(summary), "rank": rank_figure(summary)}
        if report:
            from hyprl_jax.evaluation.diagrams import document_figures

            figures |= document_figures(summary, compare(frame))
        for stem, figure in figures.items():
            for kind, content in render(figure).items():
                (stage / f"{stem}.{kind}").write_bytes(content)
                names.append(f"{stem}.{kind}")
    return names


def _publish(stage: Path, out: Path, names: list[str]) -> None:
    for name in names:
        _sync(stage / name)
    if not out.exists():
        _sync(stage)
        os.replace(stage, out)
    else:
        for name in (TRAJECTORIES, SUMMARY, TABLE, REPORT, LATEX, *IMAGES):
            if name not in names:
                (out / name).unlink(missing_ok=True)  # an older picture would belong to other numbers
        for name in names:
            os.replace(stage / name, out / name)
        _sync(out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _schema(pa: Any) -> Any:
    kinds = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64()}
    return pa.schema([(name, kinds[dtype]) for name, dtype in COLUMNS.items()])


def _to_pandas(table: Any) -> pd.DataFrame:
    """By hand, because the pandas metadata inside a foreign file is not to be trusted."""
    data = {}
    for name, dtype in COLUMNS.items():
        column = table.column(name)
        if dtype == "int64" and column.null_count:
            raise InputError(f"column {name!r} holds nulls")
        if dtype == "Int64":
            known = column.is_valid().to_numpy()
            values = pd.array(column.fill_null(0).to_numpy(), dtype="Int64")
            values[~known] = pd.NA
            data[name] = values
        else:
            data[name] = column.to_pandas()
    return pd.DataFrame(data).astype(COLUMNS)
