"""A clean stop on Ctrl-C or SIGTERM: the first signal asks, the second insists.

with StopSignal() as stop:
    while work_left and not stop.requested:
        ...one chunk...
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopSignal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """The first SIGINT or SIGTERM inside only sets `requested` and prints `message` to standard error.

    A second one raises KeyboardInterrupt. The handlers of before come back on leaving. Python lets only the
    main thread handle signals: entered in any other thread, it changes nothing and `requested` stays False.
    """

    def __init__(self, message: str = "stopping at the next safe point (once more to stop at once)") -> None:
        self.message = message
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # A handler that was not set from Python is told as None, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not print: a signal may arrive in the middle of one, whose buffer cannot be entered again.
        os.write(2, f"\n{signal.Signals(number).name}: {self.message}\n".encode())
