"""Signals that wait until a step is whole."""

import signal
import threading
from types import FrameType
from typing import Any


class HeldBack:
    """Holds the Python handler of a signal back between ``start`` and ``stop``, which calls it if the signal came.

    torch's handler of SIGCHLD raises at the death of a loader's worker wherever the main thread is; in the middle of an
    update it would leave a step that is neither done nor undone.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._handler: Any = None
        self._came: tuple[int, FrameType | None] | None = None

    def start(self) -> None:
        """Note the signal from here on; where nobody handles it, and in another thread, there is nothing to do."""
        if callable(signal.getsignal(self._number)) and threading.current_thread() is threading.main_thread():
            self._came = None
            self._handler = signal.signal(self._number, self._note)

    def stop(self, *, call: bool = True) -> None:
        """Give the signal back to its handler; ``call`` it now if the signal came."""
        if self._handler is None:
            return
        handler, self._handler = self._handler, None
        signal.signal(self._number, handler)
        if call and self._came is not None:
            handler(*self._came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = (number, frame)
