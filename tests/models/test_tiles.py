"""Tiles: cutting images and joining features are each other's inverse, at every size and stride."""

import pytest
import torch
import torch.nn.functional as F

from dalib.models.tiles import cut, join


@pytest.mark.parametrize("size", [(12, 8), (24, 32), (13, 9), (1, 1), (5, 40)])
def test_joined_tiles_are_the_image(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    tiles = cut(images, (12, 8))
    assert tiles.shape[1:] == (3, 12, 8)
    assert torch.equal(join(tiles, size, (12, 8)), images)


@pytest.mark.parametrize("size", [(24, 32), (13, 9), (3, 70)])
def test_features_of_tiles_lie_where_those_of_the_image_do(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    whole = F.pad(images, (0, -size[1] % 4, 0, -size[0] % 4))
    joined = join(F.avg_pool2d(cut(images, (12, 8)), 4), size, (12, 8))
    torch.testing.assert_close(joined, F.avg_pool2d(whole, 4))
