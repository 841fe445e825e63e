"""The first seconds of a command, in which its libraries are imported."""

import atexit
import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

INTERRUPTED = 130


@contextmanager
def starting(doing: str) -> Iterator[None]:
    """Show what is being done while the body imports; Ctrl-C ends the process there, with one line.

    Python's KeyboardInterrupt would leave a traceback, or be taken for a library that is absent.
    """
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's ranks, or alone
    status = Console(stderr=True, quiet=not first).status(doing)

    def end(number: int, frame: FrameType | None) -> None:
        # Past Python's buffers, which may be in the middle of a write; the codes clear the line and show the cursor.
        if first:
            os.write(2, (b"\r\x1b[2K\x1b[?25h" if os.isatty(2) else b"") + b"dalib: interrupted.\n")
        os._exit(INTERRUPTED)

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, end) if in_main else None
    try:
        with status, without_garbage_collection():
            yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import and build faster: these make a million objects and hardly any garbage, and the search takes a fifth."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def end_quickly() -> None:
    """Let the interpreter end without a last search for garbage, which takes a second."""
    atexit.register(gc.freeze)
