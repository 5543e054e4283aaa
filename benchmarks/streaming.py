"""Training on a packed collection of 6 GB that is streamed from the disk: resident memory and throughput.

    python benchmarks/streaming.py [--gigabytes G] [--folder DIR] [--tasks N] [--chunks N] [--json]

Makes a synthetic packed collection of G (6) gigabytes in a temporary folder of DIR, which is removed at the
end, also after Ctrl-C. Then, each in a process of its own and with the file cache emptied before: `train`,
as `hyprl train` does it, for `--chunks` (12; 0: an epoch) over shards of `--tasks` (128) tasks, whose
peak resident memory the kernel tells; and turns of a chunk on a new shard and a chunk on one shard that is
held in memory, whose ratio of environment steps a second is taken pair by pair, so that what else the machine
does hits both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS, FEATURES = 20_480, 4
BLOCK = 256  # tasks that are made at once
KINDS = ("VmRSS", "RssAnon", "RssFile", "VmHWM")


def main() -> None:
    options = read_options()
    if options.child:
        answer = {"train": train, "turns": take_turns}[options.child](options)
        print(json.dumps(answer))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        needed, free = 1.05 * options.gigabytes * 1e9, shutil.disk_usage(options.folder).free
        if needed > free:
            sys.exit(f"{options.folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} are needed")
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streaming-", dir=options.folder)))
        answer = measure(options, work)
    print(json.dumps(answer) if options.json else table(answer))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tasks", type=int, default=128)
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("train", "turns"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Makes the collection and measures, every part in a process of its own."""
    began = time.monotonic()
    tasks = make_pack(work / "pack", options.gigabytes)
    made = time.monotonic() - began
    size = sum(file.stat().st_size for file in (work / "pack").iterdir())
    parts = {}
    for child in ("train", "turns"):
        forget_files(work / "pack")
        command = [sys.executable, __file__, "--child", child, "--work", str(work)]
        command += [
            "--tasks",
            str(options.tasks),
            "--chunks",
            str(options.chunks),
            "--turns",
            str(options.turns),
        ]
        parts[child] = answer_of(command)
    return {"bytes": size, "tasks": tasks, "columns": COLUMNS, "seconds_to_make": made, **parts}


def answer_of(command: list[str]) -> dict[str, Any]:
    """What a process of our own printed last, as JSON; the process ends with this one."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed = process.communicate()[0]
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return dict(json.loads(printed.splitlines()[-1]))


def make_pack(path: Path, gigabytes: float) -> int:
    """Writes bowls with noise, by blocks of tasks; how many tasks there are."""
    from hyprl_jax.streams import PackWriter
    from hyprl_jax.streams.files import CELL_BYTES
    from hyprl_jax.surfaces import TaskTables

    tasks = max(64, round(gigabytes * 1e9 / (COLUMNS * CELL_BYTES)))
    random = np.random.default_rng(0)
    encodings = random.uniform(size=(COLUMNS, FEATURES)).astype(np.float32)
    centres = random.uniform(0.2, 0.8, (tasks, FEATURES))
    nothing = np.zeros((tasks, 0))
    outline = TaskTables(
        collection="bowls",
        content_hash="",
        direction="maximize",
        tasks=tuple(f"task{number}" for number in range(tasks)),
        groups=tuple(f"data{number}" for number in range(tasks)),
        config_ids=np.arange(COLUMNS),
        encodings=encodings,
        feature_names=tuple(f"x{number}" for number in range(FEATURES)),
        objective=nothing,
        cost=nothing,
        metafeatures=centres + 0.1 * random.normal(size=centres.shape),
        metafeature_names=tuple(f"m{number}" for number in range(FEATURES)),
    )
    with PackWriter(path, outline) as writer:
        for begin in range(0, tasks, BLOCK):
            some = centres[begin : begin + BLOCK]
            distances = (some**2).sum(1)[:, None] - 2.0 * some @ encodings.T + (encodings**2).sum(1)
            writer.append(0.02 * random.normal(size=distances.shape) - distances)
    return tasks


def forget_files(folder: Path) -> None:
    """Has the system drop what it holds of the files in memory, so that they are read from the disk."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def configuration(options: argparse.Namespace, chunks: int) -> Any:
    from hyprl_jax.config import EnvConfig, LearnerConfig, StreamConfig, TrainConfig

    return TrainConfig(
        collections=(str(options.work / "pack"),),
        seeds=(0, 1),
        validation_plays=2,
        updates_per_chunk=2,
        env=EnvConfig(trials=20),
        learner=LearnerConfig(episodes=512, updates=2 * chunks, warmup=1),
        stream=StreamConfig(tasks=options.tasks, reference=8, validation=8),
    )


def epoch(options: argparse.Namespace) -> int:
    """Chunks of an epoch."""
    from hyprl_jax import training

    stream = training.load_data(configuration(options, 1)).stream
    assert stream is not None
    stream.pack.close()
    return -(-len(stream.sides[0].train) // options.tasks)


def train(options: argparse.Namespace) -> dict[str, Any]:
    """A run as `hyprl train` makes it: its peak memory in bytes, and what it did."""
    from hyprl_jax import training
    from hyprl_jax.devices import use_all_cores
    from hyprl_jax.runs import RunFolder

    use_all_cores()
    with Watch() as watch:
        chunks = options.chunks or epoch(options)
        training.train(configuration(options, chunks), options.work / "run")
    rows = RunFolder(options.work / "run").read_metrics()
    speeds = [row["env_steps_per_second"] for row in rows[1:]]  # the first chunk is compiled
    return {"chunks": len(rows), "env_steps_per_second": float(np.median(speeds)), "peak": watch.peaks}


class Watch:
    """The most memory that this process had resident while the `with` block ran, by kind, in bytes."""

    def __enter__(self) -> Watch:
        self.peaks = dict.fromkeys(KINDS, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self._note()

    def _note(self) -> None:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in self.peaks:
                    self.peaks[name] = max(self.peaks[name], 1024 * int(value.split()[0]))


def take_turns(options: argparse.Namespace) -> dict[str, Any]:
    """Speeds of chunks on new shards and on one that is held, in turns; and how long shards took to come."""
    import jax
    import jax.numpy as jnp

    from hyprl_jax import training
    from hyprl_jax.devices import use_all_cores
    from hyprl_jax.streams import Streamed, StreamedProgram, shards_ahead

    use_all_cores()
    chunks = options.turns + 1
    config = configuration(options, chunks)
    data = training.load_data(config)
    program, stream = StreamedProgram(config), data.stream
    assert stream is not None
    judged = program.place(data.bank, data.folds)
    reading: list[float] = []

    def read(chunk: int) -> tuple:
        began = time.monotonic()
        bank, folds = program.place(*jax.tree.map(jnp.asarray, stream.read(chunk)))
        jax.block_until_ready((bank, folds))
        reading.append(time.monotonic() - began)
        return Streamed(judged[0], bank), Streamed(judged[1], folds)

    state = program.start(*judged)
    seconds: dict[str, list[float]] = {"streamed": [], "held": []}
    with shards_ahead(read, 0, chunks) as shards:
        held = shards()
        state, metrics = program.chunk(state, *held)
        jax.block_until_ready(metrics)
        waited = shards.waited
        for turn in range(options.turns):
            for kind in ("streamed", "held") if turn % 2 else ("held", "streamed"):
                began = time.monotonic()
                state, metrics = program.chunk(state, *(shards() if kind == "streamed" else held))
                jax.block_until_ready(metrics)
                seconds[kind].append(time.monotonic() - began)
        waited = shards.waited - waited
    ratios = np.asarray(seconds["held"]) / np.asarray(seconds["streamed"])
    shard_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(stream.read(0)))
    return {
        **{name: program.steps_per_chunk / float(np.median(each)) for name, each in seconds.items()},
        "ratio": float(np.median(ratios)),
        "ratios": sorted(round(float(ratio), 3) for ratio in ratios),
        "seconds_to_read_a_shard": float(np.median(reading)),
        "seconds_waited_a_chunk": waited / options.turns,
        "seconds_a_chunk": float(np.median(seconds["streamed"])),
        "shard_bytes": shard_bytes,
    }


def table(answer: dict[str, Any]) -> str:
    """The figures for a reader."""
    run, turns = answer["train"], answer["turns"]
    peak = {kind: f"{size / 1e9:.2f} GB" for kind, size in run["peak"].items()}
    least, most = turns["ratios"][0], turns["ratios"][-1]
    lines = {
        "packed collection": f"{answer['tasks']:,} tasks x {answer['columns']:,} configurations, "
        f"{answer['bytes'] / 1e9:.2f} GB, made in {answer['seconds_to_make']:.0f} s",
        "a shard": f"{turns['shard_bytes'] / 1e6:.0f} MB, read and placed in "
        f"{turns['seconds_to_read_a_shard']:.2f} s, waited for {turns['seconds_waited_a_chunk']:.3f} s of "
        f"{turns['seconds_a_chunk']:.2f} s a chunk",
        "peak resident memory": f"{peak['VmHWM']} (anonymous {peak['RssAnon']}, of files {peak['RssFile']}) "
        f"in {run['chunks']} chunks",
        "whole run": f"{run['env_steps_per_second']:,.0f} environment steps a second",
        "streamed": f"{turns['streamed']:,.0f} environment steps a second",
        "held in memory": f"{turns['held']:,.0f} environment steps a second",
        "streamed / held": f"{turns['ratio']:.2f} (turns {least:.2f} to {most:.2f})",
    }
    return "\n".join(f"{name:22s} {words}" for name, words in lines.items())


if __name__ == "__main__":
    main()
