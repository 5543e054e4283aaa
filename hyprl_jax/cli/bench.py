"""The verb `bench`: environment steps, rollouts and training on this machine beside the ordinary loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from hyprl_jax.cli.common import Command, JsonFlag, Outcome


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure the throughput of this machine, each figure beside that of the ordinary Python loop.

    With --parts also where the time of a training step goes, and how far each part is from what the machine
    can do at best.

    Examples:
      hyprl bench --episodes 1024
      hyprl bench --parts --candidates 1000
    """

    episodes: int = 1024
    """Episodes played in parallel."""
    trials: int = 20
    """Configurations tested in an episode."""
    candidates: int = 288
    """Configurations of the search space."""
    turns: int = 7
    """Measurements of each side, taken in turns; the medians are shown."""
    seconds: float = 0.5
    """Length of one measurement."""
    parts: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take a training step apart: operations, bytes and time of each part, beside this machine's ceilings."""
    json: JsonFlag = False


def run_benchmark(options: BenchOptions) -> Outcome:
    """Runs the benchmark and shows its figures."""
    from hyprl_jax.bench import run_bench

    result = run_bench(
        options.episodes,
        options.trials,
        options.turns,
        options.seconds,
        candidates=options.candidates,
        by_parts=options.parts,
    )
    facts = f"{result['episodes']} episodes of {result['trials']} trials on {', '.join(result['devices'])}"
    facts = f"{facts}, {result['cpu_count']} cores, jax {result['jax']}"
    apart = [_table_of_parts(result), _ceilings(result)] if options.parts else []
    return Outcome(result, [_table(result), *apart, facts])


def _table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="environment steps per second")
    for heading in ("part", "here", "ordinary loop", "times the loop"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part in ("environment", "rollout", "training"):
        figures = result[part]
        names = ("env_steps_per_second", "loop_steps_per_second", "ratio_to_loop")
        table.add_row(part, *(f"{figures[name]:,.0f}" for name in names))
    return table


def _table_of_parts(result: dict[str, Any]) -> Any:
    from rich.table import Table

    title = f"a training step apart, {result['candidates']} candidates, {result['trials']} trials, one device"
    table = Table(title=title)
    headings = ("microseconds", "flops", "bytes", "GFLOP/s", "GB/s", "of matmul", "of memory")
    for heading in ("part", *headings):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part, figures in result["parts"].items():
        table.add_row(
            part,
            f"{figures['microseconds_per_step']:,.3f}",
            f"{figures['flops_per_step']:,.0f}",
            f"{figures['bytes_per_step']:,.0f}",
            f"{figures['gflops']:,.1f}",
            f"{figures['gigabytes_per_second']:,.1f}",
            f"{figures['of_matmul_ceiling']:.1%}",
            f"{figures['of_memory_ceiling']:.1%}",
        )
    step = result["step"]
    table.add_section()
    table.add_row("rest", f"{step['rest_microseconds']:,.3f}")
    table.add_row("whole step", f"{step['whole_microseconds']:,.3f}")
    return table


def _ceilings(result: dict[str, Any]) -> str:
    ceilings = result["ceilings"]
    return (
        f"ceilings: {ceilings['matmul_gflops']:,.0f} GFLOP/s, "
        f"{ceilings['cache_gigabytes_per_second']:,.0f} GB/s in cache, "
        f"{ceilings['memory_gigabytes_per_second']:,.1f} GB/s in memory"
    )


BENCH = Command(BenchOptions, run_benchmark)
