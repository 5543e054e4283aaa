"""The kept results: readable, and the table of the README made from them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from hyprl_jax.evaluation.report import read_summary


@pytest.fixture(scope="module")
def script(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "keep_results.py"))


def test_the_table_of_the_readme_is_that_of_the_kept_results(
    repository: Path, script: dict[str, Any]
) -> None:
    table = script["readme_table"]()
    assert f"{script['BEGIN']}\n\n{table}\n\n{script['END']}" in (repository / "README.md").read_text()
    assert "| `policy` |" in table


def test_what_is_kept_is_what_was_measured_to_six_digits(
    tmp_path: Path, repository: Path, script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = repository / "docs" / "results" / "metabo.json"
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_bytes(source.read_bytes())
    monkeypatch.setitem(script["keep"].__globals__, "RESULTS", tmp_path)
    script["keep"](tmp_path / "evaluation", "again")
    assert (tmp_path / "again.json").read_bytes() == source.read_bytes()
    assert (tmp_path / "again.md").read_bytes() == source.with_suffix(".md").read_bytes()
    assert read_summary(tmp_path / "again.json") == read_summary(source)


def test_folders_of_one_machine_are_not_kept(repository: Path, script: dict[str, Any]) -> None:
    command = "hyprl evaluate /home/ann/runs/mlp --fold all --collections ./a,/data/b --out=/x/evaluation"
    assert script["_tidy"]({"command": [command]}) == {
        "command": ["hyprl evaluate ./mlp --fold all --collections ./a,./b --out=./evaluation"]
    }
    assert script["_tidy"]("1/2 of a/b, 3") == "1/2 of a/b, 3"
    for path in (repository / "docs" / "results").glob("*.json"):
        assert '"hyprl evaluate /' not in path.read_text() and " /tmp/" not in path.read_text()
