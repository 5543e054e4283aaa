"""What this machine can do at best, through the same compiler: multiply matrices, and stream arrays.

Both ceilings are measured with one device, as the parts of a training step are (`parts`), and each is the
best of several runs: whatever else the machine does can only lower them. XLA spreads a large product over all
cores of a CPU, though each is a device of its own in training: a product counts for each core that it keeps
busy. The memory ceiling depends on where the arrays lie, so it is measured for arrays of several sizes, from
some that fit into the nearest caches to some well beyond the last-level cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyprl_jax.bench.timing import Side, speed

MATRICES = (512, 1024, 2048)
"""Rows of the square float32 matrices."""
_CACHE = 32 * 2**20  # bytes of the last-level cache where the system does not say
_MOST = 2**30  # bytes of the largest arrays
_PASS = 2**27  # bytes that one measured call moves at least


class Ceilings(NamedTuple):
    """The best rates of one device, of a CPU one core."""

    matmul: float
    """GFLOP/s of float32 matrix products."""
    memory: tuple[tuple[int, float], ...]
    """Bytes of the arrays in rising order, and GB/s of `x = x / 2 + y` over them: the last ones lie well
    beyond the last-level cache."""
    cache_bytes: int
    """The last-level cache."""

    def bandwidth(self, working_set: float) -> float:
        """GB/s for a part that works on so many bytes: the best rate of arrays as large or larger."""
        rates = [rate for size, rate in self.memory if size >= working_set]
        return max(rates) if rates else self.memory[-1][1]

    def figures(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "matmul_gflops": self.matmul,
            "cache_gigabytes_per_second": max(rate for _, rate in self.memory[:-1]),
            "memory_gigabytes_per_second": self.memory[-1][1],
            "by_size": [{"bytes": size, "gigabytes_per_second": rate} for size, rate in self.memory],
            "last_level_cache_bytes": self.cache_bytes,
        }


def measure(turns: int, seconds: float, matrices: Sequence[int] = MATRICES) -> Ceilings:
    """The ceilings, from `turns` runs of at least `seconds` each of every size."""
    cache = last_level_cache()
    sizes = sorted({2**18, 2**22, cache // 2, min(8 * cache, _MOST)})
    memory = tuple((size, best_rate(streaming(size), turns, seconds) / 1e9) for size in sizes)
    products = max(_rate_of_a_core(product(rows), turns, seconds) for rows in matrices)
    return Ceilings(products / 1e9, memory, cache)


def _rate_of_a_core(side: Side, turns: int, seconds: float) -> float:
    """The best rate for each core that is kept busy; of an accelerator the best rate."""
    rate = best_rate(side, turns, seconds)
    return rate / devices_used(busy_cores(side))


def devices_used(cores: float) -> float:
    """Devices that so many busy cores stand for: a core is one on a CPU, and none beside an accelerator."""
    return max(1.0, cores) if jax.default_backend() == "cpu" else 1.0


def best_rate(side: Side, turns: int, seconds: float) -> float:
    """The best of several measurements, in the side's units a second."""
    side.run()
    return max(speed(side, seconds) for _ in range(turns))


def product(rows: int) -> Side:
    """A product of two square matrices; counted in floating-point operations."""
    left = jax.random.normal(jax.random.key(0), (rows, rows), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    return Side(lambda: jax.block_until_ready(multiply(left, left)), 2 * rows**3)


def streaming(size: int) -> Side:
    """Passes of `x = x / 2 + y` over two arrays of `size` bytes together; in bytes read and written."""
    length = max(1, size // 8)
    moved = 12 * length  # x and y read, x written
    passes = max(1, _PASS // moved)

    def stream(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, passes, lambda _, total: 0.5 * total + y, x)

    program = jax.jit(stream, donate_argnums=0)
    state = [jnp.zeros(length, jnp.float32)]
    other = jnp.ones(length, jnp.float32)

    def run() -> None:
        state[0] = jax.block_until_ready(program(state[0], other))

    return Side(run, moved * passes)


def last_level_cache() -> int:
    """Bytes of the largest cache of the first core, as Linux tells; 32 MiB where it does not."""
    found = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        digits = text.rstrip("KMG")
        if digits.isdigit():
            found.append(int(digits) * factor)
    return max(found, default=_CACHE)


def busy_cores(side: Side, seconds: float = 0.05) -> float:
    """Seconds of processor time for each second that runs take: below the number of threads that work on them
    where other programs take their turns."""
    wall, processor = time.perf_counter(), time.process_time()
    speed(side, seconds)
    return (time.process_time() - processor) / max(time.perf_counter() - wall, 1e-9)
