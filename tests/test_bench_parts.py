"""A training step apart: costs as counted, parts that compute what training computes, ceilings, the model."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyprl_jax import bench, env, fitting, learner, players, rollout, surrogate
from hyprl_jax.bench import ceilings, costs, make_problem, model, parts
from hyprl_jax.bench.ceilings import Ceilings
from hyprl_jax.bench.parts import Middle, Part
from hyprl_jax.bench.problem import Problem
from hyprl_jax.cli.bench import BenchOptions, run_benchmark
from hyprl_jax.errors import InputError
from hyprl_jax.networks import FlaxNetwork

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import performance

EPISODES, TRIALS, TASKS = 16, 4, 8
SIZES = (24, 96)
NAMES = ["environment", "update", "reading", "network", "targets", "fit"]
FIGURES = (
    "flops_per_step", "bytes_per_step", "microseconds_per_step", "gflops", "gigabytes_per_second",
    "of_matmul_ceiling", "of_memory_ceiling",
)  # fmt: skip

Made = tuple[Problem, Middle, dict[str, Part]]


def make(candidates: int) -> Made:
    problem = parts.with_all_candidates(make_problem(EPISODES, TRIALS, tasks=TASKS, candidates=candidates))
    middle = parts.play_to_the_middle(problem)
    return problem, middle, parts.make_parts(problem, middle)


@pytest.fixture(scope="module")
def made() -> Made:
    return make(SIZES[0])


@pytest.fixture(scope="module")
def limits() -> Ceilings:
    return Ceilings(100.0, ((2**18, 50.0), (2**28, 10.0)), 2**25)


def run(part: Part) -> tuple[Any, Any]:
    return jax.jit(part.function)(part.carried, *part.given)


def episode_of(middle: Middle, number: int) -> Any:
    """One episode of the block."""
    episode = middle.episode
    pick = partial(jax.tree.map, lambda leaf: leaf[number])
    own = {name: pick(getattr(episode.known, name)) for name in ("weights", "mean", "deviation", "contrast")}
    rest = episode._replace(known=None)
    return pick(rest)._replace(known=episode.known._replace(**own))


def same(left: Any, right: Any, tolerance: float = 2e-4) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), left, right)


# ---- counting


def test_a_product_counts_two_operations_for_each_of_its_terms() -> None:
    square = jnp.ones((24, 24))
    cost = costs.count(jnp.matmul, square, square)
    assert cost.flops == 2 * 24**3
    assert cost.bytes == 3 * 4 * 24**2


def test_transcendental_functions_are_apart() -> None:
    assert costs.count(jnp.exp, jnp.ones(50))[:2] == (0, 50)


def test_xla_counts_the_body_of_a_loop_once() -> None:
    """If it ever counts them all, `costs` must stop multiplying."""
    short, long = (jax.jit(_powers(turns)).lower(jnp.ones((16, 16))).compile() for turns in (5, 50))
    assert costs.analysed(short).flops == costs.analysed(long).flops


@pytest.mark.parametrize("turns", [1, 2, 3, 20])
def test_loops_count_as_often_as_they_run(turns: int) -> None:
    products = 2 * 16**3 * turns
    assert products <= costs.count(_powers(turns), jnp.ones((16, 16))).flops <= products + 10 * turns


@pytest.mark.parametrize("turns", [4, 12, 14, 3])
def test_turns_side_by_side_count_as_often_as_they_run_and_pass_over_memory_together(turns: int) -> None:
    rows, start = jnp.ones((turns, 1000)), jnp.zeros(1000)

    def total(rows: jax.Array, start: jax.Array, unroll: int) -> jax.Array:
        def add(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
            return jnp.maximum(total, row) * 2.0, None

        return jax.lax.scan(add, start, rows, unroll=unroll)[0]

    one, four = (costs.count(partial(total, unroll=unroll), rows, start) for unroll in (1, 4))
    # What XLA spends on the loops themselves is a few operations a turn.
    assert 2000 * turns <= four.flops <= 2000 * turns + 10 * turns
    assert 2000 * turns <= one.flops <= 2000 * turns + 10 * turns
    passes = one.bytes / 4000 / turns  # over the accumulator, read and written, and a row
    assert passes >= 2.9
    if turns % 4 == 0:  # else the rows that are left over are copied first
        assert four.bytes < 0.8 * one.bytes


def test_loops_within_loops() -> None:
    def outer(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda total, _: (_powers(3)(total), None), x, None, length=7)[0]

    products = 2 * 16**3 * 21
    assert products <= costs.count(jax.jit(outer), jnp.ones((16, 16))).flops <= products + 300


def _powers(turns: int) -> Any:
    return lambda x: jax.lax.fori_loop(0, turns, lambda _, total: total @ x, x)


def test_expected_gains_count_for_all_known_tasks(made: Made) -> None:
    _, middle, _ = made
    episode = episode_of(middle, 0)
    # So many that there is a loop: of a single turn XLA makes none, and spares the first addition.
    thrice = lambda leaf: jnp.concatenate([leaf] * 3)
    tasks = episode.known._replace(examples=thrice(episode.known.examples))
    beliefs = episode.beliefs._replace(reached=thrice(episode.beliefs.reached))
    known, candidates = tasks.examples.shape
    assert known >= 2 * surrogate.TASKS_AT_ONCE
    weights = jnp.ones((2, known)) / known
    cost = costs.count(surrogate.expected_gains, tasks, beliefs, weights)
    by_hand = known * candidates * 6  # difference, maximum, and two products added up
    assert by_hand <= cost.flops <= 1.1 * by_hand + 20 * known


# ---- parts compute what training computes


def test_parts_and_middle(made: Made) -> None:
    problem, middle, by_name = made
    assert list(by_name) == NAMES
    assert middle.episode.known.surfaces.ndim == 2, "shared by the block"
    assert bool((middle.episode.state.trial == TRIALS // 2).all())
    assert bool((middle.episode.state.tried.sum(1) == TRIALS // 2).all())
    assert middle.record.reward.shape == (EPISODES, TRIALS)
    assert bool(middle.record.over[:, -1].all()) and bool(middle.record.valid.all())
    assert not bool(middle.episode.state.tried[jnp.arange(EPISODES), middle.action].any())
    assert problem.config.augment.candidates == 0


def test_environment_step(made: Made) -> None:
    problem, middle, by_name = made
    (tried, incumbent, latest, action), (legal, trial, result) = run(by_name["environment"])
    for number in (0, 7):
        task, state = episode_of(middle, number).task, episode_of(middle, number).state
        expected, outcome = env.step(task, state, middle.action[number], problem.config.env)
        assert bool((tried[number] == expected.tried).all())
        assert bool((legal[number] == env.observe(task, state, problem.config.env).legal).all())
        assert int(trial[number]) == int(expected.trial) == TRIALS // 2 + 1
        assert float(incumbent[number]) == float(expected.incumbent)
        assert float(latest[number]) == float(expected.latest)
        assert int(action[number]) != int(middle.action[number])
        assert float(result.reward[number]) == pytest.approx(float(outcome.reward), abs=1e-6)


def test_update(made: Made) -> None:
    problem, middle, by_name = made
    (processes, _), others = run(by_name["update"])
    update = jax.jit(partial(surrogate.update, config=problem.config.surrogate))
    for number in (0, 7):
        episode, action = episode_of(middle, number), middle.action[number]
        expected = update(episode.known, episode.beliefs, action, episode.task.objective[action])
        pick = partial(jax.tree.map, lambda leaf, number=number: leaf[number])
        same(pick(processes), expected.processes)
        same(pick(others), expected._replace(processes=None))


def test_reading(made: Made) -> None:
    problem, middle, by_name = made
    config = problem.config
    columns, inputs, context, legal = run(by_name["reading"])[1]
    look = jax.jit(partial(rollout.look, config=config.env, beliefs=config.surrogate))
    see = jax.jit(partial(players.candidate_inputs, config=config.network))
    assert columns.shape == (EPISODES, config.network.shortlist)
    for number in (0, 7):
        episode = episode_of(middle, number)
        view = look(episode.known, episode.task, episode.state, episode.beliefs, episode.latest)
        expected = see(view, columns=columns[number])
        same(jax.tree.map(lambda leaf, number=number: leaf[number], inputs), expected, 1e-3)
        same(context[number], view.context, 1e-3)
        best = jnp.sort(jnp.where(view.observation.legal, view.acquired.acquisition, -1.0))[::-1]
        same(view.acquired.acquisition[columns[number]], best[: columns.shape[1]])
        assert bool(legal[number].all())


def test_network(made: Made) -> None:
    problem, _, by_name = made
    part = by_name["network"]
    memory, place, values, preferences = run(part)[1]
    params, before, context, inputs, _ = part.given
    network = FlaxNetwork(problem.config.network)
    advance, judge, prefer = (
        jax.jit(function) for function in (network.advance, network.values, network.preferences)
    )
    for number in (0, 7):
        pick = partial(jax.tree.map, lambda leaf, number=number: leaf[number])
        after, hidden = advance(params, pick(before), context[number])
        same(memory[number], after)
        q = judge(params, hidden, pick(inputs))
        same(values[number], q)
        same(preferences[number], prefer(params, hidden, pick(inputs)))
        assert float(q[place[number]]) == pytest.approx(float(q.max()), rel=1e-4)


def test_targets_and_fit(made: Made) -> None:
    problem, middle, by_name = made
    config = problem.config
    tasks, record = parts.batch_of(middle, config)
    assert record.reward.shape == (config.learner.episodes, TRIALS)
    batch = jax.jit(partial(learner.make_batch, config=config))(record, tasks)
    targets, merits = run(by_name["targets"])[1]
    same(targets, batch.targets)
    same(merits, batch.merits, 1e-3)
    params, _, loss, errors = run(by_name["fit"])[1]
    expected = jax.jit(partial(learner.fit, config=config))(middle.state, batch, jax.random.key(2))
    same(params, expected[0], 1e-3)
    assert float(loss) == pytest.approx(float(expected[2]), rel=1e-3)
    assert errors.shape == (config.learner.episodes,)
    changes = jax.tree.map(lambda new, old: float(jnp.abs(new - old).max()), params, middle.state.params)
    assert max(jax.tree.leaves(changes)) > 0
    assert by_name["fit"].steps == config.learner.episodes * TRIALS
    assert by_name["update"].steps == middle.action.shape[0]


def test_a_batch_of_several_blocks_repeats_the_block(made: Made) -> None:
    problem, middle, _ = made
    config = make_problem(2 * EPISODES, TRIALS, tasks=TASKS, candidates=SIZES[0]).config
    assert config.learner.episodes == 2 * problem.config.learner.episodes
    tasks, record = parts.batch_of(middle, config)
    assert record.kept.features.shape[:2] == (2 * EPISODES, TRIALS)
    for start in (0, EPISODES):
        same(record.reward[start : start + EPISODES], middle.record.reward)
        same(tasks.objective[start : start + EPISODES], middle.episode.task.objective)


@pytest.mark.slow
def test_the_whole_step_is_training() -> None:
    problem = parts.with_all_candidates(make_problem(16, 2, tasks=4, candidates=8))
    side = parts.whole(problem)
    side.run()
    assert side.steps == 16 * 2
    assert problem.bank.legal.shape[1] == 8
    numbers = fitting.numbers_of(problem.bank, problem.config.surrogate)
    state = jax.eval_shape(partial(learner.init, config=problem.config), jax.random.key(0), *problem[:2])
    after, _ = jax.eval_shape(
        partial(learner.update, config=problem.config), state, *problem[:2], numbers=numbers
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_repeats_are_calls_one_after_another(made: Made) -> None:
    for name in ("environment", "update"):
        function, carried, given, _, repeats = made[2][name]
        assert repeats > 1
        together = jax.jit(partial(parts.repeated, function, 3))(carried, *given)
        one = jax.jit(function)
        for _ in range(3):
            carried, result = one(carried, *given)
        same(together, (carried, result))


# ---- ceilings


def test_ceilings_are_measured_with_the_operations_that_they_count() -> None:
    assert ceilings.product(24).steps == 2 * 24**3
    side = ceilings.streaming(2**26)
    assert side.steps % (12 * 2**23) == 0
    side.run()
    found = ceilings.measure(1, 0.001, matrices=(32, 64))
    figures = found.figures()
    json.dumps(figures, allow_nan=False)
    assert found.matmul > 0 and all(rate > 0 for _, rate in found.memory)
    sizes = [size for size, _ in found.memory]
    assert sizes == sorted(sizes) and sizes[-1] > found.cache_bytes > sizes[-2]
    assert figures["memory_gigabytes_per_second"] == found.memory[-1][1]


def test_bandwidth_is_that_of_arrays_as_large(limits: Ceilings) -> None:
    assert limits.bandwidth(1000) == 50.0
    assert limits.bandwidth(2**20) == 10.0
    assert limits.bandwidth(2**40) == 10.0


# ---- figures


def test_figures_of_a_part(made: Made, limits: Ceilings) -> None:
    problem, _, by_name = made
    predicted = model.predict(model.sizes_of(problem))
    for name in ("environment", "update", "network"):
        figures = parts._measure_part(by_name[name], predicted[name], limits, 1, 0.001)
        json.dumps(figures, allow_nan=False)
        assert all(figures[key] > 0 and np.isfinite(figures[key]) for key in FIGURES)
        assert figures["gflops"] == pytest.approx(
            figures["flops_per_step"] / figures["microseconds_per_step"] / 1e3
        )
        cores = max(1.0, figures["busy_cores"])
        assert figures["of_matmul_ceiling"] == pytest.approx(figures["gflops"] / 100.0 / cores)
        assert figures["bytes_per_step"] <= figures["xla_bytes_per_step"]


@pytest.mark.slow
def test_bench_by_parts() -> None:
    options = BenchOptions(
        episodes=16, trials=3, candidates=12, turns=1, seconds=0.004, parts=True, json=True
    )
    outcome = run_benchmark(options)
    json.dumps(outcome.result, allow_nan=False)
    assert list(outcome.result["parts"]) == NAMES
    for figures in outcome.result["parts"].values():
        assert all(figures[key] > 0 for key in FIGURES)
    step = outcome.result["step"]
    total = step["parts_microseconds"] + step["rest_microseconds"]
    assert total == pytest.approx(step["whole_microseconds"])
    assert outcome.result["ceilings"]["matmul_gflops"] > 0
    assert outcome.result["candidates"] == 12
    assert any("ceilings" in line for line in outcome.text if isinstance(line, str))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"candidates": 1}, "at least 2"),
        ({"candidates": 0}, "at least 2"),
        ({"candidates": 20, "trials": 20}, "more candidates than trials"),
        ({"candidates": 10, "trials": 20}, "more candidates than trials"),
        ({"seconds": 0.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=rf"bench: .*{hint}"):
        bench.run_bench(**wrong)


# ---- the model


@pytest.mark.slow
@pytest.mark.parametrize("candidates", SIZES)
def test_model_agrees_with_what_xla_counts(candidates: int, made: Made) -> None:
    """Operations within 35%, bytes within a factor of 2 (of a block that shares next to nothing)."""
    problem, _, by_name = made if candidates == SIZES[0] else make(candidates)
    sizes = model.sizes_of(problem)
    predicted = model.predict(sizes)
    for name in ("environment", "update", "reading", "network", "targets"):
        part = by_name[name]
        counted = costs.count(part.function, part.carried, *part.given).times(1.0 / part.steps)
        moved = counted.bytes - (model.overcounted(sizes) if name == "update" else 0.0)
        assert predicted[name].flops / 1.35 < counted.flops < predicted[name].flops * 1.35, name
        assert predicted[name].bytes / 2 < moved < predicted[name].bytes * 2, name


@pytest.mark.slow
def test_model_agrees_with_what_xla_counts_of_the_fit(made: Made) -> None:
    problem, _, by_name = made
    part, predicted = by_name["fit"], model.predict(model.sizes_of(problem))["fit"]
    counted = costs.count(part.function, part.carried, *part.given).times(1.0 / part.steps)
    assert predicted.flops / 1.6 < counted.flops < predicted.flops * 1.6
    assert predicted.bytes / 2.5 < counted.bytes < predicted.bytes * 2.5


def test_model_grows_as_it_says() -> None:
    small = model.sizes_of(make_problem(16, 20, candidates=100))
    assert (small.known, small.processes, small.shortlist) == (35, 2, 8)
    wide, long = small._replace(candidates=10_000), small._replace(trials=100)
    base, by_candidates, by_trials = map(model.predict, (small, wide, long))
    assert 50 < by_candidates["reading"].bytes / base["reading"].bytes <= 100
    assert by_candidates["network"] == base["network"] == by_trials["network"]
    assert 2 < by_trials["update"].flops / base["update"].flops < 5
    assert model.microseconds(model.Prediction(2e6, 1e3), 100.0, 10.0) == pytest.approx(20.0)
    assert model.microseconds(model.Prediction(1e3, 1e6), 100.0, 10.0) == pytest.approx(100.0)


# ---- the page


def result_of(candidates: int, trials: int) -> dict[str, Any]:
    figures = {
        "flops_per_step": 100.0, "model_flops_per_step": 80.0, "xla_bytes_per_step": 400.0,
        "model_bytes_per_step": 200.0, "microseconds_per_step": 2.0, "model_microseconds": 0.5,
        "of_matmul_ceiling": 0.125, "of_memory_ceiling": 0.25,
    }  # fmt: skip
    step = {"whole_microseconds": 14.0, "parts_microseconds": 12.0, "rest_microseconds": 2.0}
    return {
        "candidates": candidates, "trials": trials, "parts": dict.fromkeys(NAMES, figures), "step": step,
    }  # fmt: skip


def test_the_page_is_filled_between_its_marks(tmp_path: Path, repository: Path) -> None:
    page = tmp_path / "performance.md"
    original = (repository / "docs" / "performance.md").read_text(encoding="utf-8")
    assert original.count(performance.BEGIN) == original.count(performance.END) == 1
    page.write_text(original, encoding="utf-8")
    facts = {"ceilings": Ceilings(100.0, ((2**18, 50.0), (2**28, 10.0)), 2**25).figures(), "machine": {
        "devices": ["cpu"], "cpu_count": 2, "load_average": 0.1, "jax": "1"}, "episodes": 128}  # fmt: skip
    table = performance.markdown({**facts, "grid": [result_of(100, 20), result_of(100, 50)]})
    performance.keep(table, page)
    performance.keep(table, page)
    text = page.read_text(encoding="utf-8")
    assert text.count(table) == 1
    assert text.partition(performance.BEGIN)[0] == original.partition(performance.BEGIN)[0]
    assert text.partition(performance.END)[2] == original.partition(performance.END)[2]
    row = next(line for line in table.splitlines() if line.startswith("| 100 | 50 | update"))
    assert "1.25" in row and "4.0" in row, "counted to model, measured to model"
    assert "| rest |" in table and "| 14 |" in table
