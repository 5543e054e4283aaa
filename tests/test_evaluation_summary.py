"""Summaries against plain loops over rows, their schema, pooled folds, and refusal of what does not fit."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import COLUMNS, check_summary, combine_folds, compare, summarize
from hyprl_jax.evaluation.statistics import bootstrap_interval


def frame(
    method: str,
    seed: int,
    tasks: int = 3,
    seeds: tuple[int, ...] = (0, 1),
    trials: int = 4,
    first_task: int = 0,
) -> pd.DataFrame:
    """Falling curves with ties between methods, rows shuffled."""
    rng = np.random.default_rng(seed)
    names = [f"t{index}" for index in range(first_task, first_task + tasks)]
    index = pd.MultiIndex.from_product([names, seeds, range(1, trials + 1)], names=["task", "seed", "trial"])
    drawn = rng.integers(0, 9, (tasks * len(seeds), trials)) / 8
    regret = np.minimum.accumulate(drawn, axis=1).ravel()
    rows = index.to_frame(index=False).assign(method=method, collection="c", normalized_regret=regret)
    rows = rows.assign(config_id=7, objective=regret, incumbent=regret, cost=np.nan)
    rows = rows.assign(suggest_seconds=rng.random(len(rows)))
    return rows.sample(frac=1.0, random_state=seed)[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)


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
    assert set(summary["tests"]) == {"interval", "last_trial", "trial_mean"}
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


def test_speed_is_null_where_it_was_not_measured() -> None:
    part = frame("a", 1).assign(suggest_seconds=np.nan)
    assert summarize(part)["methods"]["a"]["suggest_ms"] is None


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


GOOD = summarize([frame("a", 1), frame("b", 2), frame("c", 3)], split="loo")


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


@pytest.mark.parametrize("key", list(GOOD))
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
    from hyprl_jax.evaluation import markdown_table

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
