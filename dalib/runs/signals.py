"""Ending a run when the system or the user asks for it, at the end of a step."""

import signal
from types import FrameType, TracebackType
from typing import Any

from dalib.errors import DalibError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(DalibError):
    """A run was asked to stop, and has saved itself; ``signal`` says by what."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signal = number


class Interruption:
    """Notes the first SIGINT or SIGTERM while the body runs; a second one acts at once, as if nobody listened."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        try:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:  # only the main thread may listen; elsewhere a run ends as Python ends
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
