"""Telling a user, in whichever way they listen, what they have to know: how much of a file of weights was loaded."""

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
