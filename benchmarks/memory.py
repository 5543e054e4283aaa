"""Peak resident memory of training on tables of the SVM size, measured in a fresh process.

    python benchmarks/memory.py [EPISODES] [--json]

Trains the default agent for two chunks with EPISODES (1024) parallel episodes a seed, through `hyprl train`'s
own program: synthetic tasks, play, fit, validation.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys

CHILD = "--in-this-process"


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    episodes = int(words[0]) if words else 1024
    if CHILD in sys.argv:
        train(episodes)
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}))
        return
    command = [sys.executable, __file__, str(episodes), CHILD]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    peak = json.loads(answer)["peak_bytes"]
    if "--json" in sys.argv:
        print(json.dumps({"episodes": episodes, "peak_bytes": peak}))
    else:
        print(f"training with {episodes} episodes: peak resident memory {peak / 1e9:.2f} GB")


def train(episodes: int) -> None:
    """Two chunks of the default agent with one fold and one seed."""
    import jax

    from hyprl_jax import bench
    from hyprl_jax.program import Program

    bench.use_all_cores()
    problem = bench.make_problem(episodes)
    program = Program(dataclasses.replace(problem.config, folds=(0,), seeds=(0,), updates_per_chunk=3))
    folds = jax.tree.map(lambda leaf: leaf[None], problem.fold)
    state = program.start(problem.bank, folds)
    for _ in range(2):
        state, metrics = program.chunk(state, problem.bank, folds)
    jax.block_until_ready(metrics)


if __name__ == "__main__":
    main()
