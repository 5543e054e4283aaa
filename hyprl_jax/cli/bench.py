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
    trials: int = 20
    """Configurations tested in an episode."""
    turns: int = 7
    """Measurements of each side, taken in turns; the medians are shown."""
    seconds: float = 0.5
    """Length of one measurement."""
    json: JsonFlag = False


def run_benchmark(options: BenchOptions) -> Outcome:
    """Runs the benchmark and shows its figures."""
    from hyprl_jax.bench import run_bench

    result = run_bench(options.episodes, options.trials, options.turns, options.seconds)
    facts = f"{result['episodes']} episodes of {result['trials']} trials on {', '.join(result['devices'])}"
    return Outcome(result, [_table(result), f"{facts}, {result['cpu_count']} cores, jax {result['jax']}"])


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


BENCH = Command(BenchOptions, run_benchmark)
