"""What strategies make of a batch, seen from the end of their stack."""

from collections.abc import Sequence

from dalib import Batch, Engine, Step, Strategy, hookimpl
from tests.tiny import tiny_model


class Probe(Strategy):
    """Keeps the batch as the strategies before it left it."""

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        self.batch = step.batch


def prepared(strategies: Sequence[Strategy], batch: Batch, seed: int = 0) -> Batch:
    """Return the batch after every strategy's ``pre_batch`` in a real engine."""
    probe = Probe()
    Engine(tiny_model(), [*strategies, probe], device="cpu", seed=seed).step(batch)
    return probe.batch
