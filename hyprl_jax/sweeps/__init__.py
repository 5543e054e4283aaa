"""Ablation sweeps: many settings of a training run, compared by their regret on validation tasks.

    plan     a file -> settings -> groups of settings that one compiled program trains
    group    that program
    jobs     what a process does: train a group, play test tasks with its policies
    run      a plan from start to end: these jobs in processes here or on a Ray cluster (`hyprl_jax.jobs`)
    report   table, plots, and the best setting

See docs/sweeps.md.
"""

from __future__ import annotations

from hyprl_jax.sweeps.plan import Plan, read_plan

__all__ = ["Plan", "read_plan"]
