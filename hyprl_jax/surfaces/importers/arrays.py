"""The arrays of an npz file, checked before use: names, kinds, sizes, and axes that agree with each other.

An npz file is a zip archive of npy files. Nothing in one is trusted: what a member declares is compared
with what it holds before memory is taken for it, pickled objects are refused, and every message names the
file and the array.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ConfigSpace
import numpy as np
import pandas as pd

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding

MAX_FILE_BYTES = 512 * 2**20
MAX_ARRAY_BYTES = 256 * 2**20
MAX_MEMBERS = 100
MAX_TEXT = 200  # letters of a name
LARGEST = 1e100  # no measurement is larger, and sums of numbers below it stay finite

__all__ = [
    "LARGEST",
    "NUMBERS",
    "TEXTS",
    "check_configurations",
    "curve_evaluations",
    "load_arrays",
    "plain_numbers",
    "select_columns",
]

NUMBERS, TEXTS = "numbers", "texts"


def load_arrays(path: str | Path, wanted: Mapping[str, tuple[str, tuple[str, ...]]]) -> dict[str, np.ndarray]:
    """The wanted arrays of an npz file: numbers as float64, texts as they are.

    Args:
        path: the file.
        wanted: by name the kind (`NUMBERS` or `TEXTS`) and the names of its axes; axes of the same name must
            have the same length. Texts are names: short, printable, no two the same.

    Raises:
        InputError: an array is missing, damaged, too large, of another kind or of a shape that does not fit.
    """
    path = Path(path).expanduser()
    contents = _members(path, list(wanted))
    arrays: dict[str, np.ndarray] = {}
    lengths: dict[str, tuple[str, int]] = {}
    for name, (kind, axes) in wanted.items():
        where = f"{path.name}: array '{name}'"
        array = _array(where, contents[name])
        if array.ndim != len(axes):
            raise InputError(f"{where} has {array.ndim} axes instead of {len(axes)} ({', '.join(axes)})")
        for axis, length in zip(axes, array.shape, strict=True):
            first, known = lengths.setdefault(axis, (name, length))
            if length != known:
                raise InputError(f"{where} has {length} {axis}, but '{first}' has {known}")
            if length == 0:
                raise InputError(f"{where} has no {axis}")
        arrays[name] = _texts(where, array) if kind == TEXTS else _numbers(where, array)
    return arrays


def select_columns(file: str, values: np.ndarray, names: np.ndarray, wanted: list[str]) -> np.ndarray:
    """The columns of `values` `[N, P]` that are called `names` `[P]`, in the order wanted `[N, len(wanted)]`.

    Raises:
        InputError: names are missing, or there are others.
    """
    given = names.tolist()
    if sorted(given) != sorted(wanted):
        differing = sorted(set(given) ^ set(wanted))[0]
        words = "is not one of this source" if differing in given else "is missing"
        raise InputError(f"{file}: array 'X_names': the hyperparameter '{differing}' {words}")
    return values[:, [given.index(name) for name in wanted]]


def check_configurations(file: str, space: ConfigSpace.ConfigurationSpace, configs: pd.DataFrame) -> None:
    """Raise `InputError`, naming file and row, where the space does not allow a configuration or one occurs
    twice.
    """
    violation = next(iter(SpaceEncoding(space).violations(configs)), None)
    if violation is not None:
        of = f", hyperparameter '{violation.parameter}'" if violation.parameter else ""
        raise InputError(f"{file}: array 'X', row {violation.row}{of}: {violation.message}")
    twice = np.flatnonzero(configs.duplicated().to_numpy())
    if len(twice):
        raise InputError(f"{file}: array 'X', row {twice[0]}: the same configuration as an earlier row")


def curve_evaluations(tasks: list[str], objective: np.ndarray, fidelity: np.ndarray) -> pd.DataFrame:
    """One row for each value of `objective` `[T, C, L]`, whose configurations are numbered from 0, with the
    `fidelity` `[L]` that it was reached at.
    """
    task, configuration, point = np.indices(objective.shape).reshape(3, -1)
    return pd.DataFrame(
        {
            "task": pd.Categorical.from_codes(task, categories=tasks),
            "config_id": configuration,
            "objective": objective.ravel(),
            "fidelity": fidelity[point],
        }
    )


def plain_numbers(values: np.ndarray) -> np.ndarray:
    """Values to twelve significant digits, so that what differs by the rounding of a program is the same."""
    return np.array([float(f"{value:.12g}") for value in values.ravel().tolist()]).reshape(values.shape)


def _members(path: Path, names: list[str]) -> dict[str, bytes]:
    """The content of the wanted members, within limits on sizes declared and real."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path.name}: larger than the {MAX_FILE_BYTES} bytes that are read")
    contents: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            present = archive.namelist()
            if len(present) > MAX_MEMBERS or len(set(present)) < len(present):
                raise InputError(f"{path.name}: more than {MAX_MEMBERS} arrays, or two of the same name")
            for name in names:
                if f"{name}.npy" not in present:
                    held = ", ".join(sorted(Path(member).stem[:50] for member in present)) or "nothing"
                    raise InputError(f"{path.name}: the array '{name}' is missing; the file holds {held}")
                with archive.open(f"{name}.npy") as member:
                    contents[name] = member.read(MAX_ARRAY_BYTES + 1)
    except InputError as error:
        raise InputError(" ".join(str(error).split())) from None
    except Exception as error:  # zipfile and the decompressors raise many kinds on damaged input
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name}: not a readable npz file ({words})") from None
    return contents


def _array(where: str, content: bytes) -> np.ndarray:
    if len(content) > MAX_ARRAY_BYTES:
        raise InputError(f"{where} is larger than the {MAX_ARRAY_BYTES} bytes that are read")
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old spellings in headers, which are read all the same
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(stream)
            size = math.prod(shape) * dtype.itemsize
            plain = dtype.kind in "iufU" and all(length >= 0 for length in shape)
            if not plain or size != len(content) - stream.tell():
                raise InputError(f"{where} holds {dtype} of shape {shape}, not plain numbers or texts")
            stream.seek(0)
            return np.lib.format.read_array(stream, allow_pickle=False)
    except InputError as error:
        raise InputError(" ".join(str(error).split())[:300]) from None
    except Exception as error:  # numpy parses the header as Python text, and raises as many kinds
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{where} is damaged ({words})") from None


def _numbers(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise InputError(f"{where} holds {array.dtype}, not numbers")
    with np.errstate(invalid="ignore"):  # a NaN of the signalling kind, which becomes an ordinary one
        numbers = array.astype(np.float64)
    numbers[np.isnan(numbers)] = np.nan
    return numbers


def _texts(where: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "U":
        raise InputError(f"{where} holds {array.dtype}, not texts")
    try:
        texts = [str(text) for text in array.ravel().tolist()]
        legal = all(text and text.isprintable() and len(text) <= MAX_TEXT for text in texts)
        "".join(texts).encode()
    except (ValueError, SystemError):  # code points that do not exist
        legal = False
    if not legal:
        raise InputError(f"{where} holds a text that is empty, too long or not printable")
    if len(set(texts)) < len(texts):
        raise InputError(f"{where}: '{next(text for text in texts if texts.count(text) > 1)}' stands twice")
    return array
