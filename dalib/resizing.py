"""Bilinear resizing of feature maps and logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to ``size`` (H, W), bilinear with ``align_corners=False``; unchanged if it has that size."""
    # In torch.export with dynamic sizes the comparison would become a guard on the traced size.
    if not torch.compiler.is_exporting() and tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits (B, K, h, w) in float32 or finer, since bfloat16's 8 bits make ties between classes."""
    return resize(logits.to(torch.promote_types(logits.dtype, torch.float32)), size)
