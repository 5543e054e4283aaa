"""The compiled part of training: members, keys, counts, and which policy is kept."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tiny_config

from hyprl_jax import training
from hyprl_jax.bank import Fold
from hyprl_jax.config import TrainConfig
from hyprl_jax.program import Program, TrainingState, validation_gain
from hyprl_jax.training import TrainingData


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return tiny_config(*tiny_runs.write_collections(tmp_path_factory.mktemp("collections")).values())


@pytest.fixture(scope="module")
def data(config: TrainConfig) -> TrainingData:
    return training.load_data(config)


@pytest.fixture(scope="module")
def start(config: TrainConfig, data: TrainingData) -> Callable[[], TrainingState]:
    """Makes the state before training."""
    return lambda: tiny_runs.program_of(config).start(data.bank, data.folds)


def plain(tree: Any) -> Any:
    """NumPy copies, of the data of keys too."""
    return jax.tree.map(
        lambda leaf: np.array(
            jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ),
        tree,
    )


def test_keys_are_those_of_fold_and_seed_alone(config: TrainConfig) -> None:
    def keys(folds: tuple[int, ...], seeds: tuple[int, ...]) -> np.ndarray:
        return plain(Program(dataclasses.replace(config, folds=folds, seeds=seeds)).keys())

    together = keys((0, 3), (5, 1, 2))
    assert together.shape[:2] == (2, 3)
    np.testing.assert_array_equal(together[1:, :1], keys((3,), (5,)))
    np.testing.assert_array_equal(together[:1, 1:], keys((0,), (1, 2)))
    assert len({tuple(key) for key in together.reshape(6, -1).tolist()}) == 6


@pytest.mark.parametrize(("updates", "chunks"), [(1, 1), (2, 1), (3, 2), (12, 6)])
def test_a_run_is_cut_into_whole_chunks(config: TrainConfig, updates: int, chunks: int) -> None:
    learner = dataclasses.replace(config.learner, updates=updates)
    program = Program(dataclasses.replace(config, learner=learner))
    assert program.chunks == chunks
    assert program.steps_per_chunk == 4 * 2 * 16 * tiny_runs.TRIALS


def test_every_member_starts_differently_and_scores_the_same(start: Callable[[], TrainingState]) -> None:
    state = start()
    kernel = np.asarray(state.learner.params["see"]["kernel"])
    assert kernel.shape[:2] == (2, 2)
    assert len({member.tobytes() for member in kernel.reshape(4, -1)}) == 4
    # Before training, all seeds of a fold are the acquisition function that policies start from.
    scores = np.asarray(state.best_score)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    assert (np.asarray(state.best_updates) == 0).all()
    assert ((scores >= 0.0) & (scores <= 1.0)).all()
    numbers = plain(state.numbers)
    for leaf in numbers:
        assert leaf.shape[:3] == (2, 2, 3), "folds, seeds, collections"
        np.testing.assert_array_equal(leaf[:, 0], leaf[:, 1])
    assert not np.array_equal(numbers.lengthscale[0], numbers.lengthscale[1]), "each fold learns its own"


def test_chunks_keep_the_best_policy_so_far(
    config: TrainConfig, data: TrainingData, start: Callable[[], TrainingState]
) -> None:
    program = tiny_runs.program_of(config)
    state = start()
    best, score, updates, begin = plain(
        (state.best, state.best_score, state.best_updates, state.start_scores)
    )
    trained = np.arange(begin.shape[-1]) < np.asarray(data.folds.trained)[:, None]
    bar = (begin * trained[:, None]).sum(-1) / trained.sum(-1)[:, None]
    for number in range(1, 5):
        state, metrics = program.chunk(state, data.bank, data.folds)
        now = np.asarray(metrics["regret_validation"])
        # Better than ever before, by more than luck, and no worse on the training tasks than at the start.
        sound = np.asarray(metrics["regret_train"]) <= bar + 1e-7
        better = (now < score) & sound & (np.asarray(metrics["gain"]) > np.asarray(metrics["gain_error"]))
        score = np.where(better, now, score)
        updates = np.where(better, number * config.updates_per_chunk, updates)
        best = jax.tree.map(
            lambda new, old, won=better: np.where(won.reshape(2, 2, *[1] * (new.ndim - 2)), new, old),
            plain(state.learner.average),
            best,
        )
        np.testing.assert_array_equal(np.asarray(state.best_score), score)
        np.testing.assert_array_equal(np.asarray(metrics["best_validation"]), score)
        np.testing.assert_array_equal(np.asarray(state.best_updates), updates)
        jax.tree.map(np.testing.assert_array_equal, plain(state.best), best)
        assert (np.asarray(state.learner.updates) == number * config.updates_per_chunk).all()
        assert all(np.isfinite(np.asarray(values)).all() for values in metrics.values())


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))
def test_the_gain_on_validation_tasks_is_paired_by_task(
    seed: int, trained: int, validating: int, padding: int
) -> None:
    random = np.random.default_rng(seed)
    size = trained + validating + padding
    before, now = random.random((2, size)).astype(np.float32)
    usable = np.arange(size) < trained + validating
    fold = Fold(jnp.zeros(size, jnp.int32), jnp.asarray(usable), jnp.int32(trained))
    chosen = slice(trained, trained + validating) if validating else slice(trained)
    gains = before[chosen].astype(np.float64) - now[chosen]
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    found = validation_gain(jnp.asarray(before), jnp.asarray(now), fold)
    np.testing.assert_allclose(found, (gains.mean(), error), atol=1e-6)


def test_a_chunk_takes_over_the_memory_of_its_state(
    config: TrainConfig, data: TrainingData, start: Callable[[], TrainingState]
) -> None:
    state = start()
    tiny_runs.program_of(config).chunk(state, data.bank, data.folds)
    assert state.learner.params["see"]["kernel"].is_deleted()


# Several devices.


def trained_on(folder: Path, devices: int, folds: str, seeds: str) -> dict[str, np.ndarray]:
    """The states of all members before and after two chunks, by a process with so many devices."""
    script, out = Path(__file__).with_name("members_on_devices.py"), folder / f"on{devices}.npz"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(script.parent.parent)}
    words = [sys.executable, str(script), str(devices), folds, seeds, str(out)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with np.load(out) as stored:
        return dict(stored)


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "seeds"), [("0", "0,1,2,3"), ("0,1", "0")])
def test_members_do_not_depend_on_the_devices_that_train_them(tmp_path: Path, folds: str, seeds: str) -> None:
    """Bitwise, however many devices members are dealt out over and whoever is their neighbour; where devices
    share the episodes of a member, up to rounding."""
    alone, two, four = (trained_on(tmp_path, devices, folds, seeds) for devices in (1, 2, 4))
    assert [one.pop("devices") for one in (alone, two, four)] == [1, 2, 4]
    assert set(alone) == set(two) == set(four)
    for name, leaf in alone.items():
        np.testing.assert_array_equal(two[name], leaf, err_msg=name)
        if "," in seeds or not np.issubdtype(leaf.dtype, np.floating):
            np.testing.assert_array_equal(four[name], leaf, err_msg=name)
        else:
            np.testing.assert_allclose(four[name], leaf, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_padding_of_folds_changes_next_to_nothing(config: TrainConfig) -> None:
    """Folds of unequal sizes are padded to a common one when trained together."""
    uneven = dataclasses.replace(
        config, collections=config.collections[:1], split="kfold4", folds=(0, 3), seeds=(0,)
    )
    config_alone = [dataclasses.replace(uneven, folds=(fold,)) for fold in uneven.folds]
    results = []
    for one in (uneven, *config_alone):
        data = training.load_data(one)
        program = Program(one)
        state, metrics = program.chunk(program.start(data.bank, data.folds), data.bank, data.folds)
        results.append((np.asarray(state.best_score), np.asarray(metrics["regret_train"]), data.folds.known))
    together, *alone = results
    assert [len(one[2][0]) for one in alone] == [4, 5]
    assert len(together[2][0]) == 5
    for fold, one in enumerate(alone):
        np.testing.assert_allclose(together[0][fold], one[0][0], atol=1e-4)
        np.testing.assert_allclose(together[1][fold], one[1][0], atol=1e-4)
