"""What each part of a training step costs at several sizes, beside the model of docs/performance.md.

    python benchmarks/performance.py                # 100, 1000, 10000 candidates by 20, 50, 100 trials
    python benchmarks/performance.py --candidates 100 --trials 20 --keep

For every size it counts the operations and bytes of each part with XLA, measures its time on one device, and
sets both beside the model: the time of the model is what computing or moving bytes takes at the machine's own
ceilings, whichever is larger. `--keep` writes the table between the two marks of docs/performance.md,
`--json` prints everything as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hyprl_jax import bench
from hyprl_jax.bench import ceilings, model, parts
from hyprl_jax.errors import InputError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- performance: made by benchmarks/performance.py -->", "<!-- end of performance -->"
CANDIDATES, TRIALS = (100, 1000, 10_000), (20, 50, 100)
HEADS = (
    "N", "T", "part", "flops", "counted / model", "bytes", "counted / model", "µs, model", "µs, measured",
    "measured / model", "of matmul", "of memory",
)  # fmt: skip


def main(words: list[str]) -> None:
    options = read_options(words)
    sizes = [
        (candidates, trials)
        for candidates in options.candidates
        for trials in options.trials
        if trials < candidates
    ]
    if not sizes:
        raise InputError("no size has more candidates than trials: give more candidates")
    result = measure(sizes, options.episodes, options.turns, options.seconds)
    if options.keep:
        keep(markdown(result), PAGE)
    print(json.dumps(result, allow_nan=False) if options.json else markdown(result))


def read_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--candidates", type=_numbers, default=CANDIDATES, help="numbers with commas")
    parser.add_argument("--trials", type=_numbers, default=TRIALS, help="numbers with commas")
    parser.add_argument("--episodes", type=int, default=128, help="parallel episodes, a multiple of 16")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each; the best counts")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of one measurement")
    parser.add_argument("--keep", action="store_true", help="write the table into docs/performance.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args(words)


def measure(sizes: list[tuple[int, int]], episodes: int, turns: int, seconds: float) -> dict[str, Any]:
    """`{"grid": [{"candidates", "trials", "parts", "step"}, ..], "ceilings", "machine", "episodes"}`."""
    bench.use_all_cores()
    limits = ceilings.measure(turns, seconds)
    grid = []
    for candidates, trials in sizes:
        problem = parts.with_all_candidates(bench.make_problem(episodes, trials, candidates=candidates))
        found = parts.measure(problem, limits, turns, seconds)
        for figures in found["parts"].values():
            predicted = model.Prediction(figures["model_flops_per_step"], figures["model_bytes_per_step"])
            bandwidth = limits.bandwidth(figures["working_set_bytes"])
            figures["model_microseconds"] = model.microseconds(predicted, limits.matmul, bandwidth)
        grid.append({"candidates": candidates, "trials": trials, **found})
        print(f"{candidates} candidates, {trials} trials: measured", file=sys.stderr)
    facts = bench.machine_facts()
    return {"grid": grid, "ceilings": limits.figures(), "machine": facts, "episodes": episodes}


def markdown(result: dict[str, Any]) -> str:
    """The table, and where it was measured."""
    machine, limits = result["machine"], result["ceilings"]
    lines = [
        f"One device of {machine['cpu_count']} cores ({', '.join(sorted(set(machine['devices'])))}), load "
        f"average {machine['load_average']:.1f}, jax {machine['jax']}, {result['episodes']} episodes. "
        f"Ceilings: {limits['matmul_gflops']:.0f} GFLOP/s; "
        f"{limits['cache_gigabytes_per_second']:.0f} GB/s in cache, "
        f"{limits['memory_gigabytes_per_second']:.1f} GB/s in memory.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "| ---: | ---: | --- |" + " ---: |" * (len(HEADS) - 3),
    ]
    for one in result["grid"]:
        size = [str(one["candidates"]), str(one["trials"])]
        lines += [_line([*size, name, *_cells(figures)]) for name, figures in one["parts"].items()]
        step, nothing = one["step"], [""] * 5
        lines.append(_line([*size, "rest", *nothing, f"{step['rest_microseconds']:.3g}", "", "", ""]))
        lines.append(_line([*size, "whole step", *nothing, f"{step['whole_microseconds']:.3g}", "", "", ""]))
    return "\n".join(lines)


def keep(table: str, page: Path) -> None:
    """Puts the table between the marks of the page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _cells(figures: dict[str, Any]) -> list[str]:
    flops, moved = figures["flops_per_step"], figures["xla_bytes_per_step"]
    measured, predicted = figures["microseconds_per_step"], figures["model_microseconds"]
    return [
        f"{flops:,.0f}",
        f"{flops / figures['model_flops_per_step']:.2f}",
        f"{moved:,.0f}",
        f"{moved / figures['model_bytes_per_step']:.2f}",
        f"{predicted:.3g}",
        f"{measured:.3g}",
        f"{measured / predicted:.1f}",
        f"{figures['of_matmul_ceiling']:.1%}",
        f"{figures['of_memory_ceiling']:.1%}",
    ]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as mistake:
        sys.exit(str(mistake))
