"""The policy inside the tools that people already use; each is imported when it is asked for.

- `HypRLSampler`: a sampler for Optuna (extra `optuna`);
- `HypRLSearchCV`: a search for scikit-learn;
- `HypRLSearch`: a search algorithm for Ray Tune (extra `ray`).

They need neither jax nor flax at run time: `hyprl_jax.runtime` chooses.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hyprl_jax.errors import MissingExtraError

_PLACES = {
    "HypRLSampler": ("optuna_sampler", "optuna", "optuna"),
    "HypRLSearchCV": ("sklearn_search", "sklearn", ""),
    "HypRLSearch": ("ray_search", "ray", "ray"),
}

__all__ = ["HypRLSampler", "HypRLSearch", "HypRLSearchCV"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, library, extra = _PLACES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise MissingExtraError(library, extra) from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
