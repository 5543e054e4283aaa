"""The command line: `python -m hyprl_jax VERB ...`, also installed as `hyprl VERB ...`.

This module only finds the verb; each group of verbs has a module in `hyprl_jax.cli`, imported when it is
asked for, so that `--help` answers at once. Exit codes: 0 success, 2 a mistake in the input, 130 interrupted,
1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from hyprl_jax import __version__
from hyprl_jax.cli.common import Command, UsageError, run_command, run_guarded

VERBS: dict[str, tuple[str, str]] = {
    "surfaces list": ("surfaces:LIST", "the collections of response surfaces that are at hand"),
    "surfaces describe": ("surfaces:DESCRIBE", "one collection in words and numbers"),
    "surfaces validate": ("surfaces:VALIDATE", "every fault of a collection, with file, task and row"),
    "surfaces import": ("importing:IMPORT", "turn someone else's files into a collection"),
    "surfaces build": ("surfaces:BUILD", "compute a collection by really training models"),
    "surfaces pack": ("surfaces:PACK", "lay a collection out for training that streams it from the disk"),
    "train": ("train:TRAIN", "pretrain policies on collections, or resume a run"),
    "evaluate": ("evaluate:EVALUATE", "play held-out tasks with a policy and with baselines"),
    "report": ("report:REPORT", "one page with everything about an evaluation, or about several"),
    "sweep": ("sweep:SWEEP", "train many settings, compare them: a table and plots at the end"),
    "export": ("export:EXPORT", "a trained policy as a folder that needs neither the run nor JAX"),
    "suggest": ("suggest:SUGGEST", "ask and tell as JSON lines, for programs in any language"),
    "bench": ("bench:BENCH", "the throughput of this machine"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the verb that `arguments` (by default those of the process) name and returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_guarded(lambda: _dispatch(words), as_json="--json" in words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"hyprl-jax {__version__}")
        return 0
    name, rest = _split_verb(words)
    if name is None:
        print(overview(words[0]))
        return 0
    return run_command(_load(name), name, rest)


def _split_verb(words: list[str]) -> tuple[str | None, list[str]]:
    """The verb and the words after it; no verb (None) where the help of a whole group is asked for."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS:
            return name, words[length:]
    group = sorted(verb.split()[1] for verb in VERBS if verb.startswith(f"{words[0]} "))
    if group and (len(words) == 1 or words[1] in ("-h", "--help", "help")):
        return None, []
    if group:
        raise UsageError(f"{words[0]} has no verb {words[1]!r}: use one of {', '.join(group)}")
    known = dict.fromkeys(verb.split()[0] for verb in VERBS)
    raise UsageError(f"there is no verb {words[0]!r}: use one of {', '.join(known)}, or --help")


def _load(name: str) -> Command:
    module, _, attribute = VERBS[name][0].partition(":")
    command: Command = getattr(import_module(f"hyprl_jax.cli.{module}"), attribute)
    return command


def overview(group: str = "") -> str:
    """What `--help` without a verb prints: every verb (of `group`) with one line."""
    shown = {verb: line for verb, (_, line) in VERBS.items() if verb.startswith(group)}
    width = max(map(len, shown))
    lines = [f"usage: hyprl {group or 'VERB'} {'VERB ' if group else ''}[OPTIONS]", ""]
    lines += [f"  {verb.ljust(width)}  {line}" for verb, line in shown.items()]
    lines += [
        "",
        "Every verb takes --help, which shows an example, and --json, which prints one JSON object.",
        "Example: hyprl surfaces describe mlp",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
