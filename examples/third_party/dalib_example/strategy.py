"""Mirror the target: train on it with the teacher's labels, and predict both ways round."""

from collections.abc import Mapping

from torch import Tensor, nn

from dalib import IGNORE, Predict, SetupContext, Step, Strategy, Stream, hookimpl


class FlipConsistency(Strategy):
    """Train on mirrored target images, labelled by what the teacher is sure of in the images as they are.

    Options:
        threshold: pixels whose class the teacher finds less probable (0..1) are ignored.
        decay: of the teacher; None shares what another strategy sets.
        both_ways: predict the mean over an image and its mirror.
    """

    threshold: float = 0.9
    decay: float | None = None
    both_ways: bool = True

    requires = frozenset({"target.image"})
    provides = frozenset({"mirrored.image", "mirrored.label", "mirrored.weight"})
    outputs = frozenset({"mirrored.logits"})
    same_size = frozenset({"target"})  # gives the new stream its size in plans

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        ctx.teacher(decay=self.decay)

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        probability, label = step.teacher_logits("target").softmax(1).max(1)
        sure = probability >= self.threshold
        label = label.masked_fill(~sure, IGNORE)
        target = step.batch["target"]
        weight = None if target.weight is None else target.weight.flip(-1)
        step.batch.add("mirrored", Stream(image=target.image.flip(-1), label=label.flip(-1), weight=weight))
        step.log("sure", sure.float().mean())

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {"mirrored": step.segmentation_loss("mirrored")}

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        if not self.both_ways:
            return predict
        return lambda images: (predict(images) + predict(images.flip(-1)).flip(-1)) / 2
