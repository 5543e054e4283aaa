"""One step of the policy as an artifact of `jax.export`: StableHLO for CPU, CUDA and TPU, any batch and any
number of candidates.

The function is the Flax network itself with its weights inside. The artifact is versioned and serialised by
JAX; it is meant to be run, not to be archived.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hyprl_jax.config import NetworkConfig
from hyprl_jax.errors import MissingExtraError
from hyprl_jax.networks import CandidateInputs, FlaxNetwork

PLATFORMS = ("cpu", "cuda", "tpu")
_FRAMES = "jax_traceback_in_locations_limit"

__all__ = ["PLATFORMS", "flax_step", "stablehlo_step"]


def flax_step(config: NetworkConfig, params: Any) -> Callable:
    """`(carry, context [B, G], features [B, C, F], start [B, C], top [B]) -> (carry, Q-values [B, S, C],
    scores [B, C])` of the members `params [S, ...]`; carries are `[B, S, H]`, two of them with an LSTM."""
    network = FlaxNetwork(config)

    def one(
        carry: Any, context: jax.Array, features: jax.Array, start: jax.Array, top: jax.Array
    ) -> tuple[Any, jax.Array, jax.Array]:
        inputs = CandidateInputs(features, start, top)

        def judge(member: Any, state: Any) -> tuple[Any, jax.Array, jax.Array]:
            state, hidden = network.advance(member, state, context)
            values = network.values(member, hidden, inputs)
            return state, values, network.advantages(member, hidden, inputs)

        carry, values, advantages = jax.vmap(judge)(params, carry)
        return carry, values, advantages.mean(0)

    return jax.vmap(one)


def stablehlo_step(config: NetworkConfig, params: Any) -> bytearray:
    """The serialised artifact of `flax_step`.

    Raises:
        MissingExtraError: flatbuffers, which JAX serialises with, is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("flatbuffers", "export") from None
    from jax import export

    batch, candidates = export.symbolic_shape("batch, candidates")
    members, context, wide = params["read"]["kernel"].shape
    features = params["see"]["kernel"].shape[1]

    def array(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    state = array(batch, members, wide)
    carry = (state, state) if config.cell == "lstm" else state
    seen = (array(batch, candidates, features), array(batch, candidates), array(batch))
    step = export.export(jax.jit(flax_step(config, params)), platforms=PLATFORMS)
    # An accelerator's fast products of matrices would differ from the other forms in the third digit.
    with jax.default_matmul_precision("highest"), _without_source_paths():
        return step(carry, array(batch, context), *seen).serialize()


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keeps the folders of whoever exports out of the artifact, which are no business of its readers."""
    before = getattr(jax.config, _FRAMES)
    jax.config.update(_FRAMES, 0)
    try:
        yield
    finally:
        jax.config.update(_FRAMES, before)
