"""What is set before JAX starts, and that it is left alone afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import pytest

from hyprl_jax import devices

_PROGRAM = """
import json, os, jax
from hyprl_jax.devices import use_all_cores
use_all_cores(3)
print(json.dumps([jax.device_count(), os.environ["XLA_FLAGS"]]))
print(float(jax.jit(lambda x: x + 1)(1.0)))
"""
_OURS = [
    "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling=true",
    "--xla_cpu_prefer_vector_width=512",
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_cpu_experimental_ynn_fusion_type=",
    "--xla_cpu_enable_fast_math=true",
    *(f"--xla_cpu_fast_math_honor_{name}=true" for name in ("infs", "nans", "division", "functions")),
]
_WIDTH = "--xla_cpu_prefer_vector_width"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, " ".join(_OURS)),
        (f"{_WIDTH}=256", " ".join([f"{_WIDTH}=256", *(flag for flag in _OURS if _WIDTH not in flag)])),
    ],
)
def test_the_compiler_is_told_before_jax_starts(given: str | None, told: str) -> None:
    """What the user says stands, and XLA knows all of it."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu"} | ({"XLA_FLAGS": given} if given else {})
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert json.loads(first) == [min(3, devices.cores()), told]
    assert second == "2.0"


def test_a_version_that_was_not_looked_at_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", devices._UNSEEN)
    assert devices.compiler_flags("--xla_dump_to=x") == "--xla_dump_to=x"


def test_nothing_is_told_once_jax_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jax.device_count()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    devices.use_all_cores(before + 1)
    assert jax.device_count() == before and "XLA_FLAGS" not in os.environ
