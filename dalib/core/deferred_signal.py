"""A signal handler that is deferred until a step is complete."""

import signal
import threading
from types import FrameType
from typing import Any


class DeferredSignal:
    """Defers the Python handler of a signal from ``start`` to ``stop``, which calls it if the signal arrived.

    torch's SIGCHLD handler raises in the main thread when a loader's worker dies; in the middle of an update it would
    leave a step half done.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._handler: Any = None
        self._came: tuple[int, FrameType | None] | None = None

    def start(self) -> None:
        """Record the signal from here on; does nothing without a Python handler or outside the main thread."""
        if callable(signal.getsignal(self._number)) and threading.current_thread() is threading.main_thread():
            self._came = None
            self._handler = signal.signal(self._number, self._note)

    def stop(self, *, call: bool = True) -> None:
        """Restore the handler; with ``call``, call it now if the signal arrived."""
        if self._handler is None:
            return
        handler, self._handler = self._handler, None
        signal.signal(self._number, handler)
        if call and self._came is not None:
            handler(*self._came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = (number, frame)
