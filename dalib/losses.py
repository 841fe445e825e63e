"""The segmentation loss: what a labelled stream trains, for every strategy that has one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dalib.data.labels import IGNORE as IGNORE

if TYPE_CHECKING:
    from dalib.step import Step

SegmentationLossFunction = Callable[["Step", str], Tensor]
NotNegative = Annotated[float, Field(ge=0)]


def cross_entropy(logits: Tensor, label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each pixel, (B, H, W) in float32; 0 where the label is 255.

    Args:
        logits: (B, K, h, w) of any float type; resized bilinearly where the label's size differs.
        label: (B, H, W) int64 in 0..K-1 or 255.
        class_weights: (K,) factor by the true class.
    """
    logits = logits.float()
    if logits.shape[-2:] != label.shape[-2:]:
        logits = F.interpolate(logits, label.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, label, weight=class_weights, ignore_index=IGNORE, reduction="none")


def hard_pixels(values: Tensor, valid: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Return the mask of pixels that online hard example mining keeps (Shrivastava et al. 2016).

    Kept are the valid pixels whose true class has a probability below ``threshold``, and at least the ``min_kept``
    hardest of the whole batch.

    Args:
        values: (B, H, W) cross-entropy without class weights. valid: (B, H, W) bool.
    """
    candidates = values.detach().masked_fill(~valid, -1.0).flatten()
    hardest = candidates.topk(min(max(min_kept, 1), candidates.numel()), sorted=True).values
    cut = hardest[-1].clamp(max=-math.log(threshold))
    return valid & (values.detach() >= cut)


@dataclass(frozen=True, kw_only=True)
class SegmentationLoss:
    """Cross-entropy on the logits and, where the network gives them, on its auxiliary heads.

    Options:
        class_weights: factor of each class; the denominator stays the number of valid pixels.
        ohem: keep only pixels whose true class has a probability below this (0..1), of the main output.
        min_kept: with ``ohem``, keep at least so many pixels a batch.
        auxiliary: weight of each auxiliary head (BiSeNet's authors use 1).
    """

    class_weights: Sequence[NotNegative] | None = None
    ohem: Annotated[float, Field(gt=0, le=1)] | None = None
    min_kept: Annotated[int, Field(ge=0)] = 100_000
    auxiliary: NotNegative = 1.0

    def __call__(self, step: "Step", stream: str) -> Tensor:
        """Return the loss of ``stream``, a scalar; exactly 0 where no pixel is valid."""
        outputs = step.outputs(stream)
        total = self._term(step, stream, outputs["logits"], self.ohem)
        for name, logits in outputs.items():
            if name.startswith("aux.") and self.auxiliary:
                total = total + self.auxiliary * self._term(step, stream, logits, None)
        return total

    def _term(self, step: "Step", stream: str, logits: Tensor, ohem: float | None) -> Tensor:
        label, weight = step.batch[stream].label, step.batch[stream].weight
        assert label is not None  # the stack's checks made sure
        valid = label != IGNORE
        weights = None if self.class_weights is None else _on_device(tuple(self.class_weights), logits.device)
        values = cross_entropy(logits, label, weights)
        if ohem is not None:  # how hard a pixel is, its class's weight does not say
            hardness = values if weights is None else cross_entropy(logits, label)
            valid = hard_pixels(hardness, valid, ohem, self.min_kept)
        return step.mean(values, valid, weight)


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a constant tensor, copied to the device once: each copy waits for it."""
    return torch.tensor(values, device=device)
