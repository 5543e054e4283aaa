"""Memory that was freed goes back to the system.

A compiler frees nearly all that it took, but glibc keeps freed pages in case they are wanted again: after
compiling a training program that is more than everything else that the process holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterator

__all__ = ["giving_back"]

_SECONDS = 0.2


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
    """Gives freed pages back all the while the `with` block runs, and once more at its end; nothing happens
    where the C library cannot be told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        yield
        return
    over = threading.Event()

    def work() -> None:
        while not over.wait(_SECONDS):
            trim(0)

    thread = threading.Thread(target=work, name="giving back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        trim(0)
