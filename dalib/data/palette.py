"""Colours for classes, and label maps in them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dalib.labels import IGNORE, Color


def distinct_colors(count: int, taken: Sequence[Color] = ()) -> list[Color]:
    """Return ``count`` colours, each as far as can be, to the eye, from those before it, ``taken``, black and white.

    Distances are those of Oklab (Ottosson 2020), in which equal steps look equal.
    """
    levels = np.arange(0, 256, 15)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    places, colors = _oklab(grid), []
    distance = np.full(len(grid), np.inf)
    for color in [(0, 0, 0), (255, 255, 255), *taken]:
        distance = np.minimum(distance, np.linalg.norm(places - _oklab(np.array(color)), axis=-1))
    for _ in range(count):
        chosen = int(distance.argmax())
        colors.append((int(grid[chosen, 0]), int(grid[chosen, 1]), int(grid[chosen, 2])))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen], axis=-1))
    return colors


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Return the place in Oklab of sRGB colours in 0..255, (..., 3)."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    to_lms.append([0.0883024619, 0.2817188376, 0.6299787005])
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    to_lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    lab: np.ndarray = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return lab


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
