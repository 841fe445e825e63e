"""Messages that a user has to see, such as how many tensors of a weights file were loaded."""

import logging
import sys

logger = logging.getLogger("dalib")


def announce(message: str) -> None:
    """Log at INFO where logging was configured, by an application or by dalib's command line; else print to stderr.

    A library installs no handler of its own, and Python's last resort shows warnings only.
    """
    if logger.hasHandlers():
        logger.info("%s", message)
    else:
        print(message, file=sys.stderr)  # noqa: T201
