"""Forward passes of student and teacher, with the run's autocast, clock and seed."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dalib.core.clock import Clock
from dalib.core.precision import Precision
from dalib.randomness import Key, seeded

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Forwards:
    """The networks of an engine, and the autocast, clock and seed that their forwards run under.

    Fields:
        student: ``student(images, outputs=True)`` gives all outputs.
        teacher: the student's EMA; None if no strategy asked for it.
        taps: layers whose outputs both networks give, by path.
        read: names of outputs that strategies read; None: any. Others of the teacher are not kept.
    """

    student: nn.Module
    teacher: nn.Module | None
    precision: Precision
    clock: Clock
    device: torch.device
    seed: int
    taps: Collection[str] = ()
    read: Collection[str] | None = None

    def of_student(self, images: Tensor, *at: Key, graph: bool) -> Outputs:
        """Return all outputs of the student on images (B, 3, H, W) in [0, 1].

        Args:
            at: step, micro-batch and stream, which seed dropout.
            graph: whether to build the autograd graph.
        """
        with torch.set_grad_enabled(graph), self._running("student", *at):
            outputs: Outputs = self.student(images, outputs=self.taps or True)
        return outputs

    def of_student_apart(self, images: Tensor, *, graph: bool) -> Tensor:
        """Return the student's logits on images that are no stream, with the generators as they are.

        BatchNorm uses these images' statistics; buffers, running statistics among them, stay as they were.
        """
        buffers = {name: buffer.clone() for name, buffer in self.student.named_buffers()}
        with torch.set_grad_enabled(graph), self.clock.section("forward (student)"), self.precision.autocast():
            logits: Tensor = functional_call(self.student, buffers, (images,))
        return logits

    def of_teacher(self, teacher: nn.Module, images: Tensor, *at: Key) -> Outputs:
        """Return the teacher's outputs, logits (B, K, H, W) in float32, without a graph."""
        with torch.no_grad(), self._running("teacher", *at):
            outputs: Outputs = teacher(images, outputs=self.taps or True)
        kept = {name: value for name, value in outputs.items() if self.read is None or name in self.read}
        return kept | {"logits": outputs["logits"].float()}

    @contextmanager
    def _running(self, who: str, index: Key, micro: Key, stream: Key) -> Iterator[None]:
        """Autocast, a clock section, and a seed so that dropout does not depend on which strategy reads first."""
        key = (self.seed, index, micro, who, stream)
        with self.clock.section(f"forward ({who})"), seeded(self.device, *key), self.precision.autocast():
            yield
