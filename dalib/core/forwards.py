"""Forwards of student and teacher as every strategy gets them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dalib.core.clock import Clock
from dalib.core.precision import Precision
from dalib.randomness import Key, seeded

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Forwards:
    """What a step needs of its engine to compute: networks, autocast, clock and seed.

    Fields:
        student: ``student(images, outputs=True)`` gives all outputs.
        teacher: the student's average; None where no strategy asked for it.
    """

    student: nn.Module
    teacher: nn.Module | None
    precision: Precision
    clock: Clock
    device: torch.device
    seed: int

    def of_student(self, images: Tensor, *at: Key, graph: bool) -> Outputs:
        """Return all outputs of the student on images (B, 3, H, W) in [0, 1].

        Args:
            at: step, micro-batch and stream, which decide the draws.
            graph: keep what a backward needs.
        """
        with torch.set_grad_enabled(graph), self._running("student", *at):
            outputs: Outputs = self.student(images, outputs=True)
        return outputs

    def of_teacher(self, teacher: nn.Module, images: Tensor, *at: Key) -> Tensor:
        """Return the teacher's logits (B, K, H, W) in float32, without a graph."""
        with torch.no_grad(), self._running("teacher", *at):
            logits: Tensor = teacher(images).float()
        return logits

    @contextmanager
    def _running(self, who: str, index: Key, micro: Key, stream: Key) -> Iterator[None]:
        """Autocast, a section of the clock, and draws (dropout) that do not depend on which strategy reads first."""
        key = (self.seed, index, micro, who, stream)
        with self.clock.section(f"forward ({who})"), seeded(self.device, *key), self.precision.autocast():
            yield
