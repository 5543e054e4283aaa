"""What all tests share: where the real data lies, how JAX and hypothesis behave here.

JAX runs on the CPU unless JAX_PLATFORMS says otherwise. JAX's persistent compilation cache stays off: on the
CPU its entries are rejected on many machines, with messages on standard error. Most of the time goes into
compiling programs that then run for a moment, so XLA leaves out most optimizations unless slow tests are
asked for or JAX_DISABLE_MOST_OPTIMIZATIONS says otherwise; modules whose programs run for long ask for
`optimized`. Programs that compute the same may then round differently: tests that compare the bits of two
programs, and those that count operations, are slow ones.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

from hyprl_jax.devices import compiler_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# As the commands do, which tests start and compare with.
os.environ["XLA_FLAGS"] = compiler_flags(os.environ.get("XLA_FLAGS", ""))

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_MAPS = 15_000

QUICKLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"

_tolerant = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=_tolerant
)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=50, derandomize=True, suppress_health_check=_tolerant, print_blob=True
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def pytest_configure(config: pytest.Config) -> None:
    """Quick compilation, in the processes that tests start as well, where only quick tests run."""
    if config.option.markexpr == "not slow" and QUICKLY not in os.environ:
        os.environ[QUICKLY] = "1"
        # Fused loops by way of MLIR take most of the time that is left.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Programs of this module are compiled with all optimizations: they run longer than they compile."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session", autouse=True)
def _one_device() -> None:
    """Starts JAX before any test could ask for more devices: what a test sees must not depend on which tests
    ran before it. Those that need several devices start a process of their own."""
    jax.devices()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """Drops compiled programs after a file of tests, once there are many.

    Each maps pieces of memory, of which Linux allows a process 65530; beyond, compiling ends in a crash.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real response surfaces that is no part of the project: `../shared/data`."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(
            "the real response surfaces are absent: they belong into ../shared/data beside the checkout"
        )
    return path
