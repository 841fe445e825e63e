"""Labels at the size of a feature map, and by class, without a wait for the device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest(label: Tensor, size: torch.Size) -> Tensor:
    """Return labels (B, H, W) at another size (h, w), each that of the nearest pixel."""
    return F.interpolate(label[:, None].float(), size, mode="nearest-exact")[:, 0].long()


def one_hot(label: Tensor, classes: Tensor) -> Tensor:
    """Return which pixels of (B, H, W) have each of the train ids ``classes`` (C,), as float (B, C, H, W)."""
    return (label[:, None] == classes.view(1, -1, 1, 1)).float()
