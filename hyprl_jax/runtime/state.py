"""The state of a tuner as plain JSON: everything that is needed to go on with the same suggestions.

What was told is kept, and at which results new candidates were drawn; the rest follows by telling it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.runtime.files import read_json

FORMAT, FORMAT_VERSION = "hyprl-tuner", 1
_MOST_BYTES = 256 * 2**20

_FIELDS: dict[str, tuple[type, ...]] = {
    "space": (dict,),
    "candidates": (list, type(None)),
    "direction": (str,),
    "trials": (int, type(None)),
    "earlier": (list,),
    "earlier_metafeatures": (list,),
    "metafeatures": (dict, type(None)),
    "seed": (int,),
    "pool": (int,),
    "results": (list,),
    "pending": (list,),
    "renewed": (list,),
    "policy": (str,),
}


def check(state: Any) -> dict[str, Any]:
    """The state, if it has all fields with their types; InputError otherwise."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise InputError("not the state of a tuner")
    if state.get("format_version") != FORMAT_VERSION:
        raise InputError("the state of a tuner is of another version: start anew and tell the results again")
    if isinstance(state.get("earlier"), list):  # states of the first versions know no metafeatures
        state = {"earlier_metafeatures": [{}] * len(state["earlier"]), "metafeatures": None, **state}
    for name, kinds in _FIELDS.items():
        if name not in state or type(state[name]) not in kinds:
            raise InputError(f"the state of a tuner is damaged: '{name}' is {str(state.get(name))[:50]!r}")
    pairs = [*state["results"], *(pair for task in _tasks(state["earlier"]) for pair in task)]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and _is_result(*pair) for pair in pairs):
        raise InputError("the state of a tuner is damaged: a result is no pair of configuration and value")
    described = state["earlier_metafeatures"]
    if len(described) != len(state["earlier"]) or not all(isinstance(one, Mapping) for one in described):
        raise InputError("the state of a tuner is damaged: 'earlier_metafeatures' are not those of 'earlier'")
    renewals = state["renewed"]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in renewals):
        raise InputError("the state of a tuner is damaged: 'renewed' holds something else than pairs")
    if not all(type(done) is int and isinstance(pending, list) for done, pending in renewals):
        raise InputError("the state of a tuner is damaged: 'renewed' holds no counts and configurations")
    waiting = [config for _, pending in renewals for config in pending]
    configs = [*state["pending"], *(state["candidates"] or []), *waiting]
    if not all(isinstance(config, Mapping) for config in configs):
        raise InputError("the state of a tuner is damaged: a configuration is no object")
    return dict(state)


def read(path: Path | str) -> dict[str, Any]:
    """The state in a file, checked."""
    path = Path(path)
    state = read_json(path, _MOST_BYTES, "it is no state of a tuner or it is damaged")
    try:
        return check(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _tasks(earlier: list[Any]) -> list[Any]:
    if not all(isinstance(task, list | tuple) for task in earlier):
        raise InputError("the state of a tuner is damaged: an earlier task is no list of results")
    return earlier


def _is_result(config: Any, value: Any) -> bool:
    number = value is None or (type(value) in (int, float) and abs(value) < math.inf)
    return isinstance(config, Mapping) and number
