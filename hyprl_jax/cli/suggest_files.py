"""The files of `hyprl suggest`: search spaces, tables of configurations and results, and whose the state is.

A table is CSV with a header (one column a hyperparameter; an empty cell leaves it out), JSON lines, or a JSON
list of objects. Results have `value` besides (empty, NaN or null: the trial failed), those of earlier tasks
`task` too. Nothing in the files is trusted: what is wrong is said with file and line.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyprl_jax.encoding import Parameter, choice_codes, choice_text
from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Config, Space
from hyprl_jax.runtime.metafeatures import checked

_MOST_BYTES = 256 * 2**20
_LONGEST_WAIT = 10.0  # seconds for another process to let go of the state
_FAILED = ("", "nan", "null", "none")

Row = tuple[int, dict[str, Any]]
"""Line number (or place in the list) and what stands there."""


def read_space_file(path: Path) -> Space:
    """The space in a file: ConfigSpace JSON (such as a collection's space.json) or that of `Space.to_dict`.

    Raises:
        InputError: the file is missing, too large, or no search space.
    """
    text = _read(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON; a search space is ConfigSpace JSON or that of `Space`") from None
    if isinstance(data, dict) and "hyperparameters" in data:
        from hyprl_jax.surfaces.space_json import parse_space

        parsed = parse_space(text, str(path))
        return _naming(path, lambda: Space.from_configspace(parsed))
    return _naming(path, lambda: Space.from_dict(data))


def read_candidates(path: Path, space: Space | None) -> list[Config]:
    """The configurations in a table, checked against the space if there is one."""
    rows = _read_rows(path)
    if not rows:
        raise InputError(f"{path}: no configuration in it")
    if path.suffix.lower() == ".csv":
        rows = [(number, _typed(row, space)) for number, row in rows]
    return [config for _, config in rows] if space is None else _checked(path, space, rows)


def read_results(path: Path, space: Space) -> list[tuple[Config, float | None]]:
    """Configurations with their values (None: failed), in the order of the table."""
    return [(config, value) for config, value, _ in _read_results(path, space, ())]


def read_tasks(path: Path, space: Space) -> list[list[tuple[Config, float]]]:
    """Results of earlier tasks, those of one `task` together; failed trials are left out."""
    tasks: dict[str, list[tuple[Config, float]]] = {}
    for config, value, extra in _read_results(path, space, ("task",)):
        found = tasks.setdefault(choice_text(extra["task"]), [])
        if value is not None:
            found.append((config, value))
    empty = [name for name, results in tasks.items() if not results]
    if empty:
        raise InputError(f"{path}: task '{empty[0][:100]}' has no result that did not fail: leave it out")
    if not tasks:
        raise InputError(f"{path}: no result in it")
    return list(tasks.values())


def read_metafeatures(path: Path) -> dict[str, float]:
    """The metafeatures in a JSON object, name to number (null: unknown); InputError for anything else."""
    return checked(_parsed(_read(path), str(path)), str(path))


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the fault of the file."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except (KeyError, OverflowError, TypeError, ValueError):
        raise InputError(
            f"{path}: the state of the search is damaged: start anew with another file"
        ) from None


@contextlib.contextmanager
def alone_with(state: Path) -> Iterator[None]:
    """Keeps other processes from the state meanwhile; waits a little for one that is about to end."""
    lock = state.with_name(f".{state.name}.lock")
    try:
        lock.touch()
    except OSError as error:
        raise InputError(f"{state}: cannot be written ({error.strerror or error})") from None
    with open(lock, "a", encoding="utf-8") as file:
        last = time.monotonic() + _LONGEST_WAIT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > last:
                    raise InputError(f"{state}: another process is using it: end that first") from None
                time.sleep(0.02)
        yield


def _read_results(
    path: Path, space: Space, extra: Sequence[str]
) -> list[tuple[Config, float | None, dict[str, Any]]]:
    """Configuration, value and what stands in the `extra` columns."""
    from_csv = path.suffix.lower() == ".csv"
    wanted = ("value", *extra)
    taken = [name for name in wanted if name in space.names]
    configs: list[Row] = []
    values: list[tuple[float | None, dict[str, Any]]] = []
    for number, row in _read_rows(path):
        where = f"{path}: line {number}"
        nested = isinstance(row.get("config"), dict) and set(row) <= {"config", *wanted}
        if taken and not nested:
            raise InputError(
                f"{where}: '{taken[0]}' is a hyperparameter too: write JSON lines with 'config' and 'value'"
            )
        missing = [name for name in wanted if name not in row]
        if missing:
            raise InputError(f"{where}: there is no '{missing[0]}'")
        config = row["config"] if nested else {n: v for n, v in row.items() if n not in wanted}
        configs.append((number, _typed(config, space) if from_csv else config))
        if any(not isinstance(row[name], str | int | float) for name in extra):
            raise InputError(f"{where}: '{extra[0]}' is no text or number")
        values.append((_value(row["value"], from_csv, where), {name: row[name] for name in extra}))
    checked = _checked(path, space, configs)
    return [(config, value, more) for config, (value, more) in zip(checked, values, strict=True)]


def _value(value: Any, from_csv: bool, where: str) -> float | None:
    """The value of a trial, None if it failed."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _FAILED):
        return None
    try:
        if isinstance(value, bool) or (isinstance(value, str) and not from_csv):
            raise ValueError
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        raise InputError(f"{where}: the value {str(value)[:50]!r} is no number") from None
    return number if math.isfinite(number) else None


def _checked(path: Path, space: Space, rows: Sequence[Row]) -> list[Config]:
    """The configurations as the space writes them; `InputError` names the line of the first that is wrong."""
    try:
        return space.configs(space.codes([config for _, config in rows]))
    except (InputError, OverflowError):
        for number, config in rows:
            try:
                space.codes([config])
            except InputError as error:
                raise InputError(f"{path}: line {number}: {error}") from None
            except OverflowError:
                raise InputError(f"{path}: line {number}: a number is too large") from None
        raise


def _typed(row: dict[str, Any], space: Space | None) -> Config:
    """The texts of a CSV row as values; what is empty is left out."""
    known = {} if space is None else {parameter.name: parameter for parameter in space.parameters}
    return {name: _cell(text, known.get(name)) for name, text in row.items() if text.strip()}


def _cell(text: str, parameter: Parameter | None) -> Any:
    codes = choice_codes(parameter) if parameter is not None else None
    if codes is not None and text in codes:
        return text
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return text


def _read_rows(path: Path) -> list[Row]:
    """The rows of a table, every one a dict."""
    raw = _read(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    if path.suffix.lower() == ".csv":
        return _csv_rows(path, text)
    if text.lstrip().startswith("["):
        found = list(enumerate(_parsed(text, str(path)), start=1))
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        found = [(number, _parsed(line, f"{path}: line {number}")) for number, line in lines]
    for number, row in found:
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: no JSON object")
    return found


def _csv_rows(path: Path, text: str) -> list[Row]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        twice = [name for place, name in enumerate(header) if name in header[:place]]
        if not header or "" in header or twice:
            raise InputError(f"{path}: the first line of a CSV file names every column, each once")
        found = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num}: {len(cells)} cells where the header has {len(header)}"
                )
            found.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: damaged CSV ({error})") from None
    return found


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: not JSON") from None


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(f"{path}: {size} bytes are more than the {_MOST_BYTES} it may have")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _naming(path: Path, make: Any) -> Space:
    """The space that `make` returns; its complaints get the name of the file."""
    try:
        space: Space = make()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (KeyError, OverflowError):
        raise InputError(f"{path}: no search space, or a number in it is too large") from None
    return space
