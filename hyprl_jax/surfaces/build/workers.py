"""Computing pieces: in this process, or spread over worker processes that cannot outlive the build.

Workers are started afresh (spawned), so they inherit no threads of JAX; each uses one thread, ignores Ctrl-C
(the build handles it) and leaves as soon as the building process is gone, however it went.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from hyprl_jax.surfaces.build.pieces import Piece
from hyprl_jax.surfaces.build.recipe import Recipe
from hyprl_jax.surfaces.build.sources import stream
from hyprl_jax.surfaces.build.tasks import load_task

Columns = dict[str, np.ndarray]
Job = tuple[Piece, list[dict[str, Any]]]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute(
    recipe: Recipe, jobs: Sequence[Job], seed: int, workers: int
) -> Generator[tuple[Piece, Columns], None, None]:
    """Train every piece and yield it when it is done; with one worker in this process and in order."""
    if workers <= 1 or len(jobs) <= 1:
        for piece, configs in jobs:
            yield piece, train_piece(recipe, piece.task, configs, seed)
        return
    yield from _in_processes(recipe, jobs, seed, workers)


def train_piece(recipe: Recipe, task: str, configs: list[dict[str, Any]], seed: int) -> Columns:
    """Train configurations of one task, with numerical libraries held to one thread."""
    from threadpoolctl import threadpool_limits

    data = load_task(task, seed)
    with threadpool_limits(limits=1):
        return recipe.evaluate(data, configs, stream(seed, recipe.name, task))


def _in_processes(
    recipe: Recipe, jobs: Sequence[Job], seed: int, workers: int
) -> Generator[tuple[Piece, Columns], None, None]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
    try:
        futures = {
            pool.submit(_train_named, recipe.name, piece.task, configs, seed): piece
            for piece, configs in jobs
        }
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process died (out of memory?): build again to go on from the kept pieces"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _train_named(recipe: str, task: str, configs: list[dict[str, Any]], seed: int) -> Columns:
    from hyprl_jax.surfaces.build import RECIPES

    return train_piece(RECIPES[recipe], task, configs, seed)


def _start_worker() -> None:
    """Settings that must stand before the numerical libraries are loaded, and the watch on the parent."""
    import multiprocessing
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
