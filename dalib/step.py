"""What one training step knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dalib.batch import Batch
from dalib.errors import StackError
from dalib.losses import SegmentationLossFunction
from dalib.terms import Terms

if TYPE_CHECKING:
    from dalib.engine import Engine
    from dalib.strategy import Strategy

Outputs = dict[str, Tensor]


class Step:
    """One micro-batch of one optimiser step, as the hooks see it; a new one each time, and nothing in it outlives it.

    Attributes:
        index: number of optimiser steps done before this one.
        batch: the streams.
        finite: in ``post_step``, whether the update was made: a bool of no dimensions, on the device.
    """

    def __init__(self, engine: "Engine", index: int, micro: int, batch: Batch, terms: Terms) -> None:
        self.index = index
        self.micro = micro
        self.batch = batch
        self._terms = terms
        self.finite = torch.ones((), dtype=torch.bool)
        self._engine = engine
        self._hook = ""
        self._strategy: Strategy | None = None
        self._student: dict[str, tuple[int, Outputs]] = {}  # stream -> (version of the stream, outputs)
        self._teacher: dict[str, tuple[int, Tensor]] = {}

    def outputs(self, stream: str) -> Outputs:
        """Return all outputs of the student on a stream: one cached forward a stream and step.

        In ``critic_loss`` they come detached. ``pre_batch`` has none yet: streams may still change.
        """
        self._check_reading(stream)
        version = self.batch.version(stream)
        if stream not in self._student or self._student[stream][0] != version:
            self._student[stream] = (version, self._forward(stream))
        return self._student[stream][1]

    def output(self, stream: str, name: str = "logits") -> Tensor:
        """Return one output of the student: ``logits`` (B, K, H, W), or another at its own size."""
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
        """Return the teacher's logits (B, K, H, W) in float32, without gradient; cached as the student's are."""
        teacher = self._engine.teacher
        if teacher is None:
            raise StackError(f"strategy {self._name!r} reads the teacher; ask for it in setup with ctx.teacher().")
        version = self.batch.version(stream)
        if stream not in self._teacher or self._teacher[stream][0] != version:
            with torch.no_grad(), self._engine.forward_context(self, "teacher", stream):
                self._teacher[stream] = (version, teacher.module(self.batch[stream].image).float())
        return self._teacher[stream][1]

    def segmentation_loss(self, stream: str, loss: SegmentationLossFunction | None = None) -> Tensor:
        """Return the run's segmentation loss (or ``loss``) of a labelled stream."""
        return (loss or self._engine.segmentation_loss)(self, stream)

    def mean(self, values: Tensor, valid: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return sum(weight * values * valid) / sum(valid) in float32; 0, and still in the graph, when none is valid.

        Weights stay out of the denominator: dividing by them would cancel a confidence that is the same for every
        pixel, as DACS's is.
        """
        values = values.float().masked_fill(~valid, 0.0)
        if weight is not None:
            values = values * weight
        return values.sum() / valid.sum().clamp(min=1)

    def log(self, name: str, value: Tensor) -> None:
        """Add a scalar to the step's metrics as ``strategy/name``, the mean of its micro-batches; no device waits."""
        self._terms.log(self._name, name, value)

    @contextmanager
    def running(self, hook: str, strategy: "Strategy") -> Iterator[None]:
        """Say which hook of which strategy is reading and writing."""
        self._hook, self._strategy = hook, strategy
        self.batch.permit(strategy.name, strategy.writes | strategy.provides if hook == "pre_batch" else frozenset())
        try:
            yield
        finally:
            self._hook, self._strategy = "", None
            self.batch.permit(None)

    def detach_outputs(self) -> None:
        """Free the graphs of all student outputs so far; their values stay for the critics."""
        for stream, (version, outputs) in self._student.items():
            self._student[stream] = (version, {name: value.detach() for name, value in outputs.items()})

    @property
    def _name(self) -> str:
        return self._strategy.name if self._strategy else "the engine"

    def _forward(self, stream: str) -> Outputs:
        training = self._hook == "loss"
        with torch.set_grad_enabled(training), self._engine.forward_context(self, "student", stream):
            outputs: Outputs = self._engine.model(self.batch[stream].image, outputs=True)
        return outputs

    def _check_reading(self, stream: str) -> None:
        if self._hook == "pre_batch":
            raise StackError(
                f"strategy {self._name!r} reads student outputs in pre_batch, where streams may still change; "
                "read them in `loss`, or use step.teacher_logits."
            )
        forwards = self._strategy.forwards if self._strategy else None
        if self._hook == "loss" and forwards is not None and stream not in forwards:
            raise StackError(
                f"strategy {self._name!r} reads student outputs of {stream!r} but declares forwards = "
                f"{sorted(forwards)}; add {stream!r} to its `forwards`."
            )
