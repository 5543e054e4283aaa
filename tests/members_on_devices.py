"""Trains members on some devices of a CPU and writes their states; run by test_program and test_mesh.

`python members_on_devices.py DEVICES FOLDS SEEDS FILE.npz [VARIANT]` for lists like `0,1`: the leaves of the
state before training and after each of two chunks. Variants: see `VARIANTS`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tiny_runs

from hyprl_jax import program as program_module
from hyprl_jax import training
from hyprl_jax.config import AugmentConfig
from hyprl_jax.program import Program

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "sharded": {"surfaces": "sharded", "augment": AugmentConfig(candidates=4)},
    "seen": {"surfaces": "sharded", "augment": AugmentConfig(candidates=4)},  # 8 of 14 columns
    "replicated": {"augment": AugmentConfig(candidates=4)},
    "replay": {"learner": {"ordering": "q", "replay": "prioritised", "replay_capacity": 24}},
}


def plain(state: Any) -> dict[str, np.ndarray]:
    """Copies of all leaves by name, of the data of keys too."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    keys = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for _, leaf in leaves]
    return {
        jax.tree_util.keystr(path): np.array(jax.random.key_data(leaf) if key else leaf)
        for (path, leaf), key in zip(leaves, keys, strict=True)
    }


def main(devices: int, folds: tuple[int, ...], seeds: tuple[int, ...], out: str, variant: str) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    with tempfile.TemporaryDirectory() as folder:
        name = "conditional" if variant == "seen" else "grid"
        collection = tiny_runs.write_collections(Path(folder))[name]
        config = tiny_runs.tiny_config(collection, folds=folds, seeds=seeds, **VARIANTS[variant])
        data = training.load_data(config)
    program_module._SEEN = 2 if variant == "seen" else program_module._SEEN
    program = Program(config)
    bank, places = program.place(data.bank, data.folds)
    state = program.start(bank, places)
    # Devices, or cores, that members or their episodes are dealt out over.
    used = np.asarray(program.layout.shape.devices)
    written = {"devices": used, **{f"0{name}": leaf for name, leaf in plain(state).items()}}
    for number in (1, 2):
        state, metrics = program.chunk(state, bank, places)
        written |= {f"{number}{name}": leaf for name, leaf in plain(state).items()}
        written |= {f"{number}metrics {name}": np.asarray(values) for name, values in metrics.items()}
    np.savez(out, **written)  # type: ignore[arg-type]


if __name__ == "__main__":
    numbers = [tuple(int(number) for number in words.split(",")) for words in sys.argv[2:4]]
    main(int(sys.argv[1]), numbers[0], numbers[1], sys.argv[4], (*sys.argv[5:], "")[0])
