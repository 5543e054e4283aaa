"""The verb `bench`: environment steps, rollouts and training on this machine beside the ordinary loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hyprl_jax.cli.common import Command, JsonFlag, Outcome


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure the throughput of this machine, each figure beside that of the ordinary Python loop.

    Example:
      hyprl bench --episodes 1024
    """

    episodes: int = 1024
    """Episodes played in parallel."""
    json: JsonFlag = False


def run_bench(options: BenchOptions) -> Outcome:
    """Runs the benchmark and shows its figures."""
    from hyprl_jax import bench

    result = bench.run_bench(episodes=options.episodes)
    return Outcome(result, [_table(result)])


def _table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="environment steps per second")
    for heading in ("part", "steps per second", "times the loop"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for part, figures in result.items():
        if isinstance(figures, dict) and "env_steps_per_second" in figures:
            speed, ratio = figures["env_steps_per_second"], figures.get("ratio_to_loop")
            table.add_row(part, f"{speed:,.0f}", "" if ratio is None else f"{ratio:,.0f}")
    return table


BENCH = Command(BenchOptions, run_bench)
