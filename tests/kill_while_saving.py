"""Kills a process that saves checkpoints, again and again, and checks what is left; run by test_checkpoints.

`python kill_while_saving.py FOLDER ROUNDS SEED`. Each round forks a child that restores the newest one,
checks it, and saves one after the other until it is killed with SIGKILL at a random moment. The parent never
touches JAX itself, so that forking it stays safe. Exits with 0 only if no acknowledged checkpoint was ever
lost or damaged.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np
import orbax.checkpoint  # noqa: F401  (here, so that no child spends its short life on it)

from hyprl_jax.checkpoints import CheckpointStore


def state_of(step: int) -> dict[str, np.ndarray]:
    """A state that can be told from that of every other step."""
    return {"weights": np.full((200, 50), step, np.float32), "steps": np.arange(step, step + 300)}


def save_until_killed(folder: str, acknowledged: int, pipe: int) -> None:
    """Checks what is there, then saves step after step and acknowledges each with one line."""
    reports: list[str] = []
    store = CheckpointStore(folder, report=reports.append)
    step = -1
    if acknowledged >= 0:
        step, state, metadata = store.restore(state_of(0))
        sound = metadata == {"step": step} and all(
            np.array_equal(state[name], value) for name, value in state_of(step).items()
        )
        if step < acknowledged or not sound or reports:
            print(f"step {step}, acknowledged {acknowledged}, sound {sound}, {reports}", file=sys.stderr)
            os._exit(3)
    while True:
        step += 1
        started = time.monotonic()
        store.save(step, state_of(step), {"step": step})
        os.write(pipe, b"%d %f\n" % (step, time.monotonic() - started))


def main(folder: str, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged = -1
    for _ in range(rounds):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            save_until_killed(folder, acknowledged, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as lines:
            # The first save shows how long one takes on this machine; the kill comes in a later one.
            first = lines.readline().split()
            if len(first) != 2:
                sys.exit(3)
            time.sleep(chance.uniform(0.0, 3.0 * float(first[1])))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            rest = [int(line.split()[0]) for line in lines.read().split(b"\n")[:-1]]
        acknowledged = max([int(first[0]), *rest])
    print(f"acknowledged {acknowledged}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
