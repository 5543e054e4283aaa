"""Exported policies that were damaged or tampered with: refused in one line, or still sound."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_policies import READ, undamaged_export
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from tiny_runs import grid_collection

from hyprl_jax.errors import InputError
from hyprl_jax.runtime import Policy, Space, Tuner, load_policy

JUNK = (None, "x", -1, 1.5, [], {}, [1], 10**30, float("nan"), float("inf"))
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undamaged_export(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def folder(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where damaged copies are made."""
    path = tmp_path_factory.mktemp("damaged") / "policy"
    path.mkdir()
    return path


def damaged(whole: Path, folder: Path, name: str, content: bytes) -> Path:
    """The export with other bytes in one of its files, and with the hash of these in policy.json: whoever
    tampers with a file can do that too."""
    for file in READ:
        shutil.copyfile(whole / file, folder / file)
    (folder / name).write_bytes(content)
    if name != "policy.json":
        facts = json.loads((whole / "policy.json").read_text())
        facts["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "policy.json").write_text(json.dumps(facts))
    return folder


def refusal(folder: Path) -> str:
    """The message that the folder is refused with: one line that names the folder."""
    with pytest.raises(InputError) as caught:
        load_policy(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def plays(policy: Policy, space: Space) -> None:
    """Suggests legal configurations, all different."""
    told = {name: 1.0 for each in policy.metafeatures.values() for name in each.names[:2]}
    tuner = Tuner(space, policy=policy, trials=4, candidates=table(), metafeatures=told)
    seen = []
    for number in range(4):
        config = tuner.ask()
        assert config in table() and config not in seen
        seen.append(config)
        tuner.tell(config, float(number % 3))


def table() -> list[dict[str, Any]]:
    frame = grid_collection().configs
    return [{"rate": float(r), "depth": int(d)} for r, d in zip(frame["rate"], frame["depth"], strict=True)]


def test_an_undamaged_export_loads_and_plays(whole: Path) -> None:
    policy = load_policy(whole)
    assert policy.name == "policy" and policy.network.members == 2
    assert set(policy.prior) == set(policy.spaces) == set(policy.numbers) == {"grid"}
    plays(policy, Space.from_dict(policy.spaces["grid"]))


@pytest.mark.parametrize("name", READ)
@given(data=st.data())
def test_truncated_files_are_refused(whole: Path, folder: Path, name: str, data: st.DataObject) -> None:
    content = (whole / name).read_bytes()
    length = data.draw(st.integers(0, len(content) - 2))
    assert name in refusal(damaged(whole, folder, name, content[:length]))


@pytest.mark.parametrize("name", READ)
@given(data=st.data())
def test_changed_bytes_are_refused_or_harmless(
    whole: Path, folder: Path, name: str, data: st.DataObject
) -> None:
    content = bytearray((whole / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    damaged(whole, folder, name, bytes(content))
    try:
        policy = load_policy(folder)
    except InputError as error:
        assert str(folder) in str(error)
        return
    assert all(np.isfinite(array).all() for array in policy.network.weights.values())
    if name == "policy.json":
        plays(policy, Space.from_dict(load_policy(whole).spaces["grid"]))


def _renamed(arrays: Arrays, name: str) -> Arrays:
    return {(f"{key}x" if key == name else key): array for key, array in arrays.items()}


def _without(arrays: Arrays, name: str) -> Arrays:
    return {key: array for key, array in arrays.items() if key != name}


def _changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays, str], Arrays]:
    return lambda arrays, name: {**arrays, name: np.ascontiguousarray(change(arrays[name]))}


def _with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.reshape(-1)[-1] = value
        return array

    return change


CHANGES: dict[str, Callable[[Arrays, str], Arrays]] = {
    "renamed": _renamed,
    "missing": _without,
    "one more": lambda arrays, name: {**arrays, f"{name}/more": arrays[name]},
    "flattened": _changed(np.ravel),
    "a member less": _changed(lambda array: array[:-1]),
    "wider": _changed(lambda array: np.concatenate([array, array], axis=-1)),
    "with an axis more": _changed(lambda array: array[None]),
    "double": _changed(lambda array: array.astype(np.float64)),
    "half": _changed(lambda array: array.astype(np.float16)),
    "whole numbers": _changed(lambda array: array.astype(np.int32)),
    "not a number": _changed(_with_one(np.nan)),
    "infinite": _changed(_with_one(np.inf)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_weights_that_do_not_fit_the_architecture_are_refused(
    whole: Path, folder: Path, change: Callable[[Arrays, str], Arrays]
) -> None:
    arrays = load((whole / "weights.safetensors").read_bytes())
    for name in arrays:
        message = refusal(damaged(whole, folder, "weights.safetensors", save(change(arrays, name))))
        assert name in message


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields of nested objects."""
    for key, item in value.items():
        yield (*path, key)
        if isinstance(item, dict):
            yield from places(item, (*path, key))


def needed(whole: Path) -> list[tuple[str, ...]]:
    """Paths of what the runtime reads from policy.json and cannot do without, as older exports do."""
    facts = json.loads((whole / "policy.json").read_text())
    parts = ("format", "format_version", "members", "trials", "network", "inputs", "surrogate", "numbers")
    found = list(places({part: facts[part] for part in parts}))
    older = ("numbers",), ("numbers", "grid"), ("numbers", "grid", "denoise"), ("surrogate", "denoise")
    return [path for path in found if path not in older]


def put(facts: dict[str, Any], path: tuple[str, ...], value: Any) -> Any:
    """Sets a nested field; what was there before."""
    for key in path[:-1]:
        facts = facts[key]
    before, facts[path[-1]] = facts[path[-1]], value
    return before


def written(facts: Any) -> bytes:
    return json.dumps(facts).encode()


def test_every_missing_field_is_refused(whole: Path, folder: Path) -> None:
    facts = json.loads((whole / "policy.json").read_text())
    for path in needed(whole):
        tampered = copy.deepcopy(facts)
        part = tampered
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        refusal(damaged(whole, folder, "policy.json", written(tampered)))


def test_fields_of_the_wrong_kind_are_refused(whole: Path, folder: Path) -> None:
    facts = json.loads((whole / "policy.json").read_text())
    numbers = (float, list)
    for path in needed(whole):
        for junk in JUNK:
            tampered = copy.deepcopy(facts)
            before = put(tampered, path, junk)
            if isinstance(before, numbers) and junk in (1.5, [1]) and path[-1] != "context":
                continue  # a number may be another one, a lengthscale one or several
            refusal(damaged(whole, folder, "policy.json", written(tampered)))


@given(data=st.data())
def test_fields_changed_at_random_are_refused_or_harmless(
    whole: Path, folder: Path, data: st.DataObject
) -> None:
    facts = json.loads((whole / "policy.json").read_text())
    space = Space.from_dict(facts["spaces"]["grid"])
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    junk = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
    path = data.draw(st.sampled_from(list(places(facts))))
    if "noise" not in path and "lengthscale" not in path:
        put(facts, path, data.draw(junk))
    damaged(whole, folder, "policy.json", json.dumps(facts).encode("utf-8", "surrogatepass"))
    try:
        policy = load_policy(folder)
    except InputError as error:
        assert str(folder) in str(error)
        return
    plays(policy, space)


HOSTILE = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"1",
    "deeply nested": b"[" * 200_000,
    "deeply nested objects": b'{"a":' * 200_000,
    "an endless integer": b'{"members": ' + b"9" * 10_000 + b"}",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_files_of_another_kind_are_refused(whole: Path, folder: Path, name: str, content: bytes) -> None:
    assert name in refusal(damaged(whole, folder, name, content))


@pytest.mark.parametrize(("name", "size"), [*zip(READ, (2**23, 2**28, 2**28), strict=True)])
def test_files_that_are_too_large_are_not_read(whole: Path, folder: Path, name: str, size: int) -> None:
    damaged(whole, folder, name, b"")
    with open(folder / name, "r+b") as file:
        file.truncate(size + 1)  # a hole in the file: it takes no room on the disk
    assert name in refusal(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grid/codes", _without),
        ("grid/objective", _without),
        ("grid/codes", _renamed),
        ("grid/codes", _changed(lambda array: array[:-1])),
        ("grid/objective", _changed(lambda array: array[:, :-1])),
        ("grid/objective", _changed(lambda array: array[0])),
        ("grid/objective", _changed(lambda array: np.full_like(array, np.nan))),
        ("grid/objective", _changed(_with_one(np.inf))),
        ("grid/objective", _changed(lambda array: array.astype(np.int64))),
        ("grid/codes", _changed(lambda array: array.astype(np.complex64))),
        ("grid/metafeatures", _changed(lambda array: array[:-1])),
        ("grid/metafeatures", _changed(lambda array: array[:, :-1])),
        ("grid/metafeatures", _changed(lambda array: np.concatenate([array, array], axis=1))),
        ("grid/metafeatures", _changed(lambda array: array[:, 0])),
        ("grid/metafeatures", _changed(lambda array: array[None])),
        ("grid/metafeatures", _changed(_with_one(np.inf))),
        ("grid/metafeatures", _changed(lambda array: array.astype(np.float64) * 1e200)),
        ("grid/metafeatures", _changed(lambda array: np.nan_to_num(array).astype(np.int32))),
    ],
)
def test_known_tasks_that_do_not_fit_are_refused(
    whole: Path, folder: Path, name: str, change: Callable[[Arrays, str], Arrays]
) -> None:
    arrays = load((whole / "prior.safetensors").read_bytes())
    assert "grid" in refusal(damaged(whole, folder, "prior.safetensors", save(change(arrays, name))))


@given(data=st.data())
def test_metafeatures_of_known_tasks_are_refused_or_harmless(
    whole: Path, folder: Path, data: st.DataObject
) -> None:
    arrays = load((whole / "prior.safetensors").read_bytes())
    tasks, width = arrays["grid/metafeatures"].shape
    shapes = [(tasks, width)] * 3 + [(tasks, 0), (width, tasks), (tasks + 1, width)]
    shape = data.draw(st.sampled_from(shapes))
    kind = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    value = st.floats(-1e3, 1e3) | st.sampled_from([1e38, -1e38, 1e300, math.inf, math.nan])
    few = data.draw(st.lists(value, min_size=1, max_size=6))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, len(few), shape)
    with np.errstate(over="ignore"):
        found = np.asarray(few)[order].astype(kind)
    arrays["grid/metafeatures"] = found
    damaged(whole, folder, "prior.safetensors", save(arrays))
    sound = shape == (tasks, width) and not (np.abs(found.astype(np.float64)) > 1e38).any()
    if not sound and shape != (tasks, 0):
        assert "grid" in refusal(folder)
        return
    policy = load_policy(folder)
    assert (policy.prior["grid"].metafeatures is None) == (shape == (tasks, 0))
    plays(policy, Space.from_dict(policy.spaces["grid"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("names", ["m0", "m1", "gaps", "ties"]),
        ("names", ["m0", "m1", "gaps", "ties", "ties"]),
        ("names", ["m0", "m1", "gaps", "ties", "two\nlines"]),
        ("names", ["m0", "m1", "gaps", "ties", "x" * 201]),
        ("names", "m0"),
        ("mean", [0.0] * 4),
        ("mean", [0.0] * 4 + [float("nan")]),
        ("mean", [0.0] * 4 + [True]),
        ("deviation", [1.0] * 4 + [0.0]),
        ("deviation", [1.0] * 4 + [10**400]),
        ("deviation", None),
        ("offset", 1),
        ("offset", -1),
        ("offset", 0.5),
    ],
)
def test_malformed_descriptions_of_metafeatures_are_refused(
    whole: Path, folder: Path, field: str, value: Any
) -> None:
    facts = json.loads((whole / "policy.json").read_text())
    facts["metafeatures"]["collections"]["grid"][field] = value
    assert "grid" in refusal(damaged(whole, folder, "policy.json", written(facts)))
    for junk in (1, [], {}, {"collections": []}, {"collections": {"grid": []}}, {"collections": {}}, None):
        refusal(damaged(whole, folder, "policy.json", written({**facts, "metafeatures": junk})))


def test_what_is_not_there_is_named(whole: Path, folder: Path, tmp_path: Path) -> None:
    assert "policy.json" in refusal(tmp_path)
    assert "policy.json" in refusal(whole / "policy.json")
    damaged(whole, folder, "policy.json", (whole / "policy.json").read_bytes())
    (folder / "weights.safetensors").unlink()
    assert "weights.safetensors" in refusal(folder)
    (folder / "weights.safetensors").mkdir()
    assert "weights.safetensors" in refusal(folder)
    (folder / "weights.safetensors").rmdir()


def test_another_format_is_refused(whole: Path, folder: Path) -> None:
    facts = json.loads((whole / "policy.json").read_text())
    for field, value in (("format", "another"), ("format_version", 2)):
        message = refusal(damaged(whole, folder, "policy.json", written({**facts, field: value})))
        assert "format" in message
    context = {**facts["inputs"], "context": facts["inputs"]["context"][::-1]}
    message = refusal(damaged(whole, folder, "policy.json", written({**facts, "inputs": context})))
    assert "context" in message
