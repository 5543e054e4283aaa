"""The verb `export`: a trained policy as a folder for others to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hyprl_jax.cli.common import Command, JsonFlag, Outcome


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the policy of a run as a folder that needs neither the run nor JAX: weights, description, ONNX.

    Examples:
      hyprl export runs/first --out policies/first
      hyprl export runs/folds --fold 2 --seeds 0,1 --licence CC-BY-4.0 --out policies/folds-2

    All seeds of the fold become one ensemble. The folder goes into Tuner(policy="policies/first").
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """The run folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", help_behavior_hint="")]
    """A folder that does not exist yet, or is empty."""
    fold: Annotated[int | None, tyro.conf.arg(metavar="K", help_behavior_hint="")] = None
    """Which fold; needed if the run has several."""
    seeds: Annotated[
        tuple[int, ...], tyro.conf.arg(aliases=["--seed"], metavar="N[,N..]", help_behavior_hint="")
    ] = ()
    """Which seeds become members; left out, all of them."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """The name of the policy; left out, that of the folder."""
    licence: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """Under which the weights are given away."""
    no_prior: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out the results of the known tasks: smaller, but every start is cold."""
    json: JsonFlag = False


def run_export(options: ExportOptions) -> Outcome:
    """Writes the folder and says what is in it."""
    from hyprl_jax.export import export_policy

    made = export_policy(
        options.run,
        options.out,
        fold=options.fold,
        seeds=options.seeds or None,
        name=options.name,
        licence=options.licence,
        prior=not options.no_prior,
    )
    networks = "1 network" if made.members == 1 else f"{made.members} networks"
    lines = [
        f"policy '{made.name}': {networks} of {made.parameters} weights, trained on "
        f"{', '.join(made.collections)} (fold {made.fold}, seeds {', '.join(map(str, made.seeds))})",
        *(f"  {file}  {size:,} bytes" for file, size in made.files.items()),
        f'use it with Tuner(space, policy="{made.policy}")',
    ]
    return Outcome(made._asdict(), lines)


EXPORT = Command(ExportOptions, run_export)
