"""The report page in a real browser, where there is a Chromium: on phones, in the dark, on paper."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from page_browser import Page, browser_page, find_browser
from page_examples import HOSTILE_METHODS, HOSTILE_TASKS, PROVENANCE, failure, study

from hyprl_jax.evaluation.page import html_page

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with browser_page(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    plain = study(collections=2, failures=[failure("random", "a")], provenance=PROVENANCE)
    hostile = study(HOSTILE_METHODS, HOSTILE_TASKS, collections=2, provenance=PROVENANCE)
    crowd = study(tuple(f"a method with a long name {index}" for index in range(21)), trials=60)
    pages = {"plain": plain, "hostile": hostile, "crowd": crowd}
    for name, (frame, summary) in pages.items():
        (folder / f"{name}.html").write_text(html_page(frame, summary), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.mark.parametrize("width", [320, 360, 800, 1400])
@pytest.mark.parametrize("name", ["plain", "hostile", "crowd"])
def test_it_fits_the_screen_without_complaints_or_requests(
    browser: Page, files: dict[str, Path], name: str, width: int
) -> None:
    browser.open(files[name], width)
    assert browser.complaints() == []
    assert browser.requests() == [files[name].as_uri()]
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.body.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('script').length") == 1
    outside = (
        "Array.from(document.querySelectorAll('h1,h2,h3,p,dd,figure,.legend li,.keys li')).filter("
        f"e => e.getBoundingClientRect().right > {width} + 0.5).map(e => e.textContent.slice(0, 60))"
    )
    assert browser.value(outside) == []


def test_text_in_charts_lies_inside_of_them(browser: Page, files: dict[str, Path]) -> None:
    for name in ("plain", "crowd", "hostile"):
        for width in (360, 1400):
            browser.open(files[name], width)
            outside = browser.value(
                "Array.from(document.querySelectorAll('svg.chart text')).filter(t => {"
                "const box = t.getBoundingClientRect(), all = t.closest('svg').getBoundingClientRect();"
                "return box.width && (box.left < all.left - 1 || box.right > all.right + 1 ||"
                " box.top < all.top - 2 || box.bottom > all.bottom + 2)}).map(t => t.textContent)"
            )
            assert outside == [], (name, width)


def test_one_variant_of_every_chart_is_shown(browser: Page, files: dict[str, Path]) -> None:
    shown = (
        "Array.from(document.querySelectorAll('svg.chart')).filter(s => s.getBoundingClientRect().width > 0)"
        ".map(s => s.classList[1])"
    )
    for width, wanted in ((360, "narrow"), (1400, "wide")):
        browser.open(files["plain"], width)
        assert set(browser.value(shown)) == {wanted, "small"}


def test_the_dark_scheme_is_dark_and_the_light_one_light(browser: Page, files: dict[str, Path]) -> None:
    means = {}
    for scheme in ("light", "dark"):
        browser.open(files["plain"], 800, scheme)
        pixels = imread(io.BytesIO(browser.picture()))[..., :3]
        means[scheme] = float(np.median(pixels))
        assert len(np.unique((pixels[::7, ::7] * 255).astype(int).reshape(-1, 3), axis=0)) > 20
    assert means["light"] > 0.9
    assert means["dark"] < 0.2


def test_paper_is_white_even_in_the_dark(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["plain"], 800, "dark", media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_click_sorts_a_table_both_ways(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["plain"], 800)
    column = (
        "Array.from(document.querySelector('table.heat').tBodies[0].rows)"
        ".map(r => parseFloat(r.cells[1].getAttribute('data-value')))"
    )
    click = "document.querySelector('table.heat thead').rows[0].cells[1].querySelector('button').click()"
    before = browser.value(column)
    for order in (1, -1):
        browser.value(click)
        assert browser.value(column) == sorted(before, reverse=order < 0)
    assert browser.value("document.querySelector('table.heat [aria-sort]').getAttribute('aria-sort')") == (
        "descending"
    )


def test_tables_scroll_inside_their_box(browser: Page, files: dict[str, Path]) -> None:
    browser.open(files["crowd"], 360)
    wide = (
        "Array.from(document.querySelectorAll('.scroll')).filter(b => b.scrollWidth > b.clientWidth).length"
    )
    assert browser.value(wide) > 3
    assert browser.value("document.querySelector('.scroll').tabIndex") == 0
