"""Where tasks come from: sources, derivations, splits and metafeatures of the build recipes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hyprl_jax.surfaces.build.metafeatures import metafeatures
from hyprl_jax.surfaces.build.sources import SOURCES, draw, stream
from hyprl_jax.surfaces.build.tasks import TASKS, load_task


@pytest.fixture(scope="module")
def everything() -> list:
    return [load_task(name, 0) for name in TASKS]


def test_there_are_enough_tasks_and_groups() -> None:
    groups = {task.source for task in TASKS.values()}
    assert len(TASKS) >= 48
    assert len(groups) >= 14
    assert groups == set(SOURCES)
    assert sum(SOURCES[group].real for group in groups) >= 5


def test_derived_tasks_share_the_group_of_their_source(everything: list) -> None:
    for task in everything:
        assert task.group == TASKS[task.name].source
        assert task.name.startswith(task.group + "-")


def test_no_validation_row_is_a_training_row(everything: list) -> None:
    for task in everything:
        assert len(task.splits) == TASKS[task.name].splits
        for split in task.splits:
            assert not set(split.train) & set(split.validation)
            assert len(split.train) == TASKS[task.name].rows
            assert len(split.validation) >= 100
            assert set(task.labels[split.validation]) == set(range(task.classes))
            assert set(task.labels[split.train]) == set(range(task.classes))


def test_sources_hold_no_row_twice() -> None:
    for name in SOURCES:
        features, target = draw(name, 0)
        assert len(np.unique(features, axis=0)) == len(features) == len(target), name
        assert np.isfinite(features).all()


def test_draws_of_generators_have_no_row_in_common() -> None:
    made = [name for name, source in SOURCES.items() if not source.real]
    rows = [{row.tobytes() for row in draw(name, 0)[0]} for name in made]
    assert sum(map(len, rows)) == len(set().union(*rows))


def test_the_seed_draws_other_rows_but_only_once() -> None:
    first, again, other = load_task("moons-full", 3), load_task("moons-full", 3), load_task("moons-full", 4)
    load_task.cache_clear()
    draw.cache_clear()
    fresh = load_task("moons-full", 3)
    for one in (again, fresh):
        np.testing.assert_array_equal(first.features, one.features)
        np.testing.assert_array_equal(first.splits[0].train, one.splits[0].train)
    assert not np.array_equal(first.features, other.features)


def test_label_noise_has_the_named_share_and_changes_the_class(everything: list) -> None:
    for task in everything:
        share = np.mean(task.labels != task.training_labels)
        assert abs(share - TASKS[task.name].label_noise) < 0.08, task.name
        assert task.training_labels.min() >= 0 and task.training_labels.max() < task.classes


def test_quantile_classes_are_balanced_and_subsets_keep_only_their_classes() -> None:
    counts = np.bincount(load_task("friedman1-fifths", 0).labels)
    assert len(counts) == 5 and counts.max() - counts.min() <= 1
    similar = load_task("digits-similar", 0)
    assert similar.classes == 4
    assert len(similar.labels) == np.isin(draw("digits", 0)[1], (3, 5, 8, 9)).sum()


def test_metafeatures_are_finite_and_blind_to_validation_rows(everything: list) -> None:
    for task in everything:
        found = metafeatures(task)
        assert len(found) >= 12 and all(np.isfinite(value) for value in found.values()), task.name
    task = load_task("clusters_a-full", 0)
    held_out = np.ones(len(task.features), dtype=bool)
    held_out[task.splits[0].train] = False
    spoiled = task.features.copy()
    spoiled[held_out] = 1e6
    assert metafeatures(dataclasses.replace(task, features=spoiled)) == metafeatures(task)


def test_streams_differ_by_name_and_seed() -> None:
    found = {stream(seed, kind, name) for seed in range(3) for kind in ("a", "b") for name in ("", "a", "b")}
    assert len(found) == 18
