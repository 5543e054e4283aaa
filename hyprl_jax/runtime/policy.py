"""An exported policy: read from a folder that nobody vouches for, and checked before anything is used.

The folder is described in docs/export.md. Only `policy.json` and `weights.safetensors` are needed here (and
`prior.safetensors`, if there is one): sizes are limited, the JSON is checked field by field, and every weight
must have the name, shape and type that the architecture asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.runtime.belief import Beliefs
from hyprl_jax.runtime.episode import CANDIDATE_FEATURES, CONTEXT_FEATURES
from hyprl_jax.runtime.files import check_size, read_json
from hyprl_jax.runtime.metafeatures import Described, read_described
from hyprl_jax.runtime.network import Architecture, Network, shapes
from hyprl_jax.runtime.prior import EarlierTasks, read_prior

FORMAT, FORMAT_VERSION = "hyprl-policy", 1
_MOST_JSON_BYTES = 8 * 2**20
_MOST_WEIGHT_BYTES = 256 * 2**20
_MOST_WIDTH = 100_000
_MOST_MEMBERS = 1000
_MOST_LAYERS = 64
_MOST_NAME = 200
_CHOICES = {"cell": ("gru", "lstm", "none"), "candidates": ("surrogate", "encodings", "both")}


@dataclass(frozen=True)
class Policy:
    """A pretrained policy, ready to choose."""

    name: str
    network: Network
    beliefs: Beliefs
    """What the surrogate assumes in a space that the policy was not trained on."""
    trials: int
    """Length of the episodes that it was trained on."""
    encoding_features: int
    """Width of the encodings that the network reads (0: it reads none and works in any space)."""
    spaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The search space of each training collection, as `Space.to_dict` writes it."""
    numbers: Mapping[str, Beliefs] = field(default_factory=dict)
    """What the surrogate assumes for each training collection."""
    prior: Mapping[str, EarlierTasks] = field(default_factory=dict)
    """Tasks of the training collections, if the export carries them."""
    metafeatures: Mapping[str, Described] = field(default_factory=dict)
    """Metafeatures of the training collections, where the network reads them or the tasks have them."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The whole of policy.json."""

    @property
    def metafeature_names(self) -> tuple[str, ...]:
        """The names of all metafeatures that it knows, of whatever collection."""
        return tuple(dict.fromkeys(name for each in self.metafeatures.values() for name in each.names))


def default_policy() -> Policy:
    """The policy that ships with the package, trained across collections."""
    return load_policy(Path(__file__).resolve().parent.parent / "pretrained" / "default")


def as_policy(policy: Policy | Path | str | None) -> Policy:
    """`policy` itself, the one in a folder, or for None the one that ships with the package."""
    if isinstance(policy, Policy):
        return policy
    return default_policy() if policy is None else load_policy(policy)


def load_policy(path: Path | str) -> Policy:
    """The policy in the folder `path`.

    Raises:
        InputError: a file is missing, too large, damaged, or does not fit the others; the message says which.
    """
    path = Path(path)
    description = _read_json(path / "policy.json")
    where = f"{path / 'policy.json'}"
    if description.get("format") != FORMAT or description.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{where}: not a policy of format {FORMAT} {FORMAT_VERSION}: export it with this version"
        )
    architecture = _architecture(_part(description, "network", where), where)
    inputs = _part(description, "inputs", where)
    for name, ours in (("context", CONTEXT_FEATURES), ("candidate", CANDIDATE_FEATURES)):
        if inputs.get(name) != list(ours):
            raise InputError(f"{where}: the {name} inputs are not those that this version computes")
    encodings = _count(inputs, "encodings", _MOST_WIDTH, where)
    metafeatures = _count(inputs, "metafeatures", _MOST_WIDTH, where)
    members = _count(description, "members", _MOST_MEMBERS, where, least=1)
    width = {"surrogate": len(CANDIDATE_FEATURES), "encodings": encodings}
    width["both"] = sum(width.values())
    wanted = shapes(architecture, len(CONTEXT_FEATURES), width[architecture.candidates], metafeatures)
    _check_files(path, description.get("files", {}), where)
    weights = _read_weights(path / "weights.safetensors", {n: (members, *s) for n, s in wanted.items()})
    spaces = description.get("spaces", {})
    numbers = description.get("numbers", {})
    if not isinstance(spaces, dict) or not isinstance(numbers, dict):
        raise InputError(f"{where}: 'spaces' and 'numbers' are objects")
    name = description.get("name", path.name)
    if not isinstance(name, str) or not name.isprintable() or len(name) > _MOST_NAME:
        raise InputError(f"{where}: the name is not one line of at most {_MOST_NAME} characters")
    described = read_described(description.get("metafeatures"), metafeatures, where)
    prior = read_prior(path / "prior.safetensors")
    _check_metafeatures(prior, described, where)
    return Policy(
        name=name,
        network=Network(architecture, weights),
        beliefs=Beliefs.from_dict(_part(description, "surrogate", where), where),
        trials=max(1, _count(description, "trials", 10**6, where)),
        encoding_features=encodings if architecture.candidates != "surrogate" else 0,
        spaces=spaces,
        numbers={name: Beliefs.from_dict(value, where) for name, value in numbers.items()},
        prior=prior,
        metafeatures=described,
        description=description,
    )


def _read_json(path: Path) -> dict[str, Any]:
    data = read_json(path, _MOST_JSON_BYTES, "export the policy again")
    if not isinstance(data, dict):
        raise InputError(f"{path}: not an object; export the policy again")
    return data


def _check_files(path: Path, files: Any, where: str) -> None:
    """InputError where a file that is read is not the one that policy.json tells of."""
    if not isinstance(files, dict):
        raise InputError(f"{where}: 'files' is no object")
    for name in ("weights.safetensors", "prior.safetensors"):
        told = files.get(name)
        if told is None:
            continue
        check_size(path / name, _MOST_WEIGHT_BYTES)
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        if not isinstance(told, dict) or told.get("sha256") != digest:
            raise InputError(f"{path / name}: is not the file that policy.json tells of; export it again")


def _check_metafeatures(
    prior: Mapping[str, EarlierTasks], described: Mapping[str, Described], where: str
) -> None:
    """InputError for tasks whose metafeatures have no names."""
    for collection, tasks in prior.items():
        named = len(described[collection].names) if collection in described else 0
        if tasks.metafeatures is not None and tasks.metafeatures.shape[1] != named:
            raise InputError(
                f"{where}: names {named} metafeatures of {collection[:100]!a}, not those it carries"
            )


def _part(data: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict):
        raise InputError(f"{where}: there is no object '{name}'")
    return part


def _count(data: Mapping[str, Any], name: str, most: int, where: str, least: int = 0) -> int:
    value = data.get(name)
    if type(value) is not int or not least <= value <= most:
        found = ascii(str(value)[:50])
        raise InputError(f"{where}: '{name}' is {found}: expected a whole number, {least} to {most}")
    return value


def _architecture(data: Mapping[str, Any], where: str) -> Architecture:
    hints = get_type_hints(Architecture)
    if set(data) != set(hints):
        wrong = sorted(set(data) ^ set(hints))[0]
        raise InputError(f"{where}: the network has a missing or unknown field {wrong[:50]!a}")
    for name, hint in hints.items():
        value = data[name]
        kinds = (int, float) if hint is float else (hint,)
        sound = type(value) in kinds and (name not in _CHOICES or value in _CHOICES[name])
        most = _MOST_LAYERS if name == "layers" else _MOST_WIDTH
        least = 1 if name in ("context", "hidden") else 0
        if not sound or (hint in (int, float) and not least <= value <= most):
            raise InputError(f"{where}: the network's '{name}' is {str(value)[:50]!a}")
    architecture = Architecture(**data)
    if architecture.residual and not architecture.residual_limit > 0:
        raise InputError(f"{where}: the network's 'residual_limit' is not above 0")
    return architecture


def _read_weights(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The float32 arrays of a safetensors file, which must be exactly those `wanted`."""
    import safetensors

    check_size(path, _MOST_WEIGHT_BYTES)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            wrong = sorted(names ^ set(wanted))
            if wrong:
                fault = "is missing" if wrong[0] in wanted else "is unknown"
                raise InputError(f"{path}: weight {wrong[0][:100]!a} {fault}")
            for name, shape in wanted.items():
                part = file.get_slice(name)
                if tuple(part.get_shape()) != shape or part.get_dtype() != "F32":
                    raise InputError(
                        f"{path}: weight '{name}' is {part.get_dtype()} {part.get_shape()}, "
                        f"not F32 {list(shape)}"
                    )
            found = {name: file.get_tensor(name) for name in wanted}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: damaged ({error}); export the policy again") from None
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise InputError(f"{path}: weight '{name}' holds numbers that are not finite")
    return found
