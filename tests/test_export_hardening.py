"""Exports whose files contradict each other or hold absurd numbers that no check of one file finds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_policies import READ, undamaged_export, untrained_run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from tiny_runs import write_collections

from hyprl_jax.config import NetworkConfig
from hyprl_jax.errors import InputError
from hyprl_jax.export import export_policy
from hyprl_jax.runtime import Space, Tuner, load_policy
from hyprl_jax.runtime.network import Architecture, shapes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undamaged_export(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    for name in READ:
        shutil.copyfile(whole / name, tmp_path / name)
    return tmp_path


def facts_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "policy.json").read_text())
    assert isinstance(found, dict)
    return found


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / "policy.json").write_text(json.dumps(facts))


def put(folder: Path, name: str, content: bytes) -> None:
    """Another file, and its hash in policy.json."""
    (folder / name).write_bytes(content)
    facts = facts_of(folder)
    facts["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_facts(folder, facts)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_policy(folder)
    message = str(caught.value)
    assert message.isprintable() and message.isascii() and str(folder) in message
    return message


@given(data=st.data())
@pytest.mark.parametrize("name", READ[1:])
def test_every_changed_byte_of_an_array_is_found(whole: Path, name: str, data: st.DataObject) -> None:
    content = bytearray((whole / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder = whole.parent / "flipped"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


@pytest.mark.parametrize("name", READ[1:])
def test_a_file_that_is_told_of_must_be_there(copied: Path, name: str) -> None:
    (copied / name).unlink()
    assert name in refusal(copied)


@pytest.mark.parametrize("files", [None, [], {"weights.safetensors": 1}, {"prior.safetensors": {}}])
def test_a_malformed_list_of_files_is_refused(copied: Path, files: Any) -> None:
    write_facts(copied, {**facts_of(copied), "files": files})
    refusal(copied)


def test_an_export_without_hashes_still_loads(copied: Path) -> None:
    facts = facts_of(copied)
    del facts["files"]
    write_facts(copied, facts)
    assert load_policy(copied).network.members == 2


@pytest.mark.parametrize("name", READ)
def test_pipes_are_not_waited_for(copied: Path, name: str) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    assert name in refusal(copied)


def test_a_large_description_is_called_large(copied: Path) -> None:
    with open(copied / "policy.json", "r+b") as file:
        file.truncate(2**23 + 1)
    assert "more than" in refusal(copied)


def test_names_cannot_break_the_line_of_a_message(copied: Path) -> None:
    arrays = load((copied / "weights.safetensors").read_bytes())
    put(copied, "weights.safetensors", save({**arrays, "a\n\x1b[2J": np.zeros(1, np.float32)}))
    refusal(copied)
    arrays = load((copied / "prior.safetensors").read_bytes())
    put(copied, "prior.safetensors", save({**arrays, "a\n/codes": np.zeros(1)}))
    facts = facts_of(copied)
    facts["network"]["b\n\udcff"] = 1
    write_facts(copied, facts)
    refusal(copied)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "x" * 201, 5, None, ["a"]])
def test_a_name_is_one_printable_line(copied: Path, name: Any) -> None:
    write_facts(copied, {**facts_of(copied), "name": name})
    refusal(copied)


@pytest.mark.parametrize("width", ["members", "context", "hidden"])
def test_networks_of_no_size_are_refused(copied: Path, width: str) -> None:
    facts = facts_of(copied)
    members = 0 if width == "members" else facts["members"]
    if width == "members":
        facts["members"] = 0
    else:
        facts["network"][width] = 0
    wanted = shapes(Architecture(**facts["network"]), 14, 13, 0)
    write_facts(copied, facts)
    empty = {name: np.zeros((members, *shape), np.float32) for name, shape in wanted.items()}
    put(copied, "weights.safetensors", save(empty))
    assert width in refusal(copied)


@pytest.mark.parametrize("field", ["noise", "encoding_variance", "lengthscale"])
def test_numbers_that_are_divided_by_are_not_tiny(copied: Path, field: str) -> None:
    for value in (0.0, 1e-300):
        facts = facts_of(copied)
        facts["numbers"]["grid"][field] = value
        write_facts(copied, facts)
        refusal(copied)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "BF16", "BOOL", "C64", "U16"])
def test_kinds_of_numbers_that_numpy_does_not_know_are_refused(copied: Path, kind: str) -> None:
    size = {"BF16": 2, "U16": 2, "C64": 8}.get(kind, 1)
    header = {
        "grid/codes": {"dtype": kind, "shape": [2, 2], "data_offsets": [0, 4 * size]},
        "grid/objective": {"dtype": "F32", "shape": [1, 2], "data_offsets": [4 * size, 4 * size + 8]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    put(copied, "prior.safetensors", struct.pack("<Q", len(text)) + text + bytes(4 * size + 8))
    assert "grid/codes" in refusal(copied)


@pytest.mark.parametrize("change", ["no task", "vast", "endless codes"])
def test_known_tasks_without_sense_are_refused(copied: Path, change: str) -> None:
    arrays = load((copied / "prior.safetensors").read_bytes())
    codes, objective = arrays["grid/codes"], arrays["grid/objective"].astype(np.float64)
    if change == "no task":
        objective = objective[:0]
    elif change == "vast":
        objective[0, :2] = 1.7e308, -1.7e308
    else:
        codes[0, 0] = np.inf
    put(copied, "prior.safetensors", save({"grid/codes": codes, "grid/objective": objective}))
    assert "grid" in refusal(copied)


@pytest.mark.parametrize("value", [-5.0, 0.0, 1e300, 2.5])
def test_known_tasks_outside_of_their_space_are_refused(copied: Path, value: float) -> None:
    arrays = load((copied / "prior.safetensors").read_bytes())
    policy = load_policy(copied)
    depth = Space.from_dict(policy.spaces["grid"]).names.index("depth")
    arrays["grid/codes"][1, depth] = value
    put(copied, "prior.safetensors", save(arrays))
    with pytest.raises(InputError, match="depth"):
        Tuner(policy.spaces["grid"], policy=copied)


def test_a_policy_that_reads_encodings_plays_every_space_it_knows(tmp_path: Path) -> None:
    paths = write_collections(tmp_path / "collections")
    network = NetworkConfig(context=4, hidden=4, candidates="both")
    run = untrained_run(tmp_path / "run", paths["grid"], paths["conditional"], network=network)
    export_policy(run, tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    for space in policy.spaces.values():
        tuner = Tuner(space, policy=policy, trials=3)
        for number in range(3):
            tuner.tell(tuner.ask(), float(number))
    stranger = Space.from_dict({**policy.spaces["grid"], "optional": ["depth"]})
    with pytest.raises(InputError, match="own space"):
        Tuner(stranger, policy=policy)
