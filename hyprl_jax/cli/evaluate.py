"""The verb `evaluate`: plays the test tasks of a split with a trained policy and with baselines."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hyprl_jax.cli.common import Command, JsonFlag, Outcome, UsageError
from hyprl_jax.cli.train import read_config_file

if TYPE_CHECKING:
    from hyprl_jax.config import TrainConfig
    from hyprl_jax.evaluation.studies import Study


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Play held-out tasks with a trained policy and with baselines; write trajectories, figures and plots.

    Examples:
      hyprl evaluate runs/first --out runs/first/evaluation --report
      hyprl evaluate runs/first --collections mlp --split kfold5 --fold 0 --methods policy,random --trials 25
      hyprl evaluate --collections svm --fold all --methods portfolio,tst_r,optuna_tpe --trials 50 --out peers

    What is left out is taken from the run: collections, split, folds and trials.

    Methods: policy, policy_ensemble (the mean Q-value of all seeds); random, mean_list, portfolio, gp_ei,
    prior_ei, start (what policies start from); transfer methods tst_r, tst_m, taf_r, taf_m, rgpe, ablr, fsbo,
    hyperbo, fmlp; the libraries optuna_tpe, optuna_gp, smac, botorch (extra `baselines`); and
    package.module:Name for a class of your own that asks and tells.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = (
        None
    )
    """The run folder; needed only if `policy` is among the methods."""
    collections: tuple[str, ...] = ()
    """Collections to play: folder names under meta_data/ or paths."""
    split: str | None = None
    """`loo`, `kfold5`, `holdout:N:SEED`, a published one (`metabo`, `hpob`), or a JSON file with train,
    validation and test tasks."""
    fold: Annotated[str | None, tyro.conf.arg(metavar="K[,K..]|all", help_behavior_hint="")] = None
    """Folds of the split; the tasks of several are pooled."""
    methods: tuple[str, ...] = ()
    """What to compare, see above; default: policies, random, mean_list, portfolio, gp_ei, prior_ei."""
    trials: int | None = None
    """Configurations tested on each task, shared starting points included."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0, 1, 2, 3, 4)
    """Seeds of the methods that draw random numbers."""
    starts: Annotated[str | None, tyro.conf.arg(metavar="N|published|FILE", help_behavior_hint="")] = None
    """Let all methods test the same N random configurations first, those published with the collection, or
    those of a JSON file."""
    published: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FILE[,..]", help_behavior_hint="")] = ()
    """Results that others published, in the form of HPO-B's files; needs the same --starts."""
    intervals: Literal["tasks", "groups"] = "tasks"
    """What is resampled for the confidence intervals: tasks, or groups of tasks from the same source."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder for trajectories.parquet, summary.json, table.md and plots; left out, nothing is written."""
    report: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write report.html, one page with everything, and table.tex too (needs --out)."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Worker processes for libraries (default: one a core)."""
    time_limit: Annotated[float, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="")] = 600.0
    """A library that takes longer for one suggestion has failed on that task."""
    cache: Annotated[str | None, tyro.conf.arg(metavar="DIR|none", help_behavior_hint="")] = None
    """Where finished plays of libraries are kept (default: a folder of the user's cache)."""
    json: JsonFlag = False


def run_evaluate(options: EvaluateOptions) -> Outcome:
    """Plays all methods on all folds, writes the evaluation where asked to, returns the summary."""
    if options.report and options.out is None:
        raise UsageError("a report needs a folder: add --out DIR")
    study = plan_study(options)
    from hyprl_jax.evaluation import write_evaluation
    from hyprl_jax.evaluation.studies import play_study

    frames, summary = play_study(study, command_line(), silent=False)
    if options.out is not None:
        write_evaluation(options.out, frames, summary, report=options.report)
    return Outcome(summary, _report(summary, options))


def plan_study(options: EvaluateOptions) -> Study:
    """The options with their gaps filled from the run; UsageError where nothing tells."""
    from hyprl_jax.evaluation.hosted import Hosting, default_cache
    from hyprl_jax.evaluation.studies import Study

    config = _run_config(options.run) if options.run is not None else None
    methods = options.methods or _all_methods(config)
    if {"policy", "policy_ensemble"} & set(methods) and config is None:
        raise UsageError("a policy needs a run: `hyprl evaluate RUN ...`, or leave it out of --methods")
    collections = options.collections or (config.collections if config else ())
    if not collections:
        raise UsageError("nothing to play: name collections (`--collections mlp`); see `hyprl surfaces list`")
    if options.fold is not None:
        folds = read_folds(options.fold)
    else:
        folds = config.folds if config else (0,)
    if options.cache == "none":
        cache = None
    else:
        cache = Path(options.cache) if options.cache else default_cache()
    return Study(
        collections=collections,
        split=options.split if options.split is not None else (config.split if config else "kfold5"),
        methods=methods,
        trials=options.trials if options.trials is not None else (config.env.trials if config else 25),
        folds=folds,
        seeds=options.seeds,
        run=options.run,
        starts=options.starts,
        published=tuple(_published(text) for text in options.published),
        by_groups=options.intervals == "groups",
        hosting=Hosting(cache=cache, jobs=options.jobs, time_limit=options.time_limit),
    )


def command_line() -> str:
    """The command as it was given, to be run again."""
    return shlex.join(["hyprl", *sys.argv[1:]])


def _published(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise UsageError(f"--published is {text!r}: write NAME=FILE, as `RGPE=results/RGPE.json`")
    return name, Path(file)


def read_folds(text: str) -> tuple[int, ...] | None:
    """`0,1,2` as numbers, `all` as None."""
    if text == "all":
        return None
    try:
        folds = tuple(int(word) for word in text.split(","))
    except ValueError:
        folds = ()
    if not folds or min(folds) < 0 or len(set(folds)) != len(folds):
        raise UsageError(f"--fold is {text!r}: give different numbers from 0 on, as `0,1,2`, or `all`")
    return folds


def _all_methods(config: TrainConfig | None) -> tuple[str, ...]:
    from hyprl_jax.baselines import BASELINES

    if config is None:
        return BASELINES
    return (("policy", "policy_ensemble") if len(config.seeds) > 1 else ("policy",)) + BASELINES


def _run_config(run: Path) -> TrainConfig:
    file = run / "config.json"
    if not file.is_file():
        raise UsageError(f"{run} is no run folder (it has no config.json): name one that `hyprl train` wrote")
    return read_config_file(file)


def _report(summary: dict[str, Any], options: EvaluateOptions) -> list[Any]:
    from hyprl_jax.evaluation import console_table
    from hyprl_jax.evaluation.table import describe_tests

    lines: list[Any] = [console_table(summary), *describe_tests(summary)]
    failures = summary.get("failures") or []
    if failures:
        first = failures[0]
        where = f"{first['method']} on {first['task']}, seed {first['seed']}, trial {first['trial']}"
        lines.append(f"{len(failures)} runs failed, first {where}: {first['reason']}")
    if options.out is not None:
        page = f"; the report is {options.out / 'report.html'}" if options.report else ""
        lines.append(f"trajectories, figures and plots are in {options.out}{page}")
    return lines


EVALUATE = Command(EvaluateOptions, run_evaluate)
