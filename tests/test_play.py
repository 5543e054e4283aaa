"""Playing held-out tasks with a policy: what it may see, what it may not play, what is compiled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from exported_policies import untrained_run
from tiny_runs import TRIALS, Compilations

from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import Played
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.policies import load_policy
from hyprl_jax.surfaces import TaskTables, load_tables, make_split

METHODS = ("policy", "policy_ensemble", "random", "mean_list", "prior_ei")
SPLIT = "kfold3"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three collections, folds 0 and 1, seeds 0 and 1, with random weights."""
    collections = tiny_runs.write_collections(tmp_path_factory.mktemp("collections"))
    path = tmp_path_factory.mktemp("runs") / "run"
    return untrained_run(path, *collections.values(), trials=TRIALS, folds=(0, 1))


@pytest.fixture(scope="module")
def grid(run: Path) -> TaskTables:
    return load_tables(load_policy(run).config.collections[0])


@pytest.fixture(scope="module")
def played(run: Path, grid: TaskTables) -> dict[str, Played]:
    return by_method(play_methods(METHODS, grid, make_split(grid, SPLIT, 0), TRIALS, (0, 1), run=run))


def by_method(played: list[Played]) -> dict[str, Played]:
    return {one.method: one for one in played}


def test_policy_plays_every_training_seed_and_the_ensemble_once(played: dict[str, Played]) -> None:
    assert list(played) == list(METHODS)
    assert played["policy"].seeds == (0, 1)
    assert played["policy"].actions.shape == (2, 2, TRIALS)
    assert played["policy_ensemble"].actions.shape == (2, 1, TRIALS)
    for one in played.values():
        for episode in one.actions.reshape(-1, TRIALS).tolist():
            assert len(set(episode)) == TRIALS
            assert min(episode) >= 0


def test_methods_with_chance_play_as_many_seeds_as_the_policy_has(run: Path, grid: TaskTables) -> None:
    split = make_split(grid, SPLIT, 0)
    for given, used in (((5,), (5, 6)), ((3, 1, 4), (3, 1))):
        random = play_methods(["policy", "random"], grid, split, TRIALS, given, run=run)[1]
        assert random.seeds == used


def test_folds_share_their_programs(run: Path, grid: TaskTables, played: dict[str, Played]) -> None:
    del played
    with Compilations() as compiled:
        other = play_methods(METHODS, grid, make_split(grid, SPLIT, 1), TRIALS, (0, 1), run=run)
    assert not {"jit(play)", "jit(<lambda>)"} & set(compiled.names)
    assert by_method(other)["policy"].actions.shape == (2, 2, TRIALS)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_tested_cannot_be_seen(
    run: Path, grid: TaskTables, played: dict[str, Played], method: str
) -> None:
    """Other values of the test tasks where nothing was tried: their best and worst change, the actions do
    not."""
    split = make_split(grid, SPLIT, 0)
    objective = grid.objective.copy()
    random = np.random.default_rng(0)
    for place, task in enumerate(split.test):
        untried = np.ones(objective.shape[1], bool)
        untried[np.unique(played[method].actions[place])] = False
        objective[grid.tasks.index(task), untried] = 100.0 * random.normal(size=untried.sum())
    changed = dataclasses.replace(grid, objective=objective)
    again = play_methods([method], changed, split, TRIALS, (0, 1), run=run)[0]
    np.testing.assert_array_equal(again.actions, played[method].actions)


def test_policy_reacts_to_what_it_finds(run: Path, grid: TaskTables, played: dict[str, Played]) -> None:
    """A list would play the same whatever it found."""
    split = make_split(grid, SPLIT, 0)
    objective = grid.objective.copy()
    rows = [grid.tasks.index(task) for task in split.test]
    objective[rows] = objective[rows].max(axis=1, keepdims=True) + objective[rows].min(axis=1, keepdims=True)
    objective[rows] -= grid.objective[rows]
    turned = play_methods(
        ["policy"], dataclasses.replace(grid, objective=objective), split, TRIALS, (0,), run
    )
    np.testing.assert_array_equal(turned[0].actions[..., 0], played["policy"].actions[..., 0])
    assert (turned[0].actions != played["policy"].actions).any()


def test_policy_is_refused_on_what_it_was_trained_on(run: Path, grid: TaskTables) -> None:
    foreign = make_split(grid, SPLIT, 2)  # the run has the folds 0 and 1
    with pytest.raises(InputError, match="was among the training tasks of the policy"):
        play_methods(["policy"], grid, foreign, TRIALS, (0,), run=run)
    assert play_methods(["mean_list"], grid, foreign, TRIALS, (0,), run=run)[0].actions.shape[0] == 2


def test_policy_may_play_tasks_of_groups_that_it_never_met(run: Path, grid: TaskTables) -> None:
    renamed = dataclasses.replace(grid, groups=tuple(f"new-{group}" for group in grid.groups))
    split = make_split(renamed, SPLIT, 2)
    assert play_methods(["policy"], renamed, split, TRIALS, (0,), run=run)[0].actions.shape == (2, 2, TRIALS)


@pytest.mark.parametrize(
    ("methods", "trials", "given_run", "message"),
    [
        (["policy"], TRIALS, False, "needs a run"),
        (["magic"], TRIALS, True, "unknown method 'magic'"),
        (["mean_list"], 0, True, "0 trials"),
    ],
)
def test_mistakes_are_told(
    run: Path, grid: TaskTables, methods: list[str], trials: int, given_run: bool, message: str
) -> None:
    split = make_split(grid, SPLIT, 0)
    with pytest.raises(InputError, match=message):
        play_methods(methods, grid, split, trials, (0,), run=run if given_run else None)


def test_a_run_without_a_policy_says_so(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    with pytest.raises(InputError, match="no policy yet"):
        load_policy(tmp_path)
