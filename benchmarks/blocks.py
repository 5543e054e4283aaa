"""Time of a step of whole greedy plays by the number of episodes that are played side by side.

    python benchmarks/blocks.py [--candidates 288,1000,2916,10000] [--blocks 4,8,16,32,64]
        [--trials 20] [--json]

On one device. The blocks that `rollout.episodes_at_once` chooses on a CPU are marked; the sizes take turns,
and the median counts.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from hyprl_jax import bench, rollout

TURNS, SECONDS = 5, 0.5


def main() -> None:
    options = _parser().parse_args()
    bench.use_all_cores(1)
    found = {number: measure(number, options.blocks, options.trials) for number in options.candidates}
    if options.json:
        print(json.dumps({"trials": options.trials, "microseconds": found, **bench.machine_facts()}))
        return
    print("microseconds a step" + "".join(f"{size:>9}" for size in options.blocks))
    for number, costs in found.items():
        chosen = rollout.episodes_at_once(number)
        cells = "".join(f"{cost:8.3g}{'*' if size == chosen else ' '}" for size, cost in costs.items())
        print(f"{number:>7} candidates {cells}")


def measure(candidates: int, blocks: list[int], trials: int) -> dict[int, float]:
    """Microseconds a step by the size of a block."""
    episodes = max(blocks)
    problem = bench.make_problem(episodes, trials, candidates=candidates)
    sides = [bench.rollouts.batched_side(problem, episodes, at_once=size) for size in blocks]
    for side in sides:
        side.run()
    speeds = [[bench.speed(side, SECONDS) for side in sides] for _ in range(TURNS)]
    return {size: 1e6 / float(speed) for size, speed in zip(blocks, np.median(speeds, axis=0), strict=True)}


def _parser() -> argparse.ArgumentParser:
    numbers = lambda word: [int(part) for part in word.split(",") if part]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--candidates", type=numbers, default=[288, 1000, 2916, 10_000])
    parser.add_argument("--blocks", type=numbers, default=[4, 8, 16, 32, 64])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    main()
