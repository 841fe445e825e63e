"""Colour renderings of label maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dalib.labels import IGNORE, Color


def colorize(label: Tensor, palette: Sequence[Color]) -> Tensor:
    """Return the label map in the colours of its classes, ignored pixels black.

    Args:
        label: (H, W) integer train ids, 255 = ignore.
        palette: (red, green, blue) in 0..255 of each class; ids beyond it are black too.

    Returns:
        (3, H, W) uint8 on the label's device.
    """
    table = torch.zeros(IGNORE + 1, 3, dtype=torch.uint8, device=label.device)
    table[: len(palette)] = torch.tensor(palette, dtype=torch.uint8, device=label.device)
    return table[label.long()].movedim(-1, 0)


def blend(image: Tensor, label: Tensor, palette: Sequence[Color], alpha: float = 0.5) -> Tensor:
    """Return ``(1 - alpha) * image + alpha * colours``; ignored pixels keep the image.

    Args:
        image: (3, H, W) uint8 RGB.
        label: (H, W) integer train ids, 255 = ignore.
        palette: (red, green, blue) in 0..255 of each class.
        alpha: share of the colours, in [0, 1].

    Returns:
        (3, H, W) uint8.
    """
    mixed = torch.lerp(image.float(), colorize(label, palette).float(), alpha).round().to(torch.uint8)
    return torch.where(label == IGNORE, image, mixed)
