"""The verb `train`: every field of `TrainConfig` is an option, on top of a configuration file or a preset if
given."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hyprl_jax.cli.common import INTERRUPTED, Command, JsonFlag, Outcome, UsageError, read_options
from hyprl_jax.config import TrainConfig, from_dict
from hyprl_jax.errors import InputError
from hyprl_jax.presets import PRESETS

_ALIASES = {"--seed": "--seeds", "--fold": "--folds"}
# Who trains, and not what: this may be another matter after an interruption.
_WHO = ("--coordinator", "--process-id", "--num-processes", "--distributed", "--patience", "--devices")
_LARGEST_CONFIG_FILE = 1_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Pretrain recurrent Q-policies on collections of response surfaces.

    Examples:
      hyprl train --collections mlp --split kfold5 --fold 0 --seed 0,1,2 --out runs/first
      hyprl train --config my.json --learner.learning-rate 5e-4 --fold all --out runs/second
      hyprl train --preset hyprl2019 --collections nnmeta --fold all --out runs/published
      hyprl train --resume runs/first
      hyprl train --coordinator node1:9876 --num-processes 2 --process-id 0 --collections mlp --out runs/third

    --seed and --fold may be written for --seeds and --folds; `--fold all` trains every fold of the split.
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Folder of the new run (default: runs/DATE-TIME)."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with an interrupted run, with its own configuration."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Several processes train this run: where the first of them listens (see docs/distributed.md)."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I", help_behavior_hint="")] = None
    """Which of these processes this one is, from 0."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """How many they are."""
    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Take what is left out of the three options before from the environment: JAX's variables, those of
    Slurm, the index of a Kubernetes job."""
    patience: Annotated[int, tyro.conf.arg(metavar="SECONDS")] = 60
    """How long these processes wait for each other to start, or for a sign of life."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Use at most so many CPU cores, each of which is a device (default: all)."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A JSON file with any of the fields below; options on the command line win over it."""
    preset: Annotated[Literal["hyprl2019"] | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = (
        None
    )
    """`hyprl2019`: start from the agent published with Hyp-RL, faults included, instead of our own (see
    docs/hyprl2019.md); options on the command line win over it."""
    json: JsonFlag = False
    settings: Annotated[TrainConfig, tyro.conf.arg(name="", prefix_name=False)] = TrainConfig()


def read_train_options(words: list[str], program: str) -> TrainOptions:
    """The options, with the configuration file or the preset (if any) as defaults, `--fold all` spelled out,
    and the outputs of a fixed head counted."""
    words = _expand_aliases(words)
    words, all_folds = _take_all_folds(words)
    file, preset = _value_of("--config", words), _value_of("--preset", words)
    if file is not None and preset is not None:
        raise UsageError("--config and --preset both say where to start from: leave one of them out")
    settings = read_config_file(Path(file)) if file is not None else TrainConfig()
    if preset in PRESETS:
        settings = PRESETS[preset]()
    options = read_options(TrainOptions, words, program, default=TrainOptions(settings=settings))
    if options.resume is not None:
        _refuse_company_of_resume(words, all_folds)
    elif not options.settings.collections:
        raise UsageError(
            "nothing to train on: name collections (`--collections mlp`); see `hyprl surfaces list`"
        )
    from hyprl_jax.training import every_fold, with_outputs  # only now: `--help` answers at once

    if all_folds:
        options = replace(options, settings=replace(options.settings, folds=every_fold(options.settings)))
    if options.resume is None:
        options = replace(options, settings=with_outputs(options.settings))
    return options


def read_config_file(path: Path) -> TrainConfig:
    """The configuration in a JSON file; InputError where it is none."""
    try:
        if path.stat().st_size > _LARGEST_CONFIG_FILE:
            raise InputError(f"{path}: too large, give a JSON file like the config.json of a run")
        values = json_module.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror}); name a JSON file") from None
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path}: not JSON ({fault}); mend it, or start from a run's config.json") from None
    try:
        return from_dict(values)
    except InputError as mistake:
        raise InputError(f"{path}: {mistake}") from None


def run_train(options: TrainOptions) -> Outcome:
    """Trains or resumes; says where the run is and how good its best policies are."""
    from hyprl_jax.devices import use_all_cores
    from hyprl_jax.hosts import Company, find_company, is_first, joined

    for name in ("devices", "patience"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UsageError(f"--{name} is {number}: give at least 1")
    use_all_cores(options.devices)
    company = Company(options.coordinator, options.process_id, options.num_processes)
    several = options.distributed or company != Company()
    with joined(find_company(company) if several else None, options.patience):
        result = _train(options)
    if result["interrupted"]:
        return Outcome(result, [f"stopped after {result['env_steps']:,} environment steps"], INTERRUPTED)
    return Outcome(result, _summary(result) if is_first() else ())


def _train(options: TrainOptions) -> dict[str, Any]:
    from hyprl_jax import training
    from hyprl_jax.hosts import is_first
    from hyprl_jax.runs import RunFolder

    if options.resume is None:
        out = options.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
        return training.train(options.settings, out)
    if is_first():
        for change in RunFolder(options.resume).version_changes():
            print(f"note: since the run was started: {change}", file=sys.stderr)
    return training.resume(options.resume)


def _summary(result: dict[str, Any]) -> list[str]:
    run = result["run"]
    lines = [f"trained {result['env_steps']:,} environment steps; the run is in {run}"]
    for fold, scores in enumerate(result["best_validation"]):
        shown = ", ".join(f"{score:.4f}" for score in scores)
        lines.append(f"best regret on validation tasks, fold {fold} of the run, each seed: {shown}")
    return [*lines, f"evaluate it with: hyprl evaluate {run} --out {run}/evaluation"]


def _expand_aliases(words: list[str]) -> list[str]:
    expanded = []
    for word in words:
        name, equals, value = word.partition("=")
        expanded.append(_ALIASES.get(name, name) + equals + value)
    return expanded


def _take_all_folds(words: list[str]) -> tuple[list[str], bool]:
    """`words` without `--folds all`, and whether it was there."""
    for position, word in enumerate(words):
        if word == "--folds=all":
            return words[:position] + words[position + 1 :], True
        if word == "--folds" and words[position + 1 : position + 2] == ["all"]:
            return words[:position] + words[position + 2 :], True
    return words, False


def _value_of(option: str, words: list[str]) -> str | None:
    for position, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and position + 1 < len(words):
            return words[position + 1]
    return None


def _refuse_company_of_resume(words: list[str], all_folds: bool) -> None:
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    others = [name for name in given if name not in ("--resume", "--json", *_WHO)] + ["--fold"] * all_folds
    if others:
        raise UsageError(f"--resume goes on with the run's own configuration: leave out {', '.join(others)}")


TRAIN = Command(TrainOptions, run_train, read_train_options)
