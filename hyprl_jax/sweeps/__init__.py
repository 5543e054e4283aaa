"""Ablation sweeps: many settings of a training run, compared by their regret on validation tasks.

    plan     a file -> settings -> groups of settings that one compiled program trains
    group    that program
    jobs     what a process does: train a group, play test tasks with its policies
    engine   jobs in processes here or on a Ray cluster, with resumption and a record of failures
    report   table, plots, and the best setting

`sweep` runs a plan from start to end; see docs/sweeps.md.
"""

from __future__ import annotations

from hyprl_jax.sweeps.plan import Plan, read_plan

__all__ = ["Plan", "read_plan"]
