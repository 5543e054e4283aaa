"""Several processes, on one host or on many, that train one run together (multi-controller JAX).

Every process runs the same program on its own devices and exchanges what the grid of `hyprl_jax.mesh` asks
for. The first process alone touches the run folder: it writes what is fetched from all, and what it reads it
sends to the others, so that no file system need be shared. Decisions that depend on clocks and signals are
made together. A process that ends or falls silent ends the others: at once where a connection breaks,
otherwise after the `patience` they were given, with one line that says so.

With one process all functions here return what they are given.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hyprl_jax.errors import InputError, LostProcessError

_LOST = (
    "another process of this run did not come, has ended or does not answer: see what it said, then go on "
    "with `hyprl train --resume RUN`, with any number of processes"
)
# As XLA's transports and JAX's coordination service word it.
_BROKEN = re.compile(r"gloo|nccl|unavailable|deadline_exceeded|connection|coordination", re.IGNORECASE)
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_KEPT: list[Any] = []  # handlers that C code points to


@dataclass(frozen=True)
class Company:
    """Which process of how many this is; what is None is JAX's to find out from the cluster."""

    coordinator: str | None = None
    """`HOST:PORT` where the first process listens."""
    process: int | None = None
    processes: int | None = None


def find_company(given: Company, environment: Mapping[str, str] = os.environ) -> Company | None:
    """`given` with what it leaves open from the environment; None where there is but one process.

    JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID and JAX_NUM_PROCESSES come first; the task of a Slurm step
    (`srun`) and the index of a Kubernetes job (JOB_COMPLETION_INDEX) next. Raises InputError for numbers
    that make no sense.
    """
    slurm = in_slurm(environment)
    names = {
        "coordinator": ["JAX_COORDINATOR_ADDRESS"],
        "process": ["JAX_PROCESS_ID", *["SLURM_PROCID"] * slurm, "JOB_COMPLETION_INDEX"],
        "processes": ["JAX_NUM_PROCESSES", *["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"] * slurm],
    }
    found: dict[str, Any] = {}
    for field, variables in names.items():
        told = getattr(given, field)
        present = [name for name in variables if environment.get(name)]
        if told is None and present:
            told = environment[present[0]]
            if field != "coordinator":
                if not told.isdecimal():
                    raise InputError(f"the environment variable {present[0]} is {told!r}: set it to a number")
                told = int(told)
        found[field] = told
    company = Company(**found)
    if company.processes == 1:
        return None
    _check(company)
    return company


def in_slurm(environment: Mapping[str, str]) -> bool:
    """Whether this process is a task of a Slurm step, as JAX tells it."""
    return all(name in environment for name in _SLURM)


def _check(company: Company) -> None:
    process, processes = company.process, company.processes
    if processes is not None and processes < 1:
        raise InputError(f"--num-processes is {processes}: give at least 1")
    if process is not None and (process < 0 or (processes is not None and process >= processes)):
        raise InputError(f"--process-id is {process}: count from 0 to below --num-processes ({processes})")
    if company.coordinator is not None and not re.fullmatch(r".+:\d{1,5}", company.coordinator):
        raise InputError(f"--coordinator is {company.coordinator!r}: give HOST:PORT")


@contextlib.contextmanager
def joined(company: Company | None, patience: int) -> Iterator[None]:
    """Joins the other processes, before JAX has started, for the body of a `with`; for None does nothing.

    Whoever leaves by an exception does not say goodbye: the others could not answer, and are to notice.

    Raises:
      InputError: it is not known who the others are.
      LostProcessError: one of them is lost. Where JAX notices first, it aborts the process instead, which
        then ends with the same line.
    """
    if company is None:
        yield
        return
    try:
        with _stdout_to_stderr():
            _join(company, patience)
            yield
    except BaseException as fault:
        code = 2 if isinstance(fault, InputError) else 130 if isinstance(fault, KeyboardInterrupt) else 1
        atexit.register(_leave_at_once, code)
        ours = isinstance(fault, InputError) or not isinstance(fault, (ValueError, RuntimeError))
        if not ours and _BROKEN.search(str(fault)):
            raise LostProcessError(_LOST) from fault
        raise


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Gloo greets its peers on standard output, which is for answers."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _join(company: Company, patience: int) -> None:
    # JAX's own answer to SIGTERM would replace the clean stop.
    jax.config.update("jax_enable_preemption_service", False)
    # Programs that overlap would exchange their messages in another order in each process.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    whole = None not in (company.coordinator, company.process, company.processes)
    method = "slurm" if in_slurm(os.environ) else "deactivate" if whole else None
    _explain_abort()
    try:
        jax.distributed.initialize(
            company.coordinator,
            company.processes,
            company.process,
            cluster_detection_method=method,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=patience,
        )
    except ValueError as fault:
        raise InputError(
            f"not all is known of the processes of this run ({fault}): give --coordinator HOST:PORT, "
            "--process-id I and --num-processes N"
        ) from None
    except RuntimeError as fault:
        raise LostProcessError(_LOST) from fault


def _explain_abort() -> None:
    """JAX aborts a process whose company is lost, in a thread of its own: this adds a line and an exit code.

    Not a handler of Python's, which would run later, in the main thread: never, after an abort.
    """

    def explain(_: int) -> None:
        os.write(2, f"error: {_LOST}\n".encode())
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    _KEPT.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _leave_at_once(code: int) -> None:
    """Ends the process without the shutdown of JAX, which waits for the others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def is_first() -> bool:
    """Whether this is the process that reads and writes the run folder."""
    return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` returns in the first process, in all of them; what JSON can hold."""
    if jax.process_count() == 1:
        return make()
    from jax.experimental.multihost_utils import broadcast_one_to_all

    text = json.dumps(make()).encode() if is_first() else b""
    size = int(broadcast_one_to_all(np.int32(len(text))))
    buffer = np.zeros(size, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(broadcast_one_to_all(buffer)))


def arrays_from_first(tree: Any, like: Any) -> Any:
    """The arrays of `tree` of the first process, in all of them (`tree` of others is not read); `like` has
    the structure, shapes and dtypes."""
    if jax.process_count() == 1 or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        return tree
    from jax.experimental.multihost_utils import broadcast_one_to_all

    forms, structure = jax.tree.flatten(like)
    leaves = jax.tree.leaves(tree) if is_first() else [None] * len(forms)

    def send(leaf: Any, form: Any) -> Any:
        key = jax.dtypes.issubdtype(form.dtype, jax.dtypes.prng_key)
        plain = jax.eval_shape(jax.random.key_data, form) if key else form
        if leaf is None:
            values = np.zeros(plain.shape, plain.dtype)
        else:
            values = np.asarray(jax.random.key_data(leaf) if key else leaf)
        values = broadcast_one_to_all(values)
        return jax.random.wrap_key_data(values) if key else values

    return jax.tree.unflatten(structure, [send(*pair) for pair in zip(leaves, forms, strict=True)])


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each of the flags whether it is set in any process."""
    if jax.process_count() == 1:
        return flags
    from jax.experimental.multihost_utils import process_allgather

    return tuple(process_allgather(np.asarray(flags)).any(axis=0).tolist())


def check_same(facts: Any) -> None:
    """InputError unless `facts`, which JSON can hold, are the same in all processes."""
    if jax.process_count() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
    all_of_them = process_allgather(np.frombuffer(digest, np.uint8))
    if (all_of_them != all_of_them[0]).any():
        raise InputError(
            "the processes of this run differ in their configuration or their collections: give all the same"
        )


def fetch(tree: Any) -> Any:
    """`tree` of arrays that are spread over processes with all of each array in every process."""
    if jax.process_count() == 1:
        return tree

    def whole(leaf: jax.Array) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf)
            return jax.random.wrap_key_data(whole(data), impl=jax.random.key_impl(leaf))
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            assert isinstance(leaf.sharding, NamedSharding)
            leaf = _copied(NamedSharding(leaf.sharding.mesh, P()))(leaf)
        return np.asarray(leaf.addressable_data(0))

    return jax.tree.map(whole, tree)


def _copied(where: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(_same, out_shardings=where)


def _same(leaf: jax.Array) -> jax.Array:
    return leaf
