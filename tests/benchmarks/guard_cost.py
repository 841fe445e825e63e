"""What the guard against bad numbers costs a step: the same steps with it and without, in turn, in one process.

    python tests/benchmarks/guard_cost.py [STEPS]

Prints the median CPU time of a step of BiSeNet-R18 at 96x192, batch 4, one thread, and the ratio of the two.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor

from dalib import Batch, Engine, Stream, create_model, create_strategy
from dalib.core.guard import Guard
from dalib.core.inputs import Inputs
from dalib.core.terms import Terms


def seconds_of_a_step(engine: Engine, batch: Batch) -> float:
    """Return the CPU's seconds, which other processes on the machine do not stretch as they do a wall clock's."""
    started = time.process_time()
    engine.step(batch)
    return time.process_time() - started


def bare_update(engine: Engine, terms: Terms, inputs: Inputs) -> Tensor:
    """Step the optimiser and the teacher as a loop without guard does."""
    engine.optimizer.found_inf = None  # type: ignore[attr-defined]
    engine.optimizer.step()
    if engine.teacher:
        mine: list[Tensor] = list(engine.teacher.module.parameters())
        theirs: list[Tensor] = list(engine.model.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(mine, theirs, 1 - min(1 - 1 / (engine.index + 1), engine.teacher.decay))
    return torch.zeros(())


@contextmanager
def without_guard() -> Iterator[None]:
    with (
        patch.object(Engine, "_update", bare_update),
        patch.object(Guard, "whole_step", lambda self, index, undo: nullcontext()),
    ):
        yield


def main(steps: int) -> None:
    torch.set_num_threads(1)
    source = Stream(torch.rand(4, 3, 96, 192), torch.randint(0, 19, (4, 96, 192)))
    batch = Batch({"source": source, "target": Stream(torch.rand(4, 3, 96, 192))})
    for names in (["supervised"], ["supervised", "dacs"]):
        engine = Engine(create_model("bisenet"), [create_strategy(name) for name in names], device="cpu")
        engine.step(batch)
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * steps):
            guarded = number % 4 in (0, 3)  # each comes first as often as the other
            with nullcontext() if guarded else without_guard():
                times[guarded].append(seconds_of_a_step(engine, batch))
        with_it, bare = (1000 * statistics.median(times[key]) for key in (True, False))
        ratio = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True))
        print(f"{' + '.join(names)}: {with_it:.1f} ms guarded, {bare:.1f} ms bare, ratio {ratio:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
