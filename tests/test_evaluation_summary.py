"""Summaries against plain loops over rows, their schema, pooled folds, and refusal of what does not fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectory_examples import frame

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import check_summary, combine_folds, compare, summarize
from hyprl_jax.evaluation.metrics import average_ranks, probability_of_improvement
from hyprl_jax.evaluation.protocol import Failure, Played
from hyprl_jax.evaluation.statistics import bootstrap_interval
from hyprl_jax.evaluation.summary import failure_records


def loop_summary(rows: pd.DataFrame, trials: int) -> dict[str, tuple[list[float], list[float]]]:
    """Mean regret and mean tie-averaged rank; one-seed methods stand against every seed."""
    all_seeds = max((sorted(set(part["seed"])) for _, part in rows.groupby("method")), key=len)
    answer: dict[str, tuple[list[float], list[float]]] = {}
    for method in rows["method"].unique():
        regrets, ranks = [], []
        for trial in range(1, trials + 1):
            regret, rank = [], []
            for task in rows["task"].unique():
                at = rows[(rows["task"] == task) & (rows["trial"] == trial)]
                for place in range(len(all_seeds)):
                    values = {}
                    for other, part in at.groupby("method"):
                        ordered = part.sort_values("seed")["normalized_regret"].tolist()
                        values[other] = ordered[place if len(ordered) > 1 else 0]
                    own = values[method]
                    below = sum(value < own for value in values.values())
                    equal = sum(value == own for value in values.values())
                    regret.append(own)
                    rank.append(below + (equal + 1) / 2)
            regrets.append(sum(regret) / len(regret))
            ranks.append(sum(rank) / len(rank))
        answer[str(method)] = (regrets, ranks)
    return answer


@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans())
def test_figures_are_what_a_loop_over_rows_finds(seed: int, tasks: int, deterministic: bool) -> None:
    seeds = (0,) if deterministic else (4, 9)
    frames = [frame("a", seed, tasks), frame("b", seed + 1, tasks, seeds), frame("c", seed + 2, tasks)]
    summary = summarize(frames, resamples=20)
    for method, (regret, rank) in loop_summary(pd.concat(frames), 4).items():
        np.testing.assert_allclose(summary["methods"][method]["normalized_regret"], regret, atol=1e-12)
        np.testing.assert_allclose(summary["methods"][method]["rank"], rank, atol=1e-12)


def test_schema_is_complete_and_json() -> None:
    frames = [frame("b", 1), frame("a", 2, seeds=(3,))]
    summary = summarize(frames, split="kfold5", fold=2)
    assert list(summary) == ["collection", "split", "fold", "tasks", "trials", "methods", "tests"]
    assert (summary["collection"], summary["split"], summary["fold"], summary["trials"]) == (
        "c",
        "kfold5",
        2,
        4,
    )
    assert summary["tasks"] == ["t0", "t1", "t2"]
    assert list(summary["methods"]) == ["b", "a"]
    for name, part in zip("ba", frames, strict=True):
        figures = summary["methods"][name]
        keys = ["normalized_regret", "rank", "ci95", "rank_ci95", "targets", "suggest", "suggest_ms"]
        assert list(figures) == keys
        assert figures["suggest_ms"] == pytest.approx(part["suggest_seconds"].median() * 1e3)
    assert list(summary["tests"]) == ["interval", "last_trial", "trial_mean"]
    assert list(summary["tests"]["last_trial"]) == [
        "blocks",
        "over",
        "friedman",
        "nemenyi",
        "critical_difference",
        "wilcoxon_holm",
        "wins_ties_losses",
        "probability_of_improvement",
        "probability_of_improvement_ci95",
        "difference_to_best",
    ]
    assert check_summary(json.loads(json.dumps(summary, allow_nan=False))) == summary


def test_intervals_are_over_tasks_with_seeds_averaged() -> None:
    part = frame("a", 3, tasks=5)
    means = part.groupby(["task", "trial"])["normalized_regret"].mean().unstack().to_numpy()
    expected = bootstrap_interval(means, resamples=200, seed=4)
    np.testing.assert_allclose(summarize(part, resamples=200, seed=4)["methods"]["a"]["ci95"], expected)
    groups = {f"t{index}": "same" for index in range(5)}
    grouped = summarize(part, groups=groups)["methods"]["a"]
    np.testing.assert_allclose(grouped["ci95"], np.stack([grouped["normalized_regret"]] * 2, axis=1))
    with pytest.raises(InputError, match="'t4' has no group"):
        summarize(part, groups={f"t{index}": "g" for index in range(4)})


def test_row_order_and_method_split_do_not_matter() -> None:
    frames = [frame("a", 1), frame("b", 2)]
    together = pd.concat(frames).sort_values("normalized_regret", kind="stable")
    one, other = summarize(frames), summarize(together)
    for name in ("a", "b"):
        assert one["methods"][name] == other["methods"][name]
    assert summarize(frames) == summarize(frames)


def test_rank_intervals_are_over_tasks_with_seeds_averaged() -> None:
    parts = [frame("a", 1, tasks=5), frame("b", 2, tasks=5, seeds=(0,))]
    ranks = average_ranks(compare(parts).stacked()).mean(axis=2)  # [M, D, T]
    for index, figures in enumerate(summarize(parts, resamples=200)["methods"].values()):
        np.testing.assert_allclose(figures["rank"], ranks[index].mean(axis=0), atol=1e-12)
        expected = bootstrap_interval(ranks[index], resamples=200)
        np.testing.assert_allclose(figures["rank_ci95"], expected, atol=1e-12)


def test_targets_count_runs() -> None:
    part = frame("a", 1, tasks=2).sort_values(["task", "seed", "trial"])
    curves = [[0.5, 0.1, 0.0, 0.0], [0.02, 0.02, 0.02, 0.02], [0.9, 0.9, 0.9, 0.06], [0.3, 0.2, 0.2, 0.2]]
    targets = summarize(part.assign(normalized_regret=np.ravel(curves)))["methods"]["a"]["targets"]
    assert targets == {
        "0.1": {"reached": 0.75, "trials": 2},
        "0.05": {"reached": 0.5, "trials": 3},
        "0.01": {"reached": 0.25, "trials": None},
    }


def test_cost_of_suggestions() -> None:
    part = frame("a", 1)
    seconds = part["suggest_seconds"].to_numpy(copy=True)
    seconds[:5] = np.nan
    figures = summarize(part.assign(suggest_seconds=seconds))["methods"]["a"]
    assert figures["suggest"]["median_ms"] == figures["suggest_ms"]
    assert figures["suggest"]["median_ms"] == pytest.approx(np.median(seconds[5:]) * 1e3)
    assert figures["suggest"]["p95_ms"] == pytest.approx(np.percentile(seconds[5:], 95) * 1e3)
    assert figures["suggest"]["total_seconds"] == pytest.approx(seconds[5:].sum())


def test_speed_is_null_where_it_was_not_measured() -> None:
    figures = summarize(frame("a", 1).assign(suggest_seconds=np.nan))["methods"]["a"]
    assert figures["suggest_ms"] is None
    assert figures["suggest"] is None


def test_tests_see_single_runs_for_the_probability_of_improvement() -> None:
    parts = [frame("a", 1, tasks=4), frame("b", 2, tasks=4)]
    a, b = compare(parts).regret
    for key, losses in (("last_trial", (a[:, :, -1], b[:, :, -1])), ("trial_mean", (a.mean(2), b.mean(2)))):
        expected = np.mean(probability_of_improvement(*losses))
        found = summarize(parts)["tests"][key]["probability_of_improvement"]["a"]["b"]
        assert found == pytest.approx(expected)


def test_collections_are_shown_one_by_one_and_with_equal_weight() -> None:
    """Pooled, every task counts once; in `macro`, every collection."""
    first = [frame("a", 1, tasks=2), frame("b", 2, tasks=2)]
    second = [part.assign(collection="d") for part in (frame("a", 3, tasks=4), frame("b", 4, tasks=4))]
    summary = summarize([*first, *second])
    assert {name: part["tasks"] for name, part in summary["collections"].items()} == {"c": 2, "d": 4}
    for key in ("normalized_regret", "rank"):
        parts = [np.array(summarize(frames)["methods"]["a"][key]) for frames in (first, second)]
        for found, expected in zip(summary["collections"].values(), parts, strict=True):
            np.testing.assert_allclose(found["methods"]["a"][key], expected, atol=1e-12)
        np.testing.assert_allclose(summary["macro"]["a"][key], (parts[0] + parts[1]) / 2, atol=1e-12)
        pooled = (2 * parts[0] + 4 * parts[1]) / 6
        np.testing.assert_allclose(summary["methods"]["a"][key], pooled, atol=1e-12)
    assert "collections" not in summarize(first)
    assert "macro" not in summarize(first)


def test_failures_are_written_down_in_order_on_one_line_each() -> None:
    failure = {"method": "a", "task": "t1", "seed": np.int64(1), "trial": 2, "reason": "boom\n  at\x00 once"}
    later = {"method": "b", "task": "t0", "seed": 0, "trial": 1, "reason": "x" * 1000}
    parts = [frame("a", 1), frame("b", 2)]
    found = summarize(parts, failures=[later, failure])["failures"]
    assert found[0] == {**failure, "seed": 1, "reason": "boom at\N{REPLACEMENT CHARACTER} once"}
    assert found[1]["method"] == "b"
    assert len(found[1]["reason"]) == 300
    assert json.loads(json.dumps(found)) == found
    assert summarize(parts, failures=[])["failures"] == []
    assert combine_folds([pd.concat(parts)], failures=[failure])["failures"] == found[:1]
    with pytest.raises(InputError, match="no such method"):
        summarize(parts, failures=[{**failure, "method": "c"}])
    with pytest.raises(InputError, match="lacks 'trial'"):
        summarize(parts, failures=[{"method": "a", "task": "t1", "seed": 1, "reason": ""}])
    with pytest.raises(InputError, match="'trial' must be from 1 to 4"):
        summarize(parts, failures=[{**failure, "trial": 5}])


def test_failures_of_what_was_played_become_records() -> None:
    failure = Failure("t1", 3, 2, "raised")
    played = [
        Played("a", np.zeros((1, 1, 1), int), (3,)),
        Played("b", np.zeros(0), (3,), failures=(failure,)),
    ]
    expected = {"method": "b", "task": "t1", "seed": 3, "trial": 2, "reason": "raised"}
    assert failure_records(played) == [expected]


def test_provenance_is_written_down() -> None:
    provenance = {
        "command": "evaluate\t--methods a",
        "versions": {"jax": "0.10.2"},
        "collections": {"c": "abc"},
        "seeds": (0, 1),
        "starts": None,
        "machine": "two cores",
    }
    found = summarize(frame("a", 1), provenance=provenance)["provenance"]
    assert found == {**provenance, "seeds": [0, 1], "command": "evaluate --methods a"}
    assert "provenance" not in summarize(frame("a", 1))


def test_folds_are_pooled_task_by_task() -> None:
    folds = [
        pd.concat([frame(name, seed + first, tasks, first_task=first) for name, seed in (("a", 1), ("b", 9))])
        for first, tasks in ((0, 2), (2, 5))
    ]
    summary = combine_folds(folds, "loo", [3, 4])
    assert summary["fold"] == [3, 4]
    assert len(summary["tasks"]) == 7
    assert summary["methods"] == summarize(pd.concat(folds))["methods"]
    parts = [summarize(fold)["methods"]["a"]["normalized_regret"] for fold in folds]
    expected = (2 * np.array(parts[0]) + 5 * np.array(parts[1])) / 7
    np.testing.assert_allclose(summary["methods"]["a"]["normalized_regret"], expected)
    assert combine_folds(folds, "loo")["fold"] == [0, 1]


def test_folds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="'t1' stands in fold 0 and 1"):
        combine_folds([frame("a", 1), frame("a", 1, first_task=1)])
    with pytest.raises(InputError, match="'b' is not in every fold"):
        combine_folds([frame("a", 1), pd.concat([frame("a", 1, first_task=5), frame("b", 1, first_task=5)])])
    with pytest.raises(InputError, match="2 folds of trajectories, 1 fold numbers"):
        combine_folds([frame("a", 1), frame("a", 1, first_task=5)], folds=[0])
    with pytest.raises(InputError, match="trials"):
        combine_folds([frame("a", 1), frame("a", 1, first_task=5, trials=3)])


def test_tasks_of_several_collections_stay_apart() -> None:
    parts = [frame("a", 1), frame("a", 2).assign(collection="other")]
    summary = summarize(parts, groups={"c/t0": "x", "t0": "y", "t1": "y", "t2": "y"})
    assert summary["collection"] == "c,other"
    assert summary["tasks"] == ["c/t0", "c/t1", "c/t2", "other/t0", "other/t1", "other/t2"]
    assert summary["tests"]["last_trial"]["blocks"] == 3


def changed(**columns: Any) -> pd.DataFrame:
    return pd.concat([frame("a", 1), frame("b", 2)], ignore_index=True).assign(**columns)


def without_row(row: int) -> pd.DataFrame:
    return changed().drop(index=row)


def with_value(column: str, value: Any) -> pd.DataFrame:
    rows = changed()
    rows.loc[5, column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (changed().iloc[:0], "empty"),
        ([], "empty"),
        (changed().drop(columns="task"), "lack the column 'task'"),
        (changed(task=1), "'task' must be text"),
        (changed(trial=1.5), "'trial' must hold integers"),
        (changed(cost="x"), "'cost' must hold numbers"),
        (changed(trial=0), "counted from 1"),
        (changed(trial=1), "a seed stands twice"),
        (changed(seed=0), "trials must be 1 to 4"),
        (changed(suggest_seconds=-1.0), "suggest_seconds"),
        (without_row(3), "method 'a'"),
        (without_row(30), "method 'b'"),
        (with_value("normalized_regret", 1.5), "not within 0 and 1"),
        (with_value("normalized_regret", np.nan), "not within 0 and 1"),
        (with_value("task", "t9"), "needs every task"),
        (with_value("seed", 99), "trials must be 1 to 4"),
        (with_value("method", ""), "method name"),
        (pd.concat([changed(), frame("a", 1)]), "trials must be 1 to 4"),
        (changed(normalized_regret=changed()["trial"] / 8), "rises"),
        ([frame("a", 1), frame("b", 1, tasks=2)], "needs every task"),
        ([frame("a", 1), frame("b", 1, trials=3)], "trials 1 to 4"),
        ([frame("a", 1, seeds=(0, 1, 2)), frame("b", 1)], "different numbers of seeds"),
    ],
)
def test_frames_that_do_not_fit_are_refused(rows: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        summarize(rows)


def test_methods_keep_their_own_seeds() -> None:
    comparison = compare([frame("a", 1, seeds=(0, 1, 2)), frame("b", 2, seeds=(7,))])
    assert [cube.shape for cube in comparison.regret] == [(3, 3, 4), (3, 1, 4)]
    assert comparison.stacked().shape == (2, 3, 3, 4)
