"""The report of a sweep: figures of every setting, what each axis does, and the best setting.

Settings are compared by the normalized regret of their kept policies on validation tasks, averaged over
folds and seeds. All settings share folds, seeds and validation tasks, so that differences between settings
are taken pair by pair and are surer than the figures themselves. Intervals are Student's t over seeds (each
the mean of its folds), over folds if there is one seed, and unknown if there is one training in all. Test
tasks take no part in any choice.

    results.csv    one row a setting, unfinished ones too
    table.md       the same to be read, the axes one by one, what failed
    plots/         one picture an axis
    best.json      the complete configuration of the best setting, for `hyprl train --config`
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyprl_jax.config import TrainConfig, to_dict
from hyprl_jax.jobs.engine import write_json
from hyprl_jax.sweeps.plan import Plan, Setting, value_of

__all__ = [
    "NOTHING_LEARNED", "Estimate", "Marginal", "Result", "estimate", "marginals", "nothing_learned",
    "results_of", "write_report",
]  # fmt: skip

NOTHING_LEARNED = (
    "no setting learned anything better than the acquisition function that it started from, which all of "
    "them kept: train longer (`learner.updates`) to tell them apart"
)
_LEVEL = 0.95
_SHOWN = 4  # digits in table.md


class Estimate(NamedTuple):
    """A mean and its 95% interval; no interval (None) where nothing is known about the spread."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.{_SHOWN}f}"
        return f"{self.mean:.{_SHOWN}f} [{self.low:.{_SHOWN}f}, {self.high:.{_SHOWN}f}]"


@dataclass(frozen=True, eq=False)
class Result:
    """Figures of one setting that is trained, F folds and S seeds."""

    setting: Setting
    values: dict[str, Any]
    """Of the axes."""
    regrets: np.ndarray
    """`[F, S]` float64 regret on validation tasks of each policy that is kept."""
    validation: Estimate
    difference: Estimate
    """To the best setting, pair by pair."""
    train: float
    """Regret of the same policies on the training tasks."""
    test: dict[str, dict[str, float]] | None
    """Method -> regret, low, high on the test tasks, if they were played."""
    seconds: float
    best_seed: int
    learned: int
    """In how many of the F times S trainings something better than the start was learned."""


class Marginal(NamedTuple):
    """One value of an axis, over all settings that have it."""

    value: Any
    regret: Estimate
    settings: int


def write_report(
    plan: Plan, records: Mapping[str, Mapping[str, Any]], out: Path,
    failed: Mapping[str, str], left: Sequence[str] = (),
) -> list[Result]:  # fmt: skip
    """Writes the files of the report into `out` and returns the results, best first.

    `records` are what `jobs.results_of` says of the settings by name, with `test`; `failed` and `left` are
    jobs.
    """
    from hyprl_jax.sweeps.plots import plot_axis

    results = results_of(plan, records)
    _write_text(out / "results.csv", csv_text(plan, results))
    _write_text(out / "table.md", table_text(plan, results, failed, left))
    if results:
        write_json(out / "best.json", to_dict(results[0].setting.config))
        (out / "plots").mkdir(exist_ok=True)
        for field in plan.fields:
            plot_axis(field, marginals(results, field), out / "plots" / f"{field}.png")
    return results


def results_of(plan: Plan, records: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """Results of the settings that have a record, by rising regret; equal ones in the order of the plan."""
    trained = [setting for setting in plan.settings if setting.name in records]
    regrets = {one.name: np.asarray(records[one.name]["best_validation"], np.float64) for one in trained}
    if not trained:
        return []
    trained.sort(key=lambda setting: float(regrets[setting.name].mean()))
    best = regrets[trained[0].name]
    results = []
    for setting in trained:
        record, own = records[setting.name], regrets[setting.name]
        results.append(
            Result(
                setting=setting,
                values={name: value_of(setting.config, name) for name in plan.fields},
                regrets=own,
                validation=estimate(own),
                difference=estimate(own - best),
                train=float(np.mean(record["train"])),
                test=record.get("test"),
                seconds=float(record["seconds"]),
                best_seed=setting.config.seeds[int(np.argmin(own.mean(axis=0)))],
                learned=int(np.sum(np.asarray(record["best_updates"]) > 0)),
            )
        )
    return results


def estimate(values: np.ndarray) -> Estimate:
    """Mean of `values [F, S]` with its interval over seeds, or over folds if there is one seed."""
    from scipy.stats import t

    units = values.mean(axis=0) if values.shape[1] > 1 else values[:, 0]
    mean, count = float(units.mean()), len(units)
    if count < 2:
        return Estimate(mean, None, None)
    half = float(t.ppf((1.0 + _LEVEL) / 2.0, count - 1) * units.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half, mean + half)


def marginals(results: Sequence[Result], field: str) -> list[Marginal]:
    """What each value of an axis is worth, averaged over the settings that have it; numbers in rising
    order, other values as they come in the plan."""
    by_value: dict[Any, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.setting.name):
        by_value.setdefault(result.values[field], []).append(result)
    found = [
        Marginal(value, estimate(np.mean([one.regrets for one in those], axis=0)), len(those))
        for value, those in by_value.items()
    ]
    return sorted(found, key=lambda one: one.value) if all(map(is_number, by_value)) else found


def is_number(value: Any) -> bool:
    """Whether a value of an axis has a place on a line."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def csv_text(plan: Plan, results: Sequence[Result]) -> str:
    """`results.csv`: all settings, best first, those without a result behind them."""
    methods = plan.evaluate.methods if plan.evaluate else ()
    figures = ["validation_regret", "validation_low", "validation_high"]
    figures += ["difference", "difference_low", "difference_high", "training_regret"]
    tests = [f"test_regret{'' if name == 'policy' else '_' + name}{end}" for name in methods
             for end in ("", "_low", "_high")]  # fmt: skip
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["setting", *plan.fields, *figures, *tests, "seconds", "best_seed", "learned", "trainings"])
    for one in results:
        played = [
            (one.test or {}).get(name, {}).get(key) for name in methods for key in ("regret", "low", "high")
        ]
        numbers = [*one.validation, *one.difference, one.train, *played, one.seconds]
        row = [one.setting.name, *map(_plain, one.values.values()), *map(_number, numbers)]
        rows.writerow([*row, one.best_seed, one.learned, one.regrets.size])
    done = {one.setting.name for one in results}
    for setting in plan.settings:
        if setting.name not in done:
            values = [_plain(value_of(setting.config, name)) for name in plan.fields]
            rows.writerow([setting.name, *values, *[""] * (len(figures) + len(tests) + 4)])
    return text.getvalue()


def table_text(plan: Plan, results: Sequence[Result], failed: Mapping[str, str], left: Sequence[str]) -> str:
    """`table.md`."""
    lines = ["# Sweep", "", *_about(plan, results), ""]
    if results:
        lines += [*result_lines(plan, results), "", *_axes_lines(plan, results)]
    if failed:
        lines += ["## Failed", "", *(f"- `{name}`: {reason}" for name, reason in failed.items()), ""]
        lines += ["`--retry` runs them again.", ""]
    if left:
        lines += [f"Not finished yet: {', '.join(left)}. The same command goes on.", ""]
    return "\n".join(lines)


def result_lines(plan: Plan, results: Sequence[Result]) -> list[str]:
    """The Markdown table of all results."""
    methods = plan.evaluate.methods if plan.evaluate else ()
    names = short_names(plan.fields)
    tests = ["test" if name == "policy" else f"test: {name}" for name in methods]
    head = [*names.values(), "validation", "against the best", "training", *tests, "s", "seed", "learned"]
    rows = []
    for place, one in enumerate(results):
        played = [_test_cell((one.test or {}).get(name)) for name in methods]
        against = "best" if place == 0 else _signed(one.difference)
        learned = f"{one.learned} of {one.regrets.size}"
        figures = [str(one.validation), against, f"{one.train:.{_SHOWN}f}", *played]
        values = [shown(value) for value in one.values.values()]
        rows.append([*values, *figures, f"{one.seconds:.1f}", str(one.best_seed), learned])
    return _markdown(head, rows, left=len(names))


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """Field -> its last part, or all of it where two would be the same."""
    last = [field.rpartition(".")[2] for field in fields]
    return {field: end if last.count(end) == 1 else field for field, end in zip(fields, last, strict=True)}


def shown(value: Any) -> str:
    """A value of an axis as a reader writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _about(plan: Plan, results: Sequence[Result]) -> list[str]:
    base: TrainConfig = plan.base
    number = (
        f"{len(results)} of {len(plan.settings)}" if len(results) < len(plan.settings) else f"{len(results)}"
    )
    folds, seeds = (", ".join(map(str, given)) for given in (base.folds, base.seeds))
    collections = ", ".join(Path(name).name for name in base.collections)
    over = "seeds" if len(base.seeds) > 1 else "folds" if len(base.folds) > 1 else ""
    lines = [
        f"{number} settings on {collections}, split {base.split}, folds {folds}, seeds {seeds}. Normalized",
        f"regret over {base.env.trials} trials, lower is better, "
        + (f"with 95% intervals over {over}." if over else "one training each and so without intervals."),
        "Settings are compared by validation tasks; differences to the best are taken seed by seed.",
    ]
    if plan.evaluate is not None:
        lines.append("Test tasks took no part in the order.")
    if results:
        lines.append(f"The best setting is `{results[0].setting.name}`: `best.json`.")
    if nothing_learned(results):
        lines += ["", f"{NOTHING_LEARNED[0].upper()}{NOTHING_LEARNED[1:]}."]
    return lines


def nothing_learned(results: Sequence[Result]) -> bool:
    """Whether every setting kept what it started from, so that they cannot be told apart."""
    return bool(results) and not any(one.learned for one in results)


def _axes_lines(plan: Plan, results: Sequence[Result]) -> list[str]:
    """Each axis by itself, averaged over the others."""
    lines = []
    for field in plan.fields:
        rows = [[shown(one.value), str(one.regret), str(one.settings)] for one in marginals(results, field)]
        lines += [f"## {field}", "", *_markdown(["value", "validation", "settings"], rows, left=1), ""]
    return lines


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]


def _test_cell(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else str(Estimate(found["regret"], found["low"], found["high"]))


def _signed(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return f"{one.mean:+.{_SHOWN}f}"
    return f"{one.mean:+.{_SHOWN}f} [{one.low:+.{_SHOWN}f}, {one.high:+.{_SHOWN}f}]"


def _number(value: float | None) -> str:
    return "" if value is None else repr(round(float(value), 9))


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write_text(file: Path, text: str) -> None:
    part = file.with_name(f".writing-{os.getpid()}-{file.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)
