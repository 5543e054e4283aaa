"""The leaves of a pytree of state: each in words, its bytes on the host, and a hash over them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Leaf", "describe_leaves", "host_arrays", "weights_sha256"]

PyTree = Any


class Leaf(NamedTuple):
    """One leaf of a state or of an abstract state."""

    path: str  # as jax.tree_util.keystr writes it
    kind: str  # "array", "key" (typed PRNG key) or "python"
    shape: tuple[int, ...]
    dtype: str
    value: Any

    def description(self) -> dict[str, Any]:
        """What the manifest says of it; a Python number or string is stored there itself."""
        described = {"path": self.path, "kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}
        if self.kind == "python":
            described["value"] = self.value
        elif self.kind == "key":
            described["impl"] = str(jax.random.key_impl(self.value))
            described["data_shape"] = list(jax.random.key_data(self.value).shape)
        return described


def describe_leaves(tree: PyTree) -> list[Leaf]:
    """The leaves of a pytree in its flattening order; TypeError for a leaf that no checkpoint can hold."""
    leaves = []
    for key_path, value in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(key_path)
        if isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic):
            leaves.append(Leaf(path, "python", (), type(value).__name__, value))
        elif isinstance(value, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
            is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
            if not is_key and not _is_number(np.dtype(value.dtype)):
                raise TypeError(f"cannot save {path or 'the state'}: dtype {value.dtype} is not supported")
            kind = "key" if is_key else "array"
            leaves.append(Leaf(path, kind, tuple(value.shape), str(value.dtype), value))
        else:
            raise TypeError(f"cannot save {path or 'the state'}: a leaf of type {type(value).__name__}")
    return leaves


def host_arrays(leaves: Sequence[Leaf]) -> dict[int, np.ndarray]:
    """The arrays of the leaves that have any, on the host, by position; keys as their raw data."""
    on_device = {
        index: jax.random.key_data(leaf.value) if leaf.kind == "key" else leaf.value
        for index, leaf in enumerate(leaves)
        if leaf.kind != "python"
    }
    return {index: np.asarray(array) for index, array in jax.device_get(on_device).items()}


def weights_sha256(params: PyTree) -> str:
    """Hex SHA-256 of the leaves of `params`: path, shape, dtype and bytes of each, in the order of the paths.

    The same weights give the same hash whatever container order, device or sharding they come in.
    """
    digest = hashlib.sha256()
    leaves = describe_leaves(params)
    arrays = host_arrays(leaves)
    for index in sorted(range(len(leaves)), key=lambda index: leaves[index].path):
        digest.update(json.dumps(leaves[index].description(), sort_keys=True).encode())
        if index in arrays:
            array = arrays[index]
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _is_number(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of it can be stored: numbers (bfloat16 too) and booleans in native byte order."""
    return dtype.isnative and dtype.names is None and dtype.kind in "biufcV" and dtype.type is not np.void
