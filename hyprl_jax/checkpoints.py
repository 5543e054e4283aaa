"""Checkpoints that can be trusted: the only file that knows orbax.

`CheckpointStore` keeps the newest few checkpoints of a run, each in a folder of its own that appears whole or
not at all: orbax writes into a hidden sibling, a manifest with the size and SHA-256 of every file is written
last, everything is flushed to the disk, and one rename makes it visible. Older checkpoints go only after the
new one has been read back. A checkpoint that is truncated, altered or half deleted is found by its manifest,
and the one before it is used.

    checkpoints/000007_step_14336/manifest.json    step, metadata, every leaf and every file
    checkpoints/000007_step_14336/state/           the arrays, as orbax writes them

Restoring is exact: every leaf has the shape and dtype that it had, PRNG keys included, and behaves under
`jit` as a freshly made one does (same weak type, same commitment to devices), so that resuming compiles
nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from hyprl_jax.errors import InputError
from hyprl_jax.leaves import Leaf, describe_leaves, host_arrays, weights_sha256
from hyprl_jax.sealing import DamagedError, flush_folder, seal, verify

__all__ = ["CheckpointStore", "Restored", "weights_sha256"]

PyTree = Any
_Result = TypeVar("_Result")

_FORMAT = "hyprl-jax checkpoint 1"
_STATE = "state"
_TEMPORARY = ".saving-"
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d{1,4})'")  # as tensorstore reports it
_NAME = re.compile(r"(\d{6,12})_step_(\d{1,18})")


class Restored(NamedTuple):
    """What `CheckpointStore.restore` found; the state has the structure of the target."""

    step: int
    state: PyTree
    metadata: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, in `folder`, of which the newest `keep` are kept.

    One process writes to a folder at a time. `report` receives one line for every damaged checkpoint that is
    passed over; standard error by default.
    """

    def __init__(
        self, folder: str | os.PathLike[str], keep: int = 2, report: Callable[[str], None] | None = None
    ) -> None:
        if keep < 1:
            raise InputError(f"cannot keep {keep} checkpoints: keep at least 1")
        self.folder = Path(folder)
        self.keep = keep
        self._report = report or _print_to_stderr
        self._verified: set[Path] = set()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first; they are not verified."""
        return [int(_NAME.fullmatch(path.name)[2]) for path in self._paths()]  # type: ignore[index]

    def save(self, step: int, state: PyTree, metadata: Mapping[str, Any] | None = None) -> Path:
        """Writes a checkpoint and removes those that are no longer kept; returns its folder.

        Leaves of `state` may be JAX arrays, typed PRNG keys, NumPy arrays, and Python numbers, booleans and
        strings; `metadata` is what JSON can hold. The state may be donated or changed as soon as this
        returns.

        Raises:
          InputError: the checkpoint could not be written (a full disk, for instance); earlier ones are
            untouched.
          TypeError: a leaf or the metadata is of a kind that cannot be saved.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        leaves = describe_leaves(state)
        header = {"format": _FORMAT, "step": int(step), "metadata": dict(metadata or {})}
        json.dumps(header)  # a TypeError here, before anything is written
        try:
            path = self._write(header, leaves, host_arrays(leaves))
            _verify(path)
        except (OSError, ValueError, DamagedError) as error:
            raise InputError(self._failure(step, error)) from error
        self._verified.add(path)
        self._remove_old()
        return path

    def restore(self, target: PyTree) -> Restored:
        """The newest undamaged checkpoint, with its state in the structure, shapes and dtypes of `target`.

        `target` is a state or its abstract form (`jax.eval_shape`). A leaf becomes a NumPy array where the
        target has one, otherwise a JAX array; it is committed to devices only where the target's leaf is, or
        where an abstract leaf names a sharding.

        Raises:
          InputError: there is no checkpoint, none is undamaged, or the newest one is of another architecture;
            the message names the first leaf that differs and both shapes and dtypes.
        """
        wanted = describe_leaves(target)

        def read(path: Path, manifest: dict[str, Any]) -> Restored:
            _check_fit(path, manifest["leaves"], wanted)
            pairs = list(zip(manifest["leaves"], wanted, strict=True))
            forms = {i: _stored_form(*pair) for i, pair in enumerate(pairs) if pair[1].kind != "python"}
            arrays = _read_arrays(path / _STATE, forms)
            leaves = [_rebuild(found, arrays.get(i), leaf) for i, (found, leaf) in enumerate(pairs)]
            state = jax.tree.unflatten(jax.tree.structure(target), leaves)
            return Restored(manifest["step"], state, manifest["metadata"])

        return self._first_undamaged(read)

    def read_metadata(self) -> tuple[int, dict[str, Any]]:
        """Step and metadata of the newest undamaged checkpoint, without its state; or InputError."""
        return self._first_undamaged(lambda _, manifest: (manifest["step"], manifest["metadata"]))

    def _paths(self) -> list[Path]:
        """Folders with the name of a checkpoint, in the order in which they were saved."""
        if not self.folder.is_dir():
            return []
        found = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        named = [(int(match[1]), path) for match, path in found if match and not path.is_symlink()]
        return [path for _, path in sorted(named)]

    def _first_undamaged(self, read: Callable[[Path, dict[str, Any]], _Result]) -> _Result:
        """What `read(path, manifest)` makes of the newest checkpoint that it can read."""
        paths = self._paths()
        if not paths:
            raise InputError(f"there is no checkpoint in {self.folder}: start the run anew")
        for path in reversed(paths):
            try:
                return read(path, _verify(path))
            except (DamagedError, OSError) as error:
                self._report(f"warning: checkpoint {path} is damaged and passed over: {error}")
        raise InputError(f"all checkpoints in {self.folder} are damaged ({len(paths)}): start the run anew")

    def _write(self, header: dict[str, Any], leaves: Sequence[Leaf], arrays: dict[int, np.ndarray]) -> Path:
        """Writes everything into a hidden folder, flushes it, and renames it to its final name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob(_TEMPORARY + "*"):
            shutil.rmtree(stale, ignore_errors=True)
        paths = self._paths()
        serial = 1 + (int(paths[-1].name.partition("_")[0]) if paths else 0)
        path = self.folder / f"{serial:06d}_step_{header['step']}"
        temporary = self.folder / f"{_TEMPORARY}{os.getpid()}"
        temporary.mkdir()
        try:
            _write_arrays(temporary / _STATE, arrays)
            seal(temporary, header | {"leaves": [leaf.description() for leaf in leaves]})
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_folder(self.folder)
        return path

    def _remove_old(self) -> None:
        """Keeps the newest `keep` undamaged checkpoints; everything older, and everything damaged, goes."""
        kept = 0
        for path in reversed(self._paths()):
            if kept < self.keep and self._is_undamaged(path):
                kept += 1
            else:
                shutil.rmtree(path, ignore_errors=True)
                self._verified.discard(path)

    def _is_undamaged(self, path: Path) -> bool:
        """Whether it verifies; each checkpoint is read only once a process."""
        if path not in self._verified:
            try:
                _verify(path)
            except (DamagedError, OSError):
                return False
            self._verified.add(path)
        return True

    def _failure(self, step: int, error: Exception) -> str:
        """One line about a checkpoint that could not be written."""
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        if code := _SYSTEM_ERROR.search(str(error)):
            reason = os.strerror(int(code[1]))
        steps = self.steps()
        earlier = f"that of step {steps[-1]} is untouched" if steps else "there is no earlier one"
        return (
            f"cannot write the checkpoint of step {step} to {self.folder} ({reason}): free space on it or "
            f"mend its permissions, then resume; {earlier}"
        )


class _Stored(NamedTuple):
    """Shape and dtype of an array as orbax stores it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _write_arrays(folder: Path, arrays: Mapping[int, np.ndarray]) -> None:
    """Lets orbax write the arrays; empty ones, which it refuses, are known by their shape alone."""
    stored = {_leaf_name(index): array for index, array in arrays.items() if array.size}
    if stored:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(folder.absolute(), stored)


def _read_arrays(folder: Path, expected: Mapping[int, _Stored]) -> dict[int, np.ndarray]:
    """Lets orbax read the arrays; `DamagedError` unless each has the expected shape and dtype."""
    import orbax.checkpoint as ocp

    arrays = {index: np.zeros(*form) for index, form in expected.items() if 0 in form.shape}
    present = {_leaf_name(index): form for index, form in expected.items() if 0 not in form.shape}
    if not present:
        return arrays
    with _quiet(), _checkpointer() as checkpointer:
        try:
            # The declared shapes come first, so that a forged one cannot make the reader fill the memory.
            declared = checkpointer.metadata(folder.absolute()).item_metadata.tree
            _check_stored(declared, present)
            as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in present}
            stored = checkpointer.restore(folder.absolute(), restore_args=as_numpy)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DamagedError(f"orbax cannot read it: {' '.join(str(error).split())[:200]}") from error
    _check_stored(stored, present)
    return arrays | {index: stored[_leaf_name(index)] for index in expected if _leaf_name(index) in present}


def _checkpointer() -> Any:
    """What reads and writes arrays; in one of several processes, without waiting for the others."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.PyTreeCheckpointer()
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _check_stored(found: Mapping[str, Any], expected: Mapping[str, _Stored]) -> None:
    """`DamagedError` unless exactly the expected arrays are there, each with its shape and dtype."""
    if set(found) != set(expected):
        raise DamagedError("the stored arrays are not those that the manifest names")
    for name, form in expected.items():
        shape, dtype = tuple(found[name].shape), found[name].dtype
        if (shape, dtype) != (form.shape, form.dtype):
            raise DamagedError(f"{name} is {dtype}{list(shape)}, not {form.dtype}{list(form.shape)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax from logging the tracebacks of errors that it raises as well."""
    logger = logging.getLogger("absl")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _leaf_name(index: int) -> str:
    """The name under which orbax stores a leaf: plain, because paths may hold any character."""
    return f"leaf_{index:05d}"


def _check_fit(path: Path, found: Sequence[Mapping[str, Any]], wanted: Sequence[Leaf]) -> None:
    """InputError that names the first leaf in which the checkpoint differs from the target."""
    by_path = {leaf["path"]: leaf for leaf in found}
    for leaf in wanted:
        stored = by_path.pop(leaf.path, None)
        have = "nothing" if stored is None else f"{stored['dtype']}{stored['shape']}"
        want = f"{leaf.dtype}{list(leaf.shape)}"
        if have != want or (stored is not None and stored["kind"] != leaf.kind):
            break
    else:
        if not by_path:
            return
        extra = next(iter(by_path.values()))
        leaf, have, want = leaf._replace(path=extra["path"]), f"{extra['dtype']}{extra['shape']}", "nothing"
    raise InputError(
        f"checkpoint {path} does not fit at {leaf.path or 'its root'}: expected {want}, found {have}; "
        "resume with the configuration that wrote it, or start the run anew"
    )


def _stored_form(found: Mapping[str, Any], leaf: Leaf) -> _Stored:
    """Shape and dtype of the array that stands for a leaf; the manifest gives the shape of a key's data."""
    if leaf.kind != "key":
        return _Stored(leaf.shape, np.dtype(leaf.value.dtype))
    shape = tuple(found["data_shape"])
    if shape[: len(leaf.shape)] != leaf.shape or math.prod(shape) > 16 * math.prod(leaf.shape):
        raise DamagedError(f"the key {leaf.path} cannot have data of shape {list(shape)}")
    return _Stored(shape, np.dtype(np.uint32))


def _rebuild(found: Mapping[str, Any], array: np.ndarray | None, leaf: Leaf) -> Any:
    """A leaf from what was stored, of the same kind as the target's leaf."""
    template = leaf.value
    if array is None:
        return found["value"]
    if isinstance(template, (np.ndarray, np.generic)):
        return array if isinstance(template, np.ndarray) else array[()]
    value = jnp.array(array)  # a copy, which may be donated
    if leaf.kind == "key":
        value = _wrap_key(value, found["impl"], leaf)
    elif template.weak_type:
        # Assigning into an array keeps its weak type, which nothing else public gives to an array of values.
        value = jnp.broadcast_to(jnp.asarray(array.dtype.type(0).item()), array.shape).at[...].set(value)
    if str(value.dtype) != leaf.dtype:
        raise InputError(f"{leaf.path} is {leaf.dtype} but JAX makes it {value.dtype}: set JAX_ENABLE_X64=1")
    # A fresh array is committed to no device; one that is would compile every function of it again.
    placed = not isinstance(template, jax.Array) or template.committed
    return jax.device_put(value, template.sharding) if placed and template.sharding is not None else value


def _wrap_key(data: jax.Array, implementation: str, leaf: Leaf) -> jax.Array:
    """PRNG keys of the target's kind from their data; `DamagedError` if they cannot be that."""
    try:
        keys = jax.random.wrap_key_data(data, impl=implementation)
    except (ValueError, TypeError) as error:
        raise DamagedError(f"the key {leaf.path} is no key of kind {implementation}") from error
    if (keys.shape, str(keys.dtype)) != (leaf.shape, leaf.dtype):
        raise DamagedError(f"the key {leaf.path} is {keys.dtype}{list(keys.shape)}")
    return keys


def _verify(path: Path) -> dict[str, Any]:
    """The manifest of an undamaged checkpoint, every field of the right type; `DamagedError` otherwise."""
    manifest = verify(path)
    try:
        sound = (
            manifest["format"] == _FORMAT
            and type(manifest["step"]) is int
            and path.name.endswith(f"_step_{manifest['step']}")
            and isinstance(manifest["metadata"], dict)
            and all(map(_is_leaf_description, manifest["leaves"]))
        )
    except (LookupError, TypeError) as error:
        raise DamagedError(f"its manifest lacks a field ({error})") from error
    if not sound:
        raise DamagedError("its manifest has fields of the wrong kind, or is of another version")
    return manifest


def _is_leaf_description(leaf: dict[str, Any]) -> bool:
    """Whether it has the fields that `Leaf.description` writes."""
    shapes = [leaf["shape"], leaf["data_shape"]] if leaf["kind"] == "key" else [leaf["shape"]]
    sizes_sound = all(type(size) is int and size >= 0 for shape in shapes for size in shape)
    words = [leaf["path"], leaf["dtype"]] + ([leaf["impl"]] if leaf["kind"] == "key" else [])
    value_sound = leaf["kind"] != "python" or type(leaf["value"]).__name__ == leaf["dtype"]
    return sizes_sound and value_sound and all(isinstance(word, str) for word in words)


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
