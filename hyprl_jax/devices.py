"""Several devices for work that needs no exchange between them; see `hyprl_jax.mesh` for training.

XLA runs one program on one core of a CPU, so every core is made a device of its own. That must happen before
JAX starts; later it is too late, and the one device that there is does all the work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

_AXIS = "parts"
_COMPILER = {
    # Loops of a dozen turns are unrolled before they are made vectors of, and then stay as they are.
    "--xla_backend_extra_options": "xla_cpu_disable_loop_unrolling=true",
    "--xla_cpu_prefer_vector_width": "512",
    # With every core a device of its own, a pool of threads beside them only gets in their way.
    "--xla_cpu_multi_thread_eigen": "false",
    # YNNPACK reads its operations one by one, on arrays too small for that; XLA compiles them.
    "--xla_cpu_experimental_ynn_fusion_type": "",
    # Sums may be reordered, without which they are not made vectors of; all else stays as IEEE 754 says.
    "--xla_cpu_enable_fast_math": "true",
    "--xla_cpu_fast_math_honor_infs": "true",
    "--xla_cpu_fast_math_honor_nans": "true",
    "--xla_cpu_fast_math_honor_division": "true",
    "--xla_cpu_fast_math_honor_functions": "true",
}
_UNSEEN = (0, 13)  # the first version of jax of which it is not known that it has these flags


def use_all_cores(most: int | None = None) -> None:
    """Makes every core of the CPU (at most `most` of them) a device, and has XLA compile for long vectors,
    unless JAX has started already."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", min(cores(), most or cores()))
        os.environ["XLA_FLAGS"] = compiler_flags(os.environ.get("XLA_FLAGS", ""))


def compiler_flags(given: str) -> str:
    """XLA_FLAGS with what XLA's compiler for CPUs is told, unless they say otherwise.

    XLA ends the process over a flag that it does not know: later versions than were looked at are told
    nothing.
    """
    if jax.__version_info__ >= _UNSEEN:
        return given
    ours = [f"{name}={value}" for name, value in _COMPILER.items() if name not in given]
    return " ".join([given, *ours]).strip()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def used_devices(episodes: int) -> int:
    """How many devices share `episodes`: all of them, or one if they cannot be dealt out evenly."""
    number = jax.device_count()
    return number if episodes % number == 0 else 1


def deal_out(tree: Any, devices: int) -> Any:
    """`tree` with the first axis of its leaves dealt out over the first `devices` devices."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), P(_AXIS)))


def over_devices(function: Callable, devices: int, shared: int) -> Callable:
    """`function` with its first `shared` arguments given to each device, the rest and all results dealt out
    along their first axis."""
    if devices == 1:
        return function

    def call(*arguments: Any) -> Any:
        places = tuple(P() if number < shared else P(_AXIS) for number in range(len(arguments)))
        dealt = jax.shard_map(
            function, mesh=_mesh(devices), in_specs=places, out_specs=P(_AXIS), check_vma=False
        )
        return dealt(*arguments)

    return call


def copy_to_all(tree: Any, devices: int) -> Any:
    """`tree` on each of the first `devices` devices."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), P()))


def _mesh(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh((devices,), (_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
