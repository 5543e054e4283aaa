"""Throughput of this machine: environment steps, rollouts and training, each beside the ordinary Python loop.

`run_bench` measures all three in one process, in turns (see `timing`), on random surfaces of the size of the
SVM table (see `problem`). What the conventional loop does is written in `environment`, `rollouts` and
`learning`. On request it takes a training step apart (see `parts`) and sets the parts beside what the machine
can do at best (see `ceilings`).
"""

from __future__ import annotations

import os
import platform
from typing import Any

import jax

from hyprl_jax.bench import ceilings, environment, learning, parts, rollouts
from hyprl_jax.bench.problem import Problem, make_problem
from hyprl_jax.bench.timing import Figures, Side, compare, speed
from hyprl_jax.devices import cores, use_all_cores
from hyprl_jax.errors import InputError

__all__ = [
    "Figures",
    "Problem",
    "Side",
    "ceilings",
    "compare",
    "environment",
    "learning",
    "machine_facts",
    "make_problem",
    "parts",
    "rollouts",
    "run_bench",
    "speed",
    "use_all_cores",
]


def run_bench(
    episodes: int = 1024,
    trials: int = 20,
    turns: int = 7,
    seconds: float = 0.5,
    *,
    candidates: int = 288,
    by_parts: bool = False,
) -> dict[str, Any]:
    """Speeds and ratios of the three parts, and facts about the machine; JSON-able.

    `{"environment": {"env_steps_per_second", "loop_steps_per_second", "ratio_to_loop", "ratio_range"},
    "rollout": {..}, "training": {..}, "episodes", "trials", ...}`. Each part takes about `2 * turns *
    seconds` and its compilation. With `by_parts` also `"parts"` and `"step"` of `parts.measure` and
    `"ceilings"` of `ceilings.Ceilings.figures`.

    Raises InputError for numbers that cannot be measured or trained with.
    """
    _check(episodes, trials, turns, seconds, candidates)
    use_all_cores()
    problem = make_problem(episodes, trials, candidates=candidates)
    sides = {
        "environment": (
            environment.batched_side(problem, episodes),
            environment.loop_side(problem, min(episodes, 32)),
        ),
        "rollout": (rollouts.batched_side(problem, episodes), rollouts.loop_side(problem, min(episodes, 4))),
        "training": (learning.batched_side(problem), learning.loop_side(problem, min(episodes, 4))),
    }
    measured = {name: compare(batched, loop, turns, seconds) for name, (batched, loop) in sides.items()}
    if by_parts:
        limits = ceilings.measure(turns, seconds / 4)
        taken_apart = parts.measure(parts.with_all_candidates(problem), limits, turns, seconds / 4)
        measured |= {**taken_apart, "ceilings": limits.figures()}
    return {**measured, "episodes": episodes, "trials": trials, **_size(problem), **machine_facts()}


def _check(episodes: int, trials: int, turns: int, seconds: float, candidates: int) -> None:
    for name, number in (("episodes", episodes), ("trials", trials), ("turns", turns)):
        if number < 1:
            raise InputError(f"bench: {name} is {number}: give at least 1")
    if not 0.0 < seconds < float("inf"):
        raise InputError(f"bench: seconds is {seconds}: give a number above 0")
    if candidates < 2:
        raise InputError(f"bench: candidates is {candidates}: give at least 2")
    if trials >= candidates:
        raise InputError(
            f"bench: trials is {trials} and candidates {candidates}: give more candidates than trials"
        )


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
