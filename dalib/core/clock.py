"""Time spent in each part of a step, measured without synchronising with the GPU."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch

OTHER = "other"
_MANY_MARKS = 10_000  # about a hundred steps


class Clock:
    """Exclusive seconds by section name: a nested section's time does not count in the outer one.

    On a GPU a CUDA event marks where a section begins. Events are read by ``totals``, or when the GPU has long passed
    them: no step synchronises, and a long run keeps few.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._section = OTHER
        self._marks: list[tuple[str, torch.cuda.Event]] = []  # (section that begins, when); GPU only
        self._last = time.perf_counter()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count the body's time under ``name``."""
        outer = self._section
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def totals(self) -> dict[str, float]:
        """Return seconds by section since the clock was made."""
        self._switch(self._section)
        if self._cuda:
            self._read_marks(len(self._marks) - 1)
        return dict(self._seconds)

    def _switch(self, name: str) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append((name, event))
            if len(self._marks) > _MANY_MARKS:
                self._read_marks(_MANY_MARKS // 2)
        else:
            now = time.perf_counter()
            self._seconds[self._section] += now - self._last
            self._last = now
        self._section = name

    def _read_marks(self, count: int) -> None:
        self._marks[count][1].synchronize()
        for (name, begin), (_, end) in pairwise(self._marks[: count + 1]):
            self._seconds[name] += begin.elapsed_time(end) / 1000
        del self._marks[:count]
