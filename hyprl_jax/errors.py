"""The errors that this package raises on purpose.

`InputError` marks a mistake in what the user gave (a file, an option, a configuration): the command line
prints its one line and exits with code 2, without a traceback. Everything else is a defect of ours and keeps
its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """A mistake in the input; the message is one line that says what is wrong and how to mend it."""


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed: run `pip install 'hyprl-jax[{extra}]'` to use this feature"
        )


class LostProcessError(Exception):
    """Another process of a run that several train together has ended or does not answer; one line."""
