"""HTML and SVG built from elements, so that text from files can never become markup.

    element("td", name, class_="name")      # `name` is escaped, because it is plain text
    element("tr", element("td", "a"))       # elements are `Markup` and stay as they are

`table` makes tables that a screen reader can follow and that scroll inside a box of their own.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyprl_jax.evaluation.scales import shortened

VOID = frozenset({"meta", "br", "wbr"})
SHAPES = frozenset({"path", "line", "rect", "circle", "polygon"})
# They turn the direction of the text that follows, far beyond the name that holds them.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Markup(str):
    """Text that is HTML already: what `element` returns."""

    __slots__ = ()


Content = str | Markup
LONGEST_NAME = 60  # of names in sentences, heads of columns and legends
NEW_LINE = Markup("\n")


def clean(text: str) -> str:
    """One line of text without what HTML cannot hold or would garble its neighbours: a mark stands in."""
    bad = ("Cc", "Cs", "Zl", "Zp")
    text = " ".join(text.splitlines()) if not text.isprintable() else text
    return "".join(
        "�" if c in _TURNING or unicodedata.category(c) in bad or ord(c) & 0xFFFE == 0xFFFE else c
        for c in text
    )


def escaped(content: Content) -> Markup:
    """`content` as HTML: markup as it is, plain text escaped, quotes too."""
    return content if isinstance(content, Markup) else Markup(html.escape(clean(content), quote=True))


def joined(parts: Iterable[Content], separator: Content = "") -> Markup:
    """All parts one after the other, escaped where they are plain text."""
    return Markup(escaped(separator).join(escaped(part) for part in parts))


def element(name: str, *children: Content, **attributes: str | float | None) -> Markup:
    """`<name attributes>children</name>`.

    Attributes that are None are left out; `class_` is `class`, and an underscore becomes a hyphen.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            attribute = key.rstrip("_").replace("_", "-")
            words.append(f'{attribute}="{escaped(value if isinstance(value, str) else number(value))}"')
    opening = " ".join(words)
    if name in VOID:
        return Markup(f"<{opening}>")
    if name in SHAPES and not children:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{joined(children)}</{name}>")


def number(value: float) -> str:
    """A coordinate or a size with two decimals at most."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def name_of(text: str) -> Markup:
    """A method, task or collection inside a sentence, kept apart from the direction of the text around it."""
    short = shortened(text, LONGEST_NAME)
    return element("bdi", short, class_="name", title=text if short != text else None)


def paragraph(*parts: Content, class_: str | None = None) -> Markup:
    """A paragraph of sentences."""
    return element("p", *parts, class_=class_)


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what is shown, a class, and the number to sort by where that is another."""

    content: Content
    class_: str | None = None
    value: float | None = None


def table(
    caption: str,
    head: Sequence[Content],
    rows: Sequence[Sequence[Content | Cell]],
    class_: str = "",
    sortable: bool = True,
    text_columns: Sequence[int] = (0,),
) -> Markup:
    """A table with a header row, whose first column names the rows; all but `text_columns` hold numbers.

    `sortable` tables can be ordered by a click on a column's head where scripts are allowed.
    """
    columns = [
        element(
            "th", _fitted(word, LONGEST_NAME), scope="col", class_="text" if place in text_columns else None
        )
        for place, word in enumerate(head)
    ]
    body = []
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            cell = cell if isinstance(cell, Cell) else Cell(cell)
            kind = " ".join(filter(None, (cell.class_, "text" if place in text_columns else None))) or None
            value = None if cell.value is None else f"{cell.value:.12g}"
            if place == 0:
                cells.append(element("th", _fitted(cell.content), scope="row", class_=kind, data_value=value))
            else:
                content = _fitted(cell.content) if place in text_columns else cell.content
                cells.append(element("td", content, class_=kind, data_value=value))
        body.append(element("tr", *cells))
    inner = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *columns)),
        element("tbody", joined(body, NEW_LINE)),
        class_=" ".join(filter(None, ("sortable" if sortable and len(rows) > 1 else "", class_))) or None,
    )
    return element("div", inner, class_="scroll", tabindex="0", role="group", aria_label=caption)


def _fitted(content: Content, longest: int | None = None) -> Markup:
    """Words as wide as they are up to a limit of the style sheet; long names wrap at their joints."""
    title = None
    if not isinstance(content, Markup):
        short = content if longest is None else shortened(content, longest)
        title = content if short != content else None
        content = Markup(re.sub(r"(?<=[^\W_])([_/-]+)(?=[^\W_])", r"\1<wbr>", escaped(short)))
    return element("bdi", content, class_="fit", title=title)
