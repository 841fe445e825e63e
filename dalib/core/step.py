"""One micro-batch as hooks see it: streams, student and teacher outputs, losses and logging."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dalib.core.forwards import Forwards, Outputs
from dalib.core.terms import Terms
from dalib.data.batch import Batch
from dalib.errors import StackError
from dalib.losses import LOCAL, SegmentationLossFunction
from dalib.randomness import seeded

if TYPE_CHECKING:
    from dalib.core.strategy import Strategy

# Hooks that may read student outputs, and whether these carry an autograd graph. In pre_batch streams may still change;
# a forward in post_step would update BatchNorm's running statistics once more.
_GRAPH = {"loss": True, "critic_loss": False}
_TEACHER = ("pre_batch", "loss", "critic_loss")


class Step:
    """One micro-batch of one optimiser step, as hooks see it; keep nothing of it after the step.

    Attributes:
        index: number of optimiser steps done before this one. micro: index of the micro-batch within it.
        batch: the streams by name.
        finite: in ``post_step``, whether the update was made: a 0-d bool tensor on the device.
    """

    def __init__(
        self,
        index: int,
        micro: int,
        batch: Batch,
        terms: Terms,
        forwards: Forwards,
        segmentation_loss: SegmentationLossFunction,
    ) -> None:
        self.index = index
        self.micro = micro
        self.batch = batch
        self.finite = torch.ones((), dtype=torch.bool)
        self._terms = terms
        self._forwards = forwards
        self._segmentation_loss = segmentation_loss
        self._hook = ""
        self._strategy: Strategy | None = None
        self._student: dict[str, tuple[int, Outputs]] = {}  # stream -> (version of the stream, outputs)
        self._teacher: dict[str, tuple[int, Tensor]] = {}

    def outputs(self, stream: str) -> Outputs:
        """Return all outputs of the student on a stream: one cached forward per stream.

        They are detached in ``critic_loss``, and refused in ``pre_batch``, where streams may still change.
        """
        self._check_reading(stream)
        version = self.batch.version(stream)
        if stream not in self._student or self._student[stream][0] != version:
            image, graph = self.batch[stream].image, _GRAPH[self._hook]
            outputs = self._forwards.of_student(image, self.index, self.micro, stream, graph=graph)
            self._student[stream] = (version, outputs)
        return self._student[stream][1]

    def output(self, stream: str, name: str = "logits") -> Tensor:
        """Return one output of the student: ``logits`` (B, K, H, W), or another at its own resolution."""
        outputs = self.outputs(stream)
        if name not in outputs:
            raise StackError(
                f"strategy {self._name!r} needs the model's output {name!r}, which this model does not give; "
                f"in training it gives {', '.join(outputs)}."
            )
        return outputs[name]

    def logits(self, stream: str) -> Tensor:
        """Return the student's logits (B, K, H, W)."""
        return self.output(stream)

    def teacher_logits(self, stream: str) -> Tensor:
        """Return the teacher's logits (B, K, H, W) in float32, without gradient: one cached forward per stream."""
        teacher = self._forwards.teacher
        if teacher is None:
            raise StackError(f"strategy {self._name!r} reads the teacher; ask for it in setup with ctx.teacher().")
        if self._hook not in _TEACHER:
            raise StackError(f"strategy {self._name!r} reads the teacher in {self._hook}; read it in `loss`.")
        version = self.batch.version(stream)
        if stream not in self._teacher or self._teacher[stream][0] != version:
            image = self.batch[stream].image
            logits = self._forwards.of_teacher(teacher, image, self.index, self.micro, stream)
            self._teacher[stream] = (version, logits)
        return self._teacher[stream][1]

    def segmentation_loss(self, stream: str, loss: SegmentationLossFunction | None = None) -> Tensor:
        """Return the run's segmentation loss (or ``loss``) of a labelled stream, a scalar."""
        of = self.batch[stream]
        assert of.label is not None  # checked by make_plan
        return (loss or self._segmentation_loss)(self.outputs(stream), of.label, of.weight, across=LOCAL)

    def mean(self, values: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return sum(weight * values * valid) / sum(valid) over the whole batch; see ``dalib.losses.Local.mean``."""
        return LOCAL.mean(values, valid, weight)

    def log(self, name: str, value: Tensor) -> None:
        """Log a 0-d tensor as ``strategy/name``, averaged over the step's micro-batches, without synchronising."""
        self._terms.log(self._name, name, value)

    @contextmanager
    def running(self, hook: str, strategy: "Strategy") -> Iterator[None]:
        """Run a strategy's hook with its permissions to read and write, its clock section and its own seed."""
        forwards = self._forwards
        key = (forwards.seed, self.index, self.micro, hook, strategy.name)
        self._hook, self._strategy = hook, strategy
        self.batch.permit(strategy.name, strategy.writes | strategy.provides if hook == "pre_batch" else frozenset())
        try:
            with forwards.clock.section(strategy.name), seeded(forwards.device, *key):
                yield
        finally:
            self._hook, self._strategy = "", None
            self.batch.permit(None)

    def detach_outputs(self) -> None:
        """Free the graphs of the student outputs but keep their values, which critics read."""
        for stream, (version, outputs) in self._student.items():
            self._student[stream] = (version, {name: value.detach() for name, value in outputs.items()})

    @property
    def _name(self) -> str:
        return self._strategy.name if self._strategy else ""

    def _check_reading(self, stream: str) -> None:
        if self._hook not in _GRAPH:
            advice = (
                ", where streams may still change; read them in `loss`, or use step.teacher_logits."
                if self._hook == "pre_batch"
                else "; read them in `loss`."
            )
            raise StackError(f"strategy {self._name!r} reads student outputs in {self._hook}{advice}")
        forwards = self._strategy.forwards if self._strategy else None
        if self._hook == "loss" and forwards is not None and stream not in forwards:
            raise StackError(
                f"strategy {self._name!r} reads student outputs of {stream!r} but declares forwards = "
                f"{sorted(forwards)}; add {stream!r} to its `forwards`."
            )
