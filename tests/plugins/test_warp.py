"""Kornia's augmentations by name, with labels that follow and mistakes that are told."""

import dataclasses

import pytest
import torch

from dalib import Stream
from dalib.errors import StackError
from dalib_plugins.warp import apply, make_augmentation, make_warp


def stream(count: int = 4, size: tuple[int, int] = (20, 24)) -> Stream:
    """Return images whose red channel is their label over 20."""
    label = torch.randint(1, 19, (count, *size), generator=torch.Generator().manual_seed(0))
    label[:, :2] = 255
    image = (label.float() / 20).clamp(max=1)[:, None].repeat(1, 3, 1, 1)
    return Stream(image=image, label=label)


@pytest.mark.parametrize("use", ["RandomHorizontalFlip", "RandomVerticalFlip"])
def test_label_and_weight_follow_each_samples_own_draw(use):
    torch.manual_seed(0)
    before = stream(32)
    after = apply(make_warp("augment", use, p=0.5), before)
    changed = (after.image != before.image).flatten(1).any(1)
    assert 4 < changed.sum() < 28
    assert torch.equal((after.label.float() / 20).clamp(max=1), after.image[:, 0])
    assert torch.equal(after.weight, torch.ones_like(after.weight))


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("RandomRotation", {"degrees": 40.0}),
        ("RandomAffine", {"degrees": 10.0, "translate": (0.3, 0.3), "scale": (0.5, 0.7)}),
        ("RandomPerspective", {"distortion_scale": 0.7}),
        ("RandomErasing", {}),
    ],
)
def test_what_comes_from_outside_is_ignored_and_weighs_nothing(use, options):
    torch.manual_seed(0)
    before = stream()
    after = apply(make_warp("augment", use, p=1.0, **options), before)
    outside = after.weight == 0
    assert outside.any() and not outside.all()
    assert (after.label[outside] == 255).all()
    assert set(after.label.unique().tolist()) <= set(before.label.unique().tolist())  # never class 0, never a blend


@pytest.mark.parametrize(("use", "options"), [("RandomInvert", {}), ("ColorJiggle", {"hue": (0.3, 0.3)})])
def test_colours_leave_label_and_weight_alone(use, options):
    before = dataclasses.replace(stream(), image=torch.rand(4, 3, 20, 24), weight=torch.rand(4, 20, 24))
    after = apply(make_warp("augment", use, p=1.0, **options), before)
    assert torch.equal(after.label, before.label)
    assert torch.equal(after.weight, before.weight)
    assert not torch.equal(after.image, before.image)


def test_a_weight_moves_with_the_image():
    weight = torch.rand(4, 20, 24)
    after = apply(make_warp("augment", "RandomHorizontalFlip", p=1.0), dataclasses.replace(stream(), weight=weight))
    assert torch.equal(after.weight, weight.flip(-1))


def test_a_stream_without_labels_stays_without():
    before = Stream(stream().image)
    assert apply(make_warp("augment", "RandomRotation", degrees=10.0), before).label is None


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("RandomEqualise", {}, "kornia has no image augmentation 'RandomEqualise'. Did you mean 'RandomEqualize'?"),
        ("RandomMixUpV2", {}, "kornia has no image augmentation 'RandomMixUpV2'"),
        ("GeometricAugmentationBase2D", {}, "kornia has no image augmentation 'GeometricAugmentationBase2D'"),
        ("RandomRotation", {"degree": 3}, "kornia's RandomRotation refuses the options {'degree': 3}: .*degree"),
        ("RandomCrop", {"size": (8, 8)}, "kornia's RandomCrop changes the size of images; use `crop`"),
        ("RandomThinPlateSpline", {"p": 1.0}, "kornia's RandomThinPlateSpline does not take labels along"),
    ],
)
def test_what_cannot_work_is_said_at_once(use, options, message):
    with pytest.raises(StackError, match=message):
        make_warp("augment", use, **options)


@pytest.mark.parametrize("make", [make_augmentation, make_warp])
def test_an_augmentation_without_a_name_is_said(make):
    with pytest.raises(StackError, match="strategy 'augment': kornia has no image augmentation ''"):
        make("augment", p=1.0)
