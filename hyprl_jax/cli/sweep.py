"""The verb `sweep`: many settings of a training run, compared; a table and plots at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hyprl_jax.cli.common import FAILURE, INTERRUPTED, SUCCESS, Command, JsonFlag, Outcome, UsageError

if TYPE_CHECKING:
    from hyprl_jax.sweeps.plan import Plan
    from hyprl_jax.sweeps.run import Swept

_SHOWN = 20  # settings printed; table.md has all


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Train many settings and compare them by their regret on validation tasks.

    Examples:
      hyprl sweep sweep.toml --out runs/sweep
      hyprl sweep sweep.toml --out runs/sweep --jobs 2 --retry
      hyprl sweep sweep.toml --out shared/sweep --ray 10.0.0.1:6379 --gpus-per-job 1

    A sweep.toml:
      collections = ["mlp"]
      folds = [0, 1]
      seeds = [0, 1, 2]

      [grid]
      learner.learning_rate = [1e-3, 3e-3, 1e-2]
      network.cell = ["gru", "none"]

      [evaluate]
      methods = ["policy", "start"]

    Settings that differ in numbers alone share one compiled program. The same command goes on after Ctrl-C, a
    crash or a power cut. DIR gets table.md, results.csv, plots, best.json (for `hyprl train --config`), and
    one run folder a setting under settings/ (for `hyprl evaluate` and `hyprl export`). See docs/sweeps.md.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
    """The sweep: a TOML or JSON file with fields of the configuration, `grid`, `list`, `evaluate`."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
    """Folder of the sweep: a new one, or that of the same sweep, which goes on."""
    jobs: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 1)")] = 1
    """Groups of settings trained at the same time, each in a process of its own."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS|local", help_behavior_hint="")] = None
    """Train on a Ray cluster instead (extra `ray`); DIR must be reachable from all its machines."""
    cpus_per_job: Annotated[float, tyro.conf.arg(metavar="X", help_behavior_hint="(default: 1)")] = 1.0
    """With --ray: CPUs that a group of settings occupies."""
    gpus_per_job: Annotated[float, tyro.conf.arg(metavar="X", help_behavior_hint="(default: 0)")] = 0.0
    """With --ray: GPUs that a group of settings occupies."""
    retry: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run again what failed."""
    json: JsonFlag = False


def run_sweep_verb(options: SweepOptions) -> Outcome:
    """Reads the plan, runs what is missing of it, says what came out."""
    from hyprl_jax.devices import cores
    from hyprl_jax.jobs import open_runner
    from hyprl_jax.jobs.display import show_jobs
    from hyprl_jax.sweeps.plan import read_plan
    from hyprl_jax.sweeps.run import run_sweep

    if options.jobs < 1:
        raise UsageError(f"--jobs is {options.jobs}: give 1 or more")
    if options.ray is not None and options.jobs != 1:
        raise UsageError("--jobs is for this machine; with --ray the cluster says how many run: leave it out")
    if min(options.cpus_per_job, options.gpus_per_job) < 0:
        raise UsageError("--cpus-per-job and --gpus-per-job are numbers from 0 on")
    plan = read_plan(options.file)
    most = cores() // options.jobs if options.ray is None else int(options.cpus_per_job)
    with open_runner(options.ray, options.jobs, options.cpus_per_job, options.gpus_per_job) as runner:
        swept = run_sweep(plan, options.out, runner, max(1, most), options.retry, show_jobs)
    return _outcome(plan, swept, options)


def _outcome(plan: Plan, swept: Swept, options: SweepOptions) -> Outcome:
    result: dict[str, Any] = {
        "sweep": options.out,
        "settings": len(plan.settings),
        "groups": len(plan.groups()),
        "finished": len(swept.results),
        "failed": swept.failed,
        "interrupted": bool(swept.left),
        "best": None,
        "results": [
            {
                "setting": one.setting.name,
                "values": one.values,
                "validation_regret": one.validation._asdict(),
                "difference": one.difference._asdict(),
                "training_regret": one.train,
                "test_regret": one.test,
                "seconds": one.seconds,
                "best_seed": one.best_seed,
                "learned": one.learned,
                "run": options.out / "settings" / one.setting.name,
            }
            for one in swept.results
        ],
    }
    if swept.results:
        result["best"] = {"setting": swept.results[0].setting.name, "config": options.out / "best.json"}
    code = INTERRUPTED if swept.left else FAILURE if swept.failed else SUCCESS
    return Outcome(result, _text(plan, swept, options.out), code)


def _text(plan: Plan, swept: Swept, out: Path) -> list[Any]:
    from hyprl_jax.sweeps.report import NOTHING_LEARNED, nothing_learned

    lines: list[Any] = []
    if swept.results:
        lines += [_table(plan, swept)]
        if len(swept.results) > _SHOWN:
            lines.append(f"{len(swept.results) - _SHOWN} more settings are in {out / 'table.md'}")
        best = swept.results[0].setting.name
        lines.append(
            f"best by validation tasks: {best}; train it anew with: hyprl train --config {out / 'best.json'}"
        )
        if nothing_learned(swept.results):
            lines.append(NOTHING_LEARNED)
        lines.append(f"table, plots and runs are in {out}")
    lines += [f"{name} failed: {reason}" for name, reason in swept.failed.items()]
    if swept.failed:
        lines.append("run the same command with --retry to try them again")
    if swept.left:
        lines.append("stopped; the same command goes on")
    return lines


def _table(plan: Plan, swept: Swept) -> Any:
    from rich.table import Table

    from hyprl_jax.sweeps.report import short_names, shown

    table = Table(title="regret, best first (95% intervals)", title_justify="left")
    methods = plan.evaluate.methods if plan.evaluate else ()
    for name in (*short_names(plan.fields).values(), "validation", "training"):
        table.add_column(name)
    for name in methods:
        table.add_column(f"test: {name}")
    for one in swept.results[:_SHOWN]:
        tests = [f"{(one.test or {}).get(name, {}).get('regret', float('nan')):.4f}" for name in methods]
        table.add_row(*map(shown, one.values.values()), str(one.validation), f"{one.train:.4f}", *tests)
    return table


SWEEP = Command(SweepOptions, run_sweep_verb)
