"""The verbs `surfaces ...` from end to end on small tables: output, exit codes, what they leave."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hyprl_jax.__main__ import main
from hyprl_jax.cli.importing import OPTIONS, ImportOptions
from hyprl_jax.surfaces import SOURCES

CSV = """dataset,accuracy,rate,depth,activation
first,0.5,0.1,1,relu
first,0.7,0.01,2,relu
first,0.6,0.001,3,tanh
second,0.4,0.1,1,relu
second,0.9,0.01,2,relu
second,0.8,0.001,3,tanh
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    path.write_text(CSV)
    return path


@pytest.fixture
def collection(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "meta_data" / "mine"
    assert main(["surfaces", "import", "table", str(table), "--out", str(out), *COLUMNS]) == 0
    capsys.readouterr()
    return out


COLUMNS = ["--task", "dataset", "--objective", "accuracy"]


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    """The one JSON object that `surfaces WORDS --json` prints."""
    assert main(["surfaces", *map(str, words), "--json"]) == code
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_import_then_describe(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in collection.iterdir()} >= {"collection.json", "space.json", "tasks.parquet"}
    words = answer(capsys, "describe", collection)
    assert words["name"] == "mine"
    assert words["tasks"]["number"] == 2
    assert words["configurations"]["number"] == 3
    assert words["objective"]["direction"] == "maximize"
    assert main(["surfaces", "describe", str(collection)]) == 0
    text = capsys.readouterr().out
    assert "name: mine" in text
    assert "activation" in text


def test_list(collection: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [item["name"] for item in answer(capsys, "list", "--root", collection.parent)["collections"]] == [
        "mine"
    ]
    monkeypatch.chdir(collection.parent.parent)
    assert "mine" in [item["name"] for item in answer(capsys, "list")["collections"]]
    assert answer(capsys, "describe", "mine")["name"] == "mine"


def test_list_of_nothing_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["surfaces", "list", "--root", str(tmp_path)]) == 0
    assert "hyprl surfaces import" in capsys.readouterr().out


def test_validate_sound_and_damaged(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "validate", collection) == {"path": str(collection), "valid": True, "faults": []}
    (collection / "evaluations.parquet").write_bytes(b"not parquet")
    found = answer(capsys, "validate", collection, code=2)
    assert not found["valid"]
    assert found["faults"][0]["file"] == "evaluations.parquet"
    assert main(["surfaces", "validate", str(collection)]) == 2
    captured = capsys.readouterr()
    assert "evaluations.parquet" in captured.out
    assert "Traceback" not in captured.err


def test_import_refuses_a_fault_and_leaves_nothing(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text(CSV + "second,many,0.001,3,tanh\n")
    out = table.parent / "out"
    found = answer(capsys, "import", "table", table, "--out", out, *COLUMNS, code=2)
    assert "results.csv" in found["error"]
    assert "row 6" in found["error"]
    assert sorted(path.name for path in table.parent.iterdir()) == ["results.csv"]


def test_import_does_not_overwrite_unasked(
    collection: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text(CSV.replace("0.9", "0.95"))
    words = ["import", "table", table, "--out", collection, *COLUMNS]
    before = answer(capsys, "describe", collection)["content_hash"]
    assert "exists" in answer(capsys, *words, code=2)["error"]
    assert answer(capsys, *words, "--overwrite")["content_hash"] != before


def test_import_a_collection_under_another_name(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = collection.parent / "theirs"
    found = answer(capsys, "import", "collection", collection, "--out", out)
    assert found["name"] == "theirs"
    assert found["content_hash"] == answer(capsys, "describe", collection)["content_hash"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "cloud", "x", "--out", "y"], "cloud"),
        (["import", "table", "x", "--out", "y", "--colour", "red"], "--colour"),
        (["import", "table", "/no/such/file.csv", "--out", "y"], "file.csv"),
        (["import", "table", "x"], "--out"),
        (["describe", "no-such-collection"], "no-such-collection"),
        (["describe"], "COLLECTION"),
        (["list", "--root", "/no/such/folder"], "/no/such/folder"),
        (["build", "cake", "--out", "y"], "cake"),
        (["build", "svm", "--out", "y", "--tasks", "no-such-task"], "no-such-task"),
    ],
)
def test_mistakes(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["surfaces", *words]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert not list(tmp_path.iterdir())


def test_options_of_sources_are_those_of_the_library() -> None:
    """An importer that gets an option gets it on the command line too."""
    general = {item.name for item in fields(ImportOptions)} - {"name"}
    assert OPTIONS.keys() <= SOURCES.keys()
    for source, about in SOURCES.items():
        offered = {item.name for item in fields(OPTIONS.get(source, ImportOptions))} - general
        assert offered == set(about.options), source
        assert source in (ImportOptions.__doc__ or "")


def test_build_a_small_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small"
    found = answer(capsys, "build", "svm", "--out", out, "--tasks", "2", "--configs", "4", "--jobs", "1")
    assert found["path"] == str(out)
    assert found["tasks"]["number"] == 2
    assert found["configurations"]["number"] == 4
    assert answer(capsys, "validate", out)["valid"]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
