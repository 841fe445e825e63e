"""Faults of a data set that one can go on from: the first is an error, but the doctor collects them all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from dalib.errors import DataError


class Fault(NamedTuple):
    """What is wrong with an item or a file, or, without one, with the set as a whole; see ``DataError``."""

    item: str
    reason: str
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}" if self.item else self.reason


_collected: ContextVar[list[Fault] | None] = ContextVar("collected", default=None)


def report(faults: Sequence[Fault], message: str = "") -> None:
    """Raise a DataError, or, within ``collecting``, note the faults and let the caller go on without the items.

    Args:
        message: of the error; default the first fault.
    """
    collected = _collected.get()
    if collected is None and faults:
        raise DataError(message or str(faults[0]))
    if collected is not None:
        collected.extend(faults)


@contextmanager
def collecting() -> Iterator[list[Fault]]:
    """Collect what is reported in the body."""
    faults: list[Fault] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)
