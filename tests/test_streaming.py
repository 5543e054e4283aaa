"""Streamed training: packs hold what collections hold, shards are dealt fairly and read ahead, runs end the
same."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_runs
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import NAMES, timeless_metrics, tiny_config

from hyprl_jax import __main__, training
from hyprl_jax import bank as banks
from hyprl_jax.config import AugmentConfig, StreamConfig, TrainConfig, from_saved, to_dict
from hyprl_jax.errors import InputError
from hyprl_jax.export import export_policy
from hyprl_jax.policies import load_policy
from hyprl_jax.runtime import Tuner
from hyprl_jax.runtime import policy as runtime_policy
from hyprl_jax.runtime.space import Space
from hyprl_jax.streams import (
    Pack,
    PackWriter,
    Stream,
    StreamedProgram,
    pack_collection,
    packing,
    shards_ahead,
)
from hyprl_jax.streams.shards import shard_rows
from hyprl_jax.surfaces import load_tables, make_split, read_collection, write_collection

MOMENT = 120.0  # seconds after which a thread that does not answer has failed
TASKS, SPLIT = 18, "kfold3"


@pytest.fixture(scope="module", autouse=True)
def _shared_programs() -> Iterator[None]:
    with tiny_runs.shared_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "StreamedProgram", _program_of)
        yield


def _program_of(config: TrainConfig) -> StreamedProgram:
    return _compiled_once(dataclasses.replace(config, collections=("any",), checkpoint_seconds=0.0))


@functools.cache
def _compiled_once(config: TrainConfig) -> StreamedProgram:
    return StreamedProgram(config)


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("collections")
    made = tiny_runs.write_collections(folder)
    many = tiny_runs.ragged_collection(tasks=TASKS)  # two tasks a group
    info = dataclasses.replace(many.info, name="many")
    return made | {"many": str(write_collection(dataclasses.replace(many, info=info), folder / "many"))}


@pytest.fixture(scope="module")
def packs(collections: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return {name: pack_collection(path, folder / name) for name, path in collections.items()}


def streamed(pack: Path, tasks: int, **changes: Any) -> TrainConfig:
    """A tiny streamed configuration; `reference` and `validation` as large as there are tasks."""
    stream = StreamConfig(**({"tasks": tasks, "reference": 50, "validation": 50} | changes.pop("stream", {})))
    return tiny_config(str(pack), stream=stream, **changes)


# --- packs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_holds_the_bank_of_its_collection(
    name: str, collections: dict[str, str], packs: dict[str, Path]
) -> None:
    tables = load_tables(collections[name])
    bank, _ = banks.pack([tables])
    with Pack(packs[name]) as pack:
        read = pack.read(np.arange(len(tables.tasks)))
        for field, values in read.items():
            np.testing.assert_array_equal(values, getattr(bank, field))
        np.testing.assert_array_equal(pack.best, bank.best)
        np.testing.assert_array_equal(pack.worst, bank.worst)
        assert (pack.outline.tasks, pack.outline.groups) == (tables.tasks, tables.groups)
        assert pack.outline.direction == tables.direction
        np.testing.assert_array_equal(pack.outline.encodings, tables.encodings)
        back = pack.tables(np.asarray([3, 1]))
    assert back.tasks == (tables.tasks[3], tables.tasks[1])
    np.testing.assert_allclose(back.objective, tables.objective[[3, 1]], rtol=1e-6)
    np.testing.assert_array_equal(back.metafeatures, tables.metafeatures[[3, 1]])


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_is_the_same_made_of_small_batches_and_blocks(
    name: str, collections: dict[str, str], packs: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(packing, "_BATCH", 5)
    monkeypatch.setattr(packing, "_BLOCK_BYTES", 1)
    rows = np.arange(6)
    with Pack(packs[name]) as one, Pack(pack_collection(collections[name], tmp_path / "pack")) as other:
        for first, second in zip(one.read(rows).values(), other.read(rows).values(), strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"], "nothing temporary is left"


def spoil(folder: Path, **changes: Any) -> None:
    """Writes other evaluations into a collection: columns as functions of the table."""
    file = folder / "evaluations.parquet"
    table = pd.read_parquet(file)
    table.assign(**{name: change(table) for name, change in changes.items()}).to_parquet(file, index=False)


FAULTY = {
    "unknown-task": {"task": lambda table: table["task"].where(table.index != 3, "nobody")},
    "unknown-config": {"config_id": lambda table: table["config_id"].where(table.index != 3, 999)},
    "infinite-objective": {"objective": lambda table: table["objective"].where(table.index != 3, np.inf)},
    "bad-columns": {"objective": lambda table: "words"},
    "duplicate-evaluation": {"config_id": lambda table: 0},
    "has no evaluation": {"objective": lambda table: table["objective"].where(table["task"] != "t2")},
    "same value everywhere": {
        "objective": lambda table: table["objective"].where(table["task"] != "t2", 1.0)
    },
}


@pytest.mark.parametrize("rule", FAULTY)
def test_faulty_evaluations_are_not_packed(rule: str, tmp_path: Path) -> None:
    folder = write_collection(tiny_runs.grid_collection(), tmp_path / "grid")
    spoil(folder, **FAULTY[rule])
    with pytest.raises(InputError, match=rule) as complaint:
        pack_collection(folder, tmp_path / "pack")
    assert "\n" not in str(complaint.value)
    assert [path.name for path in tmp_path.iterdir()] == ["grid"]


def test_objectives_beyond_their_bounds_are_not_packed(tmp_path: Path) -> None:
    folder = write_collection(tiny_runs.grid_collection(), tmp_path / "grid")
    card = json.loads((folder / "collection.json").read_text())
    card["objective"]["upper"] = 2.0
    (folder / "collection.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="objective-out-of-bounds"):
        pack_collection(folder, tmp_path / "pack")


# --- shards ------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_shards_of_an_epoch_hold_every_task_and_none_twice(
    tasks: int, size: int, fold: int, epoch: int
) -> None:
    size = min(size, tasks)
    rows = 7 * np.arange(tasks)
    shards = -(-tasks // size)
    drawn = [shard_rows(rows, size, 0, fold, epoch * shards + number) for number in range(shards)]
    assert all(len(shard) == size and (np.diff(shard) > 0).all() for shard in drawn)
    assert set(np.concatenate(drawn)) == set(rows)
    assert sum(map(len, drawn)) - tasks < size, "only the last shard is filled up"


def test_epochs_folds_and_seeds_have_orders_of_their_own() -> None:
    rows = np.arange(100)
    first = [
        shard_rows(rows, 10, *numbers).tolist() for numbers in ((0, 0, 0), (0, 0, 10), (0, 1, 0), (1, 0, 0))
    ]
    assert len({tuple(shard) for shard in first}) == 4
    assert first[0] == shard_rows(rows, 10, 0, 0, 0).tolist()


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_shards_hold_training_and_validation_tasks_alone(fold: int, packs: dict[str, Path]) -> None:
    with Pack(packs["many"]) as pack:
        split = make_split(pack.outline, SPLIT, fold, 0.4)
        stream = Stream(pack, [split], StreamConfig(tasks=3, reference=2, validation=2))
        groups = dict(zip(pack.outline.tasks, pack.outline.groups, strict=True))
        seen: set[str] = set()
        for chunk in range(8):
            ((train, validation),) = stream.rows(chunk)
            names = {pack.outline.tasks[row] for row in train}
            assert names <= set(split.train)
            assert {pack.outline.tasks[row] for row in validation} <= set(split.validation)
            assert len(validation) == 2
            bank, folds = stream.read(chunk)
            known = folds.known[0]
            assert folds.trained[0] == len(train) == 3 and folds.usable.all()
            here = np.concatenate([train, validation])
            table = pack.tables(here)
            sign = 1.0 if table.direction == "maximize" else -1.0
            there = np.where(bank.legal[known], sign * bank.objective[known], np.nan)
            np.testing.assert_array_equal(there, table.objective)
            same = np.asarray(table.groups)[:, None] == np.asarray(table.groups)
            np.testing.assert_array_equal(bank.group[known][:, None] == bank.group[known], same)
            assert bank.group.max() < len(bank.group)
            assert not {groups[name] for name in names} & {
                groups[name] for name in split.test + split.validation
            }
            seen |= names
        assert seen == set(split.train)
        _, judged, index = stream.reference()
        names = [index.tasks[row][1] for row in judged.known[0]]
        assert set(names[: judged.trained[0]]) <= set(split.train) and judged.trained[0] == 2
        assert set(names[judged.trained[0] :]) <= set(split.validation)


def test_shards_of_several_folds_are_those_of_each_alone(packs: dict[str, Path]) -> None:
    config = StreamConfig(tasks=4, reference=2, validation=2)
    with Pack(packs["many"]) as pack:
        splits = [make_split(pack.outline, SPLIT, fold, 0.4) for fold in (0, 2)]
        both = Stream(pack, splits, config)
        for place, split in enumerate(splits):
            alone = Stream(pack, [split], config)
            for chunk in range(3):
                (bank, folds), (own, fold) = both.read(chunk), alone.read(chunk)
                mine, theirs = folds.known[place], fold.known[0]
                np.testing.assert_array_equal(bank.unit[mine], own.unit[theirs])
                np.testing.assert_array_equal(bank.metafeatures[mine], own.metafeatures[theirs])


# --- reading ahead -----------------------------------------------------------------------------------------


def test_the_next_shard_is_read_while_one_is_in_use() -> None:
    begun = [threading.Event() for _ in range(4)]
    allowed = [threading.Event() for _ in range(4)]

    def read(chunk: int) -> int:
        begun[chunk].set()
        assert allowed[chunk].wait(MOMENT)
        return 10 * chunk

    with shards_ahead(read, 1, 4) as shards:
        assert begun[1].wait(MOMENT), "the first is begun before it is asked for"
        allowed[1].set()
        assert shards() == 10
        assert begun[2].wait(MOMENT), "the next is begun while this one is in use"
        allowed[2].set()
        assert not begun[3].is_set(), "and none beyond it"
        assert shards() == 20
        assert begun[3].wait(MOMENT)
        allowed[3].set()
        assert shards() == 30
        with pytest.raises(ValueError, match="no more chunks"):
            shards()
    assert not begun[0].is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shards")]


def test_a_fault_of_reading_comes_with_its_shard() -> None:
    def read(chunk: int) -> int:
        if chunk == 1:
            raise InputError("the disk is gone")
        return chunk

    with shards_ahead(read, 0, 3) as shards:
        assert shards() == 0
        with pytest.raises(InputError, match="the disk is gone"):
            shards()


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_shard_with_all_tasks_trains_as_the_collection_in_memory(
    collections: dict[str, str], packs: dict[str, Path], tmp_path: Path
) -> None:
    # What is forgotten is drawn for all groups of a bank, of which one in memory has those of test tasks too.
    augment = AugmentConfig(candidates=7, forget=0.0)
    whole = training.train(tiny_config(collections["grid"], augment=augment), tmp_path / "whole", silent=True)
    config = streamed(packs["grid"], tasks=50, augment=augment)
    result = training.train(config, tmp_path / "streamed", silent=True)
    for name in ("weights_sha256", "best_validation", "env_steps"):
        assert result[name] == whole[name]
    assert timeless_metrics(tmp_path / "streamed") == timeless_metrics(tmp_path / "whole")
    first, second = (load_policy(tmp_path / name) for name in ("whole", "streamed"))
    assert first.groups == second.groups
    jax.tree.map(
        np.testing.assert_array_equal, (first.params, first.numbers), (second.params, second.numbers)
    )


def test_an_interrupted_run_is_resumed_with_the_same_shards(
    packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = streamed(packs["many"], tasks=3, stream={"reference": 2, "validation": 2})
    result = training.train(config, tmp_path / "one", silent=True)
    row, written = training.metrics_row, []

    def interrupted(*given: Any) -> Any:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(row(*given))
        return written[-1]

    monkeypatch.setattr(training, "metrics_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(config, tmp_path / "two", silent=True)
    monkeypatch.setattr(training, "metrics_row", row)
    again = training.resume(tmp_path / "two", silent=True)
    assert again["weights_sha256"] == result["weights_sha256"]
    assert timeless_metrics(tmp_path / "two") == timeless_metrics(tmp_path / "one")
    assert len(timeless_metrics(tmp_path / "one")) == 6
    # The policy knows of every group that was drawn from or judged on, not of those in the last shard alone.
    tables = load_pack(packs["many"])
    split = make_split(tables, SPLIT, 0, config.validation_fraction)
    groups = dict(zip(tables.tasks, tables.groups, strict=True))
    assert load_policy(tmp_path / "two").groups[0] == {
        groups[task] for task in split.train + split.validation
    }


def test_a_streamed_run_is_evaluated_on_the_collection_that_was_packed(
    packs: dict[str, Path], collections: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = streamed(packs["many"], tasks=3, stream={"reference": 2, "validation": 2})
    training.train(config, tmp_path / "run", silent=True)
    words = [
        "evaluate",
        str(tmp_path / "run"),
        "--methods",
        "policy",
        "--fold",
        "0",
        "--seeds",
        "0",
        "--json",
    ]
    assert __main__.main(words) == 2
    assert "packed for streamed training" in capsys.readouterr().err
    assert __main__.main([*words, "--collections", collections["many"]]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert sorted(summary["tasks"]) == sorted(make_split(load_pack(packs["many"]), SPLIT, 0).test)


def test_a_streamed_run_is_exported_with_the_tasks_that_it_was_judged_on(
    packs: dict[str, Path], collections: dict[str, str], tmp_path: Path
) -> None:
    config = streamed(packs["many"], tasks=3, folds=(0, 2), stream={"reference": 3, "validation": 2})
    training.train(config, tmp_path / "run", silent=True)
    export_policy(tmp_path / "run", tmp_path / "policy", fold=2)
    carried = runtime_policy.load_policy(tmp_path / "policy")
    facts = json.loads((tmp_path / "policy" / "policy.json").read_text())
    told = facts["training"]["collections"][0]
    tables, collection = load_tables(collections["many"]), read_collection(collections["many"])
    split = make_split(tables, SPLIT, 2, config.validation_fraction)
    assert told["training_tasks"] == len(split.train) > len(told["train"]) == 3
    assert set(told["train"]) < set(split.train) and set(told["validation"]) <= set(split.validation)
    assert told["content_hash"] == collection.info.content_hash
    space = Space.from_configspace(collection.space)
    assert Space.from_dict(facts["spaces"]["many"]).to_dict() == space.to_dict()
    rows = [tables.tasks.index(task) for task in (*told["train"], *told["validation"])]
    wanted = -tables.objective[rows]  # it is minimised
    np.testing.assert_allclose(carried.prior["many"].objective, wanted, rtol=1e-6)
    assert "knows 3, those that it was judged on" in (tmp_path / "policy" / "MODEL_CARD.md").read_text()
    assert facts["training"]["validation_regret"] is not None
    tuner = Tuner(collection.space, policy=tmp_path / "policy", trials=4, seed=0)
    for _ in range(4):
        tuner.tell(tuner.ask(), 0.5)


def test_what_is_exported_needs_a_pack_that_says_what_its_space_is(
    packs: dict[str, Path], tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    with Pack(packs["many"]) as one, PackWriter(pack, one.outline) as writer:
        writer.append(one.tables(np.arange(TASKS)).objective)
    config = streamed(pack, tasks=3, stream={"reference": 2, "validation": 2})
    training.train(config, tmp_path / "run", silent=True)
    with pytest.raises(InputError, match="does not say what its space is: pack the collection again"):
        export_policy(tmp_path / "run", tmp_path / "policy", fold=0)
    assert not (tmp_path / "policy").exists()


def load_pack(path: Path) -> Any:
    with Pack(path) as pack:
        return pack.outline


def test_a_changed_pack_is_not_resumed(
    packs: dict[str, Path], collections: dict[str, str], tmp_path: Path
) -> None:
    pack_collection(collections["many"], tmp_path / "pack")
    config = streamed(tmp_path / "pack", tasks=3, stream={"reference": 2, "validation": 2})
    training.train(config, tmp_path / "run", silent=True)
    other = read_collection(collections["many"])
    table = other.evaluations.assign(objective=other.evaluations["objective"] * 2.0)
    write_collection(dataclasses.replace(other, evaluations=table), tmp_path / "other")
    (tmp_path / "pack").rename(tmp_path / "before")
    pack_collection(tmp_path / "other", tmp_path / "pack")
    with pytest.raises(InputError, match="collections have changed"):
        training.resume(tmp_path / "run", silent=True)


# --- mistakes ----------------------------------------------------------------------------------------------


def test_the_command_line_packs_and_says_how_to_train(
    collections: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["surfaces", "pack", collections["grid"], "--out", str(tmp_path / "pack"), "--json"]
    assert __main__.main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["tasks"], said["configurations"]) == (6, 8)
    files = [file for file in (tmp_path / "pack").rglob("*") if file.is_file()]
    assert said["bytes"] == sum(file.stat().st_size for file in files)
    assert __main__.main(words) == 2
    assert "exists" in capsys.readouterr().err


def test_a_pack_is_not_taken_for_a_collection(packs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="packed for streamed training"):
        load_tables(packs["grid"])


def test_a_collection_is_not_taken_for_a_pack(collections: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="surfaces pack"):
        training.train(streamed(Path(collections["grid"]), tasks=3), tmp_path / "run", silent=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stream": {"tasks": 1}}, "at least 2"),
        ({"stream": {"tasks": -1}}, "stream.tasks"),
        ({"stream": {"reference": 1}}, "stream.reference"),
        ({"stream": {"validation": 0}}, "stream.validation"),
        ({"learner": {"replay": "uniform", "ordering": "q"}}, "learner.replay to none"),
    ],
)
def test_what_cannot_be_streamed_is_said_beforehand(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        streamed(Path("any"), tasks=8, **changes)


def test_only_one_collection_is_streamed() -> None:
    with pytest.raises(InputError, match="one packed collection"):
        dataclasses.replace(streamed(Path("any"), tasks=8), collections=("one", "two"))


def test_a_split_of_some_configurations_is_not_streamed(packs: dict[str, Path], tmp_path: Path) -> None:
    outline = load_pack(packs["grid"])
    split = {"train": outline.tasks[:4], "test": outline.tasks[4:], "config_ids": [0, 1, 2, 3, 4]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    config = streamed(packs["grid"], tasks=3, split=str(tmp_path / "split.json"), folds=(0,))
    with pytest.raises(InputError, match="cannot be streamed"):
        training.train(config, tmp_path / "run", silent=True)


def test_runs_saved_before_there_were_streams_are_read_as_not_streamed() -> None:
    saved = to_dict(tiny_config("any"))
    del saved["stream"]
    assert from_saved(saved) == tiny_config("any")
