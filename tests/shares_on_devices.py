"""Checks, on four devices of a CPU, what devices that share a member exchange; run by test_mesh."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from hyprl_jax import mesh
from hyprl_jax.mesh import Layout, Shape, Sharing


def everywhere(layout: Layout, function: Any, *given: Any) -> Any:
    """`function(*given)` computed by every device, `[devices, ...]`."""
    each = jax.shard_map(
        lambda *own: jax.tree.map(lambda leaf: leaf[None], function(*own)),
        mesh=layout.mesh, in_specs=(P(),) * len(given), out_specs=P(mesh.AXES), check_vma=False,
    )  # fmt: skip
    return jax.tree.map(np.asarray, jax.jit(each)(*given))


def main() -> None:
    layout = Layout(Shape(1, 1, 4))
    sharing = layout.sharing
    assert sharing == Sharing(episodes=4, shards=1)
    for number in (1, 3, 4, 10, 16):
        given = {"a": jnp.arange(2.0 * number).reshape(number, 2), "b": jnp.arange(number) % 3 == 0}
        double = lambda tree: jax.tree.map(lambda own: own * 2, tree)
        found = everywhere(layout, partial(sharing.over_episodes, double), given)
        for name, leaf in double(given).items():
            for one in found[name]:
                np.testing.assert_array_equal(one, leaf)
    rows = jnp.asarray([5, 1, 7, 3, 0, 2, 6, 4])
    parts = everywhere(layout, sharing.part_of, rows)
    np.testing.assert_array_equal(parts.reshape(-1), rows)
    again = everywhere(layout, lambda rows: sharing.gathered(sharing.part_of(rows)), rows)
    np.testing.assert_array_equal(again, np.broadcast_to(rows, (4, 8)))
    own = lambda values: sharing.mean(values[jax.lax.axis_index("episodes")], jax.lax.axis_index("episodes"))
    np.testing.assert_allclose(everywhere(layout, own, jnp.asarray([9.0, 1.0, 2.0, 3.0])), 14 / 6, rtol=1e-6)
    drifted = lambda: sharing.agreed({"x": jax.lax.axis_index("episodes") + 0.5, "n": jnp.int32(3)})
    np.testing.assert_array_equal(everywhere(layout, drifted)["x"], [0.5] * 4)

    # Every device asks for columns of its own, of a table whose rows do not go up evenly.
    layout = Layout(Shape(2, 1, 2), sharded=True)
    table, wanted = np.arange(50.0).reshape(5, 10), np.asarray([[9, 0, 4], [1, 1, 8]])
    padded = np.concatenate([table, np.zeros((3, 10))])
    ask = jax.shard_map(
        lambda own, columns: layout.sharing.columns_of(own, columns[0], 5)[None],
        mesh=layout.mesh, in_specs=(mesh.TASKS, mesh.FOLDS), out_specs=mesh.FOLDS, check_vma=False,
    )  # fmt: skip
    held = layout.place(padded, mesh.TASKS)
    assert {shard.data.shape for shard in held.addressable_shards} == {(2, 10)}
    found = jax.jit(ask)(held, layout.place(wanted, mesh.FOLDS))
    np.testing.assert_array_equal(found, np.stack([table[:, one] for one in wanted]))
    keys = jax.random.split(jax.random.key(3), (2, 1))
    placed = layout.place(keys, mesh.MEMBERS)
    np.testing.assert_array_equal(jax.random.key_data(placed), jax.random.key_data(keys))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    main()
