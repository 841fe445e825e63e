"""One micro-batch as hooks see it: streams, student and teacher outputs, losses and logging."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dalib.core.forwards import Forwards, Outputs
from dalib.core.strategy import Strategy, declared_streams
from dalib.core.terms import Terms
from dalib.data.batch import Batch, Permission
from dalib.errors import StackError
from dalib.losses import SegmentationLoss, SegmentationLossFunction, whole_batch
from dalib.models.outputs import KNOWN_OUTPUTS
from dalib.randomness import seeded

# Hooks that may read a network's outputs; whether those of the student carry an autograd graph there; and what declares
# them. In pre_batch streams may still change; a forward in post_step would update BatchNorm's running statistics again.
_STUDENT = {"loss": True, "critic_loss": False}
_TEACHER = ("pre_batch", "loss", "critic_loss")
_DECLARED = {"pre_batch": "outputs", "loss": "outputs", "critic_loss": "critic_outputs"}


class Step:
    """One micro-batch of one optimiser step, as hooks see it; keep nothing of it after the step.

    Attributes:
        index: number of optimiser steps done before this one. micro: index of the micro-batch within it.
        batch: the streams by name.
        across: means, sums and order statistics over the whole batch, all ranks' parts; see ``dalib.losses.Local``.
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
        self.across = whole_batch()
        self.finite = torch.ones((), dtype=torch.bool)
        self._terms = terms
        self._forwards = forwards
        self._segmentation_loss = segmentation_loss
        self._hook = ""
        self._strategy: Strategy | None = None
        self._outputs: dict[tuple[str, bool], tuple[int, Outputs]] = {}  # (stream, teacher) -> (its version, outputs)
        self._versions: dict[tuple[str, bool], dict[str, int]] = {}  # how often each had been changed in place

    def output(self, stream: str, name: str = "logits", *, teacher: bool = False) -> Tensor:
        """Return one output of the student, or of the teacher: one cached forward per stream and network.

        The student's are detached in ``critic_loss``, and refused in ``pre_batch``, where streams may still change. The
        teacher's have no gradient.

        Args:
            name: ``logits`` (B, K, H, W); another at its own resolution, as far as the network gives it; or the path of
                a layer that ``setup`` tapped.
        """
        self._check_reading(stream, name, teacher)
        outputs = self._read(stream, teacher)
        if name not in outputs:
            who, when = ("teacher", "in eval mode") if teacher else ("model", "in training")
            raise StackError(
                f"strategy {self._name!r} needs the {who}'s output {name!r}, which this model does not give; "
                f"{when} it gives {', '.join(outputs)}. The output of any layer is read through ctx.tap."
            )
        return outputs[name]

    def logits(self, stream: str) -> Tensor:
        """Return the student's logits (B, K, H, W)."""
        return self.output(stream)

    def teacher_logits(self, stream: str) -> Tensor:
        """Return the teacher's logits (B, K, H, W) in float32, without gradient."""
        return self.output(stream, teacher=True)

    def student(self, images: Tensor) -> Tensor:
        """Return the student's logits (B, K, H, W) on images of the strategy's own, with a graph in ``loss`` alone.

        BatchNorm uses these images' statistics and keeps its running ones; dropout draws anew in each call. Gradients
        flow to the images where these require them.

        Args:
            images: (B, 3, H, W) float in [0, 1].
        """
        if self._hook not in _TEACHER:
            raise StackError(f"strategy {self._name!r} calls the student in {self._hook}; do it in `loss`.")
        return self._forwards.of_student_apart(images, graph=_STUDENT.get(self._hook, False))

    def segmentation_loss(self, stream: str, loss: SegmentationLossFunction | None = None) -> Tensor:
        """Return the run's segmentation loss (or ``loss``) of a labelled stream, a scalar.

        It applies the stream's ``weight`` and reads all that the network gives; to declare its ``logits`` is enough.
        """
        of = self.batch[stream]
        if of.label is None:
            raise StackError(f"strategy {self._name!r} wants the segmentation loss of {stream!r}, which has no labels.")
        self._check_reading(stream, "logits", teacher=False)
        outputs, chosen = self._read(stream, False), loss or self._segmentation_loss
        if isinstance(chosen, SegmentationLoss):
            self._warn_of_unused(outputs)
        return chosen(outputs, of.label, of.weight, across=self.across)

    def mean(self, values: Tensor, valid: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Return sum(weight * values * valid) / sum(valid) over the whole batch; see ``dalib.losses.Local.mean``."""
        return self.across.mean(values, valid, weight)

    def log(self, name: str, value: Tensor) -> None:
        """Log a 0-d tensor as ``strategy/name``, averaged over the step's micro-batches, without synchronising."""
        if not isinstance(value, Tensor) or value.dim():
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise StackError(f"strategy {self._name!r} logs {name!r}: expected a 0-d tensor, got {found:.80}.")
        self._terms.log(self._name, name, value)

    @contextmanager
    def running(self, hook: str, strategy: Strategy) -> Iterator[None]:
        """Run a strategy's hook with its permissions to read and write, its clock section and its own seed."""
        forwards = self._forwards
        key = (forwards.seed, self.index, self.micro, hook, strategy.name)
        self._hook, self._strategy = hook, strategy
        writes = strategy.writes | strategy.provides
        self.batch.permit(Permission(strategy.name, hook, declared_streams(strategy), writes))
        before = self.batch.versions()
        try:
            with forwards.clock.section(strategy.name), seeded(forwards.device, *key):
                yield
        finally:
            self._hook, self._strategy = "", None
            self.batch.permit(None)
        outputs = [
            (f"the {'teacher' if teacher else 'student'}'s output {stream}.{name}", value, version)
            for (stream, teacher), versions in self._versions.items()
            for (name, version), value in zip(versions.items(), self._outputs[stream, teacher][1].values(), strict=True)
        ]
        for field, tensor, version in before + outputs:
            if tensor._version != version:
                raise StackError(
                    f"strategy {strategy.name!r} changed {field} in place, which other strategies may hold; make a new "
                    "tensor; one for a stream goes to step.batch.write in `pre_batch`."
                )

    def detach_outputs(self) -> None:
        """Free the graphs of the student outputs but keep their values, which critics read."""
        for key, (version, outputs) in self._outputs.items():
            self._outputs[key] = (version, {name: value.detach() for name, value in outputs.items()})

    @property
    def _name(self) -> str:
        return self._strategy.name if self._strategy else ""

    def _read(self, stream: str, teacher: bool) -> Outputs:
        stream_now, forwards = self.batch[stream], self._forwards
        version = self.batch.version(stream)
        cached = self._outputs.get((stream, teacher))
        if cached is None or cached[0] != version:
            image, at = stream_now.image, (self.index, self.micro, stream)
            if teacher:
                assert forwards.teacher is not None  # checked by _check_reading
                outputs = forwards.of_teacher(forwards.teacher, image, *at)
            else:
                outputs = forwards.of_student(image, *at, graph=_STUDENT[self._hook])
            cached = self._outputs[stream, teacher] = (version, outputs)
            self._versions[stream, teacher] = {name: value._version for name, value in outputs.items()}
        return cached[1]

    def _warn_of_unused(self, outputs: Outputs) -> None:
        used = {*KNOWN_OUTPUTS, *self._forwards.taps, *(self._forwards.read or ())}
        for name in outputs:
            if name not in used and not name.startswith("aux."):
                warnings.warn(
                    f"nothing reads the network's output {name!r}, so it is not trained: of its outputs the "
                    "segmentation loss takes 'logits' and the auxiliary logits, whose names begin with 'aux.', such as "
                    "'aux.1'.",
                    stacklevel=2,
                )

    def _check_reading(self, stream: str, name: str, teacher: bool) -> None:
        hook = self._hook
        if not hook:
            raise StackError("a step was read outside of every hook; keep nothing of it after the hook.")
        if teacher and self._forwards.teacher is None:
            raise StackError(f"strategy {self._name!r} reads the teacher; ask for it in setup with ctx.teacher().")
        if hook not in (_TEACHER if teacher else _STUDENT):
            what, them = ("the teacher", "it") if teacher else ("student outputs", "them")
            advice = f"; read {them} in `loss`."
            if hook == "pre_batch":
                advice = ", where streams may still change; read them in `loss`, or use step.teacher_logits."
            raise StackError(f"strategy {self._name!r} reads {what} in {hook}{advice}")
        declaration = _DECLARED[hook]
        declared = getattr(self._strategy, declaration)
        if declared is None or f"{stream}.{name}" in declared or (hook == "pre_batch" and name == "logits"):
            return
        raise StackError(
            f"strategy {self._name!r} reads {stream}.{name} in {hook} but declares {declaration} = "
            f'{sorted(declared)}; add "{stream}.{name}" to its `{declaration}`.'
        )
