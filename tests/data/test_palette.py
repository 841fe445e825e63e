"""Label maps in colour."""

import pytest
import torch
from kornia.color import rgb_to_lab

from dalib.data.label_map import default_palette
from dalib.data.palette import blend, colorize, distinct_colors
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


def nearest(colors):
    """The smallest distance of two colours in CIELAB, where 2.3 is the least that is seen."""
    places = rgb_to_lab(torch.tensor(colors).float()[:, :, None, None] / 255).flatten(1)
    return torch.cdist(places, places).fill_diagonal_(torch.inf).min()


@pytest.mark.parametrize(("count", "distance"), [(2, 60), (8, 35), (20, 22), (40, 14)])
def test_colours_of_own_classes_are_told_apart_from_one_another_and_from_ignored(count, distance):
    colors = default_palette(tuple(f"class {i}" for i in range(count)))
    assert nearest([(0, 0, 0), *colors]) > distance


def test_colours_keep_away_from_those_that_are_taken():
    taken = [(128, 64, 128), (0, 0, 142)]
    assert nearest([*taken, *distinct_colors(10, taken)]) > 25
    assert distinct_colors(3) == distinct_colors(5)[:3]
    assert len(set(distinct_colors(255))) == 255
