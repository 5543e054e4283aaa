"""The benchmark: that both sides of each comparison do the same work, and what it reports."""

from __future__ import annotations

import json
from functools import partial

import jax
import numpy as np
import pytest
from oracles import EpisodeOracle

from hyprl_jax import bench
from hyprl_jax.bench import environment, learning, make_problem, rollouts
from hyprl_jax.bench.problem import Problem
from hyprl_jax.errors import InputError

EPISODES, TRIALS = 16, 3


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(EPISODES, TRIALS, tasks=6, candidates=16)


def test_problem_has_the_size_of_the_svm_table() -> None:
    problem = make_problem()
    assert problem.bank.objective.shape == (50, 288)
    assert problem.fold.known.shape == (35,)
    assert bool(problem.bank.legal.all())
    assert problem.config.learner.episodes == 1024


def test_batched_environment_plays_what_the_oracle_plays(problem: Problem) -> None:
    rows, actions = environment.plan(problem, EPISODES, seed=1)
    program = jax.jit(partial(environment.play_episodes, config=problem.config.env))
    rewards, legal, over = program(problem.bank, problem.fold, rows, actions)
    assert bool(legal.all())
    for episode in range(EPISODES):
        surface = np.asarray(problem.bank.objective[rows[episode]], np.float64)
        oracle = EpisodeOracle(
            surface, np.ones(len(surface), bool), surface.max(), surface.min(), TRIALS, "regret", False
        )
        for trial in range(TRIALS):
            step = oracle.step(int(actions[episode, trial]))
            assert rewards[episode, trial] == pytest.approx(step["reward"], abs=1e-5)
            assert bool(over[episode, trial]) == step["over"]


def test_loop_of_trials_plays_like_the_batched_rollout(problem: Problem) -> None:
    config = problem.config
    params = rollouts.initial_params(problem)
    rows = rollouts.draw_rows(problem, EPISODES, seed=2)
    batched = jax.jit(partial(rollouts.play_episodes, config=config))
    actions, rewards = batched(params, problem.bank, problem.fold, rows)
    begin = jax.jit(partial(rollouts._begin_real, config=config))
    trial = jax.jit(partial(rollouts.greedy_trial, config=config))
    for number, row in enumerate(rows):
        episode = begin(params, problem.bank, problem.fold, row)
        for step in range(TRIALS):
            episode, result = trial(params, episode, jax.random.key(0))
            assert int(result.action) == int(actions[number, step])
            assert float(result.reward) == pytest.approx(float(rewards[number, step]), abs=1e-6)
        assert bool(result.over)


def test_batched_training_counts_all_its_steps(problem: Problem) -> None:
    side = learning.batched_side(problem)
    side.run()
    side.run()
    assert side.steps == learning.UPDATES * EPISODES * TRIALS


def test_loop_of_training_learns_from_one_episode_at_a_time(problem: Problem) -> None:
    config = learning.one_at_a_time(problem.config)
    assert (config.learner.episodes, config.learner.epochs, config.learner.minibatches) == (1, 1, 1)
    assert config.network == problem.config.network
    side = learning.loop_side(problem, episodes=2)
    side.run()
    assert side.steps == 2 * TRIALS


@pytest.mark.slow
def test_benchmark_reports_three_ratios() -> None:
    result = bench.run_bench(episodes=16, trials=3, turns=1, seconds=0.01)
    json.dumps(result, allow_nan=False)
    for part in ("environment", "rollout", "training"):
        figures = result[part]
        assert figures["env_steps_per_second"] > 0
        assert figures["ratio_to_loop"] > 0
        assert len(figures["ratio_range"]) == 2
    assert result["episodes"] == 16
    assert result["platform"] == jax.default_backend()


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"trials": 0}, {"turns": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"bench: .*give"):
        bench.run_bench(**wrong)


def test_episodes_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(InputError, match="multiple"):
        bench.run_bench(episodes=7)
