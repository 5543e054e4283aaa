"""`MODEL_CARD.md`: an exported policy in words, made from its `policy.json` (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_card"]

_USE = """
## Use

```python
from hyprl_jax.runtime import Categorical, Float, Space, Tuner

space = Space([Float("learning_rate", 1e-5, 1e-1, log=True), Categorical("activation", ["relu", "tanh"])])
tuner = Tuner(space, policy="path/to/this/folder", direction="minimize", trials={trials})
for _ in range({trials}):
    config = tuner.ask()
    tuner.tell(config, validation_loss(config))
print(tuner.best)
```

This needs NumPy and safetensors alone. `policy.onnx` and `policy.stablehlo` hold one step of the network for
programs in other languages; `policy.json` says what its inputs are.
"""
_INTENDED = """
## Intended use

Choosing which configurations of a machine-learning method to test next, one at a time or several side by
side, where a test costs far more than a suggestion (about a millisecond). {where}

## Limits

- A suggestion is only as good as the likeness of the task at hand to the tasks below.
- The figures below are of validation tasks that the weights were chosen by, so they flatter. Figures of
  tasks that no choice was made on come from `hyprl evaluate`.
- It was trained on episodes of {trials} trials. Far longer ones are played, but were not practised.
- The objective must be a single number; constraints, several objectives and fidelities are not understood.
- {prior}
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The card of a policy whose `policy.json` holds `facts`, as Markdown."""
    training, network = facts["training"], facts["network"]
    members = facts["members"]
    ensemble = "one network" if members == 1 else f"{members} networks, whose mean Q-value decides"
    surrogate_only = not facts["inputs"]["encodings"]
    where = (
        "It works in any search space: candidates are seen by what a surrogate says of them."
        if surrogate_only
        else "It reads the encodings of hyperparameters and works in the search spaces below only."
    )
    carried = "prior.safetensors" in facts["files"]
    prior = (
        "In the search spaces below it starts from the known tasks, which `prior.safetensors` holds."
        if carried
        else "It carries no known tasks: give results of earlier tasks (`earlier=`) to start warm."
    )
    correction = "a correction of an acquisition function" if network["residual"] else "Q-values from nothing"
    parts = [
        f"# {_cell(facts['name'])}\n",
        "A pretrained policy for hyperparameter optimization, made with HypRL-JAX "
        f"{facts['versions']['hyprl_jax']}.\n",
        f"- **What it is:** {ensemble} ({network['cell']} cell, context {network['context']}, hidden "
        f"{network['hidden']}, layers {network['layers']}) that give {correction}.",
        f"- **Reads of a candidate:** {network['candidates']}.",
        f"- **Licence:** {_cell(facts['licence'] or '') or 'not stated by whoever exported it'}.",
        _USE.format(trials=facts["trials"]),
        _INTENDED.format(where=where, trials=facts["trials"], prior=prior),
        _trained_on(training),
        _figures(training),
        _versions(facts["versions"]),
    ]
    return "\n".join(parts)


def _trained_on(training: Mapping[str, Any]) -> str:
    lines = [
        "## Trained on\n",
        f"Split `{training['split']}`, fold {training['fold']}; seeds "
        f"{', '.join(map(str, training['seeds']))}; {training['env_steps_of_run']} environment steps in the "
        "whole run. Test tasks of the fold took part in nothing.\n",
        "| collection | version | objective | tasks (training + validation) | configurations | licence |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in training["collections"]:
        objective = f"{one['objective']['direction']} {one['objective']['name']}"
        tasks = f"{one['training_tasks']} + {len(one['validation'])}"
        lines.append(
            f"| {_cell(one['name'])} | {_cell(one['version'])} | {_cell(objective)} | {tasks} | "
            f"{one['configurations']} | {_cell(one['licence']) or 'not stated'} |"
        )
    lines.append("")
    for one in training["collections"]:
        lines.append(f"- {_cell(one['name'])}: content hash `{one['content_hash']}`.")
        known = len(one["train"])
        if known < one["training_tasks"]:
            lines.append(f"  Of the training tasks the policy knows {known}, those that it was judged on.")
        told = [label for label in ("source", "citation") if one[label]]
        lines += [f"  {label.capitalize()}: {_cell(one[label])}" for label in told]
    return "\n".join(lines) + "\n"


def _figures(training: Mapping[str, Any]) -> str:
    regrets = training["validation_regret"]
    lines = ["## Validation\n"]
    if regrets is None:
        return "\n".join([*lines, "The run no longer tells the figures of its validation.\n"])
    lines += [
        "Normalised regret on the validation tasks (0 is the best configuration of the table, 1 the worst), "
        "mean over trials and tasks, of each network by itself:\n",
        "| seed | normalised regret |",
        "| --- | --- |",
    ]
    seeds = zip(training["seeds"], regrets, strict=True)
    lines += [f"| {seed} | {regret:.4f} |" for seed, regret in seeds]
    return "\n".join(lines) + "\n"


def _versions(versions: Mapping[str, Any]) -> str:
    shown = ("hyprl_jax", "python", "jax", "flax", "numpy")
    words = ", ".join(f"{name} {versions[name]}" for name in shown if versions.get(name))
    return f"## Versions\n\nExported with {words}; all versions stand in `policy.json`.\n"


def _cell(text: str) -> str:
    """Text of a collection's card as one line that breaks no table."""
    return " ".join(text.split()).replace("|", "\\|")
