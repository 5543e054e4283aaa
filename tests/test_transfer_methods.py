"""What all published transfer methods have in common: legal choices, no look at what was not tested, use of
the known tasks alone, and figures like those that were published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from surface_examples import small_collection

from hyprl_jax.baselines import TRANSFER
from hyprl_jax.evaluation import trajectories
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.evaluation.studies import Study, play_study
from hyprl_jax.surfaces import (
    Split,
    TaskTables,
    import_collection,
    load_tables,
    make_split,
    write_collection,
)

pytestmark = pytest.mark.usefixtures("optimized")

TRIALS = 6
METHODS = tuple(TRANSFER)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> TaskTables:
    return load_tables(tiny_runs.write_collections(tmp_path_factory.mktemp("collections"))["ragged"])


@pytest.fixture(scope="module")
def split(ragged: TaskTables) -> Split:
    return make_split(ragged, "kfold3", 0)


def actions(method: str, tables: TaskTables, split: Split, seeds: tuple[int, ...] = (0,)) -> np.ndarray:
    return play_methods([method], tables, split, TRIALS, seeds)[0].actions


@pytest.mark.parametrize("method", METHODS)
def test_choices_are_legal_and_depend_on_nothing_untested(
    method: str, ragged: TaskTables, split: Split
) -> None:
    played = play_methods([method], ragged, split, TRIALS, (0,))[0]
    assert not played.failures
    trajectories(ragged, split.test, played)  # refuses whatever is illegal or stands twice
    assert (played.actions >= 0).all()
    assert np.array_equal(played.actions, actions(method, ragged, split)), "the same twice"
    objective = ragged.objective.copy()
    for row, episodes in zip([ragged.tasks.index(task) for task in split.test], played.actions, strict=True):
        untried = np.setdiff1d(np.flatnonzero(~np.isnan(objective[row])), episodes)
        objective[row, untried] = np.random.default_rng(row).normal(100.0, 50.0, len(untried))
    changed = dataclasses.replace(ragged, objective=objective)
    assert np.array_equal(played.actions, actions(method, changed, split))


@pytest.mark.parametrize("method", METHODS)
def test_other_test_tasks_and_tasks_on_no_side_teach_nothing(
    method: str, ragged: TaskTables, split: Split
) -> None:
    first = dataclasses.replace(split, test=split.test[:1])
    alone = actions(method, ragged, first)
    assert np.array_equal(actions(method, ragged, split)[:1], alone)
    objective = ragged.objective.copy()
    known = {*split.train, *split.validation, *first.test}
    for row, task in enumerate(ragged.tasks):
        if task not in known:
            objective[row] *= -3.0
    assert np.array_equal(actions(method, dataclasses.replace(ragged, objective=objective), first), alone)


@pytest.mark.parametrize("method", METHODS)
def test_known_tasks_teach(method: str, tmp_path: Path) -> None:
    """All tasks are alike: what was best before is tested early."""
    tables = load_tables(write_collection(small_collection(tasks=6, configs=40), tmp_path / "made"))
    common = np.random.default_rng(5).normal(size=40)
    noise = np.random.default_rng(6).normal(size=(6, 40))
    alike = dataclasses.replace(tables, objective=common + 0.02 * noise)
    split = make_split(alike, "kfold3", 0)
    rows = [alike.tasks.index(task) for task in split.test]
    best = alike.objective[rows].argsort(axis=1)[:, :3]  # minimised
    for tested, good in zip(actions(method, alike, split)[:, 0], best, strict=True):
        assert set(tested[:4]) & set(good)


@pytest.mark.parametrize("method", METHODS)
def test_one_known_task_is_enough(method: str, ragged: TaskTables, split: Split) -> None:
    single = dataclasses.replace(split, train=split.train[:1], validation=())
    played = play_methods([method], ragged, single, TRIALS, (0,))[0]
    assert not played.failures
    assert (played.actions >= 0).all()


@pytest.mark.slow
def test_two_stage_surrogates_reach_their_published_figures(shared_data: Path, tmp_path: Path) -> None:
    """TST-R on the SVM surfaces, leave one group out: 0.069, 0.032 and 0.017 at trials 5, 10 and 20."""
    path = import_collection("ecml2016", shared_data / "ecml2016-svm.tar.xz", tmp_path / "svm288")
    study = Study((str(path),), "loo", ("tst_r",), 20, folds=None, seeds=(0,))
    summary = play_study(study)[1]
    curve = np.asarray(summary["methods"]["tst_r"]["normalized_regret"])
    assert len(summary["tasks"]) == 50
    np.testing.assert_allclose(curve[[4, 9, 19]], [0.069, 0.032, 0.017], atol=0.015)
