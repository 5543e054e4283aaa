"""Surfaces without their noise: against dense linear algebra, and used where that foretells other tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from exported_policies import collection_with_gaps, untrained_run
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import make_tables, on_device, quick_jit, split_of

from hyprl_jax import fitting, rollout
from hyprl_jax.bank import Fold, SurfaceBank, make_fold, pack
from hyprl_jax.baselines import DEVICE_BASELINES, make_baseline
from hyprl_jax.config import EnvConfig, SurrogateConfig
from hyprl_jax.export import export_policy
from hyprl_jax.knowledge import Numbers
from hyprl_jax.runtime import load_policy, smoothing
from hyprl_jax.runtime.prior import EarlierTasks, Surfaces
from hyprl_jax.runtime.smoothing import smoothed
from hyprl_jax.runtime.space import Space
from hyprl_jax.surfaces import TaskTables, load_tables, read_collection


def some_surfaces(seed: int, number: int, tasks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(size=(tasks, number)), random.uniform(size=(number, 2))


# ---- the smoothing itself


@given(seed=st.integers(0, 10**6), number=st.integers(smoothing.FEWEST, 60))
@settings(max_examples=20)
def test_it_is_the_posterior_mean_of_a_gaussian_process(seed: int, number: int) -> None:
    unit, encodings = some_surfaces(seed, number)
    distance = ((encodings[:, None] - encodings) ** 2).sum(-1) / smoothing.LENGTHSCALE**2
    kernel = (1.0 + distance / 4.0) ** -2
    gain = kernel @ np.linalg.inv(kernel + smoothing.NOISE * np.eye(number))
    centre = unit.mean(1, keepdims=True)
    np.testing.assert_allclose(smoothed(unit, encodings), centre + (unit - centre) @ gain.T, atol=1e-3)


def test_landmarks_stand_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a third of the configurations about the same, at a cost that does not grow with their square."""
    unit, encodings = some_surfaces(1, 300)
    exact = smoothed(unit, encodings)
    monkeypatch.setattr(smoothing, "LANDMARKS", 100)
    found = smoothed(unit, encodings)
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.01)


def test_noise_goes_and_the_surface_stays() -> None:
    random = np.random.default_rng(0)
    encodings = random.uniform(size=(400, 2))
    truth = np.sin(3.0 * encodings[:, 0]) * encodings[:, 1]
    noisy = truth + 0.2 * random.normal(size=(5, 400))
    assert np.abs(smoothed(noisy, encodings) - truth).mean() < 0.4 * np.abs(noisy - truth).mean()


def test_each_surface_is_smoothed_by_itself() -> None:
    unit, encodings = some_surfaces(2, 40)
    other = np.concatenate([unit[:1], 1.0 - unit[1:]])
    np.testing.assert_allclose(smoothed(other, encodings)[0], smoothed(unit, encodings)[0], atol=1e-12)


def test_a_constant_and_the_same_configuration_twice_do_no_harm() -> None:
    unit, encodings = some_surfaces(3, 30)
    unit[0] = 0.7
    encodings[10:] = encodings[0]
    found = smoothed(unit, encodings)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], 0.7)


@pytest.mark.parametrize("number", [0, 1, smoothing.FEWEST - 1])
def test_a_few_configurations_stay_as_they_are(number: int) -> None:
    unit, encodings = some_surfaces(4, number)
    np.testing.assert_array_equal(smoothed(unit, encodings), unit)


def test_very_many_configurations_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothing, "MOST", 19)
    unit, encodings = some_surfaces(5, 20)
    np.testing.assert_array_equal(smoothed(unit, encodings), unit)


def test_a_bank_holds_both() -> None:
    table = make_tables("one", 4, 20, seed=1)
    bank, _ = pack([table, make_tables("two", 3, 30, seed=2)])
    assert bank.smooth.dtype == np.float32 and bank.smooth.shape == bank.unit.shape
    np.testing.assert_allclose(bank.smooth[:4, :20], smoothed(bank.unit[:4, :20], table.encodings), atol=1e-6)
    assert not bank.smooth[:4, 20:].any()


# ---- where it is used


def noisy_tables(name: str, noise: float, detail: float, tasks: int = 12) -> TaskTables:
    """Tasks with a smooth surface in common, `detail` in common that no neighbour tells of, and noise."""
    table, random = make_tables(name, tasks, 80, seed=7, tasks_a_group=1), np.random.default_rng(8)
    trend = np.sin(2.0 * table.encodings[:, 0])
    common = trend + detail * random.normal(size=80)
    values = common + noise * random.normal(size=table.objective.shape)
    return dataclasses.replace(table, objective=values)


def known_side(tables: Sequence[TaskTables], known: int) -> tuple[SurfaceBank, Fold]:
    bank, index = pack(tables)
    splits = [split_of(table, range(known)) for table in tables]
    return on_device((bank, make_fold(index, splits, size=known * len(tables) + 2)))


decide = partial(quick_jit, static_argnames="config")(fitting.foretells_better)
learn = partial(quick_jit, static_argnames=("env", "config"))(fitting.learn)
ENV, BARE = EnvConfig(trials=3), SurrogateConfig(fit=False)


def decision_oracle(bank: SurfaceBank, rows: np.ndarray) -> bool:
    differences = []
    for row in rows:
        others = [other for other in rows if bank.group[other] != bank.group[row]]
        errors = [
            np.var((bank.unit[row] - surfaces[others].mean(0))[np.asarray(bank.legal[row])])
            for surfaces in (np.asarray(bank.smooth, np.float64), np.asarray(bank.unit, np.float64))
        ]
        differences.append(errors[0] - errors[1])
    return bool(np.mean(differences) < -2.0 * np.std(differences, ddof=1) / np.sqrt(len(differences)))


@pytest.mark.parametrize(("noise", "detail", "better"), [(1.0, 0.0, True), (0.05, 0.5, False)])
def test_noise_is_taken_out_and_what_tasks_have_in_common_is_not(
    noise: float, detail: float, better: bool
) -> None:
    bank, fold = known_side([noisy_tables("one", noise, detail)], 10)
    assert decide(bank, fold, BARE).tolist() == [float(better)]
    assert decision_oracle(bank, np.arange(10)) is better
    assert learn(bank, fold, ENV, BARE).denoise.tolist() == [float(better)]
    assert not learn(bank, fold, ENV, dataclasses.replace(BARE, denoise=False)).denoise.any()


def test_each_collection_decides_for_itself_and_test_tasks_have_no_say() -> None:
    tables = [noisy_tables("one", 1.0, 0.0), noisy_tables("two", 0.05, 0.5)]
    bank, fold = known_side(tables, 10)
    assert decide(bank, fold, BARE).tolist() == [1.0, 0.0]
    tested = np.setdiff1d(np.arange(24), np.asarray(fold.known))
    spoiled = bank._replace(unit=bank.unit.at[tested].set(5.0), smooth=bank.smooth.at[tested].set(-5.0))
    np.testing.assert_array_equal(decide(spoiled, fold, BARE), decide(bank, fold, BARE))


@pytest.mark.parametrize("known", [1, 2])
def test_too_few_tasks_decide_nothing_wrong(known: int) -> None:
    bank, fold = known_side([noisy_tables("one", 0.0, 0.0)], known)
    assert decide(bank, fold, BARE).tolist() == [0.0]


def test_the_process_reads_half_of_the_noise_and_retrieval_none() -> None:
    bank, fold = known_side([noisy_tables("one", 1.0, 0.0), noisy_tables("two", 0.05, 0.5)], 10)
    numbers = fitting.numbers_of(bank, BARE)._replace(denoise=jnp.asarray([1.0, 0.0]))
    shared, plain = rollout.background(bank, fold, numbers), rollout.background(bank, fold)
    unit, smooth = np.asarray(bank.unit[fold.known]), np.asarray(bank.smooth[fold.known])
    np.testing.assert_allclose(shared.surfaces[:10], 0.5 * (unit + smooth)[:10], atol=1e-7)
    np.testing.assert_array_equal(shared.examples[:10], smooth[:10])
    for found in (shared.surfaces, shared.examples):
        np.testing.assert_array_equal(found[10:20], unit[10:20])
    for found in (plain.surfaces, plain.examples):
        np.testing.assert_array_equal(found, unit)


def test_published_methods_read_surfaces_as_they_are() -> None:
    calm = [name for name in DEVICE_BASELINES if make_baseline(name).beliefs.denoise]
    assert calm == ["start"]


# ---- the same outside


def test_an_export_tells_whether_surfaces_were_smoothed(tmp_path: Path) -> None:
    path = collection_with_gaps(tmp_path)
    export_policy(untrained_run(tmp_path / "run", path, calm=True), tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    assert policy.numbers["grid"].denoise == 1.0
    assert policy.beliefs.denoise == 0.0, "nobody knows of another space"


def test_earlier_tasks_are_smoothed_as_on_the_device(tmp_path: Path) -> None:
    """With gaps in their tables, and between their configurations as raw ones are."""
    path = collection_with_gaps(tmp_path)
    tables, space = load_tables(path), Space.from_configspace(read_collection(path).space)
    gaps = np.random.default_rng(0).uniform(size=tables.objective.shape) < 0.2
    tables = dataclasses.replace(tables, objective=np.where(gaps, np.nan, tables.objective))
    bank, _ = pack([tables])
    sign = 1.0 if tables.direction == "maximize" else -1.0
    codes = space.codes(read_collection(path).configs.drop(columns="config_id").to_dict("records"))
    calm = Surfaces(EarlierTasks(codes, sign * tables.objective), space, calm=True)
    encodings = tables.encodings.astype(np.float64)
    process, examples = calm.at(encodings)
    np.testing.assert_allclose(examples, bank.smooth, atol=1e-5)
    np.testing.assert_allclose(process, 0.5 * (bank.unit + bank.smooth), atol=1e-5)
    between = calm.at(encodings[:5] + 1e-3)
    assert between.shape == (2, len(tables.tasks), 5) and np.isfinite(between).all()
    assert Surfaces(EarlierTasks(codes, sign * tables.objective), space).at(encodings).ndim == 2


def test_numbers_name_it_last() -> None:
    """Exports of before have no such number; see `Beliefs.from_dict`."""
    assert Numbers._fields[-1] == "denoise"
