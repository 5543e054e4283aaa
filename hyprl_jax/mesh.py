"""How the devices of a run share it: a grid of folds, seeds and shares of the episodes of a member.

Members (a fold with a seed) come first: dealt out over devices they exchange nothing (where the devices are
cores of one CPU, threads do it, see `hyprl_jax.threads`). Devices that are left over split the episodes of
each update: every one plays its share, all gather what was played, and each computes the gradient of its part
of a minibatch. Surfaces are on every device, or (`shards`) each device holds the rows of some tasks and sends
the others the columns that they ask for. With several processes (see `hyprl_jax.hosts`) the grid spans the
devices of all of them, as many of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from hyprl_jax import hosts
from hyprl_jax.errors import InputError
from hyprl_jax.threads import Threads

AXES = ("folds", "seeds", "episodes")
FOLDS = P("folds")
"""Where leaves `[folds, ...]` lie."""
MEMBERS = P("folds", "seeds")
"""Where leaves `[folds, seeds, ...]` lie."""
TASKS = P(AXES)
"""Where leaves `[tasks, ...]` lie that are sharded over all devices."""


@dataclass(frozen=True)
class Sharing:
    """What a member's computation has to know of it: how many devices there are along which axes."""

    episodes: int = 1
    """Devices that share the episodes of each member."""
    shards: int = 1
    """Devices that hold the surfaces, some tasks each; 1 if each has all of them."""

    def over_episodes(self, function: Callable, *given: Any) -> Any:
        """`function(*given)` for arguments and results with leaves `[E, ...]`, each device its share of E.

        E need not go up evenly: the last shares are filled with the last entry, and what comes of that is
        dropped. None of the arguments may depend on the device.
        """
        if self.episodes == 1:
            return function(*given)
        total = jax.tree.leaves(given)[0].shape[0]
        share = -(-total // self.episodes)
        rows = jax.lax.axis_index("episodes") * share + jnp.arange(share)
        rows = jnp.minimum(rows, total - 1)
        results = function(*jax.tree.map(lambda leaf: leaf[rows], given))

        def gather(leaf: jax.Array) -> jax.Array:
            return jax.lax.all_gather(leaf, "episodes", tiled=True)[:total]

        return jax.tree.map(gather, results)

    def part_of(self, rows: jax.Array) -> jax.Array:
        """This device's part of `rows [n]`, `[n / episodes]`."""
        if self.episodes == 1:
            return rows
        share = rows.shape[0] // self.episodes
        return jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index("episodes") * share, share)

    def mean(self, tree: Any, weight: jax.Array) -> Any:
        """The means of leaves over the devices that share episodes, each with its `weight` (a count)."""
        if self.episodes == 1:
            return tree
        share = weight / jnp.maximum(jax.lax.psum(weight, "episodes"), 1)
        return jax.tree.map(lambda leaf: jax.lax.psum(leaf * share, "episodes"), tree)

    def gathered(self, leaf: jax.Array) -> jax.Array:
        """The parts `[n, ...]` of all devices that share episodes, one after the other."""
        return leaf if self.episodes == 1 else jax.lax.all_gather(leaf, "episodes", tiled=True)

    def agreed(self, tree: Any) -> Any:
        """`tree` as the first of the devices that share episodes has it.

        They compute the same; should machines of different kinds round differently, they must not drift.
        """
        if self.episodes == 1:
            return tree
        first = jax.lax.axis_index("episodes") == 0

        def of_first(leaf: jax.Array) -> jax.Array:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            return jax.lax.psum(jnp.where(first, leaf, jnp.zeros_like(leaf)), "episodes")

        return jax.tree.map(of_first, tree)

    def columns_of(self, leaf: jax.Array, columns: jax.Array, rows: int) -> jax.Array:
        """Columns `[rows, C]` of a table of which each device has some rows, `leaf [R, N]`; every device may
        ask for other `columns [C]`."""
        if self.shards == 1:
            return leaf[:, columns]
        wanted = jax.lax.all_gather(columns, AXES)
        parts = jnp.moveaxis(leaf[:, wanted], 1, 0)
        return jax.lax.all_to_all(parts, AXES, 0, 0, tiled=True).reshape(-1, columns.shape[0])[:rows]


ALONE = Sharing()


class Shape(NamedTuple):
    """Devices along each axis of the grid."""

    folds: int
    seeds: int
    episodes: int

    @property
    def devices(self) -> int:
        return self.folds * self.seeds * self.episodes


def best_shape(folds: int, members: int, shares: int, devices: int, processes: int = 1) -> Shape:
    """The grid for `[folds, members]` whose episodes can be cut into any divisor of `shares`, on at most so
    many devices, of which each process has as many.

    As many members side by side as possible, then as many shares of episodes as are left devices for. Raises
    InputError if the processes cannot have equal parts.
    """
    found = [
        Shape(f, s, e)
        for f in _divisors(folds)
        for s in _divisors(members)
        for e in _divisors(shares)
        if f * s * e <= devices and f * s * e % processes == 0
    ]
    if not found:
        raise InputError(
            f"{folds} folds of {members} seeds and {shares} shares of episodes cannot be dealt out over "
            f"{processes} processes: start as many as divide one of them"
        )
    return max(found, key=lambda shape: (shape.folds * shape.seeds, shape.episodes, shape.folds))


class Layout:
    """The devices of a run in the grid of a `Shape`, and arrays on them.

    Args:
      shape: devices along each axis; the first devices of every process are used.
      sharded: each device holds the surfaces of some tasks only.
    """

    def __init__(self, shape: Shape, sharded: bool = False) -> None:
        self.shape = shape
        self.sharded = sharded and shape.devices > 1
        processes = jax.process_count()
        each = shape.devices // processes
        own = [[one for one in jax.devices() if one.process_index == number] for number in range(processes)]
        chosen = [one for devices in own for one in devices[:each]]
        self.mesh = jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=chosen)

    @property
    def threads(self) -> bool:
        """Whether members are dealt out over the cores of one CPU, which needs no devices but one."""
        several = self.shape.devices > 1 and self.shape.episodes == 1 and not self.sharded
        return several and jax.process_count() == 1 and jax.default_backend() == "cpu"

    @property
    def alone(self) -> bool:
        """Whether all arrays are on one device, where nothing has to be placed."""
        return self.shape.devices == 1 or self.threads

    @property
    def sharing(self) -> Sharing:
        """For the computation of a member."""
        return Sharing(self.shape.episodes, self.shape.devices if self.sharded else 1)

    def padded(self, rows: int) -> int:
        """The least number of rows, at least so many, that goes up evenly in devices."""
        return -(-rows // self.shape.devices) * self.shape.devices

    def place(self, tree: Any, spec: P) -> Any:
        """`tree`, the same in every process (NumPy arrays, arrays on a device of this process, or already on
        the grid), dealt out over the grid along `spec`."""
        where = NamedSharding(self.mesh, spec)

        def put(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.core.Tracer):  # as `jax.eval_shape` calls it, for shapes alone
                return leaf
            if isinstance(leaf, jax.Array) and (jax.process_count() == 1 or not leaf.is_fully_addressable):
                there = leaf.sharding.is_equivalent_to(where, leaf.ndim)
                return leaf if there else jax.device_put(leaf, where)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(
                    put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
                )
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, where, lambda index: values[index])

        return jax.tree.map(put, tree)

    def on_one(self, tree: Any) -> Any:
        """`tree`, of which every device has all or every process arrays of its own, on one device of each."""

        def take(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.core.Tracer):
                return leaf
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                leaf = hosts.fetch(leaf)
            return jax.device_put(leaf, jax.local_devices()[0])

        return jax.tree.map(take, tree)

    def dealt(self, function: Callable, places: tuple[Any, ...], donate: bool = False) -> Any:
        """`function(bank, folds, members)`, compiled, run by each device on its part of the arguments, which
        lie as `places` say (the members are used up with `donate`); results are `[folds, seeds, ...]`."""
        if self.threads:
            return Threads(function, (self.shape.folds, self.shape.seeds), donate)
        if not self.alone:
            function = jax.shard_map(
                function, mesh=self.mesh, in_specs=places, out_specs=MEMBERS, check_vma=False
            )
        return jax.jit(function, donate_argnums=(2,) if donate else ())


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]
