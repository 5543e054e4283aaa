"""A CSV or Parquet file as named columns whose cells are read strictly: a bad cell is named with file and
row.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import choice_text
from hyprl_jax.surfaces.reading import MAX_TABLE_BYTES, MAX_TABLE_COLUMNS, read_parquet

_MISSING = frozenset({"", "NA", "N/A", "null", "NULL", "None"})  # in columns of numbers
_NAN = frozenset({"nan", "NaN", "NAN", "-nan", "+nan"})
_BLOCK_BYTES = 8 * 2**20  # a row must fit into it
_STRAY_SHARE = 0.1  # at most this share of odd texts among many numbers is taken for mistakes

__all__ = ["LongTable", "column_names", "read_long_table"]


def column_names(names: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Column names from a tuple, or from a text with commas."""
    parts = names.split(",") if isinstance(names, str) else names
    return tuple(part.strip() for part in parts if part.strip())


@dataclass(frozen=True)
class LongTable:
    """The cells of a file: text from CSV, text or numbers from Parquet, null where a cell is empty.

    `nans` holds for each floating-point column of a Parquet file which rows are NaN rather than null.
    """

    name: str
    frame: pd.DataFrame
    nans: dict[str, np.ndarray]

    def column(self, name: str) -> pd.Series:
        """The column as it stands in the file (`InputError` with the names that exist if there is none)."""
        if name not in self.frame.columns:
            there = ", ".join(self.frame.columns[:20])
            raise InputError(f"{self.name}: there is no column '{name}'; there are {there}")
        return self.frame[name]

    def texts(self, name: str) -> pd.Series:
        """A column of names: every cell filled; numbers become their text."""
        series = self.column(name)
        empty = (series.isna() | (series == "")).to_numpy(dtype=bool)
        if empty.any():
            raise InputError(f"{self.name}, row {int(np.argmax(empty))}: '{name}' is empty")
        return series if _is_text(series) else _as_texts(series)

    def numbers(self, name: str) -> pd.Series:
        """A column of numbers as float64, NaN where the cell is empty or NaN (`is_nan` tells the two
        apart).
        """
        series = self.column(name)
        if pd.api.types.is_bool_dtype(series.dtype):
            raise InputError(f"{self.name}: column '{name}' holds truth values, not numbers")
        if not _is_text(series):
            return series.astype("float64")
        values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        strange = np.isnan(values) & ~series.isin(_MISSING | _NAN).to_numpy() & series.notna().to_numpy()
        if strange.any():
            row = int(np.argmax(strange))
            raise InputError(
                f"{self.name}, row {row}: '{name}' is '{series.iloc[row][:50]}', which is no number"
            )
        return pd.Series(values)

    def integers(self, name: str) -> np.ndarray:
        """A column of whole numbers as int64, every cell filled."""
        values = self.numbers(name).to_numpy()
        wrong = ~np.isfinite(values) | (values != np.round(values)) | (np.abs(values) > 2**53)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"{self.name}, row {row}: '{name}' is {values[row]}, which is no whole number")
        return values.astype(np.int64)

    def is_nan(self, name: str) -> np.ndarray:
        """Rows `[R]` bool of a column of numbers that are NaN rather than empty."""
        series = self.column(name)
        if _is_text(series):
            return series.isin(_NAN).to_numpy()
        return self.nans.get(name, np.zeros(len(series), dtype=bool))

    def values(self, name: str) -> pd.Series:
        """A hyperparameter without a known space: float64 if every filled cell is a number, else text."""
        series = self.column(name)
        if pd.api.types.is_bool_dtype(series.dtype):
            return _as_texts(series)
        if not _is_text(series):
            return self._finite(series.astype("float64"), name)
        filled = series.mask(series.isin({"", *_NAN}))
        numbers = pd.to_numeric(filled, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        strange = np.isnan(numbers) & filled.notna().to_numpy()
        if not strange.any():
            return self._finite(pd.Series(numbers), name)
        texts = filled.nunique()
        if texts > 20 and filled[strange].nunique() <= _STRAY_SHARE * texts:
            row = int(np.argmax(strange))
            cell = series.iloc[row][:50]
            raise InputError(f"{self.name}, row {row}: '{name}' is '{cell}', but numbers in most other rows")
        return series.mask(series == "")

    def choices(self, name: str, choices: tuple[Any, ...]) -> pd.Series:
        """A hyperparameter with known choices: their texts, null where empty, other texts as they are."""
        series = self.column(name)
        if not _is_text(series):
            return _as_texts(series)
        known = {choice_text(choice): choice_text(choice) for choice in choices}
        known |= {str(choice): choice_text(choice) for choice in choices if not isinstance(choice, str)}

        def named(text: str) -> str:
            try:
                return known.get(text) or known.get(choice_text(float(text)), text)
            except (ValueError, OverflowError):
                return text

        distinct = {text: named(text) for text in series.dropna().unique()}
        empty = series.isna() | (series == "") if "" not in known else series.isna()
        return series.map(distinct).astype("str").mask(empty)

    def _finite(self, series: pd.Series, name: str) -> pd.Series:
        infinite = np.isinf(series.to_numpy())
        if infinite.any():
            raise InputError(f"{self.name}, row {int(np.argmax(infinite))}: '{name}' is infinite")
        return series


def read_long_table(path: str | Path) -> LongTable:
    """The cells of a `.parquet` file or, for any other name, of a CSV file (comma, semicolon or tab).

    Raises:
        InputError: there is no such file, it is damaged, empty or too large.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"{path}: larger than the {MAX_TABLE_BYTES} bytes a table may have")
        table = _from_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _from_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not len(table.frame):
        raise InputError(f"{table.name}: there is no row in it")
    return table


def _from_parquet(path: Path) -> LongTable:
    try:
        table = read_parquet(path)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    nans = {
        name: pc.fill_null(pc.is_nan(table.column(name)), False).to_numpy(zero_copy_only=False)
        for name in table.column_names
        if pa.types.is_floating(table.schema.field(name).type)
    }
    # Without what pandas noted about its types: that text may be damaged, and it is read even if ignored.
    frame = table.replace_schema_metadata(None).to_pandas()
    for name in frame.columns:
        if _is_text(frame[name]):
            frame[name] = frame[name].str.strip()
    return LongTable(path.name, frame, nans)


def _check_text(path: Path) -> None:
    """Raise `InputError` with the row if the file is not UTF-8 throughout."""
    with open(path, "rb") as file:
        for row, line in enumerate(file):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                place = "the first line" if row == 0 else f"row {row - 1}"
                raise InputError(f"{path.name}, {place}: is not UTF-8 text") from None


def _from_csv(path: Path) -> LongTable:
    _check_text(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = file.readline(2**20)
    separator = max(",;\t", key=head.count)
    header = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
    if len(header) < 2 or len(header) > MAX_TABLE_COLUMNS or "" in header or len(set(header)) < len(header):
        raise InputError(
            f"{path.name}: the first line must hold 2 to {MAX_TABLE_COLUMNS} different column names"
        )
    wrong: list[pa_csv.InvalidRow] = []

    def refuse(row: pa_csv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    try:
        table = pa_csv.read_csv(
            path,
            pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, skip_rows=1, column_names=header),
            pa_csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=refuse),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False),
        )
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        if wrong:
            counts = f"{wrong[0].actual_columns} cells where the header has {wrong[0].expected_columns} names"
            raise InputError(f"{path.name}, row {wrong[0].number - 2}: has {counts}") from None
        raise InputError(
            f"{path.name}: not a readable CSV file ({' '.join(str(error).split())[:200]})"
        ) from None
    for name in header:
        broken = pc.match_substring(table.column(name), "\n").to_numpy(zero_copy_only=False)
        if broken.any():
            row = int(np.argmax(broken))
            raise InputError(f"{path.name}, row {row}: '{name}' goes on over lines; is a quote left open?")
    frame = table.to_pandas(ignore_metadata=True)
    return LongTable(path.name, frame.apply(lambda column: column.str.strip()), {})


def _is_text(series: pd.Series) -> bool:
    return not (pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype))


def _as_texts(series: pd.Series) -> pd.Series:
    return series.map(choice_text, na_action="ignore").astype("str").mask(series.isna())
