"""The verb `evaluate`: plays the test tasks of a split with a trained policy and with baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from hyprl_jax.cli.common import Command, JsonFlag, Outcome, UsageError
from hyprl_jax.cli.train import read_config_file

if TYPE_CHECKING:
    import pandas as pd

    from hyprl_jax.config import TrainConfig

POLICIES = ("policy", "policy_ensemble")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Play held-out tasks with a trained policy and with baselines; write trajectories, figures and plots.

    Examples:
      hyprl evaluate runs/first --out runs/first/evaluation
      hyprl evaluate runs/first --collections mlp --split kfold5 --fold 0 --methods policy,random --trials 25
      hyprl evaluate --collections svm --fold all --methods mean_list,portfolio --trials 50 --out baselines

    What is left out is taken from the run: collections, split, folds and trials.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = (
        None
    )
    """The run folder; needed only if `policy` is among the methods."""
    collections: tuple[str, ...] = ()
    """Collections to play: folder names under meta_data/ or paths."""
    split: str | None = None
    """`loo`, `kfold5`, or a JSON file with train, validation and test tasks."""
    fold: Annotated[str | None, tyro.conf.arg(metavar="K[,K..]|all", help_behavior_hint="")] = None
    """Folds of the split; the tasks of several are pooled."""
    methods: tuple[str, ...] = ()
    """Any of policy, policy_ensemble (the mean Q-value of all seeds), random, mean_list, portfolio, gp_ei,
    prior_ei and start (what policies start from); default: all but start."""
    trials: int | None = None
    """Configurations tested on each task."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0, 1, 2, 3, 4)
    """Seeds of the methods that draw random numbers."""
    intervals: Literal["tasks", "groups"] = "tasks"
    """What is resampled for the confidence intervals: tasks, or groups of tasks from the same source."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder for trajectories.parquet, summary.json, table.md and plots; left out, nothing is written."""
    json: JsonFlag = False


@dataclass(frozen=True)
class Study:
    """What is played, with everything that the options left out filled in."""

    collections: tuple[str, ...]
    split: str
    folds: tuple[int, ...] | None
    methods: tuple[str, ...]
    trials: int


def run_evaluate(options: EvaluateOptions) -> Outcome:
    """Plays all methods on all folds, writes the evaluation where asked to, returns the summary."""
    study = plan_study(options)
    from hyprl_jax.evaluation import combine_folds, summarize, write_evaluation
    from hyprl_jax.surfaces import load_tables

    tables = [load_tables(name) for name in study.collections]
    folds = _folds(study, tables)
    frames = [_play_fold(options, study, tables, fold) for fold in folds]
    groups = None
    if options.intervals == "groups":
        groups = {task: group for one in tables for task, group in zip(one.tasks, one.groups, strict=True)}
    if len(folds) == 1:
        summary = summarize(frames, study.split, folds[0], groups)
    else:
        summary = combine_folds(frames, study.split, folds, groups)
    if options.out is not None:
        write_evaluation(options.out, frames, summary)
    return Outcome(summary, _report(summary, options.out))


def plan_study(options: EvaluateOptions) -> Study:
    """The options with their gaps filled from the run; UsageError where nothing tells."""
    config = _run_config(options.run) if options.run is not None else None
    methods = options.methods or _all_methods(config)
    if set(POLICIES) & set(methods) and config is None:
        raise UsageError("a policy needs a run: `hyprl evaluate RUN ...`, or leave it out of --methods")
    collections = options.collections or (config.collections if config else ())
    if not collections:
        raise UsageError("nothing to play: name collections (`--collections mlp`); see `hyprl surfaces list`")
    if options.fold is not None:
        folds = read_folds(options.fold)
    else:
        folds = config.folds if config else (0,)
    return Study(
        collections=collections,
        split=options.split if options.split is not None else (config.split if config else "kfold5"),
        folds=folds,
        methods=methods,
        trials=options.trials if options.trials is not None else (config.env.trials if config else 25),
    )


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
    return (POLICIES if len(config.seeds) > 1 else POLICIES[:1]) + BASELINES


def _run_config(run: Path) -> TrainConfig:
    file = run / "config.json"
    if not file.is_file():
        raise UsageError(f"{run} is no run folder (it has no config.json): name one that `hyprl train` wrote")
    return read_config_file(file)


def _folds(study: Study, tables: list[Any]) -> tuple[int, ...]:
    from hyprl_jax.surfaces import number_of_folds

    if study.folds is not None:
        return study.folds
    return tuple(range(min(number_of_folds(one, study.split) for one in tables)))


def _play_fold(options: EvaluateOptions, study: Study, tables: list[Any], fold: int) -> pd.DataFrame:
    import pandas as pd

    from hyprl_jax.evaluation import trajectories
    from hyprl_jax.evaluation.play import play_methods
    from hyprl_jax.surfaces import make_split

    frames = []
    for one in tables:
        split = make_split(one, study.split, fold)
        played = play_methods(study.methods, one, split, study.trials, options.seeds, run=options.run)
        frames.append(trajectories(one, split.test, played))
    return pd.concat(frames, ignore_index=True)


def _report(summary: dict[str, Any], out: Path | None) -> list[Any]:
    from hyprl_jax.evaluation import console_table
    from hyprl_jax.evaluation.table import describe_tests

    lines: list[Any] = [console_table(summary), *describe_tests(summary)]
    if out is not None:
        lines.append(f"trajectories, figures and plots are in {out}")
    return lines


EVALUATE = Command(EvaluateOptions, run_evaluate)
