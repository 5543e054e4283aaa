"""The report page: complete, valid, self-contained, legible and not to be broken by names."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_examples import (
    HOSTILE_METHODS,
    HOSTILE_TASKS,
    PROVENANCE,
    Reader,
    failure,
    study,
    without_later_figures,
)

from hyprl_jax.evaluation.page import html_page
from hyprl_jax.evaluation.page.heatmap import LIMITS, MOST_TASKS, heat_level
from hyprl_jax.evaluation.page.markup import Markup, element, escaped, number
from hyprl_jax.evaluation.page.style import DARK, LIGHT, SCRIPT, style_sheet


def full_study(**options: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    failures = [failure("random", "a"), failure("portfolio", "b", "hung")]
    return study(collections=2, failures=failures, provenance=PROVENANCE, **options)


@pytest.fixture(scope="module")
def page() -> str:
    return html_page(*full_study())


@pytest.fixture(scope="module")
def hostile() -> str:
    failures = [failure(HOSTILE_METHODS[0], "t", "</pre><script>alert(3)</script>")]
    return html_page(*study(HOSTILE_METHODS, HOSTILE_TASKS, failures=failures, provenance=PROVENANCE))


def test_every_section_is_there_and_linked(page: str) -> None:
    read = Reader(page)
    keys = [one["id"] for one in read.of("section")]
    assert keys == [
        "curves", "ranks", "losses", "tasks", "pairs",
        "targets", "speed", "collections", "failures", "provenance",
    ]  # fmt: skip
    assert [one["href"] for one in read.of("a")] == [f"#{key}" for key in keys]
    text = read.text()
    for words in ("hung", PROVENANCE["command"], PROVENANCE["machine"], "14 tasks", "kfold5", "7 tasks"):
        assert str(words) in text


def test_the_first_sentence_names_the_best_with_interval_and_test() -> None:
    frame, summary = study()
    names = list(summary["methods"])
    best = min(names, key=lambda name: summary["methods"][name]["normalized_regret"][-1])
    low, high = summary["methods"][best]["ci95"][-1]
    text = Reader(html_page(frame, summary)).text()
    assert re.search(rf"After 12 trials {best} has the lowest mean normalized regret: [\d.]+", text)
    assert f"(95% interval {low:.4f} to {high:.4f})" in text
    assert "Wilcoxon-Holm over 7 tasks" in text


def test_what_differs_on_paper_only_is_said_to_be_equal() -> None:
    frame, _ = study(methods=("one",))
    both = pd.concat([frame, frame.assign(method="two")], ignore_index=True)
    _, summary = study(methods=("one",))
    from hyprl_jax.evaluation import summarize

    summary = summarize(both, resamples=20)
    text = Reader(html_page(both, summary)).text()
    assert "It cannot be told apart from two (p = 1)" in text
    assert "differs from" not in text


def test_losses_of_the_policy_are_those_of_the_trajectories() -> None:
    frame, summary = study()
    last = frame[frame["trial"] == 12].groupby(["method", "task"])["normalized_regret"].mean().unstack()
    behind = last.loc["policy"] - last.min()
    worst = behind.idxmax()
    read = Reader(html_page(frame, summary))
    text = read.text()
    start = text.index("Tasks on which policy is farthest behind")
    row = text[start:].split(" behind ")[2]
    assert row.split()[:2] == [worst, f"{last.loc['policy', worst]:.4f}"]
    assert f"{behind.max():.4f}" in row
    assert f"on {(behind < 1e-12).sum()} of 7 tasks" in text


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_html_is_valid_and_reachable(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    assert text.startswith("<!DOCTYPE html>\n<html ")
    read = Reader(text)
    identities = [one["id"] for _, one in read.elements if "id" in one]
    assert len(identities) == len(set(identities))
    for _, attributes in read.elements:
        for key in ("aria-labelledby",):
            assert set(attributes.get(key, "").split()) <= set(identities)
        if "href" in attributes:
            assert attributes["href"].removeprefix("#") in identities
    assert all(one.get("scope") in ("col", "row") for one in read.of("th"))
    assert len(read.of("caption")) == len(read.of("table"))
    charts = [one for one in read.of("svg") if "aria-hidden" not in one]
    assert all(one["role"] == "img" and len(one["aria-labelledby"].split()) == 2 for one in charts)
    assert len(read.of("desc")) == len(charts) > 4
    assert len(read.of("h1")) == 1
    assert read.of("html")[0]["lang"] == "en"


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_nothing_is_loaded_and_nothing_foreign_runs(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)
    read = Reader(text)
    assert not {tag for tag, _ in read.elements} & {
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    }
    for _, attributes in read.elements:
        assert not {"src", "srcset", "xlink:href", "action", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|expression\(", style_sheet())
    assert [words for tag, words in read.words if tag == "script"] == [SCRIPT.strip()]
    policy = next(one["content"] for one in read.of("meta") if "http-equiv" in one)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"'sha256-{digest}'" in policy


def test_hostile_names_are_shown_as_they_are(hostile: str) -> None:
    text = Reader(hostile).text()
    for name in (*HOSTILE_METHODS, *HOSTILE_TASKS[:1], *HOSTILE_TASKS[2:]):
        assert name.strip() in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2028]", hostile)
    hostile.encode("utf-8")


def test_same_input_same_bytes(page: str) -> None:
    frame, summary = full_study()
    assert html_page(frame.sample(frac=1, random_state=1).sort_values("method", kind="stable"), summary)
    assert html_page(frame, summary) == page
    assert html_page(frame.copy(), copy.deepcopy(summary)) == page


def test_summaries_of_earlier_versions_are_shown_with_what_they_have() -> None:
    frame, summary = full_study()
    read = Reader(html_page(frame, without_later_figures(summary)))
    keys = [one["id"] for one in read.of("section")]
    assert keys == ["curves", "ranks", "losses", "tasks", "pairs", "speed", "provenance"]
    text = read.text()
    assert "did not note critical differences" in text
    assert "does not say how it was made" in text


@pytest.mark.parametrize("trials", [1, 2, 700])
@pytest.mark.parametrize("methods", [1, 2, 21])
@pytest.mark.parametrize("tasks", [1, 3])
def test_awkward_sizes(trials: int, methods: int, tasks: int) -> None:
    names = tuple(f"method {index}" for index in range(methods))
    frame, summary = study(names, tuple("xyz")[:tasks], trials, seeds=1)
    text = html_page(frame, summary)
    read = Reader(text)
    shown = [read.text(), *(value for _, attributes in read.elements for value in attributes.values())]
    assert not re.search(r"\b(nan|NaN|inf|None)\b", " ".join(shown))
    assert len(text) < 1_500_000


def test_perfect_and_unmeasured_methods_are_drawn() -> None:
    from hyprl_jax.evaluation import summarize

    frame, _ = study()
    frame = frame.assign(normalized_regret=0.0, suggest_seconds=float("nan"))
    read = Reader(html_page(frame, summarize(frame, resamples=20)))
    assert "speed" not in [one["id"] for one in read.of("section")]
    frame["suggest_seconds"] = 1e-300
    assert "0 all together" not in Reader(html_page(frame, summarize(frame, resamples=20))).text()


def test_of_many_tasks_the_most_different_are_shown() -> None:
    frame, summary = study(("a", "b"), tuple(f"t{index}" for index in range(MOST_TASKS + 30)), 2, seeds=1)
    text = html_page(frame, summary)
    assert f"Shown are the {MOST_TASKS} of {MOST_TASKS + 30} tasks" in text
    heat = text.split('class="sortable heat"')[1].split("</table>")[0]
    assert heat.count("<tr>") == MOST_TASKS + 1


@settings(max_examples=25)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), min_size=1, max_size=3, unique=True
    ),
    st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
            lambda name: name.isprintable() and name.strip()
        ),
        min_size=1,
        max_size=3,
        unique=True,
    ),
)
def test_any_name_gives_a_valid_page(tasks: list[str], methods: list[str]) -> None:
    page = html_page(*study(tuple(methods), tuple(tasks), trials=3))
    Reader(page)
    page.encode("utf-8")


@given(st.text())
def test_text_never_becomes_markup(text: str) -> None:
    read = Reader(element("p", text, title=text))
    assert [tag for tag, _ in read.elements] == ["p"]
    assert escaped(escaped(text)) == escaped(text)
    assert element("p", Markup("<br>")) == "<p><br></p>"


@pytest.mark.parametrize(("value", "words"), [(1.0, "1"), (-0.001, "0"), (10.25, "10.25"), (100.0, "100")])
def test_coordinates_are_short(value: float, words: str) -> None:
    assert number(value) == words


def test_heat_levels() -> None:
    assert [heat_level(value) for value in (0.0, 1e-6, 0.005, 0.03, 0.07, 0.15, 0.9)] == list(range(7))
    assert len(LIMITS) == 6


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of the Web Content Accessibility Guidelines 2.2."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(colours: dict[str, str]) -> None:
    assert set(LIGHT) == set(DARK)
    for ink in ("ink", "faint", "accent"):
        assert contrast(colours[ink], colours["ground"]) >= 4.5
    assert contrast(colours["ink"], colours["panel"]) >= 4.5
    for level in range(7):
        ink = colours.get(f"h{level}-ink", colours["ink"])
        assert contrast(ink, colours[f"h{level}"]) >= 4.5, level
    for line in range(8):
        assert contrast(colours[f"c{line}"], colours["ground"]) >= 3.0, line
