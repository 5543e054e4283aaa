"""The study across collections: nobody is played who trained, units last, and tables are what JSONs hold."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import grid_collection

from hyprl_jax.cli.common import INPUT_MISTAKE, INTERRUPTED, SUCCESS
from hyprl_jax.config import TrainConfig
from hyprl_jax.errors import InputError
from hyprl_jax.evaluation import programs
from hyprl_jax.evaluation.play import play_methods
from hyprl_jax.policies import TrainedPolicy
from hyprl_jax.surfaces import Split, TaskTables, load_tables, write_collection

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import across
import across_sides
import studies_common as common
from study_examples import kept_page, quick_compilation, untrained

NAMES = ("first", "second")
SHARED = ("both-0", "both-1", "both-2", "both-3")
FEW = {"cold": ("policy", "start", "random"), "prior": ("policy", "start", "mean_list")}
QUICK = ["--trials", "5", "--train-trials", "4", "--plays", "2", "--seeds", "0,1", "--updates", "2"]
QUICK += ["--episodes", "16"]


def write(folder: Path, name: str, seed: int, configs: int = 8) -> str:
    """Eight tasks on a grid; four of them are of datasets that the other collection has too."""
    made = grid_collection(seed, tasks=8, configs=configs)
    groups = [f"{name}-{number}" for number in range(4)] + list(SHARED)
    tasks = made.tasks.assign(group=groups)
    info = dataclasses.replace(made.info, name=name)
    return str(write_collection(dataclasses.replace(made, info=info, tasks=tasks), folder / name))


ALL = across.METHODS


@pytest.fixture(scope="module", autouse=True)
def few_methods() -> Iterator[None]:
    """Fewer programs to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(across, "METHODS", FEW)
        patch.setattr(across, "FOLDS", 2)
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two collections that can be read and one that cannot."""
    folder = tmp_path_factory.mktemp("collections")
    paths = [write(folder, name, seed) for seed, name in enumerate(NAMES)]
    broken = Path(write(folder, "broken", 2))
    (broken / "evaluations.parquet").write_bytes(b"no table")
    return [*paths, str(broken)]


def words(given: list[str], out: Path, *more: str) -> list[str]:
    return ["--collections", ",".join(given), "--out", str(out), *QUICK, *more]


# Sides


def tables_of(given: list[str]) -> dict[str, TaskTables]:
    return {name: load_tables(path) for name, path in zip(NAMES, given[:2], strict=True)}


def groups_of(tables: TaskTables, tasks: tuple[str, ...]) -> set[str]:
    return {tables.groups[tables.tasks.index(task)] for task in tasks}


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_no_dataset_is_on_both_sides_and_none_is_lost(given: list[str], shared: float) -> None:
    tables = tables_of(given)
    for held, other in (NAMES, NAMES[::-1]):
        found = across_sides.sides(held, tables, shared, 0)
        assert list(found.splits) == [other]
        split = found.splits[other]
        train, validation = groups_of(tables[other], split.train), groups_of(tables[other], split.validation)
        played = groups_of(tables[held], found.played)
        assert split.test == () and train and validation and not train & validation
        assert not played & (train | validation)
        assert len(played & set(SHARED)) == 4 * shared == len(set(SHARED) - train - validation)
        assert {f"{held}-{number}" for number in range(4)} <= played
        assert {f"{other}-{number}" for number in range(4)} <= train | validation
        assert found.left_out == 8 - len(found.played) and found.not_trained == 4 * shared
        assert found.trained == {other: 8 - found.not_trained}


def test_all_held_out_collections_play_the_same_of_the_shared_datasets(given: list[str]) -> None:
    tables = tables_of(given)
    both = [groups_of(tables[name], across_sides.sides(name, tables, 0.5, 0).played) for name in NAMES]
    assert both[0] & set(SHARED) == both[1] & set(SHARED) == both[0] & both[1]


def test_one_dataset_under_two_names_is_one(given: list[str]) -> None:
    tables = tables_of(given)
    first, second = (
        dataclasses.replace(tables[name], groups=(alias, *tables[name].groups[1:]))
        for name, alias in zip(NAMES, ("wdbc", "breast_cancer"), strict=True)
    )
    found = across_sides.sides("first", {"first": first, "second": second}, 0.0, 0)
    assert first.tasks[0] not in found.played and len(found.played) == 3 and found.left_out == 5


def test_fewer_tasks_are_always_the_same_ones(given: list[str]) -> None:
    tables = tables_of(given)
    every, some, again = (across_sides.sides("first", tables, 0.0, most) for most in (0, 2, 2))
    assert len(some.played) == 2 and set(some.played) < set(every.played) and some == again
    assert across_sides.sides("first", tables, 0.0, 100) == every


def test_a_collection_whose_datasets_all_train_cannot_be_played(given: list[str]) -> None:
    tables = tables_of(given)
    twin = {"first": tables["first"], "twin": dataclasses.replace(tables["first"], collection="twin")}
    with pytest.raises(InputError, match=r"nothing is left to play; add --shared 0\.5"):
        across_sides.sides("first", twin, 0.0, 0)
    assert len(across_sides.sides("first", twin, 0.5, 0).played) == 4


# A study with policies that are not trained


def stand_in(config: TrainConfig, folder: Path) -> tuple[TrainedPolicy, float]:
    """A policy as it is before training, that names the groups which would have trained it."""
    tables = load_tables(config.collections[0])
    policy = untrained(dataclasses.replace(config, split="kfold2"), tables)
    sides = across.training.make_split(tables, config.split, 0, config.validation_fraction)
    assert not sides.test
    known = frozenset(groups_of(tables, (*sides.train, *sides.validation)))
    return dataclasses.replace(policy, config=config, groups=(known,)), 1.5


@contextlib.contextmanager
def untrained_policies() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, quick_compilation():
        patch.setattr(common, "trained", stand_in)
        patch.setattr(across, "use_all_cores", lambda: None)
        yield


@pytest.fixture(scope="module")
def study(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    with untrained_policies():
        assert across.main(words(given, out)) == SUCCESS
    return out


def read(study: Path, name: str) -> dict[str, Any]:
    return json.loads((study / f"{name}.json").read_text())


def test_every_method_plays_what_did_not_train(study: Path, given: list[str]) -> None:
    tables = tables_of(given)
    for part in across.PARTS:
        for held, other in (NAMES, NAMES[::-1]):
            record = read(study, f"{part}-{held}")
            assert record["failure"] is None and record["trained_on"] == {other: 8}
            assert sorted(record["tasks"]) == sorted(tables[held].tasks[:4])
            assert record["left_out"] == 4 and not set(record["groups"]) & set(SHARED)
            assert list(record["methods"]) == list(FEW[part])
            assert (record["updates"], record["episodes"], record["trials"]) == (2, 16, 5)
            for method, played in record["methods"].items():
                assert np.shape(played["regret"]) == (4, 5)
                assert np.all(np.diff(played["regret"]) <= 0) and np.min(played["regret"]) >= 0
                several = method in ("policy", "random", "gp_ei")
                assert played["seeds"] == ([0, 1] if several else [0])


def test_a_broken_collection_fails_and_the_others_go_on(study: Path) -> None:
    for part in across.PARTS:
        record = read(study, f"{part}-broken")
        assert record["failure"].startswith("InputError: ") and "evaluations.parquet" in record["failure"]
    assert read(study, "study")["collections"]["broken"] is None


def test_only_what_is_not_there_is_run(
    study: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(across, "run_unit", lambda part, held, plan: calls.append((part, held)) or {})
    monkeypatch.setattr(across, "use_all_cores", lambda: None)
    monkeypatch.setattr(common, "show", lambda *_: None)
    kept = (study / "prior-first.json").read_bytes()
    (study / "prior-first.json").unlink()
    assert across.main(words(given, study)) == SUCCESS
    assert calls == [("prior", "first")]
    (study / "prior-first.json").write_bytes(kept)
    failed = (study / "cold-broken.json").read_bytes()
    assert across.main(words(given, study, "--retry", "--parts", "cold")) == SUCCESS
    assert calls[1:] == [("cold", "broken")]
    (study / "cold-broken.json").write_bytes(failed)
    assert across.main(words(given, study, "--held-out", "first", "--parts", "cold")) == SUCCESS
    assert len(calls) == 2


def plan_of(given: list[str], out: Path) -> across.Plan:
    paths = dict(zip(NAMES, given[:2], strict=True))
    return across.Plan(paths, tables_of(given), {}, 5, 4, (0, 1), 1, 0, 0.0, (), 2, 16, out)


def policy_of(part: str, given: list[str], out: Path) -> TrainedPolicy:
    """An untrained policy of the collection `second`."""
    config = across.configuration(part, ["second"], plan_of(given, out))
    policy = untrained(dataclasses.replace(config, split="kfold2"), tables_of(given)["second"])
    return dataclasses.replace(policy, config=config)


def test_a_policy_that_knows_what_is_played_is_refused(given: list[str], tmp_path: Path) -> None:
    plan, policy = plan_of(given, tmp_path), policy_of("cold", given, tmp_path)
    found = across_sides.sides("first", plan.tables, 0.0, 0)
    for wrong in (
        dataclasses.replace(policy, groups=(frozenset({"first-1"}),)),
        dataclasses.replace(policy, collections=("first",), groups=(frozenset(),)),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common, "trained", lambda *_, wrong=wrong: (wrong, 0.0))
            with pytest.raises(InputError, match="was trained on what is played"):
                across.train_on_others("cold", "first", found, plan)


# What is known


def test_cold_starts_are_told_nothing(given: list[str], tmp_path: Path) -> None:
    tables = across.unknowing(tables_of(given)["first"])
    policy = policy_of("cold", given, tmp_path)
    empty = Split("none", 0, (across.NOTHING,), (), tables.tasks[:4])
    telling = Split("some", 0, tables.tasks[4:8], (), tables.tasks[:4])
    with quick_compilation():
        unknowing, knowing = (
            play_methods(("policy", "start"), tables, split, 5, (0,), policy) for split in (empty, telling)
        )
    for one, other in zip(unknowing, knowing, strict=True):
        assert not one.failures and np.array_equal(one.actions, other.actions)
        assert np.all(one.actions >= 0)


def test_prior_data_is_what_the_surrogate_is_fitted_to(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, policy = tables_of(given)["first"], policy_of("prior", given, tmp_path)
    learned = []
    program = programs.learning_program

    def spy(*about: Any) -> Any:
        return lambda bank, fold: learned.append(program(*about)(bank, fold)) or learned[-1]

    monkeypatch.setattr(programs, "learning_program", spy)
    with quick_compilation():
        for known in (tables.tasks[2:5], tables.tasks[5:]):
            played = play_methods(
                ("policy",), tables, Split("", 0, known, (), tables.tasks[:2]), 5, (0,), policy
            )
            assert not played[0].failures
    lengthscales = [np.asarray(numbers.lengthscale) for numbers in learned]
    assert len(lengthscales) == 2 and not np.allclose(lengthscales[0], lengthscales[1])
    assert not np.allclose(lengthscales[0], policy.config.surrogate.lengthscale)


# Tables


def numbers(cell: str) -> list[float]:
    return [float(word.strip("[],")) for word in cell.split()]


def test_the_table_holds_the_numbers_of_the_files(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = kept_page(across.main, "across", study, tmp_path, monkeypatch, capsys)
    assert "- `cold-broken`: InputError" in page
    sections = page.split("\n## ")
    for part in across.PARTS:
        section = next(text for text in sections if f"(`{part}`)" in text)
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
        means: dict[str, float] = {}
        for method in FEW[part]:
            total = 0.0
            for held in NAMES:
                regret = read(study, f"{part}-{held}")["methods"][method]["regret"]
                mean = sum(curve[4] for curve in regret) / len(regret)
                row = next(row for row in rows if row[:2] == [f"`{held}`", f"`{method}`"])
                assert numbers(row[2])[0] == pytest.approx(mean, abs=6e-5)
                total += mean
            means[method] = total / 2
            row = next(row for row in rows if row[:1] == [f"`{method}`"])
            shown, low, high = numbers(row[1])
            assert shown == pytest.approx(means[method], abs=6e-5) and low <= shown <= high
            assert float(row[2]) == pytest.approx(rank_of(study, part, method), abs=6e-3)
        for other in FEW[part][1:]:
            line = next(
                line for line in section.splitlines() if line.startswith(f"- `policy` against `{other}`")
            )
            difference = means["policy"] - means[other]
            assert float(line.split("(")[1].split()[0]) == pytest.approx(difference, abs=6e-5)


def rank_of(study: Path, part: str, method: str) -> float:
    """The average rank of a method at trial 5, counted one by one."""
    found = []
    for held in NAMES:
        methods = read(study, f"{part}-{held}")["methods"]
        for task in range(4):
            own = methods[method]["regret"][task][4]
            every = [played["regret"][task][4] for played in methods.values()]
            found.append(sum(loss < own for loss in every) + (sum(loss == own for loss in every) + 1) / 2)
    return sum(found) / len(found)


# Mistakes


def test_mistakes_are_told_in_one_line(
    study: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "study.json").write_text('{"study": "across", "collections": {}}')
    cases = {
        "holds no study": ["--table", "--out", str(tmp_path / "nowhere")],
        "no unit of the study is finished": ["--table", "--out", str(tmp_path / "empty")],
        "name two or more": words(given[1:], tmp_path),
        "given twice": words([given[0], given[0]], tmp_path),
        "there is no part 'warm'": words(given, tmp_path, "--parts", "warm"),
        "'third' is not held": words(given, tmp_path, "--held-out", "third"),
        "unknown method 'best'": words(given, tmp_path, "--methods", "best"),
        "no share": words(given, tmp_path, "--shared", "2"),
        "choose another --out": words(given, study, "--shared", "0.5"),
    }
    for says, line in cases.items():
        assert across.main(line) == INPUT_MISTAKE
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))


def test_units_are_listed_without_being_run(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert across.main(words(given, tmp_path / "none", "--list", "--held-out", "first,broken")) == SUCCESS
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["cold-first", "cold-broken", "prior-first", "prior-broken"]
    assert "4 tasks to play, 4 left out, 8 to train on" in lines[0] and "cannot be run" in lines[1]
    assert not (tmp_path / "none").exists()


def test_a_stop_ends_the_study_without_a_table(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Any:
        raise common.Stopped

    monkeypatch.setattr(across, "run_unit", stopped)
    monkeypatch.setattr(across, "use_all_cores", lambda: None)
    assert across.main(words(given, tmp_path)) == INTERRUPTED
    assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


def test_methods_without_known_tasks_play_no_cold_start() -> None:
    extra = ("optuna_tpe", "rgpe", "policy_ensemble", "start", "mean_list")
    assert across.methods_of("cold", extra) == (*across.METHODS["cold"], "optuna_tpe", "policy_ensemble")
    assert across.methods_of("prior", extra) == (
        *across.METHODS["prior"],
        "optuna_tpe",
        "rgpe",
        "policy_ensemble",
    )


# Trainings


@pytest.mark.slow
def test_policies_are_trained_on_the_other_collections_alone(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyprl_jax.policies import load_policy

    monkeypatch.setattr(across, "METHODS", ALL)
    with quick_compilation():
        line = words(given[:2], tmp_path, "--held-out", "first", "--methods", "optuna_tpe")
        assert across.main(line) == SUCCESS
    for part in across.PARTS:
        record = read(tmp_path, f"{part}-first")
        assert record["failure"] is None and list(record["methods"]) == [*ALL[part], "optuna_tpe"]
        policy = load_policy(tmp_path / "runs" / f"{part}-first")
        assert policy.collections == ("second",)
        assert policy.groups == (frozenset({*SHARED, *(f"second-{number}" for number in range(4))}),)
        assert policy.config.surrogate.prior == ("cold" if part == "cold" else "learned")
