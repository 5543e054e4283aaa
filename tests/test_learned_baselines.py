"""How the learned baselines behave in play: what they may see, what they learn, that transfer helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import make_tables, on_device, quick_jit, split_of, tables_of

from hyprl_jax import bank as banks
from hyprl_jax.bank import Fold, SurfaceBank
from hyprl_jax.baselines import make_baseline
from hyprl_jax.baselines.learned import ablr, fmlp, fsbo, hyperbo, meta
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.evaluation import Played
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.evaluation.programs import preparing_program
from hyprl_jax.surfaces import Split, TaskTables

pytestmark = pytest.mark.usefixtures("optimized")

METHODS = ("ablr", "fsbo", "hyperbo", "fmlp")
TRIALS, SIDE = 8, 8
FEW = 5  # configurations that the last test task has
ENV = EnvConfig(trials=TRIALS)
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def tables() -> TaskTables:
    """A family of 20 tasks on a grid of 64 configurations: bumps whose place, height and unit differ a
    little, a tenth of the values missing; the last task has only a few."""
    random = np.random.default_rng(0)
    axis = np.linspace(0.0, 1.0, SIDE)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    surfaces = []
    for _ in range(20):
        centre = np.array([0.75, 0.3]) + random.normal(0.0, 0.08, 2)
        distance = (((grid - centre) / (0.25, 0.4)) ** 2).sum(1)
        surface = np.exp(-0.5 * distance) + 0.3 * grid[:, 0]
        surfaces.append(random.uniform(50, 60) + random.uniform(5, 12) * surface)
    objective = np.stack(surfaces)
    objective[random.random(objective.shape) < 0.1] = np.nan
    objective[-1, FEW:] = np.nan
    objective[-1, :FEW] = surfaces[-1][:FEW]
    return tables_of("bumps", objective, grid.astype(np.float32))


@pytest.fixture(scope="module")
def split(tables: TaskTables) -> Split:
    return split_of(tables, range(12), range(12, 15))


@pytest.fixture(scope="module")
def played(tables: TaskTables, split: Split) -> dict[str, Played]:
    return {one.method: one for one in play_methods((*METHODS, "gp_ei"), tables, split, TRIALS, (0,))}


def regrets(tables: TaskTables, split: Split, played: Played) -> np.ndarray:
    """Normalised regret `[D, T]` of the incumbents, mean over seeds; all test tasks but the last."""
    rows = []
    for place, task in enumerate(split.test[:-1]):
        values = tables.objective[tables.tasks.index(task)]
        found = np.maximum.accumulate(values[played.actions[place]], axis=1)
        rows.append((np.nanmax(values) - found).mean(0) / (np.nanmax(values) - np.nanmin(values)))
    return np.array(rows)


def placed(tables: TaskTables, split: Split) -> tuple[SurfaceBank, Fold]:
    bank, index = banks.pack([tables])
    return on_device(bank), on_device(banks.make_fold(index, [split], size=len(index.tasks)))


def prepared(method: str, bank: SurfaceBank, fold: Fold) -> Any:
    return preparing_program(method, ENV, SurrogateConfig())(bank, fold)


def same(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), one, other))


@each_method
def test_plays_every_configuration_at_most_once(
    tables: TaskTables, split: Split, played: dict[str, Played], method: str
) -> None:
    one = played[method]
    assert one.seeds == (0,) and not one.failures
    for place, task in enumerate(split.test):
        legal = set(np.flatnonzero(np.isfinite(tables.objective[tables.tasks.index(task)])).tolist())
        episode = one.actions[place, 0].tolist()
        done = [action for action in episode if action >= 0]
        assert set(done) <= legal and len(set(done)) == len(done) == min(TRIALS, len(legal))
    assert episode[FEW:] == [-1] * (TRIALS - FEW)


@each_method
def test_transfer_helps(tables: TaskTables, split: Split, played: dict[str, Played], method: str) -> None:
    learned, cold = (regrets(tables, split, played[name]) for name in (method, "gp_ei"))
    assert learned.mean() < 0.6 * cold.mean()
    assert learned[:, -1].mean() < 0.05


@each_method
def test_what_is_not_tested_cannot_be_seen(
    tables: TaskTables, split: Split, played: dict[str, Played], method: str
) -> None:
    objective = tables.objective.copy()
    random = np.random.default_rng(0)
    for place, task in enumerate(split.test):
        row = tables.tasks.index(task)
        untried = np.isfinite(objective[row])
        untried[played[method].actions[place, 0]] = False
        objective[row, untried] = 1000.0 * random.normal(size=untried.sum())
    changed = dataclasses.replace(tables, objective=objective)
    again = play_methods([method], changed, split, TRIALS, (0,))[0]
    np.testing.assert_array_equal(again.actions, played[method].actions)


@each_method
def test_reacts_to_what_it_finds_but_not_to_its_unit(
    tables: TaskTables, split: Split, played: dict[str, Played], method: str
) -> None:
    rows = [tables.tasks.index(task) for task in split.test]
    turned = tables.objective.copy()
    turned[rows] = (
        np.nanmax(turned[rows], 1, keepdims=True) + np.nanmin(turned[rows], 1, keepdims=True) - turned[rows]
    )
    other = play_methods([method], dataclasses.replace(tables, objective=turned), split, TRIALS, (0,))[0]
    assert (other.actions != played[method].actions).any()
    np.testing.assert_array_equal(other.actions[..., 0], played[method].actions[..., 0])
    minimised = dataclasses.replace(tables, objective=-tables.objective, direction="minimize")
    mirrored = play_methods([method], minimised, split, TRIALS, (0,))[0]
    np.testing.assert_array_equal(mirrored.actions, played[method].actions)


@each_method
def test_only_known_tasks_teach(tables: TaskTables, split: Split, method: str) -> None:
    """Neither the test tasks' rows nor what padding points at change what is learned; a known task does."""
    bank, fold = placed(tables, split)
    first = prepared(method, bank, fold)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), first))
    noise = jax.random.normal(jax.random.key(0), bank.objective.shape)
    test_rows = jnp.arange(20) >= 15
    mixed = lambda leaf: jnp.where(test_rows[:, None], jnp.clip(noise, 0.0, 1.0), leaf)
    other = bank._replace(
        objective=mixed(bank.objective),
        unit=mixed(bank.unit),
        legal=jnp.where(test_rows[:, None], noise > 0, bank.legal),
        best=jnp.where(test_rows, 1e4, bank.best),
        worst=jnp.where(test_rows, -1e4, bank.worst),
    )
    elsewhere = fold._replace(known=jnp.where(fold.usable, fold.known, 17))
    assert same(prepared(method, other, elsewhere), first)
    assert not same(
        prepared(method, bank._replace(unit=bank.unit.at[3].set(1.0 - bank.unit[3])), fold), first
    )


@each_method
def test_one_known_task_is_enough_to_play(tables: TaskTables, method: str) -> None:
    lonely = dataclasses.replace(split_of(tables, [0]), test=tables.tasks[15:])
    one = play_methods([method], tables, lonely, TRIALS, (0,))[0]
    assert not one.failures
    for episode in one.actions[:-1, 0].tolist():
        assert len(set(episode)) == TRIALS and min(episode) >= 0


def ablr_surprises(known: meta.KnownTasks, batch: meta.Batch) -> tuple[jax.Array, ...]:
    counted = known._replace(values=known.values - ablr.typical_value(known))
    batch = batch._replace(values=(batch.values - ablr.typical_value(known)) * batch.present)
    begun = ablr.begin(known.values.shape[0], known.encodings.shape[1])
    return tuple(ablr.surprise(one, counted, batch) for one in (begun, ablr.pretrain(known)))


def fsbo_surprises(known: meta.KnownTasks, batch: meta.Batch) -> tuple[jax.Array, ...]:
    batch = fsbo.rescaled(jax.random.key(2), batch)
    kernels = fsbo.begin(known.encodings.shape[1]), fsbo.pretrain(known)
    return tuple(fsbo.surprise(one, known.encodings, batch) for one in kernels)


def hyperbo_surprises(known: meta.KnownTasks, batch: meta.Batch) -> tuple[jax.Array, ...]:
    models = hyperbo.begin(known.encodings.shape[1]), hyperbo.pretrain(known)
    return tuple(hyperbo.surprise(one, known, batch) for one in models)


def fmlp_errors(known: meta.KnownTasks, batch: meta.Batch) -> tuple[jax.Array, ...]:
    del batch
    key, sizes = jax.random.key(4), (known.encodings.shape[1], known.values.shape[0])
    pairs = fmlp.begin(key, *sizes), fmlp.pretrain(key, known)
    return tuple(jnp.log(fmlp.error(*pair, known, jax.random.key(5))) for pair in pairs)


@pytest.mark.parametrize("surprises", [ablr_surprises, fsbo_surprises, hyperbo_surprises, fmlp_errors])
def test_training_lowers_the_surprise_on_known_tasks(
    tables: TaskTables, split: Split, surprises: Callable[..., tuple[jax.Array, ...]]
) -> None:
    """On a batch that training did not draw."""
    known = meta.known_tasks(*placed(tables, split), jnp.int32(0))
    batch = meta.draw_batch(jax.random.key(99), known, 15, 40)
    before, after = quick_jit(surprises)(known, batch)
    assert float(after) < float(before) - 0.3


@pytest.mark.slow
@each_method
def test_other_starting_points_are_taken_up(tables: TaskTables, split: Split, method: str) -> None:
    """Forced starts are results like any other: the player goes on from them."""
    rows = [tables.tasks.index(task) for task in split.test]
    starts = np.stack([np.flatnonzero(np.isfinite(tables.objective[row]))[:2] for row in rows])[:, None]
    one = play_methods([method], tables, split, TRIALS, (0,), starts=starts)[0]
    np.testing.assert_array_equal(one.actions[:, :, :2], starts)
    for episode in one.actions[:-1, 0].tolist():
        assert len(set(episode)) == TRIALS


@pytest.mark.slow
@each_method
def test_every_collection_has_models_of_its_own(method: str) -> None:
    """Known tasks of one collection teach nothing about another."""
    both = [make_tables("first", seed=1, missing=0.2), make_tables("second", configs=6, features=2, seed=2)]
    bank, index = banks.pack(both)
    fold = on_device(banks.make_fold(index, [split_of(table, [0, 1, 2, 3]) for table in both]))
    bank = on_device(bank)
    prepare = jax.jit(lambda bank: make_baseline(method).prepare(bank, fold, ENV))  # type: ignore[misc]
    first = prepare(bank)
    changed = prepare(bank._replace(unit=bank.unit.at[6:].set(1.0 - bank.unit[6:])))
    part = lambda tree, place: jax.tree.map(lambda leaf: leaf[place], tree)
    assert same(part(changed, 0), part(first, 0))
    assert not same(part(changed, 1), part(first, 1))
