"""What the checks of a step's inputs cost: the same steps with them and without, in turn, in one process.

    python tests/benchmarks/input_cost.py [STEPS]

Prints the median processor time of a step of BiSeNet-R18 with a full stack at 96x192, batch 4, one thread, and the
median ratio of two steps side by side.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch

from dalib import Batch, Engine, Stream, create_model, create_strategy
from dalib.core import engine as engine_module
from dalib.core.inputs import Inputs

STACK: dict[str, dict[str, Any]] = {
    "augment": {"streams": ["source", "target"], "crop": [96, 192], "flip": 0.5},
    "fda": {"beta": 0.05},
    "supervised": {},
    "adversarial": {"weight": 0.001},
    "dacs": {},
}


class Unchecked(Inputs):
    """Of a loop that trusts its batches; the guard still gets its one row."""

    def given(self, batch: Batch) -> Batch:
        self._names, self._limits, self._found = [("", "")], [(0.0, 1.0)], [torch.zeros(()), torch.ones(())]
        return batch

    def written(self, batch: Batch) -> None:
        pass


@contextmanager
def without_checks() -> Iterator[None]:
    with (
        patch.object(engine_module, "Inputs", Unchecked),
        patch.object(engine_module, "check_forms", lambda batches: None),
    ):
        yield


def main(steps: int) -> None:
    torch.set_num_threads(1)
    source = Stream(torch.rand(4, 3, 96, 192), torch.randint(0, 19, (4, 96, 192)))
    batch = Batch({"source": source, "target": Stream(torch.rand(4, 3, 96, 192))})
    stack = [create_strategy(name, **options) for name, options in STACK.items()]
    engine = Engine(create_model("bisenet"), stack, device="cpu")
    engine.step(batch)
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * steps):
        checked = number % 4 in (0, 3)  # each comes first as often as the other
        with nullcontext() if checked else without_checks():
            started = time.process_time()
            engine.step(batch)
            times[checked].append(time.process_time() - started)
    with_them, bare = (1000 * statistics.median(times[key]) for key in (True, False))
    ratio = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True))
    print(f"{with_them:.1f} ms checked, {bare:.1f} ms unchecked, ratio {ratio:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
