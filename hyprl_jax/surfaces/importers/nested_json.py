"""Large JSON files of nested objects, walked through one value at a time.

What has been read is not kept, so memory holds the text of the file and one decoded value. Names are checked
(printable, not twice), NaN and Infinity are refused, and every message names the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyprl_jax.errors import InputError

MAX_NAME = 200

__all__ = ["Scanner", "scanner_of"]

_SPACE_BETWEEN = re.compile(r"[ \t\n\r]*")


def scanner_of(file: Path, max_bytes: int) -> Scanner:
    """A scanner at the start of a file; `InputError` for one that is too large or no text."""
    try:
        if file.stat().st_size > max_bytes:
            raise InputError(f"{file.name}: larger than the {max_bytes} bytes that are read")
        return Scanner(file.name, file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name}: byte {error.start} is no text; this is not a JSON file") from None
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read ({error.strerror or error})") from None


class Scanner:
    """Walks through nested JSON objects, so that only one value at a time is in memory decoded."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text, self.position = file, text, 0
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def members(self, where: str, seen: set[str]) -> Iterator[str]:
        """Keys of the object that starts here; whoever gets one must walk through its value."""
        self._expect("{", f"{where} must be an object")
        if self._next() == "}":
            self.position += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME or not key.isprintable():
                raise InputError(f"{self.file}: {where}: a name is no text, empty, too long or not printable")
            if key in seen:
                raise InputError(f"{self.file}: {where} holds '{key}' twice")
            seen.add(key)
            self._expect(":", f"no colon after '{key}'")
            self._next()
            yield key
            if self._next() == "}":
                self.position += 1
                return
            self._expect(",", f"no comma after '{key}'")

    def value(self) -> Any:
        """The value that starts here, decoded."""
        self._next()
        try:
            value, self.position = self._decoder.raw_decode(self.text, self.position)
        except (ValueError, RecursionError) as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(f"{self.file}: not valid JSON ({words})") from None
        return value

    def end(self) -> None:
        """Raise `InputError` if anything is left."""
        if self._next():
            raise InputError(f"{self.file}: not valid JSON (more after the end, character {self.position})")

    def _next(self) -> str:
        match = _SPACE_BETWEEN.match(self.text, self.position)
        assert match is not None, "matches the empty text too"
        self.position = match.end()
        return self.text[self.position : self.position + 1]

    def _expect(self, letter: str, words: str) -> None:
        if self._next() != letter:
            raise InputError(f"{self.file}: not of this form ({words}, character {self.position})")
        self.position += 1


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null where a value is missing")
