"""``python -m dalib`` and the command ``dalib``: a process that Ctrl-C ends with one line at any time."""

import os
import signal
import sys
from types import FrameType


def run() -> None:
    """Run a command as this process and end with its status."""
    before = signal.signal(signal.SIGINT, _end)
    from dalib.cli import main

    signal.signal(signal.SIGINT, before)
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done; a key that is pressed twice would leave a traceback
    sys.exit(status)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"dalib: interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    run()
