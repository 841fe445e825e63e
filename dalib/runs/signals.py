"""Stopping of a run by SIGINT or SIGTERM at the end of a step."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from dalib.errors import DalibError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_PRESS = 1.0  # seconds within which signals count as one: a key pressed twice, or a parent that passes it on


class InterruptedRunError(DalibError):
    """A run was stopped by the signal number ``signal``, and is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


def signal_name(number: int) -> str:
    """Return what a user calls the signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Interruption:
    """Records the first SIGINT or SIGTERM in the body; one more, a second later, goes to the previous handler, at once.

    Args:
        tell: called at the first signal, within its handler.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self.signal: int | None = None
        self._tell = tell
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        try:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # only the main thread may set handlers; elsewhere signals act as usual
            self._before = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
            self._tell()
        elif time.monotonic() - self._since > ONE_PRESS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
