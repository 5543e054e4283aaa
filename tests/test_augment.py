"""Synthetic tasks: legal, in range, honest about what their player may know, and nothing but the real
surface where
every strength is zero."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import PLAIN, make_tables, on_device, quick_jit, split_of

from hyprl_jax import augment
from hyprl_jax.bank import (
    Fold,
    SurfaceBank,
    make_fold,
    pack,
    peers,
    standardised_metafeatures,
    take_candidates,
)
from hyprl_jax.config import AugmentConfig
from hyprl_jax.env import Task

NUMBER = 256
STRENGTHS = ("mixture", "warp", "noise", "rescale", "forget")
EVERYTHING = dataclasses.replace(PLAIN, mixture=0.6, warp=0.4, noise=0.05, rescale=0.4, forget=0.5)


@cache
def two_collections() -> tuple[SurfaceBank, Fold]:
    """Rows 0 to 5 and 6 to 9; training tasks 0, 1, 2, 3 and 6, 8, validation task 4; ragged."""
    first = make_tables("first", 6, 9, 3, 2, seed=1, missing=0.3)
    second = make_tables("second", 4, 7, 3, 2, seed=2, missing=0.2, tasks_a_group=1)
    bank, index = pack([first, second])
    fold = make_fold(index, [split_of(first, [0, 1, 2, 3], [4]), split_of(second, [0, 2])], size=8)
    return on_device(bank), on_device(fold)


def drawn(
    key: jax.Array, bank: SurfaceBank, fold: Fold, config: AugmentConfig, leave_out: bool = True
) -> Task:
    """`NUMBER` synthetic tasks; the strengths are values inside one compiled function."""
    strengths = {name: getattr(config, name) for name in STRENGTHS}
    return host(_drawn(key, bank, fold, strengths, leave_out))


@partial(quick_jit, static_argnames="leave_out")
def _drawn(key: jax.Array, bank: SurfaceBank, fold: Fold, strengths: dict, leave_out: bool) -> Task:
    metafeatures = standardised_metafeatures(bank, fold)
    config = dataclasses.replace(PLAIN, **strengths)
    make = lambda key: augment.synthetic_task(key, bank, fold, metafeatures, config, leave_out)
    return jax.vmap(make)(jax.random.split(key, NUMBER))


def host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def test_without_any_strength_tasks_are_the_real_ones() -> None:
    bank, fold = two_collections()
    tasks = drawn(jax.random.key(0), bank, fold, PLAIN)
    real = {
        row: host(augment.real_task(bank, fold, standardised_metafeatures(bank, fold), jnp.int32(row)))
        for row in (0, 1, 2, 3, 6, 8)
    }
    found = []
    for number in range(NUMBER):
        task = jax.tree.map(lambda leaf, number=number: leaf[number], tasks)
        row = min(real, key=lambda row: np.abs(task.metafeatures - real[row].metafeatures).sum())
        found.append(row)
        expected = real[row]
        assert np.array_equal(task.legal, expected.legal) and np.array_equal(task.peers, expected.peers)
        assert task.collection == expected.collection
        for name in ("best", "worst", "metafeatures"):
            np.testing.assert_allclose(getattr(task, name), getattr(expected, name), atol=1e-5)
        np.testing.assert_allclose(task.objective[task.legal], expected.objective[task.legal], atol=1e-5)
    assert set(found) == set(real), "every training task is drawn, no other"
    assert min(np.bincount(found)[list(real)]) > NUMBER / 6 / 3


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_tasks_are_well_formed(seed: int) -> None:
    bank, fold = two_collections()
    tasks = drawn(jax.random.key(seed), bank, fold, EVERYTHING)
    legal, usable = np.asarray(bank.legal), np.asarray(fold.usable)
    assert tasks.legal.any(axis=1).all()
    assert all(
        np.isfinite(leaf).all() for leaf in (tasks.objective, tasks.best, tasks.worst, tasks.metafeatures)
    )
    assert not tasks.peers[:, ~usable].any()
    offered = np.where(tasks.legal, tasks.objective, np.nan)
    np.testing.assert_allclose(np.nanmax(offered, axis=1), tasks.best, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.nanmin(offered, axis=1), tasks.worst, rtol=1e-6, atol=1e-6)
    assert np.abs(tasks.metafeatures).max() <= 3.0
    rows = {0: [0, 1, 2, 3], 1: [6, 8]}
    for task_legal, number in zip(tasks.legal, tasks.collection, strict=True):
        pairs = [legal[a] & legal[b] for a in rows[int(number)] for b in rows[int(number)]]
        assert any(np.array_equal(task_legal, both) for both in pairs), "legal where both constituents are"


def test_every_group_of_a_mixture_is_left_out() -> None:
    """Two training tasks, each its own group: a mixture of both leaves the player only the validation
    tasks."""
    table = make_tables("one", 6, 9, tasks_a_group=1)
    bank, index = pack([table])
    fold = on_device(make_fold(index, [split_of(table, [0, 1], [2, 3])]))
    config = dataclasses.replace(PLAIN, mixture=1.0)
    tasks = drawn(jax.random.key(1), on_device(bank), fold, config)
    assert tasks.peers[:, 2:].all(), "other groups stay"
    both_out = ~tasks.peers[:, 0] & ~tasks.peers[:, 1]
    assert (~tasks.peers[:, :2]).any(axis=1).all(), "at least the own group is out"
    unit = np.asarray(bank.unit)
    for task, out in zip(tasks.objective, both_out, strict=True):
        pure = min(distance_to_affine(task, unit[0]), distance_to_affine(task, unit[1])) < 1e-4
        assert out or pure, "a mixture knows neither constituent"
    assert both_out.mean() > 0.3


def distance_to_affine(values: np.ndarray, surface: np.ndarray) -> float:
    """How far `values` are from any `a * surface + b`."""
    design = np.stack([surface, np.ones_like(surface)], axis=1)
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.abs(design @ solution - values).max())


def test_leaving_out_can_be_turned_off() -> None:
    bank, fold = two_collections()
    tasks = drawn(jax.random.key(2), bank, fold, dataclasses.replace(EVERYTHING, forget=0.0), False)
    for number, allowed in zip(tasks.collection, tasks.peers, strict=True):
        row = jnp.int32(0 if number == 0 else 6)
        assert np.array_equal(allowed, peers(bank, fold, row, leave_out=False))


def test_warps_keep_the_order_and_the_ends() -> None:
    bank, fold = two_collections()
    config = dataclasses.replace(PLAIN, warp=0.5)
    tasks = drawn(jax.random.key(3), bank, fold, config)
    objective, legal = np.asarray(bank.objective), np.asarray(bank.legal)
    exponents = []
    for values, mask, best, worst in zip(tasks.objective, tasks.legal, tasks.best, tasks.worst, strict=True):
        rows = [r for r in (0, 1, 2, 3, 6, 8) if np.array_equal(legal[r], mask)]
        row = min(rows, key=lambda r: abs(float(bank.best[r]) - best) + abs(float(bank.worst[r]) - worst))
        assert abs(best - bank.best[row]) < 1e-4 and abs(worst - bank.worst[row]) < 1e-4
        order = np.argsort(objective[row, mask])
        assert (np.diff(values[mask][order]) >= -1e-6).all()
        old = (objective[row, mask] - worst) / (best - worst)
        new = (values[mask] - worst) / (best - worst)
        middle = (old > 0.1) & (old < 0.9)
        exponents += (np.log(np.clip(new[middle], 1e-9, 1)) / np.log(old[middle])).tolist()
    assert 0.3 < np.std(np.log(exponents)) < 0.8 and abs(np.mean(np.log(exponents))) < 0.15


def test_noise_is_as_strong_as_told() -> None:
    bank, fold = two_collections()
    noisy = drawn(jax.random.key(4), bank, fold, dataclasses.replace(PLAIN, noise=0.1))
    plain = drawn(jax.random.key(4), bank, fold, PLAIN)
    span = (plain.best - plain.worst)[:, None]
    difference = ((noisy.objective - plain.objective) / span)[plain.legal]
    # A uniform deviation up to 0.1 has a root mean square of 0.1 / sqrt(3).
    assert 0.8 < np.sqrt(np.mean(difference**2)) / (0.1 / np.sqrt(3)) < 1.2


def test_rescaling_stretches_the_range_from_its_lower_end() -> None:
    bank, fold = two_collections()
    stretched = drawn(jax.random.key(5), bank, fold, dataclasses.replace(PLAIN, rescale=0.5))
    plain = drawn(jax.random.key(5), bank, fold, PLAIN)
    np.testing.assert_allclose(stretched.worst, plain.worst, atol=1e-5)
    factors = (stretched.best - stretched.worst) / (plain.best - plain.worst)
    assert 0.4 < np.std(np.log(factors)) < 0.6 and abs(np.mean(np.log(factors))) < 0.12


def test_a_subset_of_the_candidates_keeps_the_values_of_the_whole_table() -> None:
    """Nothing is stretched to the range of what happens to be offered: in units of the table's own range, a
    warp has the same exponent at every candidate."""
    table = make_tables("one", 4, 9, tasks_a_group=1)
    bank, index = pack([table])
    fold = on_device(make_fold(index, [split_of(table, [0], [1])]))
    columns = jnp.asarray([0, 2, 3, 5, 8], jnp.int32)
    offered = take_candidates(on_device(bank), columns)
    plain = drawn(jax.random.key(8), offered, fold, PLAIN)
    np.testing.assert_allclose(plain.objective, np.tile(offered.objective[0], (NUMBER, 1)), atol=1e-5)
    warped = drawn(jax.random.key(8), offered, fold, dataclasses.replace(PLAIN, warp=0.5))
    old = np.asarray(bank.unit)[0, columns]
    new = (warped.objective - bank.worst[0]) / (bank.best[0] - bank.worst[0])
    middle = (old > 0.05) & (old < 0.95)
    assert middle.sum() >= 2
    exponents = np.log(new[:, middle]) / np.log(old[middle])
    gentle = exponents[:, 0] < 2.0  # large powers of small numbers lose their digits
    np.testing.assert_allclose(exponents[gentle], exponents[gentle][:, :1] * np.ones(middle.sum()), rtol=0.02)
    assert 0.3 < np.std(np.log(exponents[:, 0])) < 0.7


def variant(task: Task, number: int) -> Task:
    return host(quick_jit(augment.numbered_variant)(task, jnp.int32(number)))


def test_variants_offer_the_same_half_every_time() -> None:
    """Variant 0 is the task as it is; any other has about half of its candidates, with their own ends."""
    random = np.random.default_rng(0)
    values, legal = random.normal(size=400).astype(np.float32), random.uniform(size=400) < 0.7
    offered = values[legal]
    task = Task(
        values, legal, offered.max(), offered.min(), np.ones(3, bool), np.ones(2, np.float32), np.int32(0)
    )  # type: ignore[arg-type]
    for before, after in zip(
        jax.tree.leaves(task), jax.tree.leaves(variant(on_device(task), 0)), strict=True
    ):
        assert np.array_equal(before, after)
    found = [variant(on_device(task), number) for number in (1, 2, 3, 1)]
    assert np.array_equal(found[0].legal, found[3].legal), "the same every time"
    assert len({half.legal.tobytes() for half in found[:3]}) == 3, "another number, another half"
    for half in found:
        assert not (half.legal & ~legal).any() and 0.4 < half.legal.sum() / legal.sum() < 0.6
        assert half.best == values[half.legal].max() and half.worst == values[half.legal].min()
        assert np.array_equal(half.objective, values) and np.array_equal(half.peers, task.peers)


def test_a_variant_always_offers_something() -> None:
    """A task whose only candidate falls out is left whole."""
    for number in range(1, 9):
        only = Task(
            jnp.asarray([1.0, 2.0]), jnp.asarray([False, True]), jnp.float32(2.0), jnp.float32(2.0),
            jnp.ones(1, bool), jnp.zeros(1), jnp.int32(0),
        )  # fmt: skip
        half = variant(only, number)
        assert half.legal.tolist() == [False, True] and half.best == half.worst == 2.0


@given(st.integers(1, 40), st.integers(0, 45), st.integers(0, 1000))
@settings(max_examples=20)
def test_columns_are_different_and_in_order(total: int, number: int, seed: int) -> None:
    columns = np.asarray(augment.draw_columns(jax.random.key(seed), total, number))
    assert columns.dtype == np.int32
    assert len(columns) == (number if 0 < number < total else total)
    assert (np.diff(columns) > 0).all() and columns[0] >= 0 and columns[-1] < total


def test_every_column_is_drawn_alike() -> None:
    keys = jax.random.split(jax.random.key(0), 2000)
    columns = jax.vmap(lambda key: augment.draw_columns(key, 10, 3))(keys)
    counts = np.bincount(np.asarray(columns).ravel(), minlength=10)
    assert np.sum((counts - 600.0) ** 2 / 600.0) < 40.0


@pytest.mark.parametrize("config", [PLAIN, EVERYTHING])
def test_subsets_of_the_candidates_may_leave_a_task_empty_but_never_broken(config: AugmentConfig) -> None:
    """Of a ragged task perhaps nothing is offered: then the episode is over at once, without NaN."""
    bank, fold = two_collections()
    offered = take_candidates(bank, jnp.array([7, 8], jnp.int32))
    tasks = drawn(jax.random.key(6), offered, fold, config)
    empty = ~tasks.legal.any(axis=1)
    assert empty.any() and not empty.all()
    assert not np.isnan(tasks.objective).any() and not np.isnan(tasks.best).any()
    assert np.isfinite(tasks.objective[~empty]).all()


def test_whole_groups_are_forgotten() -> None:
    """Up to the share told, evenly, and never anything but whole groups."""
    bank, fold = two_collections()
    plain = drawn(jax.random.key(7), bank, fold, PLAIN)
    forgetful = drawn(jax.random.key(7), bank, fold, dataclasses.replace(PLAIN, forget=0.8))
    assert np.array_equal(plain.objective, forgetful.objective), "forgetting changes no surface"
    assert not (forgetful.peers & ~plain.peers).any()
    groups = np.asarray(bank.group)[np.asarray(fold.known)]
    for before, after in zip(plain.peers, forgetful.peers, strict=True):
        for group in set(groups[before]):
            assert len(set(after[before & (groups == group)])) == 1
    kept = forgetful.peers.sum() / plain.peers.sum()
    assert 0.5 < kept < 0.7  # a uniform share up to 0.8 forgets 0.4 on average
