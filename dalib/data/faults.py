"""Reports of recoverable faults in a data set: the first one raises, but the doctor collects all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from dalib.errors import DataError


class Fault(NamedTuple):
    """A fault of an item or file, or of the whole data set where ``item`` is empty; fields as in ``DataError``."""

    item: str
    reason: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}" if self.item else self.reason


_collected: ContextVar[list[Fault] | None] = ContextVar("collected", default=None)


def report(faults: Sequence[Fault], message: str = "") -> None:
    """Raise a DataError or, within ``collecting``, record the faults and return, so that the caller skips the items.

    Args:
        message: of the error; default: the first fault's.
    """
    collected = _collected.get()
    if collected is None and faults:
        raise DataError(message or str(faults[0]))
    if collected is not None:
        collected.extend(faults)


@contextmanager
def collecting() -> Iterator[list[Fault]]:
    """Collect the faults that are reported within the ``with`` block."""
    faults: list[Fault] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)
