"""Stopping of a run by SIGINT or SIGTERM at the end of a step."""

import signal
from types import FrameType, TracebackType
from typing import Any

from dalib.errors import DalibError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(DalibError):
    """A run was stopped by the signal number ``signal``, and is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class Interruption:
    """Records the first SIGINT or SIGTERM in the body; a second one goes to the previous handler, at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
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
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
