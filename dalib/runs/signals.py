"""Stopping of a run by SIGINT or SIGTERM at the end of a step."""

import os
import signal
import threading
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
        tell: called at once at the first signal, in a thread; a handler waits for PyTorch to return, as long as a step.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self.signal: int | None = None
        self._tell = tell
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._writer: int | None = None
        self._wakeup = -1

    def __enter__(self) -> "Interruption":
        try:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # only the main thread may set handlers; elsewhere signals act as usual
            self._before = {}
            return self
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writer)  # ends the thread
            self._writer = None
        self._restore()

    def _watch(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as numbers:
            told = False
            while number := numbers.read(1):
                if number[0] in SIGNALS and not told:
                    told = True
                    self._tell()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > ONE_PRESS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
