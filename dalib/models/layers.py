"""Layers shared by several networks."""

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution without bias (odd ``kernel``, 3x3 by default), BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def extend(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad images (B, C, H, W) at the right and below, to sides that are multiples of ``multiple``."""
    if multiple == 1:
        return x
    # Not -side % multiple, which torch.compile cannot trace for a symbolic side.
    below, right = ((side + multiple - 1) // multiple * multiple - side for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, below))
