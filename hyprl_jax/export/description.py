"""`policy.json`: what a reader needs to use an exported policy, in this language or another.

The first part is what `hyprl_jax.runtime.policy` reads and checks; the second tells where the policy comes
from and how its inputs are made. Every field is told in docs/export.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyprl_jax.config import to_dict
from hyprl_jax.export.onnx_graph import carry_names
from hyprl_jax.export.selection import Known, Selection
from hyprl_jax.runtime.belief import Beliefs
from hyprl_jax.runtime.episode import CANDIDATE_FEATURES, CONTEXT_FEATURES
from hyprl_jax.runtime.likeness import scales
from hyprl_jax.runtime.policy import FORMAT, FORMAT_VERSION
from hyprl_jax.versions import collect_versions

_ENCODING = (
    "Every hyperparameter becomes columns in [0, 1], in the order of the space. A float or integer: one "
    "column, (x - lower) / (upper - lower), of the logarithms where 'log' is true. An ordinal: one column, "
    "its rank over the highest rank. A categorical: one column a choice, 1 for the one chosen and 0 for the "
    "others. A constant or a single choice: no column. A hyperparameter that can be inactive (it has a "
    "condition or is optional): one more column, 1 where it is active and 0 where not. An inactive number or "
    "ordinal stands at 0.5, an inactive categorical at 0 in all its columns. Encodings narrower than "
    "'inputs.encodings' are padded with 0."
)
_SCALING = "clip((x - mean) / deviation, -3, 3), and 0 where x is unknown or belongs to another collection"

__all__ = ["assumed", "describe"]


def describe(
    chosen: Selection, name: str, licence: str | None, files: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of `policy.json`, plain values; `files` are size and SHA-256 of the other files."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": name,
        "licence": licence,
        "members": len(chosen.seeds),
        "trials": chosen.config.env.trials,
        "network": chosen.architecture._asdict(),
        "inputs": {
            "context": list(CONTEXT_FEATURES),
            "candidate": list(CANDIDATE_FEATURES),
            "encodings": chosen.encodings,
            "metafeatures": chosen.metafeatures,
        },
        "surrogate": _plain(_elsewhere(chosen)),
        "numbers": {collection: _plain(beliefs) for collection, beliefs in chosen.numbers.items()},
        "spaces": {known.name: known.space.to_dict() for known in chosen.known},
        "encoding": _ENCODING,
        "features": {known.name: list(known.space.feature_names) for known in chosen.known},
        "initial_carry": _initial_carry(chosen),
        "metafeatures": _metafeatures(chosen, "prior.safetensors" in files),
        "training": _training(chosen),
        "versions": collect_versions(),
        "files": {file: dict(facts) for file, facts in files.items()},
    }


def assumed(each: Sequence[Beliefs]) -> Beliefs:
    """What to assume in a space that no collection has: geometric means over the collections, with one
    lengthscale for all features, and earlier tasks as they are."""

    def mean(of: Callable[[Beliefs], Any]) -> float:
        values = np.asarray([_geometric_mean(of(beliefs)) for beliefs in each])
        return _geometric_mean(values)

    fitted = (
        "encoding_variance", "learned_variance", "lengthscale", "noise", "gain_weight", "similarity_width",
        "similarity_floor",
    )  # fmt: skip
    means: dict[str, Any] = {
        name: mean(lambda beliefs, name=name: getattr(beliefs, name))  # type: ignore[misc]
        for name in fitted
    }
    return each[0]._replace(**means, denoise=0.0)


def _elsewhere(chosen: Selection) -> Beliefs:
    found, given = assumed(list(chosen.numbers.values())), chosen.config.surrogate
    # Only the learned prior fits lengthscales; what others make of theirs depends on the space.
    return found if given.prior == "learned" else found._replace(lengthscale=given.lengthscale)


def _geometric_mean(values: Any) -> float:
    array = np.atleast_1d(np.asarray(values, np.float64))
    return float(np.exp(np.log(array).mean())) if (array > 0).all() else float(array.mean())


def _plain(beliefs: Beliefs) -> dict[str, Any]:
    scales = beliefs.lengthscale
    return {**beliefs._asdict(), "lengthscale": list(scales) if isinstance(scales, tuple) else scales}


def _initial_carry(chosen: Selection) -> dict[str, Any]:
    names = list(carry_names(chosen.architecture))
    rule = "all 0"
    if chosen.metafeatures:
        rule = "tanh(m @ remember/kernel + remember/bias) with the scaled metafeatures m (all 0 if unknown)"
        if len(names) == 2:
            rule += "; the first half is carry_cell, the second carry_hidden"
    return {"names": names, "shape": ["batch", len(chosen.seeds), chosen.architecture.context], "rule": rule}


def _metafeatures(chosen: Selection, carried: bool) -> dict[str, Any] | None:
    """Names, places, means and deviations of the metafeatures; None where the network reads none and the
    known tasks are not `carried` either."""
    if not chosen.metafeatures and not carried:
        return None
    collections = {}
    for known in chosen.known:
        values = known.metafeatures()
        if values is None and not chosen.metafeatures:
            continue
        mean, deviation = scales(np.zeros((len(known.rows), 0)) if values is None else values)
        collections[known.name] = {
            "offset": chosen.metafeature_offsets[known.name] if chosen.metafeatures else None,
            "names": list(known.tables.metafeature_names),
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
        }
    return {"rule": _SCALING, "collections": collections} if collections else None


def _training(chosen: Selection) -> dict[str, Any]:
    config = to_dict(chosen.config)
    return {
        "run": chosen.run.absolute().name,
        "collections": [_collection(known) for known in chosen.known],
        "split": chosen.config.split if _is_named(chosen.config.split) else "a file",
        "fold": chosen.fold,
        "seeds": list(chosen.seeds),
        "groups": list(chosen.groups),
        "env_steps_of_run": chosen.steps,
        "validation_regret": None if chosen.validation is None else list(chosen.validation),
        **{part: config[part] for part in ("env", "augment", "surrogate", "learner")},
    }


def _is_named(split: str) -> bool:
    """Whether a split is one of the package's own, not a file of the user's."""
    return "/" not in split and "\\" not in split and not split.endswith(".json")


def _collection(known: Known) -> dict[str, Any]:
    info, tasks = known.collection.info, [known.tables.tasks[row] for row in known.rows]
    return {
        "name": known.name,
        "version": info.version,
        "content_hash": known.collection.info.content_hash,
        "licence": info.licence,
        "source": info.source,
        "citation": info.citation,
        "objective": dataclasses.asdict(info.objective),
        "configurations": len(known.tables.config_ids),
        "training_tasks": known.drawn,
        "train": tasks[: known.trained],
        "validation": tasks[known.trained :],
    }
