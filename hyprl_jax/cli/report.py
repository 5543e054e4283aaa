"""The verb `report`: the page of an evaluation made anew, or several evaluations as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hyprl_jax.cli.common import Command, JsonFlag, Outcome, UsageError


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Make report.html, table.tex and the pictures of an evaluation, or of several evaluations together.

    Examples:
      hyprl report runs/first/evaluation
      hyprl report runs/first/evaluation peers --out compared

    Several evaluations must be of the same tasks, split and trials, with different methods.
    """

    folders: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="EVALUATION [EVALUATION ..]", help_behavior_hint=""),
    ]
    """Folders that `hyprl evaluate --out` wrote."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where the evaluation of all of them goes; left out, the one folder gets its report."""
    json: JsonFlag = False


def run_report(options: ReportOptions) -> Outcome:
    """Writes the report and says where it is."""
    from hyprl_jax.evaluation import console_table
    from hyprl_jax.evaluation.merging import merge_evaluations
    from hyprl_jax.evaluation.report import read_summary, rebuild_report, write_evaluation

    if options.out is None:
        if len(options.folders) != 1:
            raise UsageError("several evaluations need a folder of their own: add --out DIR")
        page = rebuild_report(options.folders[0])
        summary = read_summary(options.folders[0] / "summary.json")
    else:
        frame, summary = merge_evaluations(options.folders)
        page = write_evaluation(options.out, frame, summary, report=True) / "report.html"
    return Outcome({"report": str(page), **summary}, [console_table(summary), f"the report is {page}"])


REPORT = Command(ReportOptions, run_report)
