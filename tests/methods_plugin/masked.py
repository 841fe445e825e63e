"""Masked image consistency: MIC (Hoyer et al. 2023), on target images with blocks left out."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import Ramp, SetupContext, Step, Strategy, Stream, hookimpl
from dalib.options import Count, Probability


def block_mask(shape: torch.Size, block: int, ratio: float, device: torch.device) -> Tensor:
    """Draw which pixels stay, (B, 1, H, W) float of 0 and 1: squares of ``block`` pixels go with probability ``ratio``.

    Args:
        shape: (B, C, H, W) of the images.
    """
    rows, columns = (-(-side // block) for side in shape[-2:])
    kept = torch.rand(shape[0], 1, rows, columns, device=device) >= ratio
    whole = F.interpolate(kept.float(), scale_factor=block, mode="nearest")
    return whole[..., : shape[-2], : shape[-1]]


class MaskedConsistency(Strategy):
    """Add the stream ``masked``, target images without some blocks, and train on it by the teacher's labels of the
    whole images. An image's weight is its share of pixels that the teacher is sure of.

    Published ``weight``: 1. Blocks become black, the authors' the mean colour. Their masked images are jittered, too:
    stack ``augment`` on ``masked``.

    Options:
        block: side of a block in pixels. ratio: share of the blocks that are left out.
        threshold: probability from which the teacher is sure of a pixel.
        decay: of the teacher, or a ramp (published 0.999); None takes another strategy's.
    """

    block: Count = 64
    ratio: Probability = 0.7
    threshold: Probability = 0.968
    decay: Probability | Ramp | None = None

    requires = frozenset({"target.image"})
    provides = frozenset({"masked.image", "masked.label", "masked.weight"})
    outputs = frozenset({"masked.logits"})
    same_size = frozenset({"target"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        ctx.teacher(decay=self.decay)

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        target = step.batch["target"]
        probability, label = step.teacher_logits("target").softmax(1).max(1)
        sure = (probability >= self.threshold).float().mean((1, 2), keepdim=True)
        weight = sure.expand_as(probability) if target.weight is None else sure * target.weight
        kept = block_mask(target.image.shape, self.block, self.ratio, target.image.device)
        step.batch.add("masked", Stream(target.image * kept, label, weight))
        step.log("sure", sure.mean())

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {"masked": step.segmentation_loss("masked")}
