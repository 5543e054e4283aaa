"""Throughput of this machine: environment steps, rollouts and training, each beside the ordinary Python loop.

`run_bench` measures all three in one process, in turns (see `timing`), on random surfaces of the size of the
SVM table (see `problem`). What the conventional loop does is written in `environment`, `rollouts` and
`learning`.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import jax

from hyprl_jax.bench import environment, learning, rollouts
from hyprl_jax.bench.problem import Problem, make_problem
from hyprl_jax.bench.timing import Figures, Side, compare, speed
from hyprl_jax.devices import cores, use_all_cores
from hyprl_jax.errors import InputError

__all__ = [
    "Figures",
    "Problem",
    "Side",
    "compare",
    "environment",
    "learning",
    "machine_facts",
    "make_problem",
    "rollouts",
    "run_bench",
    "speed",
    "use_all_cores",
]


def run_bench(episodes: int = 1024, trials: int = 20, turns: int = 7, seconds: float = 0.5) -> dict[str, Any]:
    """Speeds and ratios of the three parts, and facts about the machine; JSON-able.

    `{"environment": {"env_steps_per_second", "loop_steps_per_second", "ratio_to_loop", "ratio_range"},
    "rollout": {..}, "training": {..}, "episodes", "trials", ...}`. Each part takes about `2 * turns *
    seconds` and its compilation.

    Raises InputError for numbers that cannot be measured or trained with.
    """
    for name, number in (("episodes", episodes), ("trials", trials), ("turns", turns)):
        if number < 1:
            raise InputError(f"bench: {name} is {number}: give at least 1")
    use_all_cores()
    problem = make_problem(episodes, trials)
    parts = {
        "environment": (
            environment.batched_side(problem, episodes),
            environment.loop_side(problem, min(episodes, 32)),
        ),
        "rollout": (rollouts.batched_side(problem, episodes), rollouts.loop_side(problem, min(episodes, 4))),
        "training": (learning.batched_side(problem), learning.loop_side(problem, min(episodes, 4))),
    }
    measured = {name: compare(batched, loop, turns, seconds) for name, (batched, loop) in parts.items()}
    return {**measured, "episodes": episodes, "trials": trials, **_size(problem), **machine_facts()}


def machine_facts() -> dict[str, Any]:
    """Where the figures were measured; JSON-able."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "platform": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "cpu_count": cores(),
        "load_average": load,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _size(problem: Problem) -> dict[str, int]:
    tasks, candidates = problem.bank.legal.shape
    return {"tasks": tasks, "candidates": candidates}
