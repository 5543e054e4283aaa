"""The grid of devices: who gets what, and that runs do not depend on how many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.mesh import ALONE, Shape, best_shape

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("folds", "seeds", "shares", "devices", "shape"),
    [
        (1, 1, 64, 8, (1, 1, 8)), (2, 3, 64, 1, (1, 1, 1)), (1, 4, 64, 4, (1, 4, 1)),
        (1, 4, 64, 3, (1, 2, 1)),
        (4, 1, 64, 2, (2, 1, 1)), (5, 2, 64, 8, (5, 1, 1)), (2, 2, 64, 8, (2, 2, 2)),
        (3, 7, 64, 2, (1, 1, 2)),
        (1, 1, 6, 4, (1, 1, 3)), (1, 3, 1, 2, (1, 1, 1)),
    ],
)  # fmt: skip
def test_members_are_dealt_out_before_episodes(
    folds: int, seeds: int, shares: int, devices: int, shape: tuple[int, int, int]
) -> None:
    assert best_shape(folds, seeds, shares, devices) == shape


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 64), st.integers(1, 16))
def test_every_part_goes_up_evenly_and_no_device_is_used_twice(
    folds: int, seeds: int, shares: int, devices: int
) -> None:
    shape = best_shape(folds, seeds, shares, devices)
    assert (folds % shape.folds, seeds % shape.seeds, shares % shape.episodes) == (0, 0, 0)
    assert 1 <= shape.devices <= devices
    most = max(f * s for f in range(1, folds + 1) for s in range(1, seeds + 1)
               if folds % f == 0 and seeds % s == 0 and f * s <= devices)  # fmt: skip
    assert shape.folds * shape.seeds == most


def test_every_process_has_as_many_devices() -> None:
    assert best_shape(1, 3, 64, 4, processes=4) == Shape(1, 1, 4)
    assert best_shape(1, 3, 64, 6, processes=2) == Shape(1, 3, 2)
    with pytest.raises(InputError, match="over 7 processes: start as many as divide"):
        best_shape(2, 2, 64, 7, processes=7)


def test_alone_nothing_is_exchanged() -> None:
    rows = np.arange(4)
    assert ALONE.part_of(rows) is rows and ALONE.gathered(rows) is rows and ALONE.agreed(rows) is rows
    assert ALONE.over_episodes(lambda one: one, rows) is rows


def run_script(name: str, *words: object) -> None:
    """Runs a script beside this file in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, str(TESTS / name), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def test_devices_exchange_shares_of_episodes_and_columns_of_surfaces() -> None:
    run_script("shares_on_devices.py")


def states_on(folder: Path, devices: int, *words: str) -> dict[str, np.ndarray]:
    """The leaves of a run's state before and after two chunks, and its metrics, by a process of its own."""
    out = folder / f"{devices}{'-'.join(words)}.npz"
    run_script("members_on_devices.py", devices, *(words[:2] or ("0", "0")), out, *words[2:])
    with np.load(out) as stored:
        return dict(stored)


def same_up_to_rounding(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, leaf in one.items():
        if np.issubdtype(leaf.dtype, np.floating):
            np.testing.assert_allclose(leaf, other[name], rtol=5e-4, atol=5e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(leaf, other[name], err_msg=name)


@pytest.mark.slow
def test_sharded_surfaces_of_which_all_is_seen_are_like_replicated_ones(tmp_path: Path) -> None:
    """Two members on two devices, each of which holds half of the tasks and needs all."""
    whole = states_on(tmp_path, 1, "0", "0,1", "replicated")
    halves = states_on(tmp_path, 2, "0", "0,1", "sharded")
    assert (whole.pop("devices"), halves.pop("devices")) == (1, 2)
    same_up_to_rounding(whole, halves)


@pytest.mark.slow
def test_sharded_surfaces_of_which_some_is_seen_do_not_depend_on_devices(tmp_path: Path) -> None:
    alone = states_on(tmp_path, 1, "0", "0,1", "seen")
    four = states_on(tmp_path, 4, "0", "0,1", "seen")
    assert (alone.pop("devices"), four.pop("devices")) == (1, 4)
    same_up_to_rounding(alone, four)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("0", "0,1"), ("0", "0", "replay")], ids="-".join)
def test_a_run_does_not_depend_on_the_number_of_devices(tmp_path: Path, words: tuple[str, ...]) -> None:
    alone = states_on(tmp_path, 1, *words)
    assert alone.pop("devices") == 1
    for devices in (2, 4, 8) if len(words) < 3 else (2,):
        shared = states_on(tmp_path, devices, *words)
        assert shared.pop("devices") == devices
        same_up_to_rounding(alone, shared)
