"""The examples of docs/runtime.md run as they are written, and what the page says of them holds."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyprl_jax
from hyprl_jax.runtime import Integer, Space, Tuner
from hyprl_jax.runtime.candidates import enumerate_all
from hyprl_jax.runtime.lengthscales import PROCESSES
from hyprl_jax.runtime.likeness import LEAST_FLOOR

PAGE = Path(__file__).resolve().parent.parent / "docs" / "runtime.md"


def examples() -> dict[str, str]:
    """Python blocks by the heading above them."""
    found: dict[str, str] = {}
    for section in re.split(r"^##? ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            assert title not in found, f"two examples under '{title}'"
            found[title] = block
    return found


def first(tuner: Tuner, names: dict[str, Any]) -> None:
    assert len(tuner.results) == 25
    for config, value in tuner.results:
        assert ("momentum" in config) == (config["optimizer"] == "sgd")
        assert value == names["loss"](config)


def spaces(tuner: Tuner, names: dict[str, Any]) -> None:
    configs = [config for config, _ in tuner.results]
    assert len(configs) == 15
    assert all(("degree" in config) == (config["kernel"] == "poly") for config in configs)
    assert not any(config.get("degree") == 5 for config in configs)


def table(tuner: Tuner, names: dict[str, Any]) -> None:
    told = [config for config, _ in tuner.results]
    assert all(config in names["machines"] for config in told)
    assert all(told.count(config) == 1 for config in told)
    values = [float(value or 0.0) for _, value in tuner.results]
    assert values[-1] < 30 and all(value >= 30 for value in values[:-1])


def results(tuner: Tuner, names: dict[str, Any]) -> None:
    assert len(tuner.results) == 20 and tuner.results[0] == ({"rate": 0.5, "batch": 64}, 0.89)
    values = [value for _, value in tuner.results if value is not None]
    assert tuner.best is not None and tuner.best.value == max(values)
    assert [config["batch"] > 2048 for config, _ in tuner.results] == [
        value is None for _, value in tuner.results
    ]


def several(tuner: Tuner, names: dict[str, Any]) -> None:
    assert len(tuner.results) == 24 and tuner.pending == []
    assert len({tuple(config.values()) for config, _ in tuner.results}) == 24


def earlier(tuner: Tuner, names: dict[str, Any]) -> None:
    """The start is warm: the first suggestion is better than most of what was tried before."""
    values = sorted(names["error"](config, 7) for config in names["tried"])
    assert len(tuner.results) == 10 and float(tuner.results[0].value or 0.0) <= values[len(values) // 4]


def similar(tuner: Tuner, names: dict[str, Any]) -> None:
    """The first suggestion is one for small datasets, and for a large one it is another."""
    error, space = names["error"], names["space"]
    first, best = tuner.results[0].config, min(error(config, 80) for config in names["penalties"])
    assert error(first, 80) < 1.5 * best and len(tuner.results) == 8
    large = Tuner(space, earlier=names["earlier"], metafeatures={"rows": 150_000}, trials=8).ask()
    assert error(large, 150_000) < error(first, 150_000) and error(first, 80) < error(large, 80)


def saved(tuner: Tuner, names: dict[str, Any]) -> None:
    assert names["resumed"].pending == tuner.pending and len(tuner.results) == 8


def own(tuner: Tuner, names: dict[str, Any]) -> None:
    assert tuner.policy is names["policy"] and len(tuner.results) == 10


CHECKS: dict[str, Callable[[Tuner, dict[str, Any]], None]] = {
    "Ask and tell": first,
    "Search spaces": spaces,
    "A table of candidates": table,
    "Results": results,
    "Several at a time": several,
    "Earlier tasks": earlier,
    "Similar datasets": similar,
    "Save and load": saved,
    "A policy of one's own": own,
}


@pytest.mark.parametrize("title", CHECKS)
def test_examples_of_the_page(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = Path(hyprl_jax.__file__).parent / "pretrained" / "default"
    shutil.copytree(pretrained, tmp_path / "policies" / "first")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__page__"}
    exec(compile(examples()[title], "docs/runtime.md", "exec"), names)
    assert capsys.readouterr().out.strip()
    CHECKS[title](names["tuner"], names)


def test_every_example_is_checked() -> None:
    assert list(examples()) == list(CHECKS)


def test_the_page_tells_of_every_argument() -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \|", page.partition("## Search spaces")[0], re.MULTILINE)
    assert told == list(Tuner.__init__.__annotations__)[:-1]


def test_the_page_tells_the_numbers_of_the_code() -> None:
    words = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{PROCESSES} Gaussian processes" in words
    assert f"({inspect.signature(Tuner).parameters['pool'].default}) |" in words
    assert "at most 1024 configurations" in words
    assert f"(at least {LEAST_FLOOR})" in words
    everything = enumerate_all(Space([Integer("n", 1, 1024)]))
    assert everything is not None and len(everything) == 1024
    assert enumerate_all(Space([Integer("n", 1, 1025)])) is None


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((\w+\.md)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).is_file()
