"""Jobs that may take hours, in processes here or on a Ray cluster: every one once, resumed after any
interruption, failures recorded without stopping the others.

    engine   what a job is, its record, `run_jobs`
    worker   the process that does jobs
    local    such processes on this machine
    on_ray   such processes on a Ray cluster
    display  how far the jobs are

Sweeps train their groups of settings with it, and `surfaces build` its pieces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from hyprl_jax.jobs.engine import Event, Job, Runner, Stopped, Tally, run_jobs

__all__ = ["Event", "Job", "Runner", "Stopped", "Tally", "open_runner", "run_jobs"]


@contextlib.contextmanager
def open_runner(
    ray: str | None = None,
    workers: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    fresh: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Runner]:
    """Where jobs are done for as long as the block lasts: `workers` processes here, or with `ray` (an
    address, or `local`) a cluster, of which each job occupies so many CPUs and GPUs.

    fresh: each job in a process of its own; otherwise a process does one job after another. environment:
    variables that the processes start with. InputError if there is no Ray, or no cluster.
    """
    from hyprl_jax.jobs.local import LocalRunner
    from hyprl_jax.jobs.on_ray import RayRunner

    if ray is None:
        yield LocalRunner(workers, fresh, environment)
        return
    cluster = RayRunner(ray, cpus, gpus, fresh, environment)
    try:
        yield cluster
    finally:
        cluster.close()
