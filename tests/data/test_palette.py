"""Label maps in colour."""

import torch

from dalib.data.palette import blend, colorize
from dalib.labels import CITYSCAPES_PALETTE

LABEL = torch.tensor([[0, 18], [255, 40]], dtype=torch.uint8)


def test_each_class_has_its_colour_and_the_rest_is_black():
    colors = colorize(LABEL, CITYSCAPES_PALETTE)
    assert colors.dtype == torch.uint8
    assert colors[:, 0, 0].tolist() == [128, 64, 128]
    assert colors[:, 0, 1].tolist() == [119, 11, 32]
    assert colors[:, 1].sum() == 0


def test_blend_weighs_colours_and_leaves_ignored_pixels():
    image = torch.full((3, 2, 2), 200, dtype=torch.uint8)
    mixed = blend(image, LABEL, CITYSCAPES_PALETTE, alpha=0.25)
    assert mixed[:, 0, 0].tolist() == [182, 166, 182]
    assert mixed[:, 1, 0].tolist() == [200, 200, 200]
