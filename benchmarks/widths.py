"""How near the gradient update comes to the ceiling of matrix products, by the width of the network.

    python benchmarks/widths.py [--widths 16,64,256] [--episodes 1024] [--candidates 288] [--trials 20]
        [--json]

On one device, beside the ceilings of the same run. Cell and head of the network are equally wide; the default
agent is the first row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from hyprl_jax import bench
from hyprl_jax.bench import ceilings, parts
from hyprl_jax.bench.problem import Problem

TURNS, SECONDS = 5, 0.3


def main() -> None:
    options = _parser().parse_args()
    bench.use_all_cores(1)
    limits = ceilings.measure(TURNS, SECONDS)
    problem = bench.make_problem(options.episodes, options.trials, candidates=options.candidates)
    found = {width: measure(problem, width, limits) for width in options.widths}
    if options.json:
        print(json.dumps({"widths": found, "ceilings": limits.figures(), **bench.machine_facts()}))
        return
    print(f"matrix products reach {limits.matmul:.0f} GFLOP/s")
    print("width  operations of the fit  µs of the fit  of the ceiling  µs of a training step")
    for width, figures in found.items():
        print(
            f"{width:>5}{figures['flops']:>23,.0f}{figures['microseconds']:>15.3g}"
            f"{figures['of_matmul_ceiling']:>16.1%}{figures['whole_microseconds']:>23.3g}"
        )


def measure(problem: Problem, width: int, limits: ceilings.Ceilings) -> dict[str, Any]:
    """Figures of the fit for each environment step, and the time of a whole one."""
    config = problem.config
    network = dataclasses.replace(config.network, context=width, hidden=width)
    found = parts.measure(
        problem._replace(config=dataclasses.replace(config, network=network)), limits, TURNS, SECONDS
    )
    fit = found["parts"]["fit"]
    return {
        "flops": fit["flops_per_step"],
        "microseconds": fit["microseconds_per_step"],
        "of_matmul_ceiling": fit["of_matmul_ceiling"],
        "whole_microseconds": found["step"]["whole_microseconds"],
    }


def _parser() -> argparse.ArgumentParser:
    numbers = lambda word: [int(part) for part in word.split(",") if part]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--widths", type=numbers, default=[16, 64, 256])
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--candidates", type=int, default=288)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    main()
