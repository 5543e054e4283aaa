"""Time of one environment step, rollout step and training step with 64 to 4096 parallel episodes.

    python benchmarks/scaling.py [--json]

On one device, so that a step of few episodes is not charged for cores that have nothing to do. Rollout and
training should be flat within a factor of 1.5; a bare environment step takes so little time that calling the
program at all weighs in below some hundred episodes.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from hyprl_jax import bench

EPISODES = (64, 256, 1024, 4096)
TURNS, SECONDS = 5, 0.4


def main() -> None:
    microseconds = measure()
    spread = {part: max(costs.values()) / min(costs.values()) for part, costs in microseconds.items()}
    if "--json" in sys.argv[1:]:
        print(json.dumps({"microseconds": microseconds, "largest_to_smallest": spread}))
        return
    print("microseconds a step   " + "".join(f"{number:>10}" for number in EPISODES) + "   largest/smallest")
    for part, costs in microseconds.items():
        numbers = "".join(f"{costs[number]:10.3f}" for number in EPISODES)
        print(f"{part:<22}{numbers}{spread[part]:19.2f}")


def measure() -> dict[str, dict[int, float]]:
    """Microseconds a step by part and number of episodes; the sizes take turns."""
    sides: dict[str, dict[int, bench.Side]] = {"environment": {}, "rollout": {}, "training": {}}
    for number in EPISODES:
        problem = bench.make_problem(number)
        sides["environment"][number] = bench.environment.batched_side(problem, number)
        sides["rollout"][number] = bench.rollouts.batched_side(problem, number)
        sides["training"][number] = bench.learning.batched_side(problem)
    return {part: _in_turns(by_number) for part, by_number in sides.items()}


def _in_turns(sides: dict[int, bench.Side]) -> dict[int, float]:
    for side in sides.values():
        side.run()
        side.run()
    speeds = [[bench.speed(side, SECONDS) for side in sides.values()] for _ in range(TURNS)]
    return {
        number: 1e6 / float(speed) for number, speed in zip(sides, np.median(speeds, axis=0), strict=True)
    }


if __name__ == "__main__":
    main()
