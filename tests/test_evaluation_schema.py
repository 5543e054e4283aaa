"""What `check_summary` lets pass and what it refuses, summaries of earlier versions included."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectory_examples import frame

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import check_summary, markdown_table, read_summary, summarize

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
STUDIES = ("ablations-", "across-", "robustness-")  # of their own form, see benchmarks/
STORED = sorted(path for path in RESULTS.glob("*.json") if not path.stem.startswith(STUDIES))
EARLIER = ("collection", "split", "fold", "tasks", "trials", "methods", "tests")
EARLIER_FIGURES = ("normalized_regret", "rank", "ci95", "suggest_ms")
EARLIER_TESTS = ("blocks", "over", "friedman", "nemenyi", "wilcoxon_holm", "wins_ties_losses")
FAILURES = [{"method": "a", "task": "c/t1", "seed": 1, "trial": 2, "reason": "no more memory"}]
PROVENANCE = {
    "command": "hyprl evaluate",
    "versions": {"numpy": "2"},
    "collections": {"c": "ab12"},
    "seeds": [0, 1],
    "starts": "random:5",
    "machine": "two cores",
}
METHODS = [frame("a", 1), frame("b", 2), frame("c", 3)]
GOOD = summarize(
    [pd.concat(METHODS), pd.concat(METHODS).assign(collection="d")],
    split="loo",
    resamples=50,
    failures=FAILURES,
    provenance=PROVENANCE,
)


def broken(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """`GOOD` with the entry at `path` replaced, or removed where `value` is `...`."""
    summary = copy.deepcopy(GOOD)
    place: Any = summary
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return summary


@pytest.mark.parametrize("key", EARLIER)
def test_missing_keys_are_named(key: str) -> None:
    with pytest.raises(InputError, match=f"the key '{key}' is missing"):
        check_summary(broken((key,), ...))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("collection",), 3),
        (("split",), "two\nlines"),
        (("fold",), "0"),
        (("fold",), True),
        (("tasks",), []),
        (("tasks",), [1]),
        (("trials",), 0),
        (("trials",), 4.0),
        (("trials",), 3),
        (("methods",), {}),
        (("methods",), []),
        (("methods", "a"), None),
        (("methods", "a", "rank"), ...),
        (("methods", "a", "rank", 0), 9.0),
        (("methods", "a", "normalized_regret", 1), "0.5"),
        (("methods", "a", "normalized_regret", 1), float("nan")),
        (("methods", "a", "normalized_regret", 1), 10**400),
        (("methods", "a", "ci95", 0), [0.1]),
        (("methods", "a", "ci95", 0), [1.0, 0.0]),
        (("methods", "a", "ci95"), None),
        (("methods", "a", "suggest_ms"), -1.0),
        (("methods", "a", "suggest_ms"), 10**400),
        (("tests",), None),
        (("tests", "last_trial"), ...),
        (("tests", "interval", "over"), "moons"),
        (("tests", "last_trial", "friedman", "p_value"), 2.0),
        (("tests", "last_trial", "wilcoxon_holm", "p_values", "a"), {}),
        (("tests", "trial_mean", "nemenyi", "p_values", "a", "b"), None),
        (("tests", "trial_mean", "wins_ties_losses", "a", "b"), [1, 2]),
        (("tests", "trial_mean", "blocks"), 0),
        (("methods", "a", "rank_ci95", 0), [3.0, 3.0]),
        (("methods", "a", "suggest", "p95_ms"), ...),
        (("methods", "a", "suggest", "total_seconds"), -1.0),
        (("methods", "a", "targets", "0.1"), None),
        (("methods", "a", "targets", "two"), {"reached": 1.0, "trials": 1}),
        (("methods", "a", "targets", "nan"), {"reached": 1.0, "trials": 1}),
        (("methods", "a", "targets", "0.1"), {"reached": 0.75, "trials": None}),
        (("methods", "a", "targets", "0.1"), {"reached": 0.25, "trials": 3}),
        (("methods", "a", "targets", "0.1"), {"reached": 0.75, "trials": 5}),
        (("tests", "last_trial", "critical_difference", "level"), 2.0),
        (("tests", "last_trial", "critical_difference", "mean_ranks", "b"), ...),
        (("tests", "last_trial", "critical_difference", "cliques"), None),
        (("tests", "last_trial", "critical_difference", "cliques"), [["a", "b"]]),
        (("tests", "last_trial", "critical_difference", "cliques", 0), ["a", "z"]),
        (("tests", "last_trial", "critical_difference", "cliques", 0), [{}]),
        (("tests", "last_trial", "critical_difference", "difference"), None),
        (("tests", "last_trial", "critical_difference", "difference"), "1"),
        (("tests", "last_trial", "critical_difference", "reason"), 5),
        (("tests", "last_trial", "probability_of_improvement", "a", "b"), 1.5),
        (("tests", "last_trial", "probability_of_improvement_ci95", "a", "b"), [2.0, 3.0]),
        (("tests", "trial_mean", "difference_to_best", "best"), "z"),
        (("tests", "trial_mean", "difference_to_best", "mean", "a"), ...),
        (("tests", "trial_mean", "difference_to_best", "ci95", "a"), [0.9, 0.1]),
        (("collections",), []),
        (("collections", "c", "tasks"), 99),
        (("collections", "c", "methods", "b"), ...),
        (("collections", "c", "methods", "b", "rank"), [1.0]),
        (("collections", "two\nlines"), {}),
        (("macro", "a", "normalized_regret", 0), 2.0),
        (("macro", "z"), {}),
        (("failures",), {}),
        (("failures", 0), None),
        (("failures", 0, "method"), "z"),
        (("failures", 0, "seed"), 1.0),
        (("failures", 0, "trial"), 9),
        (("failures", 0, "reason"), "two\nlines"),
        (("provenance",), None),
        (("provenance", "command"), ["hyprl"]),
        (("provenance", "versions"), {"numpy": 2}),
        (("provenance", "seeds"), [True]),
        (("provenance", "more"), {}),
    ],
)
def test_damaged_summaries_are_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(InputError, match=r"^(summary|method name)"):
        check_summary(broken(path, value))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data(), JSON_VALUES)
def test_any_replaced_value_is_refused_or_harmless(data: st.DataObject, value: Any) -> None:
    """Whatever stands anywhere in the file: a clear error, or a summary that tables can be made of."""
    summary = copy.deepcopy(GOOD)
    place: Any = summary
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    try:
        assert markdown_table(check_summary(summary))
    except InputError as error:
        assert "\n" not in str(error)


def test_there_are_stored_summaries() -> None:
    assert STORED


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_summaries_stay_readable(path: Path) -> None:
    assert markdown_table(read_summary(path))


def test_summaries_of_earlier_versions_stay_readable() -> None:
    earlier = json.loads(json.dumps({key: GOOD[key] for key in EARLIER}))
    for name, figures in earlier["methods"].items():
        earlier["methods"][name] = {key: figures[key] for key in EARLIER_FIGURES}
    for moment in ("last_trial", "trial_mean"):
        earlier["tests"][moment] = {key: earlier["tests"][moment][key] for key in EARLIER_TESTS}
    assert check_summary(copy.deepcopy(earlier)) == earlier
    assert markdown_table(earlier)


def test_what_is_made_passes_and_comes_back_from_json() -> None:
    assert json.loads(json.dumps(GOOD, allow_nan=False)) == GOOD
    assert check_summary(GOOD) is GOOD
    assert set(GOOD) - set(EARLIER) == {"collections", "macro", "failures", "provenance"}


@pytest.mark.parametrize(("tasks", "methods"), [(1, 3), (3, 2), (1, 1)])
def test_summaries_without_tests_pass(tasks: int, methods: int) -> None:
    summary = summarize([frame(name, 1, tasks=tasks) for name in "abc"[:methods]], resamples=20)
    assert summary["tests"]["last_trial"]["critical_difference"]["difference"] is None
    assert check_summary(summary) is summary
