"""Whole comparisons: methods of every kind side by side, folds pooled, shared starts, faults contained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hpob_examples
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_runs
from exported_policies import untrained_run

from hyprl_jax import baselines
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import programs, studies
from hyprl_jax.evaluation.hosted import Hosting
from hyprl_jax.evaluation.studies import Study, play_study
from hyprl_jax.rollout import Choice
from hyprl_jax.surfaces import import_hpob_spaces, load_tables, make_split

TRIALS = 5


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_runs.write_collections(tmp_path_factory.mktemp("collections"))


@pytest.fixture(scope="module")
def study(collections: dict[str, str]) -> Study:
    hosting = Hosting(jobs=1, time_limit=60)
    methods = ("random", "optimizers_for_tests:Ascending", "mean_list", "start")
    return Study((collections["grid"],), "kfold3", methods, TRIALS, seeds=(0, 1), hosting=hosting)


def chosen(frames: list[pd.DataFrame], method: str) -> pd.DataFrame:
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["method"] == method]


def test_methods_of_every_kind_stand_side_by_side_in_the_order_asked_for(study: Study) -> None:
    frames, summary = play_study(study, "hyprl evaluate ...")
    assert len(frames) == 3
    assert all(tuple(dict.fromkeys(frame["method"])) == study.methods for frame in frames)
    assert tuple(summary["methods"]) == study.methods
    assert sorted(summary["tasks"]) == [f"t{number}" for number in range(6)], "folds are pooled"
    assert summary["fold"] == [0, 1, 2]
    assert summary["failures"] == []
    origin = summary["provenance"]
    assert origin["command"] == "hyprl evaluate ..."
    assert origin["collections"] == {"grid": load_tables(study.collections[0]).content_hash}
    assert origin["seeds"] == [0, 1]
    assert {"jax", "numpy", "hyprl_jax", "python"} <= set(origin["versions"])
    ascending = chosen(frames, "optimizers_for_tests:Ascending")
    assert ascending.groupby(["task", "seed"])["config_id"].apply(list).map(tuple).nunique() == 1


def test_a_study_played_twice_is_the_same_to_the_last_digit(study: Study) -> None:
    first, one = play_study(study)
    second, other = play_study(study)
    for a, b in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(
            a.drop(columns="suggest_seconds"), b.drop(columns="suggest_seconds"), check_exact=True
        )
    for method in study.methods:
        for key in ("normalized_regret", "rank", "ci95"):
            assert one["methods"][method][key] == other["methods"][method][key]
    assert one["tests"] == other["tests"]


def test_all_methods_begin_with_the_same_configurations(study: Study) -> None:
    frames, summary = play_study(replace(study, starts="2"))
    frame = pd.concat(frames, ignore_index=True)
    begun = frame[frame["trial"] <= 2].groupby(["task", "seed", "trial"])["config_id"].nunique()
    assert (begun == 1).all()
    assert frame.groupby("method")["seed"].nunique().eq(2).all(), "fixed lists play every start as well"
    firsts = frame[frame["trial"] == 1].groupby("task")["config_id"].nunique()
    assert (firsts > 1).any(), "other seeds begin elsewhere"
    first_trials = [figures["normalized_regret"][:2] for figures in summary["methods"].values()]
    assert all(curve == first_trials[0] for curve in first_trials)
    assert summary["provenance"]["starts"] == "2"


def test_what_follows_the_starts_depends_on_their_results(study: Study) -> None:
    only = replace(study, methods=("start",), folds=(0,))
    frame = play_study(replace(only, starts="3"))[0][0]
    later = frame[frame["trial"] > 3].groupby(["task", "seed"])["config_id"].apply(tuple)
    alone = play_study(only)[0][0].groupby(["task", "seed"])["config_id"].apply(tuple)
    assert set(later) != {episode[: TRIALS - 3] for episode in alone}


def test_policies_take_turns_at_the_starting_points(
    collections: dict[str, str], tmp_path: Path, study: Study
) -> None:
    run = untrained_run(tmp_path / "run", collections["grid"])
    seeds = (0, 1, 2)
    methods = ("policy", "policy_ensemble", "random")
    wanted = replace(study, methods=methods, folds=(0,), seeds=seeds, starts="2", run=run, trials=4)
    frame = play_study(wanted)[0][0]
    assert frame.groupby("method")["seed"].apply(set).tolist() == [set(seeds)] * 3
    begun = frame[frame["trial"] <= 2].groupby(["task", "seed", "trial"])["config_id"].nunique()
    assert (begun == 1).all()


def test_runs_that_fail_are_told_and_end_nothing(study: Study) -> None:
    broken = "optimizers_for_tests:Faulty"
    frames, summary = play_study(replace(study, methods=("random", broken), folds=(0, 1)))
    assert {record["method"] for record in summary["failures"]} == {broken}
    assert len(summary["failures"]) == 4 * 2
    assert {record["trial"] for record in summary["failures"]} == {3}
    assert all("no idea" in record["reason"] for record in summary["failures"])
    failed = chosen(frames, broken)
    assert failed.loc[failed["trial"] >= 3, "config_id"].isna().all()
    assert failed["normalized_regret"].notna().all()
    assert chosen(frames, "random")["config_id"].notna().all()


def test_a_method_on_the_device_that_breaks_down_has_failed_on_all_tasks(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*given: object) -> None:
        raise MemoryError("no room for 10 arrays")

    broken = baselines.make_baseline("mean_list")._replace(memory=without_memory)
    found = {"mean_list": broken}
    monkeypatch.setattr(
        programs, "make_baseline", lambda name, beliefs: found.get(name) or baselines.make_baseline(name)
    )
    programs.baseline_program.cache_clear()
    frames, summary = play_study(replace(study, methods=("mean_list", "random"), folds=(0,)))
    programs.baseline_program.cache_clear()
    assert len(summary["failures"]) == 2 * 2
    assert summary["failures"][0]["reason"] == "MemoryError: no room for 10 arrays"
    assert summary["methods"]["mean_list"]["normalized_regret"] == [1.0] * TRIALS
    assert summary["methods"]["random"]["normalized_regret"][-1] < 1.0
    assert len(frames[0]) == 2 * 2 * TRIALS * 2


def test_what_a_baseline_prepares_reaches_its_memory(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is learned from the fold: configurations by their value on the first known task."""

    def prepare(bank, fold, config):  # type: ignore[no-untyped-def]
        return bank.unit[fold.known[0]]

    def memory(shared, task, config, prepared):  # type: ignore[no-untyped-def]
        return prepared

    def act(memory, view, key):  # type: ignore[no-untyped-def]
        action = jnp.argmax(jnp.where(view.observation.legal, memory, -1.0))
        return memory, Choice(action, None)

    simple = baselines.make_baseline("mean_list")
    learned = simple._replace(act=act, memory=memory, prepare=prepare)
    monkeypatch.setattr(programs, "make_baseline", lambda name, beliefs: learned)
    for cached in (programs.baseline_program, programs.preparing_program):
        cached.cache_clear()
    frame = play_study(replace(study, methods=("mean_list",), folds=(0,)))[0][0]
    for cached in (programs.baseline_program, programs.preparing_program):
        cached.cache_clear()
    tables = load_tables(study.collections[0])
    known = make_split(tables, "kfold3", 0).train[0]
    order = np.argsort(-tables.objective[tables.tasks.index(known)], kind="stable")[:TRIALS]
    for _, episode in frame.groupby(["task", "seed"]):
        assert episode["config_id"].tolist() == tables.config_ids[order].tolist()


def test_collections_are_pooled_and_told_apart(study: Study, collections: dict[str, str]) -> None:
    both = replace(study, collections=(collections["grid"], collections["conditional"]), folds=(0,))
    summary = play_study(replace(both, methods=("random", "mean_list")))[1]
    assert set(summary["collections"]) == {"grid", "conditional"}
    assert all("/" in task for task in summary["tasks"])
    assert len(summary["provenance"]["collections"]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ()}, "name at least one method"),
        ({"methods": ("random", "random")}, "stands twice"),
        ({"methods": ("random", "nonsense")}, "unknown method 'nonsense'"),
        ({"methods": ("policy",)}, "needs a run"),
        ({"methods": ("a.module.that:IsNot",)}, "a.module.that"),
        ({"starts": "9"}, "9"),
        ({"starts": "nowhere.json"}, "nowhere.json"),
        ({"folds": (3,)}, "folds 0 to 2"),
        ({"split": "metabo"}, "metabo"),
        ({"trials": 0}, "trials"),
    ],
)
def test_mistakes_are_told_before_anything_is_played(
    study: Study, changes: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "play_methods", lambda *given: pytest.fail("played"))
    with pytest.raises(InputError, match=words):
        play_study(replace(study, **changes))  # type: ignore[arg-type]


def test_published_results_stand_beside_ones_own(tmp_path: Path) -> None:
    source = hpob_examples.source(tmp_path / "hpob-data")
    made = import_hpob_spaces(source, tmp_path / "collections")
    results = hpob_examples.written(tmp_path / "results", {"Theirs.json": hpob_examples.results()})
    hpob = Study(
        tuple(map(str, made)),
        "hpob",
        ("random", "portfolio"),
        hpob_examples.FIRST + 12,
        starts="published",
        published=(("Theirs", results / "Theirs.json"),),
    )
    summary = play_study(hpob)[1]
    assert set(summary["methods"]) == {"random", "portfolio", "Theirs"}
    assert len(summary["collections"]) == len(hpob_examples.SPACES)
    begun = [m["normalized_regret"][hpob_examples.FIRST - 1] for m in summary["methods"].values()]
    np.testing.assert_allclose(begun, begun[0], atol=1e-9)
    with pytest.raises(InputError, match="start"):
        play_study(replace(hpob, starts=None))
