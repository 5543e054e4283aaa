"""Packing tables into a bank: padding, missing values, folds, peers, and that test tasks leak into
nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import standardised
from probes import PLAIN, make_tables, on_device, quick_jit, small_bank, split_of, tables_of

from hyprl_jax import augment, rollout
from hyprl_jax.bank import (
    Fold,
    SurfaceBank,
    make_fold,
    pack,
    peers,
    standardised_metafeatures,
    take_candidates,
)
from hyprl_jax.errors import InputError
from hyprl_jax.surfaces import TaskTables


def two_collections() -> tuple[TaskTables, TaskTables]:
    """Collections of different sizes, widths and directions, both ragged."""
    first = make_tables("first", 6, 9, 3, 2, seed=1, missing=0.3)
    second = make_tables("second", 4, 5, 4, 1, seed=2, missing=0.2, direction="maximize")
    return first, second


def test_packs_values_in_their_place_and_pads_the_rest() -> None:
    tables = two_collections()
    bank, index = pack(tables)
    assert index.tasks[:2] == (("first", "task0"), ("first", "task1"))
    assert index.tasks[6] == ("second", "task0")
    assert (
        bank.objective.shape == (10, 9)
        and bank.encodings.shape == (2, 9, 4)
        and bank.metafeatures.shape == (10, 3)
    )
    row = 0
    for number, table in enumerate(tables):
        sign = -1.0 if table.direction == "minimize" else 1.0
        for task in range(len(table.tasks)):
            values = table.objective[task]
            for column in range(9):
                evaluated = column < len(values) and np.isfinite(values[column])
                assert bank.legal[row, column] == evaluated
                expected = sign * values[column] if evaluated else 0.0
                assert bank.objective[row, column] == np.float32(expected)
            assert bank.best[row] == np.float32(np.nanmax(sign * values))
            assert bank.worst[row] == np.float32(np.nanmin(sign * values))
            assert bank.collection[row] == number
            row += 1
        encodings = bank.encodings[number]
        configs, features = table.encodings.shape
        assert np.array_equal(encodings[:configs, :features], table.encodings)
        assert not encodings[configs:].any() and not encodings[:, features:].any()
    assert np.array_equal(bank.metafeatures[:6, :2], tables[0].metafeatures.astype(np.float32))
    assert np.array_equal(bank.metafeatures[6:, 2:], tables[1].metafeatures.astype(np.float32))
    assert np.isnan(bank.metafeatures[:6, 2]).all() and np.isnan(bank.metafeatures[6:, :2]).all()


def test_arrays_have_the_promised_types() -> None:
    bank, _ = pack(two_collections())
    for name in ("objective", "unit", "best", "worst", "encodings", "metafeatures"):
        assert getattr(bank, name).dtype == np.float32, name
    assert bank.legal.dtype == bool and bank.group.dtype == np.int32 and bank.collection.dtype == np.int32
    for name in ("objective", "unit", "best", "worst", "encodings"):
        assert np.isfinite(getattr(bank, name)).all(), name


def test_better_is_higher_in_both_directions() -> None:
    values = np.array([[0.3, 0.1, 0.2]])
    for direction, best in (("minimize", 1), ("maximize", 0)):
        bank, _ = pack([tables_of("one", values, np.eye(3), direction=direction)])
        assert np.argmax(bank.objective[0]) == best
        assert bank.unit[0, best] == 1.0 and bank.unit[0].min() == 0.0


@given(st.integers(0, 10_000), st.floats(0.0, 0.7))
@settings(max_examples=30)
def test_missing_values_are_filled_in_from_the_nearest_evaluated_configurations(
    seed: int, missing: float
) -> None:
    table = make_tables("one", 3, 14, 2, seed=seed, missing=missing)
    bank, _ = pack([table])
    assert (bank.unit >= 0).all() and (bank.unit <= 1).all()
    for task in range(3):
        have = np.flatnonzero(np.isfinite(table.objective[task]))
        values = -table.objective[task, have]
        unit = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(bank.unit[task, have], unit, atol=1e-6)
        for column in np.setdiff1d(np.arange(14), have):
            distance = np.sum(
                (table.encodings[have] - table.encodings[column]).astype(np.float64) ** 2, axis=1
            )
            near = unit[np.argsort(distance)[:8]]
            assert near.min() - 1e-6 <= bank.unit[task, column] <= near.max() + 1e-6


def test_a_missing_value_takes_that_of_its_twin() -> None:
    encodings = np.array([[0.0], [1.0], [0.0]])
    bank, _ = pack([tables_of("one", np.array([[0.0, 1.0, np.nan]]), encodings)])
    assert bank.unit[0, 2] < 0.01 and not bank.legal[0, 2]


@pytest.mark.parametrize("gap", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_illegal(gap: float) -> None:
    bank, _ = pack([tables_of("one", np.array([[0.5, gap, 1.0]]), np.eye(3))])
    assert bank.legal.tolist() == [[True, False, True]]
    assert bank.best[0] == 1.0 and bank.worst[0] == 0.5


def test_a_constant_surface_is_harmless() -> None:
    bank, _ = pack([tables_of("one", np.full((1, 3), 2.0), np.eye(3))])
    assert np.isfinite(bank.unit).all() and bank.best[0] == bank.worst[0] == 2.0


def test_input_that_cannot_be_packed() -> None:
    table = make_tables("one", 3, 5)
    empty = table.objective.copy()
    empty[1] = np.nan
    with pytest.raises(InputError, match=r"'one'.*'task1'"):
        pack([dataclasses.replace(table, objective=empty)])
    with pytest.raises(InputError, match="no collection"):
        pack([])
    other = make_tables("two", 3, 5)
    with pytest.raises(InputError, match="'two' is given twice"):
        pack([table, other, other])


def test_rows_are_found_by_name() -> None:
    _, index = pack(two_collections())
    assert index.rows("second", ["task3", "task0"]).tolist() == [9, 6]
    with pytest.raises(InputError, match="'task9'"):
        index.rows("first", ["task9"])


def test_folds_are_padded_with_unusable_tasks() -> None:
    first, second = two_collections()
    _, index = pack([first, second])
    splits = [split_of(first, [0, 1], [2]), split_of(second, [3], [0])]
    fold = make_fold(index, splits, size=8)
    assert fold.known[:5].tolist() == [0, 1, 9, 2, 6] and fold.trained == 3
    assert fold.usable.tolist() == [True] * 5 + [False] * 3
    assert set(fold.known[5:].tolist()) == {0}
    assert make_fold(index, splits).known.tolist() == [0, 1, 9, 2, 6]
    with pytest.raises(InputError, match="no task to train"):
        make_fold(index, [split_of(first, []), split_of(second, [], [1])])


def test_a_group_is_on_one_side_in_all_collections() -> None:
    """What is known of a dataset in one collection must not be tested in another, and not validated either;
    within a collection that is the split's business."""
    first, second = (
        dataclasses.replace(make_tables(name, 4, 5, tasks_a_group=1), groups=groups)
        for name, groups in (("first", ("a", "b", "c", "d")), ("second", ("c", "d", "e", "f")))
    )
    _, index = pack([first, second])
    fold = make_fold(index, [split_of(first, [0, 1]), split_of(second, [2], [3])])
    assert np.asarray(fold.known).tolist() == [0, 1, 6, 7]
    for splits, told in (
        ([split_of(first, [0, 1, 2]), split_of(second, [2])], "first/task2 is trained on and second/task0"),
        ([split_of(first, [0, 1], [3]), split_of(second, [2])], "first/task3 is trained on and second/task1"),
        ([split_of(first, [0, 1]), split_of(second, [0])], "second/task0 is trained on and first/task2"),
    ):
        with pytest.raises(InputError, match=told):
            make_fold(index, splits)
    alone = dataclasses.replace(first, groups=("a", "a", "b", "b"))
    assert len(make_fold(pack([alone])[1], [split_of(alone, [0, 2])]).known) == 2


def test_peers_leave_out_the_own_group_and_other_collections() -> None:
    first, second = two_collections()
    bank, index = on_device(pack([first, second])[0]), pack([first, second])[1]
    fold = on_device(make_fold(index, [split_of(first, [0, 1, 2], [4]), split_of(second, [0, 2])], size=9))
    known, groups = np.asarray(fold.known), [*first.groups, *second.groups]
    for leave_out in (True, False):
        for row in range(10):
            expected = [
                place < 6 and (k < 6) == (row < 6) and not (leave_out and groups[k] == groups[row])
                for place, k in enumerate(known)
            ]
            assert np.asarray(peers(bank, fold, np.int32(row), leave_out)).tolist() == expected


def test_metafeatures_are_standardised_over_the_known_tasks() -> None:
    first, second = two_collections()
    holes = first.metafeatures.copy()
    holes[1, 0] = np.nan
    first = dataclasses.replace(first, metafeatures=holes)
    bank, index = pack([first, second])
    fold = make_fold(index, [split_of(first, [0, 1, 2], [4]), split_of(second, [0, 2])], size=9)
    found = standardised_metafeatures(on_device(bank), on_device(fold))
    np.testing.assert_allclose(found, standardised(bank.metafeatures, [0, 1, 2, 4, 6, 8]), atol=2e-5)
    assert (np.abs(found) <= 3).all()


def test_take_candidates_picks_columns() -> None:
    bank, _, _ = small_bank(missing=0.2)
    columns = np.array([7, 0, 3], np.int32)
    taken = take_candidates(bank, columns)
    for name in ("objective", "legal", "unit"):
        assert np.array_equal(getattr(taken, name), np.asarray(getattr(bank, name))[:, columns]), name
    assert np.array_equal(taken.encodings, np.asarray(bank.encodings)[:, columns])
    assert np.array_equal(taken.best, bank.best)


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_test_tasks_leak_into_nothing(seed: int) -> None:
    """Whatever the values of the test tasks, everything that training and playing know of them beforehand
    is bitwise
    the same."""
    table = make_tables("one", 6, 9, missing=0.2)
    random = np.random.default_rng(seed)
    objective, metafeatures = table.objective.copy(), table.metafeatures.copy()
    objective[4:] = random.normal(scale=100, size=objective[4:].shape)
    objective[4:, 3] = np.nan
    metafeatures[4:] = random.normal(scale=100, size=metafeatures[4:].shape)
    changed = dataclasses.replace(table, objective=objective, metafeatures=metafeatures)
    before, after = what_is_known(table), what_is_known(changed)
    chex.assert_trees_all_equal(before, after)


def what_is_known(table: TaskTables) -> dict[str, Any]:
    """All that comes from a bank before a test task is played, with tasks 0 to 3 known."""
    bank, index = pack([table])
    return _what_is_known(on_device(bank), on_device(make_fold(index, [split_of(table, [0, 1, 2], [3])], 5)))


@quick_jit
def _what_is_known(bank: SurfaceBank, fold: Fold) -> dict[str, Any]:
    metafeatures = standardised_metafeatures(bank, fold)
    known = fold.known[:4]
    mixing = dataclasses.replace(PLAIN, mixture=0.7, warp=0.3, noise=0.1, rescale=0.3)
    make = jax.vmap(lambda key: augment.synthetic_task(key, bank, fold, metafeatures, mixing))
    return {
        "background": rollout.background(bank, fold),
        "peers": jax.vmap(lambda row: peers(bank, fold, row))(np.arange(6, dtype=np.int32)),
        "metafeatures": metafeatures[known],
        "synthetic": make(jax.random.split(jax.random.key(0), 32)),
    }
