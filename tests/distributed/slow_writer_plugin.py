"""A plugin of tests: each checkpoint takes longer to write than a rank that was told to end waits in vain."""

import time
from pathlib import Path
from typing import Any

from dalib import Registry, hookimpl
from dalib.core import checkpoint
from dalib.watch import SIGNALLED

write = checkpoint.write


def slowly(state: Any, *paths: Path | None) -> None:
    time.sleep(SIGNALLED + 5)
    write(state, *paths)


@hookimpl
def dalib_register(registry: Registry) -> None:
    checkpoint.write = slowly
