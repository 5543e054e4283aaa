"""The shape of a summary, checked key by key: a file may come from anywhere, or from an earlier version.

`check_summary` accepts every summary that `hyprl_jax.evaluation.summary` makes and those of earlier versions,
which lack the figures that came later. What it lets pass, tables, plots and pages can be made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation.protocol import check_method_name

MAX_TRIALS = 1_000_000
MAX_TEXT_LENGTH = 100_000
FAILURE_KEYS = ("method", "task", "seed", "trial", "reason")
COST_KEYS = ("median_ms", "p95_ms", "total_seconds")
PROVENANCE_KEYS = ("command", "versions", "collections", "seeds", "starts", "machine")
_LARGE = 1e15


def check_summary(summary: object) -> dict[str, Any]:
    """The summary itself if it has the shape that `summarize` gives it, else `InputError` naming the key."""
    top = _mapping(summary, "summary")
    _require(top, ("collection", "split", "fold", "tasks", "trials", "methods", "tests"), "summary")
    for key in ("collection", "split"):
        _text(top[key], f"summary: {key!r}")
    folds = top["fold"] if isinstance(top["fold"], list) else [top["fold"]]
    if not all(_is_whole(fold) for fold in folds):
        raise InputError("summary: 'fold' must be a whole number or a list of them")
    tasks, trials = top["tasks"], top["trials"]
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise InputError("summary: 'tasks' must be a list of at least one name")
    if not _is_whole(trials) or not 1 <= trials <= MAX_TRIALS:
        raise InputError("summary: 'trials' must be a whole number of at least 1")
    methods = _mapping(top["methods"], "summary: 'methods'")
    if not methods:
        raise InputError("summary: 'methods' is empty")
    for name, figures in methods.items():
        check_method_name(name)
        where = f"summary, method {name!r}"
        _check_figures(_mapping(figures, where), where, trials, len(methods))
    tests = _mapping(top["tests"], "summary: 'tests'")
    _require(tests, ("interval", "last_trial", "trial_mean"), "summary: 'tests'")
    if _mapping(tests["interval"], "summary: 'interval'").get("over") not in ("tasks", "groups"):
        raise InputError("summary: 'interval' must say whether it is over 'tasks' or 'groups'")
    for key in ("last_trial", "trial_mean"):
        where = f"summary, tests {key!r}"
        _check_tests(_mapping(tests[key], where), where, list(methods))
        _check_pairs(tests[key], where, list(methods))
    _check_collections(top, list(methods), trials)
    _check_failures(top.get("failures", []), list(methods), trials)
    if "provenance" in top:
        _check_provenance(_mapping(top["provenance"], "summary: 'provenance'"))
    return top


def _check_figures(figures: dict[str, Any], where: str, trials: int, methods: int) -> None:
    _require(figures, ("normalized_regret", "rank", "ci95", "suggest_ms"), where)
    regret = _numbers(figures["normalized_regret"], trials, 0.0, 1.0, f"{where}: 'normalized_regret'")
    rank = _numbers(figures["rank"], trials, 1.0, float(methods), f"{where}: 'rank'")
    _check_intervals(figures["ci95"], regret, 0.0, 1.0, f"{where}: 'ci95'")
    if "rank_ci95" in figures:
        _check_intervals(figures["rank_ci95"], rank, 1.0, float(methods), f"{where}: 'rank_ci95'")
    if figures["suggest_ms"] is not None:
        _number(figures["suggest_ms"], 0.0, _LARGE, f"{where}: 'suggest_ms'")
    if figures.get("suggest") is not None:
        cost = _mapping(figures["suggest"], f"{where}: 'suggest'")
        _require(cost, COST_KEYS, f"{where}: 'suggest'")
        for key in COST_KEYS:
            _number(cost[key], 0.0, _LARGE, f"{where}: 'suggest', {key!r}")
    for target, reached in _mapping(figures.get("targets", {}), f"{where}: 'targets'").items():
        _check_target(target, reached, trials, f"{where}: 'targets', {str(target)[:40]!r}")


def _check_target(target: str, value: object, trials: int, where: str) -> None:
    try:
        regret = float(target)
    except ValueError:
        regret = -1.0
    if not 0.0 <= regret <= 1.0 or not target.isprintable():
        raise InputError(f"{where} is no regret from 0 to 1")
    reached = _mapping(value, where)
    _require(reached, ("reached", "trials"), where)
    share = _number(reached["reached"], 0.0, 1.0, f"{where}: 'reached'")
    if reached["trials"] is not None:
        _number(reached["trials"], 1.0, float(trials), f"{where}: 'trials'")
    if (reached["trials"] is None) != (share < 0.5):
        raise InputError(f"{where}: 'trials' must be null where fewer than half reach it, and nowhere else")


def _check_tests(tests: dict[str, Any], where: str, methods: list[str]) -> None:
    _require(tests, ("blocks", "over", "friedman", "nemenyi", "wilcoxon_holm", "wins_ties_losses"), where)
    if tests["over"] not in ("tasks", "groups"):
        raise InputError(f"{where}: 'over' must be 'tasks' or 'groups'")
    _number(tests["blocks"], 1.0, _LARGE, f"{where}: 'blocks'")
    friedman = _mapping(tests["friedman"], f"{where}: 'friedman'")
    _require(friedman, ("statistic", "p_value", "reason"), f"{where}: 'friedman'")
    if friedman["p_value"] is not None:
        _number(friedman["p_value"], 0.0, 1.0, f"{where}: 'friedman'")
    pairs = [(a, b) for a in methods for b in methods if a != b]
    for key in ("nemenyi", "wilcoxon_holm"):
        result = _mapping(tests[key], f"{where}: {key!r}")
        _require(result, ("p_values", "reason"), f"{where}: {key!r}")
        if result["p_values"] is not None:
            values = [_entry(result["p_values"], a, b, f"{where}: {key!r}") for a, b in pairs]
            _numbers(values, len(pairs), 0.0, 1.0, f"{where}: {key!r}")
    for a, b in pairs:
        counts = _entry(tests["wins_ties_losses"], a, b, f"{where}: 'wins_ties_losses'")
        _numbers(counts, 3, 0.0, _LARGE, f"{where}: 'wins_ties_losses'")


def _check_pairs(tests: dict[str, Any], where: str, methods: list[str]) -> None:
    """The comparisons that files of earlier versions lack."""
    if "critical_difference" in tests:
        _check_critical_difference(tests["critical_difference"], f"{where}: 'critical_difference'", methods)
    key, ends_key = "probability_of_improvement", "probability_of_improvement_ci95"
    if key in tests:
        pairs = [(a, b) for a in methods for b in methods if a != b]
        values = [_entry(tests[key], a, b, f"{where}: {key!r}") for a, b in pairs]
        _numbers(values, len(pairs), 0.0, 1.0, f"{where}: {key!r}")
        if ends_key in tests:
            ends = [_entry(tests[ends_key], a, b, f"{where}: {ends_key!r}") for a, b in pairs]
            _check_intervals(ends, values, 0.0, 1.0, f"{where}: {ends_key!r}")
    if "difference_to_best" in tests:
        here = f"{where}: 'difference_to_best'"
        result = _mapping(tests["difference_to_best"], here)
        _require(result, ("best", "mean", "ci95"), here)
        if result["best"] not in methods:
            raise InputError(f"{here}: 'best' must be one of the methods")
        mean = [_of(result["mean"], name, here) for name in methods]
        _numbers(mean, len(methods), 0.0, 1.0, here)
        _check_intervals([_of(result["ci95"], name, here) for name in methods], mean, -1.0, 1.0, here)


def _check_critical_difference(value: object, where: str, methods: list[str]) -> None:
    result = _mapping(value, where)
    _require(result, ("level", "difference", "mean_ranks", "cliques", "reason"), where)
    _number(result["level"], 0.0, 1.0, f"{where}, 'level'")
    ranks = [_of(result["mean_ranks"], name, f"{where}, 'mean_ranks'") for name in methods]
    _numbers(ranks, len(methods), 1.0, float(len(methods)), f"{where}, 'mean_ranks'")
    if result["reason"] is not None:
        _text(result["reason"], f"{where}, 'reason'")
    sets = result["cliques"]
    for members in sets if isinstance(sets, list) else [None]:
        known = isinstance(members, list) and all(isinstance(name, str) for name in members)
        if not known or not members or not set(members) <= set(methods) or len(set(members)) < len(members):
            raise InputError(f"{where}, 'cliques' must be a list of lists of different methods")
    if result["difference"] is None:
        if sets or not result["reason"]:
            raise InputError(f"{where} is null: 'reason' must say why, and 'cliques' be empty")
        return
    _number(result["difference"], 0.0, _LARGE, f"{where}, 'difference'")
    if {name for members in sets for name in members} != set(methods):
        raise InputError(f"{where}, 'cliques' must hold every method")


def _check_collections(top: dict[str, Any], methods: list[str], trials: int) -> None:
    """Figures by collection, and their mean over collections."""
    collections = _mapping(top.get("collections", {}), "summary: 'collections'")
    for name, value in collections.items():
        _text(name, "summary: a name in 'collections'")
        where = f"summary, collection {name!r}"
        part = _mapping(value, where)
        _require(part, ("tasks", "methods"), where)
        if not _is_whole(part["tasks"]) or not 1 <= part["tasks"] <= len(top["tasks"]):
            raise InputError(f"{where}: 'tasks' must be the number of its tasks")
        _check_curves(part["methods"], where, methods, trials)
    if "macro" in top:
        _check_curves(top["macro"], "summary: 'macro'", methods, trials)


def _check_curves(value: object, where: str, methods: list[str], trials: int) -> None:
    if set(_mapping(value, where)) != set(methods):
        raise InputError(f"{where} must have exactly the methods of the summary")
    for name in methods:
        curves = _mapping(_of(value, name, where), f"{where}, method {name!r}")
        _require(curves, ("normalized_regret", "rank"), f"{where}, method {name!r}")
        _numbers(curves["normalized_regret"], trials, 0.0, 1.0, f"{where}, method {name!r}: regret")
        _numbers(curves["rank"], trials, 1.0, float(len(methods)), f"{where}, method {name!r}: 'rank'")


def _check_failures(value: object, methods: list[str], trials: int) -> None:
    if not isinstance(value, list):
        raise InputError("summary: 'failures' must be a list")
    for place, entry in enumerate(value):
        where = f"summary, failure {place}"
        failure = _mapping(entry, where)
        _require(failure, FAILURE_KEYS, where)
        if failure["method"] not in methods:
            raise InputError(f"{where}: 'method' must be one of the methods")
        for key in ("task", "reason"):
            _text(failure[key], f"{where}: {key!r}")
        if not _is_whole(failure["seed"]) or not _is_whole(failure["trial"]):
            raise InputError(f"{where}: 'seed' and 'trial' must be whole numbers")
        if not 1 <= failure["trial"] <= trials:
            raise InputError(f"{where}: 'trial' must be from 1 to {trials}")


def _check_provenance(value: dict[str, Any]) -> None:
    """Every part may be missing and plain ones may be added; what is there has its type."""
    where = "summary: 'provenance'"
    for key in ("command", "starts", "machine"):
        if value.get(key) is not None:
            _text(value[key], f"{where}, {key!r}")
    for key in ("versions", "collections"):
        for name, text in _mapping(value.get(key, {}), f"{where}, {key!r}").items():
            _text(name, f"{where}, a name in {key!r}")
            _text(text, f"{where}, {key!r}")
    seeds = value.get("seeds", [])
    if not isinstance(seeds, list) or not all(_is_whole(seed) for seed in seeds):
        raise InputError(f"{where}, 'seeds' must be a list of whole numbers")
    for key in sorted(set(value) - set(PROVENANCE_KEYS)):
        _text(key, f"{where}, a key")
        if value[key] is not None and not isinstance(value[key], bool | int | float):
            _text(value[key], f"{where}, {key!r}")


def _check_intervals(value: object, means: list[float], low: float, high: float, where: str) -> None:
    """`[[low, high], ...]` around the means (to 1e-9, rounding)."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise InputError(f"{where} must be a list of [low, high]")
    lower = _numbers([pair[0] for pair in value], len(means), low, high, where)
    upper = _numbers([pair[1] for pair in value], len(means), low, high, where)
    if any(not a - 1e-9 <= mean <= b + 1e-9 for a, mean, b in zip(lower, means, upper, strict=True)):
        raise InputError(f"{where} does not enclose the mean")


def _entry(table: object, first: str, second: str, where: str) -> Any:
    """`table[first][second]` of a nested mapping over pairs of methods."""
    row = _mapping(table, where).get(first)
    if not isinstance(row, dict) or second not in row:
        raise InputError(f"{where}: the pair {first!r}, {second!r} is missing")
    return row[second]


def _of(table: object, name: str, where: str) -> Any:
    """`table[name]` of a mapping over methods."""
    row = _mapping(table, where)
    if name not in row:
        raise InputError(f"{where}: the method {name!r} is missing")
    return row[name]


def _numbers(values: object, length: int, low: float, high: float, where: str) -> list[float]:
    """`values` if it is a list of `length` numbers within the bounds (to 1e-9, rounding)."""
    if not isinstance(values, list) or len(values) != length:
        raise InputError(f"{where} must be a list of {length} numbers")
    return [_number(value, low, high, where) for value in values]


def _number(value: object, low: float, high: float, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low - 1e-9 <= value <= high + 1e-9:  # type: ignore[operator]
        raise InputError(f"{where} holds {str(value)[:40]!r}, expected numbers from {low:g} to {high:g}")
    return value  # type: ignore[return-value]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT_LENGTH:
        raise InputError(f"{where} must be printable text of at most {MAX_TEXT_LENGTH} characters")
    return value


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a JSON object")
    return value


def _require(mapping: dict[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in mapping:
            raise InputError(f"{where}: the key {key!r} is missing")
