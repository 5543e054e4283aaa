"""The tests that Optuna publishes for samplers (`optuna.testing.pytest_samplers`), run on ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("optuna")

from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
)

from hyprl_jax.frontends import HypRLSampler


class TestHypRLSampler(BasicSamplerTestCase, RelativeSamplerTestCase):
    """A fixture is all that the published tests ask for."""

    @pytest.fixture
    def sampler(self) -> Callable[[], Any]:
        return lambda: HypRLSampler(seed=0, pool=32)
