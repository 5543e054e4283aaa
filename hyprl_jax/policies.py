"""The best policies of a run, kept apart from its checkpoints so that they can be loaded without its
training data.

A run's `policy/` holds the weights of every fold and seed with the widths of their inputs and the groups of
tasks that each fold was trained or validated on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hyprl_jax.bank import BankIndex, SurfaceBank
from hyprl_jax.checkpoints import CheckpointStore
from hyprl_jax.config import TrainConfig, from_saved
from hyprl_jax.errors import InputError
from hyprl_jax.knowledge import Numbers
from hyprl_jax.learner import candidate_width
from hyprl_jax.networks import FlaxNetwork, Params
from hyprl_jax.rollout import CONTEXT_FEATURES
from hyprl_jax.runs import RunFolder

_FOLDER = "policy"


@dataclass(frozen=True)
class TrainedPolicy:
    """Weights with leading axes `[folds, seeds]`, and what is needed to use them."""

    config: TrainConfig
    params: Params
    numbers: Numbers
    """What the surrogate learned, `[folds, seeds, L, ...]`."""
    collections: tuple[str, ...]
    groups: tuple[frozenset[str], ...]
    """For each fold, the groups that it was trained or validated on."""
    encoding_features: int
    metafeatures: int
    metafeature_offsets: dict[str, int]


def save_policy(
    run: RunFolder,
    step: int,
    params: Params,
    numbers: Numbers,
    index: BankIndex,
    bank: SurfaceBank,
    known: list[frozenset[str]],
    width: int,
) -> None:
    """Keeps `params` as the policies of the run; `known` are the groups of each fold's known tasks."""
    offsets, offset = {}, 0
    for table in index.tables:
        offsets[table.collection] = offset
        offset += table.metafeatures.shape[1]
    metadata = {
        "collections": [table.collection for table in index.tables],
        "groups": [sorted(groups) for groups in known],
        "encoding_features": int(bank.encodings.shape[-1]),
        "metafeatures": int(bank.metafeatures.shape[1]),
        "metafeature_offsets": offsets,
        "candidate_features": width,
    }
    CheckpointStore(run.path / _FOLDER, keep=2).save(
        step, {"params": params, "numbers": numbers._asdict()}, metadata
    )


def load_policy(path: Path) -> TrainedPolicy:
    """The policies of the run in `path`; InputError if it has none yet or they do not fit its
    configuration."""
    run = RunFolder(path)
    config = from_saved(run.read_config())
    store = CheckpointStore(run.path / _FOLDER)
    if not store.steps():
        raise InputError(f"{path} has no policy yet: train it first (`hyprl train --resume {path}`)")
    _, facts = store.read_metadata()
    metadata = _checked(facts, path, len(config.folds))
    network = FlaxNetwork(config.network)
    members = (len(config.folds), len(config.seeds))

    def make(key: jax.Array) -> Params:
        return network.init(
            key, metadata["metafeatures"], len(CONTEXT_FEATURES), metadata["candidate_features"]
        )

    single = jax.eval_shape(make, jax.random.key(0))
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*members, *leaf.shape), leaf.dtype), single)
    each = (*members, len(metadata["collections"]))
    numbers = dict.fromkeys(Numbers._fields, jax.ShapeDtypeStruct(each, jnp.float32))
    numbers["lengthscale"] = jax.ShapeDtypeStruct((*each, metadata["encoding_features"]), jnp.float32)
    wanted = {"params": target, "numbers": numbers}
    stored = jax.tree.map(jnp.asarray, store.restore(wanted).state)
    return TrainedPolicy(
        config=config,
        params=stored["params"],
        numbers=Numbers(**stored["numbers"]),
        collections=tuple(metadata["collections"]),
        groups=tuple(frozenset(groups) for groups in metadata["groups"]),
        encoding_features=metadata["encoding_features"],
        metafeatures=metadata["metafeatures"],
        metafeature_offsets=dict(metadata["metafeature_offsets"]),
    )


def _checked(metadata: dict[str, Any], path: Path, folds: int) -> dict[str, Any]:
    """The metadata, or an InputError if it is not what `save_policy` writes."""
    widths = ("encoding_features", "metafeatures", "candidate_features")
    whole = all(type(metadata.get(name)) is int and 0 <= metadata[name] <= 100_000 for name in widths)
    named = isinstance(metadata.get("collections"), list) and isinstance(
        metadata.get("metafeature_offsets"), dict
    )
    grouped = isinstance(metadata.get("groups"), list) and len(metadata["groups"]) == folds
    if not (whole and named and grouped):
        raise InputError(f"the policy of {path} is damaged: train it again")
    return metadata


__all__ = ["TrainedPolicy", "candidate_width", "load_policy", "save_policy"]
