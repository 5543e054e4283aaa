"""Search spaces as ConfigSpace JSON: written the same by every version, read with suspicion.

The file belongs to whoever made the collection, so its size, its declared ranges and its kinds are checked
before anything is built from it, and nothing in it is ever run.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.spaces import SpaceEncoding

MAX_SPACE_BYTES = 8 * 2**20
MAX_PARAMETERS = 1000
MAX_CHOICES = 100_000
_LARGEST_INTEGER = 2**53  # beyond it a float64 no longer holds every integer

__all__ = ["parse_space", "read_space", "space_to_json"]


def space_to_json(space: ConfigSpace.ConfigurationSpace) -> str:
    """The space as ConfigSpace JSON, the same text for the same space whatever version wrote it."""
    data = space.to_serialized_dict()
    data.pop("python_module_version", None)
    return json.dumps(data, indent=1, allow_nan=False, default=_plain) + "\n"


def read_space(path: Path | str) -> ConfigSpace.ConfigurationSpace:
    """The space in a ConfigSpace JSON file, which is not trusted (`InputError` where it is damaged or too
    large).
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_SPACE_BYTES:
            raise InputError(f"{path}: {size} bytes are more than the {MAX_SPACE_BYTES} a space may have")
        return parse_space(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def parse_space(text: bytes | str, where: str = "space.json") -> ConfigSpace.ConfigurationSpace:
    """The space in ConfigSpace JSON text; `where` names it in errors. No code in it is ever run.

    Raises:
        InputError: not JSON, not a space, too many hyperparameters or choices, or of an unsupported kind.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(data, dict) or not isinstance(data.get("hyperparameters"), list):
            raise ValueError("no list of hyperparameters in it")
        _check_declared_sizes(data["hyperparameters"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            space = ConfigSpace.ConfigurationSpace.from_serialized_dict(data)
        SpaceEncoding(space)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be a search space") from None
    except Exception as error:  # ConfigSpace raises many kinds on malformed input; each is the file's fault
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{where}: not a search space in ConfigSpace JSON ({words})") from None
    return space


def _check_declared_sizes(items: list[Any]) -> None:
    if not 1 <= len(items) <= MAX_PARAMETERS:
        raise InputError(f"{len(items)} hyperparameters; a space has 1 to {MAX_PARAMETERS}")
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InputError("a hyperparameter without a name")
        choices = item.get("choices", item.get("sequence", []))
        if not isinstance(choices, list) or len(choices) > MAX_CHOICES:
            raise InputError(
                f"hyperparameter '{item['name'][:100]}': choices are a list of at most {MAX_CHOICES}"
            )
        for key in ("lower", "upper"):
            bound = item.get(key, 0)
            if not isinstance(bound, (int, float)) or isinstance(bound, bool):
                raise InputError(f"hyperparameter '{item['name'][:100]}': {key} is not a number")
            if "int" in str(item.get("type")) and abs(bound) > _LARGEST_INTEGER:
                raise InputError(f"hyperparameter '{item['name'][:100]}': integers must be within +-2**53")
        # these two tabulate their range when they are built
        if (
            item.get("type") in ("normal_int", "beta_int")
            and item.get("upper", 0) - item.get("lower", 0) > 10**6
        ):
            raise InputError(
                f"hyperparameter '{item['name'][:100]}': {item['type']} spans more than a million values"
            )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _plain(value: Any) -> Any:
    """NumPy scalars, which ConfigSpace may hand out, as plain Python values for the JSON writer."""
    if isinstance(value, np.generic):
        return value.item()
    raise InputError(f"a value of type {type(value).__name__} in the space cannot be written as JSON")
