"""Rare class sampling: its probabilities by number, what is drawn, and crops that hold the class."""

import logging
import math

import pytest
import torch

from dalib import Batch, Engine, StackError, create_strategy
from dalib.data.bad_items import BadItems
from dalib.data.joined import Joined
from dalib.data.sampled import Sampled
from dalib_plugins.rare_class_sampling import class_probabilities, holding
from tests.plugins.probe import Probe
from tests.plugins.test_no_waits import watched  # noqa: F401
from tests.tiny import Supervised, tiny_model

SIZE = (16, 32)


class Blocks:
    """Class 0 with a block of a class in each image; the red of an image is its row, the green its column."""

    classes = ("road", "wall", "sign")

    def __init__(self, *blocks):
        self.blocks = blocks  # (class, height, width, top, left)

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, index):
        label = torch.zeros(SIZE, dtype=torch.uint8)
        what, height, width, top, left = self.blocks[index]
        label[top : top + height, left : left + width] = what
        rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.uint8) for side in SIZE), indexing="ij")
        return torch.stack((rows, columns, label)), label, {"depth": columns.float()}


def drawn(data, positions, seed=0, stream="source", **options):
    """Return the index of the image at each position."""
    strategy = create_strategy("rare_class_sampling", stream=stream, **options)
    engine = Engine(tiny_model(num_classes=3), [strategy], device="cpu")
    draws = engine.stack.draws({stream: Sampled(data, stream, BadItems())}, seed)
    return [draws[stream](position) for position in positions]


def cropped(data, steps=1, batch_size=4, **options):
    """Return the source of each step, cropped."""
    probe, seen = Probe(), []
    stack = [create_strategy("rare_class_sampling", **options), probe, Supervised()]
    engine = Engine(tiny_model(num_classes=3), stack, device="cpu")
    for _ in engine.iterate(data, steps=steps, batch_size=batch_size):
        seen.append(probe.batch["source"])
    return seen


def test_probabilities_are_the_softmax_of_the_rarity_of_the_classes_that_occur():
    counts = torch.tensor([[60, 9, 0, 0], [30, 0, 1, 0]])
    for temperature in (0.01, 0.1, 1.0):
        powers = [math.exp((1 - share) / temperature) for share in (0.9, 0.09, 0.01)]
        expected = [power / sum(powers) for power in powers] + [0.0]
        assert class_probabilities(counts, temperature).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_published_temperature_prefers_the_rarest_class_as_the_formula_says():
    found = class_probabilities(torch.tensor([[9_900, 98, 2]]), 0.01).tolist()
    rarest = 1 / (1 + math.exp(-0.96) + math.exp(-98.98))
    assert found == pytest.approx([rarest * math.exp(-98.98), rarest * math.exp(-0.96), rarest], rel=1e-12)


def test_images_of_a_class_have_more_than_the_least_pixels_or_any_where_none_has_so_many():
    counts = torch.tensor([[10, 3, 0, 0], [11, 2, 0, 0], [0, 0, 0, 50]])
    expected = [[False, True, False, False], [True, True, False, False], [False, False, False, True]]
    assert holding(counts, 10).tolist() == expected


def test_images_are_drawn_as_often_as_their_classes_and_uniformly_among_those_of_one():
    data = Blocks((1, 8, 8, 0, 0), (1, 8, 8, 0, 0), (2, 4, 8, 0, 0), (0, 1, 1, 0, 0))
    pixels = torch.tensor([4 * 512 - 128 - 32, 128, 32]).double()
    probabilities = (1 - pixels / pixels.sum()).div(0.5).exp()
    of_class = (probabilities / probabilities.sum()).tolist()
    expected = [of_class[0] / 4 + of_class[1] / 2] * 2 + [of_class[0] / 4 + of_class[2], of_class[0] / 4]
    indices = torch.tensor(drawn(data, range(2_000), temperature=0.5, min_pixels=20))
    found = (indices.bincount(minlength=4) / 2_000).tolist()
    assert found == pytest.approx(expected, abs=0.045)  # four deviations


def test_a_draw_depends_on_seed_and_position_alone():
    data = Blocks(*[(1, 8, 8, 0, 0)] * 50)
    forwards = drawn(data, range(20))
    assert drawn(data, reversed(range(20))) == forwards[::-1] and len(set(forwards)) > 10
    assert drawn(data, range(20), seed=1) != forwards


def test_an_image_with_too_few_pixels_is_not_drawn_for_their_class():
    data = Blocks((2, 2, 2, 0, 0), (2, 4, 4, 0, 0), (1, 4, 4, 0, 0))
    counts = torch.tensor(drawn(data, range(200), temperature=0.1, min_pixels=15)).bincount(minlength=3)
    assert counts[0] == 0 and counts[1] > 50 and counts[2] > 50


def test_any_labelled_stream_may_be_drawn():
    data = Blocks((2, 4, 4, 0, 0), (0, 1, 1, 0, 0))
    assert set(drawn(data, range(50), stream="few", min_pixels=4, temperature=0.001)) == {0}


def test_classes_that_no_image_has_enough_of_are_named_and_drawn_all_the_same(caplog):
    data = Blocks((2, 2, 4, 0, 0), (0, 1, 1, 0, 0), (0, 1, 1, 0, 0))
    with caplog.at_level(logging.WARNING, "dalib"):
        assert set(drawn(data, range(50), min_pixels=100, temperature=0.001)) == {0}
    assert "'rare_class_sampling': no image of the source data has more than 100 pixels of sign (8)" in caplog.text


def test_crops_hold_the_class_as_often_as_their_tries_make_likely():
    data = Blocks((2, 4, 4, 12, 28))
    options = {
        "temperature": 0.001,
        "min_pixels": 12,
        "crop": (8, 8),
        "crop_share": 0.75,
    }  # more than 9 of its 16  # more than 9 of its 16 pixels
    good = sum(r * c > 9 for r in (1, 2, 3, 4) for c in (1, 2, 3, 4)) / (9 * 25)  # of the crop's offsets
    for tries in (1, 10, 60):
        batches = cropped(data, 10, 100, tries=tries, **options)
        held = torch.cat([(source.label == 2).sum((1, 2)) > 9 for source in batches]).float().mean().item()
        assert held == pytest.approx(1 - (1 - good) ** tries, abs=0.04), tries


def test_the_class_of_a_crop_is_drawn_as_the_images_class_was():
    """Image 0 is drawn for the road and for the sign, image 1 for the road alone."""
    data = Blocks((2, 16, 8, 0, 24), (0, 1, 1, 0, 0))
    pixels = torch.tensor([1024 - 128, 128]).double()
    road, sign = (1 - pixels / pixels.sum()).div(0.5).softmax(0).tolist()
    (source,) = cropped(data, 1, 800, temperature=0.5, min_pixels=100, crop=(16, 8), crop_share=1.0, tries=200)
    at_sign = (source.label == 2).sum((1, 2)) > 100
    first = source.index == 0
    assert first.float().mean().item() == pytest.approx(sign + road / 2, abs=0.05)
    assert at_sign[first].float().mean().item() == pytest.approx(sign / (sign + road / 2), abs=0.05)
    assert not at_sign[~first].any()


def test_label_weight_and_maps_are_cropped_with_the_image():
    data = Blocks((2, 4, 4, 12, 28), (1, 8, 8, 4, 4))
    (source,) = cropped(data, 1, 16, min_pixels=10, crop=(8, 12), temperature=0.5)
    image = (source.image * 255).round()
    assert source.image.shape == (16, 3, 8, 12)
    assert torch.equal(image[:, 2], source.label.float()) and torch.equal(image[:, 1], source.extra["depth"])
    assert (image[:, 0].diff(dim=1) == 1).all() and (image[:, 1].diff(dim=2) == 1).all()
    assert torch.equal(source.weight, torch.ones(16, 8, 12))
    assert len({tuple(corner) for corner in image[:, :2, 0, 0].tolist()}) > 8


def test_a_crop_larger_than_the_image_has_no_label_and_no_weight_outside():
    (source,) = cropped(Blocks((2, 4, 4, 12, 28)), 1, 2, min_pixels=10, crop=(20, 40))
    outside = source.label == 255
    assert outside.sum() == 2 * (20 * 40 - 16 * 32) and (source.weight == (~outside).float()).all()


def test_crops_of_batches_that_no_data_set_gave_are_refused():
    strategy = create_strategy("rare_class_sampling", crop=(8, 8))
    engine = Engine(tiny_model(num_classes=3), [strategy, Supervised()], device="cpu")
    (source,) = cropped(Blocks((2, 4, 4, 12, 28)), crop=(8, 8))
    with pytest.raises(StackError, match="'rare_class_sampling' crops by the classes of the data set that `fit`"):
        engine.step(Batch({"source": source}))


def test_shares_of_joined_data_sets_and_data_without_labels_are_refused():
    data = Blocks((2, 4, 4, 0, 0))
    with pytest.raises(StackError, match="by their classes, so not by `share` of their data sets"):
        drawn(Joined({"a": data, "b": data}, [1.0, 2.0]), [0])
    assert drawn(Joined({"a": data, "b": data}), [0])[0] in (0, 1)
    with pytest.raises(StackError, match="no image of the source data has a labelled pixel"):
        drawn(Blocks((255, *SIZE, 0, 0)), [0])


def test_drawing_crops_never_waits_for_the_device(watched):  # noqa: F811
    cropped(Blocks((2, 4, 4, 12, 28)), crop=(8, 8), min_pixels=10)
    assert ("rare_class_sampling", "pre_batch") in watched
