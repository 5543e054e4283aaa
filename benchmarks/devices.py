"""Throughput of training on several devices and in several processes, beside that on one device.

    python benchmarks/devices.py [--devices 1,2,4,8] [--processes 2] [--seeds 1,2] [--surfaces replicated]
        [--episodes 1024] [--seconds 20] [--json]

Trains the default agent on random surfaces of the SVM size through `hyprl train`'s own program, each setting
in fresh processes: with one seed devices share its episodes, with as many seeds as devices nothing is
exchanged. Devices of a CPU are its cores; more than that are forced, and only show what the exchange costs.
Environment steps a second are those of the whole run, of whole chunks of updates with their validation; the
first chunk, which compiles, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from typing import Any


def main() -> None:
    options = _parser().parse_args()
    if options.child:
        print(json.dumps(measure(json.loads(options.child))))
        return
    base = {"episodes": options.episodes, "seconds": options.seconds, "surfaces": options.surfaces}
    rows = []
    for seeds in options.seeds:
        settings = [{"devices": number, "processes": 1} for number in options.devices]
        settings += [{"devices": 1, "processes": number} for number in options.processes]
        for setting in settings:
            row = in_fresh_processes({**base, **setting, "seeds": seeds})
            alone = rows[-(len(rows) % len(settings))] if len(rows) % len(settings) else row
            row["to_first"] = row["env_steps_per_second"] / alone["env_steps_per_second"]
            rows.append(row)
            if not options.json:
                _tell(row)
    if options.json:
        print(json.dumps({"episodes": options.episodes, "surfaces": options.surfaces, "rows": rows}))


def in_fresh_processes(setting: dict[str, Any]) -> dict[str, Any]:
    """What `measure` finds, with as many processes as `setting` says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        setting = {**setting, "port": free.getsockname()[1]}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", json.dumps({**setting, "process": number})],
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(setting["processes"])
    ]  # fmt: skip
    answers = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a process of {setting} has failed")
    found: dict[str, Any] = json.loads(answers[0].splitlines()[-1])
    return found


def measure(setting: dict[str, Any]) -> dict[str, Any]:
    """Environment steps a second of this process and its company, and how members and episodes were dealt
    out."""
    import dataclasses

    import jax

    from hyprl_jax import bench, devices, hosts
    from hyprl_jax.program import Program

    jax.config.update("jax_num_cpu_devices", setting["devices"])  # more than there are cores, too
    os.environ["XLA_FLAGS"] = devices.compiler_flags(os.environ.get("XLA_FLAGS", ""))
    company = None
    if setting["processes"] > 1:
        company = hosts.Company(f"127.0.0.1:{setting['port']}", setting["process"], setting["processes"])
    with hosts.joined(company, 120):
        problem = bench.make_problem(setting["episodes"])
        program = Program(
            dataclasses.replace(
                problem.config, folds=(0,), seeds=tuple(range(setting["seeds"])),
                surfaces=setting["surfaces"],
            )
        )  # fmt: skip
        folds = jax.tree.map(lambda leaf: leaf[None], problem.fold)
        bank, folds = program.place(problem.bank, folds)
        state, metrics = program.chunk(program.start(bank, folds), bank, folds)
        jax.block_until_ready((state, metrics))
        chunks, began, over = 0, time.perf_counter(), False
        while not over:
            state, metrics = program.chunk(state, bank, folds)
            jax.block_until_ready((state, metrics))
            chunks, took = chunks + 1, time.perf_counter() - began
            (over,) = hosts.any_of(took > setting["seconds"])
    held = bank.unit.addressable_shards[0].data.nbytes
    return {
        **{name: setting[name] for name in ("devices", "processes", "seeds")},
        "grid": list(program.layout.shape),
        "env_steps_per_second": chunks * program.steps_per_chunk / took,
        "surface_bytes_per_device": 4 * held,
    }


def _tell(row: dict[str, Any]) -> None:
    grid = " x ".join(map(str, row["grid"]))
    print(
        f"{row['processes']} processes of {row['devices']} devices, {row['seeds']} seeds: grid {grid}, "
        f"{row['env_steps_per_second']:,.0f} steps/s, {row['to_first']:.2f} of the first",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    numbers = lambda word: [int(part) for part in word.split(",") if part]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=numbers, default=[2])
    parser.add_argument("--seeds", type=numbers, default=[1, 2])
    parser.add_argument("--surfaces", choices=("replicated", "sharded"), default="replicated")
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
