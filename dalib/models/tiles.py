"""Cutting images into tiles of one size, and joining the tiles' feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def cut(images: Tensor, tile: Size) -> Tensor:
    """Cut images (B, C, H, W), zero-padded to whole tiles (h, w), into (B * rows * columns, C, h, w)."""
    (batch, channels, height, width), (h, w) = images.shape, tile
    rows, columns = _grid((height, width), tile)
    whole = F.pad(images, (0, columns * w - width, 0, rows * h - height))
    tiles = whole.view(batch, channels, rows, h, columns, w).permute(0, 2, 4, 1, 3, 5)
    return _copied(tiles).view(-1, channels, h, w)


def join(features: Tensor, size: Size, tile: Size) -> Tensor:
    """Join the feature maps (B * rows * columns, C, h', w') of the tiles of images (B, ., H, W).

    Returns:
        (B, C, H', W') without the padding: H' = H h' / h and W' = W w' / w, rounded up.
    """
    (height, width), (h, w), (channels, down, across) = size, tile, features.shape[1:]
    rows, columns = _grid(size, tile)
    grid = _copied(features).view(-1, rows, columns, channels, down, across).permute(0, 3, 1, 4, 2, 5)
    joined = _copied(grid).view(-1, channels, rows * down, columns * across)
    return joined[..., : _up(height * down, h), : _up(width * across, w)]


def _copied(tensor: Tensor) -> Tensor:
    """Return a contiguous copy, always: whether one is needed would become a condition of an exported program."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _grid(size: Size, tile: Size) -> tuple[int, int]:
    return _up(size[0], tile[0]), _up(size[1], tile[1])


def _up(dividend: int, divisor: int) -> int:
    return (dividend + divisor - 1) // divisor
