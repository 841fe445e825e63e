"""What a teacher's logits say of images without labels: pseudo-labels, their weight, and where they are reliable."""

from typing import Literal

import torch
from torch import Tensor

from dalib.losses import LOCAL, Local

Scope = Literal["batch", "image"]


def pseudo_label(
    logits: Tensor, threshold: float, confidence: Scope = "batch", *, across: Local = LOCAL
) -> tuple[Tensor, Tensor]:
    """Return pseudo-labels and their weight: the share of pixels whose probability is at least ``threshold``.

    Args:
        logits: (B, K, H, W) of any float type.
        confidence: take the share over the whole batch, as published, or per image.
        across: sums over the whole batch.

    Returns:
        label: (B, H, W) int64; weight: (B, H, W) float32 in 0..1, constant over the batch or over each image.
    """
    probability, label = logits.float().softmax(1).max(1)
    confident = (probability >= threshold).float()
    if confidence == "batch":
        share = across.sum(confident) / across.sum(torch.full_like(confident[:, 0, 0], confident[0].numel()))
    else:
        share = confident.mean((1, 2), keepdim=True)
    return label, share.expand_as(confident)


def confident_classes(logits: Tensor, threshold: float) -> Tensor:
    """Return the pixels (B, H, W) bool of classes that the teacher is sure of in their image, as ECAP ranks them.

    A class counts where the mean probability of the pixels that are labelled with it is at least ``threshold``.

    Args:
        logits: (B, K, H, W) of any float type.
    """
    probability, label = (values.flatten(1) for values in logits.float().softmax(1).max(1))
    zeros = probability.new_zeros(logits.shape[:2])
    sums = zeros.scatter_add(1, label, probability)
    pixels = zeros.scatter_add(1, label, torch.ones_like(probability))
    sure = sums / pixels.clamp(min=1) >= threshold
    return sure.gather(1, label).view(len(logits), *logits.shape[2:])
