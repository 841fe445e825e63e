"""Views against slicing, mirroring and resizing, with labels that stay whole."""

import pytest
import torch
import torch.nn.functional as F

from dalib_plugins.view import View, draw_view

CPU = torch.device("cpu")


def coded_image(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Return (B, 3, H, W) whose channels tell row, column and sample."""
    height, width = size
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    image = torch.stack([rows[:, None].expand(size), columns.expand(size), torch.zeros(size)])
    return image.repeat(count, 1, 1, 1)


def draw(count=64, size=(6, 8), crop=(6, 8), scale=(1.0, 1.0), flip=0.0) -> View:
    torch.manual_seed(0)
    return draw_view(count, size, crop, scale, flip, CPU)


def test_flips_image_and_label_of_the_share_asked_for():
    image = torch.rand(400, 3, 4, 5)
    view = draw(400, (4, 5), (4, 5), flip=0.25)
    found, mask = view.image(image, interpolate=False), view.mask(image[:, 0], -1.0)
    flipped = (found == image.flip(-1)).flatten(1).all(1)
    assert torch.equal(found[~flipped], image[~flipped])
    assert torch.equal(mask, found[:, 0])
    assert 0.15 < flipped.float().mean() < 0.35


def test_crops_are_slices_at_every_place():
    image = coded_image(200, (5, 7))
    found = draw(200, (5, 7), (3, 4)).image(image, interpolate=False)
    corners = found[:, :2, 0, 0].long()
    for one, sample, (row, column) in zip(found, image, corners.tolist(), strict=True):
        assert torch.equal(one, sample[:, row : row + 3, column : column + 4])
    assert {tuple(corner) for corner in corners.tolist()} == {(r, c) for r in range(3) for c in range(4)}


@pytest.mark.parametrize(("size", "crop"), [(3, 2), (2, 3)])
def test_every_place_of_a_crop_is_as_likely(size, crop):
    first = draw(4000, (1, size), (1, crop)).columns[:, 0]
    assert (first == 0).float().mean() == pytest.approx(0.5, abs=0.04)


def test_a_crop_larger_than_the_image_holds_it_whole_and_marks_the_rest():
    label = torch.arange(6).view(1, 2, 3).repeat(50, 1, 1)
    view = draw(50, (2, 3), (4, 5))
    found = view.mask(label, 255)
    assert ((found == 255).flatten(1).sum(1) == 14).all()
    assert all(torch.equal(one[one != 255], torch.arange(6)) for one in found)
    assert len({one.flatten().tolist().index(0) for one in found}) == 9
    image = view.image(coded_image(50, (2, 3)), interpolate=False)
    assert torch.equal(image[:, 0][found != 255], found[found != 255] // 3)
    assert image.max() <= 2  # mirrored, so nothing but the image's own pixels


def test_scaling_by_two_equals_a_resize():
    image = torch.rand(1, 3, 6, 8)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    found = draw(1, (6, 8), (12, 16), (2.0, 2.0)).image(image, interpolate=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.3, 0.7)])
def test_label_follows_the_image_through_scale_crop_and_flip(scale):
    """Where image and label hold the same smooth ramp, they differ by less than half a source pixel of its slope."""
    size = (40, 60)
    ramp = coded_image(32, size)
    view = draw(32, size, (24, 32), scale, flip=0.5)
    image = view.image(ramp, interpolate=True)
    for channel in (0, 1):
        label = view.mask(ramp[:, channel], -1.0)
        inside = label >= 0
        assert (image[:, channel] - label)[inside].abs().max() < 0.51


def test_scales_are_drawn_from_the_whole_range_for_each_sample():
    view = draw(300, (40, 60), (20, 20), (0.5, 2.0))
    scales = 1 / (view.rows[:, 1] - view.rows[:, 0])
    assert scales.min() < 0.52 and scales.max() > 1.95
    assert scales.mean() == pytest.approx(1.25, abs=0.1)


def test_labels_beyond_half_precision_stay_exact():
    label = torch.arange(2000, 2000 + 48).view(1, 6, 8)
    assert torch.equal(draw(1).mask(label, 255), label)
