"""PIDNet's segmentation loss: OHEM, boundaries, and OHEM again where the network predicts a boundary."""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dalib.labels import IGNORE
from dalib.losses import LOCAL, Local, cross_entropy, hard_pixels
from dalib.options import NotNegative, OptionGroup, Whole
from dalib.resizing import resize

REACH = 2  # pixels on either side of a boundary: 4 wide, as the official edges of 1 pixel dilated by 4x4
BORDER = 6  # pixels along the image's edge that never count


def boundary_target(label: Tensor) -> Tensor:
    """Return where two classes meet, (B, H, W) bool, for labels (B, H, W) int64 with 255 = ignore.

    A pixel is on a boundary if its 5x5 neighbourhood holds more than one class. Ignored pixels do not count there, so
    unlabelled regions make no boundary; ignored pixels and those within 6 of the image's edge are never on one.
    """
    valid = label != IGNORE
    window = 2 * REACH + 1
    greatest = F.max_pool2d(label.masked_fill(~valid, -1).float(), window, stride=1, padding=REACH)
    least = -F.max_pool2d(-label.float(), window, stride=1, padding=REACH)
    meets = valid & (greatest != least)
    inner = torch.zeros_like(meets)
    rows, columns = (slice(BORDER, max(side - BORDER, BORDER)) for side in label.shape[-2:])
    inner[:, rows, columns] = meets[:, rows, columns]
    return inner


def boundary_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor, *, across: Local = LOCAL) -> Tensor:
    """Return the binary cross-entropy of each pixel, boundary pixels and the others weighted by each other's share.

    Args:
        logits: (B, H, W) of any float type, positive for a boundary.
        target, valid: (B, H, W) bool; the shares are those of the batch's valid pixels.

    Returns:
        (B, H, W) float32, to be averaged over the valid pixels (Xu et al. 2023, equation 4).
    """
    positive, negative = across.sum(target & valid), across.sum(~target & valid)
    share = torch.where(target, negative, positive) / (positive + negative).clamp(min=1)
    return share * F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none")


class PIDNetLoss(OptionGroup):
    """The four terms of PIDNet's training (Xu et al. 2023, equation 5), each averaged over the valid pixels it counts.

    A stream's ``weight`` counts by pixel in all of them, so that boundaries of doubtful pseudo-labels count less.

    Options:
        auxiliary: weight of the cross-entropy of the proportional head.
        boundary: weight of the boundary's binary cross-entropy.
        ohem: train the main output on pixels whose true class has a probability below this (0..1).
        min_kept: train at least this many pixels of a batch, the hardest.
        boundary_threshold: the second OHEM term counts where the probability of a boundary exceeds this.
    """

    auxiliary: NotNegative = 0.4
    boundary: NotNegative = 20.0
    ohem: Annotated[float, Field(gt=0, le=1)] = 0.9
    min_kept: Whole = 131_072
    boundary_threshold: Annotated[float, Field(ge=0, le=1)] = 0.8

    def __call__(
        self, outputs: Mapping[str, Tensor], label: Tensor, weight: Tensor | None = None, *, across: Local = LOCAL
    ) -> Tensor:
        """Return the loss of one stream; see ``dalib.losses.SegmentationLossFunction``."""
        valid = label != IGNORE
        main = cross_entropy(outputs["logits"], label)
        proportional = cross_entropy(outputs["aux.p"], label)
        boundary = resize(outputs["boundary"].float(), (label.shape[-2], label.shape[-1])).squeeze(1)
        near = valid & (boundary.sigmoid() > self.boundary_threshold)
        edges = boundary_cross_entropy(boundary, boundary_target(label), valid, across=across)
        hard, hard_near = (hard_pixels(main, among, self.ohem, self.min_kept, across=across) for among in (valid, near))
        return (
            self.auxiliary * across.mean(proportional, valid, weight)
            + across.mean(main, hard, weight)
            + self.boundary * across.mean(edges, valid, weight)
            + across.mean(main, hard_near, weight)
        )
