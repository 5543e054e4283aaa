"""The transfer baselines made of Gaussian processes, against plain NumPy versions, and how they behave."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transfer_oracles as oracles
from probes import make_tables, on_device, quick_jit, split_of, tables_of

from hyprl_jax import augment, rollout
from hyprl_jax import bank as banks
from hyprl_jax.baselines import ensembles, make_baseline, own_process, source_models, two_stage
from hyprl_jax.config import EnvConfig
from hyprl_jax.rollout import Choice, View
from hyprl_jax.surfaces import Split, TaskTables

METHODS = ("tst_r", "tst_m", "taf_r", "taf_m", "rgpe")
GRIDS = (own_process.LENGTHSCALES, own_process.NOISES)
TRIALS = 7


def play(
    method: str,
    tables: TaskTables | list[TaskTables],
    splits: Split | list[Split],
    trials: int = TRIALS,
    seed: int = 0,
) -> np.ndarray:
    """What `method` tests on the first test task of the first split, `[trials]`."""
    tables = tables if isinstance(tables, list) else [tables]
    splits = splits if isinstance(splits, list) else [splits]
    baseline, env = make_baseline(method), EnvConfig(trials=trials)
    bank, index = banks.pack(tables)
    row = index.rows(tables[0].collection, splits[0].test)[0]

    def run(bank: Any, fold: Any) -> jax.Array:
        assert baseline.prepare is not None
        shared = rollout.background(bank, fold)
        task = augment.real_task(bank, fold, banks.standardised_metafeatures(bank, fold), row)
        memory = baseline.memory(shared, task, env, baseline.prepare(bank, fold, env))
        key = jax.random.key(seed)
        record = rollout.play(baseline.act, memory, shared, task, key, env, baseline.beliefs)
        return jnp.where(record.valid, record.action, -1)

    return np.asarray(quick_jit(run)(*on_device((bank, banks.make_fold(index, splits)))))


@pytest.fixture(scope="module")
def tables() -> TaskTables:
    """Eight tasks in four groups, twelve configurations, a fifth of them missing in each task."""
    return make_tables(tasks=8, configs=12, metafeatures=3, seed=4, missing=0.2)


@pytest.fixture(scope="module")
def split(tables: TaskTables) -> Split:
    """Six known tasks, two of them of the test task's own group or padding; the task played is number 2."""
    return split_of(tables, [0, 1, 3, 4], [5, 6])


@pytest.fixture(scope="module")
def sources(tables: TaskTables, split: Split) -> source_models.SourceModels:
    bank, index = banks.pack([tables])
    fold = banks.make_fold(index, [split])
    learn = quick_jit(lambda bank, fold: source_models.learn_sources(bank, fold, EnvConfig(trials=TRIALS)))
    return jax.tree.map(np.asarray, learn(*on_device((bank, fold))))


PEERS = [0, 1, 3, 4, 5]  # places among the known tasks; 2 is task 3, of the group of the played task 2


@pytest.mark.parametrize(
    ("method", "kind"), [("tst_r", "tst"), ("tst_m", "tst"), ("taf_r", "taf"), ("taf_m", "taf")]
)
def test_choices_are_those_of_the_papers(
    tables: TaskTables, split: Split, sources: source_models.SourceModels, method: str, kind: str
) -> None:
    similarity = None
    if method.endswith("m"):
        bank, index = banks.pack([tables])
        meta = banks.standardised_metafeatures(*on_device((bank, banks.make_fold(index, [split]))))
        distance = oracles.metafeature_distance(np.asarray(meta)[2], sources.metafeatures[PEERS])
        similarity = np.array([oracles.epanechnikov(d / two_stage.METAFEATURE_BANDWIDTH) for d in distance])
        assert similarity.any()
    legal = np.isfinite(tables.objective[2])
    objective = -np.where(legal, tables.objective[2], 0.0)
    task = (tables.encodings.astype(float), objective, legal)
    actions = play(method, tables, split).tolist()
    assert legal[actions].all() and len(set(actions)) == TRIALS
    short = oracles.shortfalls(kind, sources.mean[PEERS].astype(float), similarity, task, actions, GRIDS)
    assert max(short) < 2e-3


@pytest.mark.parametrize("kind", ["tst", "taf"])
def test_choices_are_those_of_the_papers_on_smooth_surfaces(kind: str) -> None:
    """Where the known tasks are of use, and their processes have to be told from each other."""
    tables = smooth_tables(known=6, configs=40, seed=7)
    split = split_of(tables, list(range(6)))
    bank, index = banks.pack([tables])
    learn = quick_jit(lambda bank, fold: source_models.learn_sources(bank, fold, EnvConfig(trials=12)))
    mean = np.asarray(learn(*on_device((bank, banks.make_fold(index, [split])))).mean, float)
    task = (tables.encodings.astype(float), tables.objective[-1], np.ones(40, bool))
    actions = play(f"{kind}_r", tables, split, trials=12).tolist()
    assert max(oracles.shortfalls(kind, mean, None, task, actions, GRIDS)) < 2e-2


def test_source_models_are_processes_of_the_standardised_surfaces(
    tables: TaskTables, split: Split, sources: source_models.SourceModels
) -> None:
    bank, index = banks.pack([tables])
    fold = banks.make_fold(index, [split])
    learn = quick_jit(source_models.learn_processes)
    processes = jax.tree.map(np.asarray, learn(*on_device((bank, fold))))
    for place, row in enumerate(fold.known):
        columns = np.flatnonzero(np.isfinite(tables.objective[row]))
        assert set(processes.columns[place][processes.present[place]]) == set(columns)
        values = oracles.standardised(-tables.objective[row, columns])
        hyper = tuple(leaf[place].astype(float) for leaf in processes.hyper)
        points = tables.encodings[columns].astype(float)
        mean, covariance = oracles.posterior(tables.encodings.astype(float), points, values, hyper)
        np.testing.assert_allclose(sources.mean[place], mean, atol=2e-3)
        np.testing.assert_allclose(
            sources.deviation[place] ** 2, np.clip(np.diagonal(covariance), 1e-6, None), atol=2e-3
        )
        # More likely than what learning started from.
        start = oracles.evidence(points, values, 1.0, 1e-2)[0]
        assert oracles.evidence(points, values, hyper[0], float(hyper[1]))[0] >= start


@pytest.mark.parametrize("method", METHODS)
def test_a_task_of_the_same_group_never_informs(tables: TaskTables, split: Split, method: str) -> None:
    assert tables.groups[2] == tables.groups[3] and tables.tasks[3] in split.train
    objective = tables.objective.copy()
    objective[3] = objective[2] * 5.0 - 1.0  # would give everything away
    told = dataclasses.replace(tables, objective=objective)
    assert play(method, told, split).tolist() == play(method, tables, split).tolist()


def smooth_tables(known: int, configs: int, seed: int = 0) -> TaskTables:
    """Smooth surfaces over two features, one task a group; the last task is the first one in another unit."""
    random = np.random.default_rng(seed)
    encodings = random.uniform(size=(configs, 2)).astype(np.float32)
    centres = random.uniform(size=(known, 2))
    surfaces = np.stack([np.exp(-4.0 * np.sum((encodings - centre) ** 2, axis=1)) for centre in centres])
    objective = np.concatenate([surfaces, 300.0 + 20.0 * surfaces[:1]])
    return tables_of("smooth", objective, encodings, metafeatures=np.concatenate([centres, centres[:1]]))


@pytest.mark.parametrize("method", METHODS)
def test_a_task_that_is_like_a_known_one_is_solved_at_once(method: str) -> None:
    tables = smooth_tables(known=6, configs=60)
    split = split_of(tables, list(range(6)))
    tested = play(method, tables, split, trials=8)
    best = np.argsort(-tables.objective[-1])
    assert set(best[:2].tolist()) & set(tested.tolist()), "one of the two best of 60"


@pytest.mark.parametrize("method", METHODS)
def test_another_collection_in_the_bank_changes_nothing(
    tables: TaskTables, split: Split, method: str
) -> None:
    other = make_tables("second", tasks=4, configs=15, features=5, metafeatures=1, seed=9)
    beside = split_of(other, [0, 1], [2, 3])
    trials = 3 if method == "rgpe" else 5  # its draws are others with more known tasks, here of no use
    together = play(method, [tables, other], [split, beside], trials)
    assert together.tolist() == play(method, tables, split, trials).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_plays_on_with_nothing_known_and_until_nothing_is_left(tables: TaskTables, method: str) -> None:
    alone = split_of(tables, [3])  # of the group of the first test task, number 2 is
    split = dataclasses.replace(alone, test=(tables.tasks[2],))
    legal = set(np.flatnonzero(np.isfinite(tables.objective[2])).tolist())
    tested = play(method, tables, split, trials=13).tolist()
    assert set(tested[: len(legal)]) == legal
    assert tested[len(legal) :] == [-1] * (13 - len(legal))


def test_an_objective_without_differences_is_no_harm() -> None:
    objective = np.concatenate([np.random.default_rng(0).normal(size=(3, 8)), np.full((2, 8), 1e6)])
    tables = tables_of("flat", objective, np.random.default_rng(1).uniform(size=(8, 2)).astype(np.float32))
    split = dataclasses.replace(split_of(tables, [0, 1, 2, 3]), test=(tables.tasks[4],))
    for method in METHODS:
        assert sorted(play(method, tables, split, trials=8).tolist()) == list(range(8))


def test_only_the_ensemble_draws_random_numbers(tables: TaskTables, split: Split) -> None:
    for method in METHODS:
        assert make_baseline(method).stochastic == (method == "rgpe")
    runs = {tuple(play("rgpe", tables, split, trials=9, seed=seed).tolist()) for seed in range(4)}
    assert len(runs) > 1
    assert len({run[:3] for run in runs}) == 1, "weights are equal until there are three results"


def peeking(memory: Any, view: View, key: jax.Array) -> tuple[Any, Choice]:
    """The ensemble's player, keeping its draws and what it was shown."""
    memory, choice = ensembles.rgpe_player(memory, view, key)
    return memory, Choice(choice.action, (memory.draws, view.state))


def test_draws_of_known_tasks_follow_their_posteriors(tables: TaskTables, split: Split) -> None:
    bank, index = banks.pack([tables])
    env = EnvConfig(trials=TRIALS)

    def run(bank: Any, fold: Any) -> Any:
        shared = rollout.background(bank, fold)
        task = augment.real_task(bank, fold, banks.standardised_metafeatures(bank, fold), jnp.int32(2))
        memory = ensembles.ensemble_memory(shared, task, env, ensembles.learn_ensemble(bank, fold, env))
        beliefs = make_baseline("rgpe").beliefs
        record = rollout.play(peeking, memory, shared, task, jax.random.key(1), env, beliefs)
        return record.kept, source_models.learn_processes(bank, fold), memory.sources

    kept, processes, sources = jax.tree.map(
        np.asarray, quick_jit(run)(*on_device((bank, banks.make_fold(index, [split]))))
    )
    draws, state = jax.tree.map(lambda leaf: leaf[-1], kept)
    done = TRIALS - 1  # what the last choice had seen
    tested, results = state.actions[:done], state.objectives[:done]
    encodings = tables.encodings.astype(float)
    for place in range(len(processes.hyper.noise)):
        points = encodings[processes.columns[place][processes.present[place]]]
        hyper = tuple(leaf[place].astype(float) for leaf in processes.hyper)
        covariance = oracles.posterior(encodings[tested], points, np.zeros(len(points)), hyper)[1]
        white = draws.whitener[place, :done, :done].astype(float)
        np.testing.assert_allclose(np.linalg.inv(white.T @ white), covariance, atol=5e-3)
        factor = np.linalg.inv(white)
        wanted = sources.mean[place, tested] + draws.normals[place, :, :done] @ factor.T
        np.testing.assert_allclose(draws.values[place, :, :done], wanted, atol=1e-3)
        losses = [oracles.pair_losses(draw, results) for draw in draws.values[place, :, :done]]
        assert draws.losses[place].tolist() == losses


def test_weights_of_the_ensemble() -> None:
    random = np.random.default_rng(2)
    losses, own = random.integers(0, 6, (5, 40)).astype(float), random.integers(0, 6, 40).astype(float)
    kept = np.array([True, False, True, True, False])
    weights = np.asarray(ensembles.rank_weights(jnp.asarray(losses), jnp.asarray(own), jnp.asarray(kept)))
    np.testing.assert_allclose(weights, oracles.rank_weights(losses, own, kept), atol=1e-6)
    assert np.isclose(weights.sum(), 1.0)


def test_the_played_task_is_judged_by_what_it_left_out() -> None:
    random = np.random.default_rng(3)
    values = np.array([0.3, -1.0, 0.3, 1.2, 0.0, 0.0])  # two ties; the last two are padding
    draws = random.normal(size=(20, 6))
    present = np.arange(6) < 4
    found = np.asarray(ensembles.own_losses(*(jnp.asarray(given) for given in (draws, values, present))))
    assert found.tolist() == [oracles.left_out_losses(draw[:4], values[:4]) for draw in draws]


def test_known_tasks_are_dropped_the_more_often_the_rarer_they_win() -> None:
    losses = jnp.asarray([[0.0] * 4, [0.0, 0.0, 9.0, 9.0], [9.0] * 4, [1.0] * 4])
    own = jnp.ones(4)  # an equal loss is no win
    for progress, shares in ((0.0, [0.0, 0.5, 1.0, 1.0]), (0.5, [0.5, 0.75, 1.0, 1.0]), (1.0, [1.0] * 4)):
        chances = (jnp.arange(1000) + 0.5) / 1000
        drop = jax.vmap(lambda chance, p=progress: ensembles.dropped(losses, own, p, jnp.full(4, chance)))(
            chances
        )
        np.testing.assert_allclose(np.mean(drop, axis=0), shares, atol=2e-3)


def test_equal_weights_first() -> None:
    """The second and third choice of the ensemble: mixture of all processes, expected improvement."""
    tables = smooth_tables(known=3, configs=25, seed=5)
    split = split_of(tables, [0, 1, 2])
    bank, index = banks.pack([tables])
    placed = on_device((bank, banks.make_fold(index, [split])))
    sources = quick_jit(lambda *given: ensembles.learn_ensemble(*given, EnvConfig(trials=3)))(*placed)
    mean, deviation = np.asarray(sources.mean, float), np.asarray(sources.deviation, float)
    encodings, tested = tables.encodings.astype(float), [int(np.argmax(mean.sum(0)))]
    for _ in range(2):
        values = oracles.standardised(tables.objective[-1][tested])
        hyper = oracles.grid_hyper(encodings[tested], values, *GRIDS)
        own, covariance = oracles.posterior(encodings, encodings[tested], values, hyper)
        spread = np.clip(np.diagonal(covariance), 1e-6 * hyper[2], None)
        mixed = (mean.sum(0) + own) / 4
        score = oracles.log_improvement(mixed, np.sqrt(((deviation**2).sum(0) + spread) / 16), values.max())
        score[tested] = -np.inf
        tested.append(int(np.argmax(score)))
    assert play("rgpe", tables, split, trials=3).tolist() == tested
