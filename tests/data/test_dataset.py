"""The forms of an item, and what is said of one that has none of them."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, random_split

from dalib import evaluate
from dalib.data.dataset import (
    absent_classes,
    checked_item,
    classes_of,
    label_of,
    label_pixels,
    labelled,
    own_classes,
    palette_of,
)
from dalib.data.doctor import examine
from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES
from tests.tiny import TinyData, tiny_model

IMAGE = torch.arange(3 * 12 * 16).remainder(256).to(torch.uint8).reshape(3, 12, 16)
LABEL = torch.zeros(12, 16, dtype=torch.uint8)
DEPTH = torch.rand(12, 16)


class Items:
    """A data set of whatever it is made from; its items are called street 0, street 1."""

    classes = ("a", "b", "c", "d", "e")

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def item_name(self, index):
        return f"street {index}"


@pytest.mark.parametrize(
    ("item", "label", "maps"),
    [
        ((IMAGE, LABEL), LABEL, []),
        ([IMAGE, LABEL], LABEL, []),
        ((IMAGE, LABEL, {"depth": DEPTH}), LABEL, ["depth"]),
        ((IMAGE, None, {"depth": DEPTH}), None, ["depth"]),
        ((IMAGE, LABEL, None), LABEL, []),
        ((IMAGE, None), None, []),
        ((IMAGE,), None, []),
        (IMAGE, None, []),
    ],
)
def test_an_item_has_an_image_and_may_have_a_label_and_further_maps(item, label, maps):
    read = checked_item(Items(item), 0)
    assert read.image is IMAGE and read.label is label and list(read.extra) == maps
    assert torch.equal(read.filled_label, torch.full((12, 16), 255) if label is None else label)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ((), "expected an image, (image, label) or (image, label, maps), found 0 values."),
        ((IMAGE, LABEL, {}, 1), "expected an image, (image, label) or (image, label, maps), found 4 values."),
        ({"image": IMAGE}, "expected an image uint8 (3, H, W), found dict."),
        (None, "expected an image uint8 (3, H, W), found None."),
        (
            (np.zeros((12, 16, 3), np.uint8), LABEL),
            "expected an image uint8 (3, H, W), found a NumPy array uint8 (12, 16, 3). "
            "Return torch.from_numpy(array).permute(2, 0, 1).",
        ),
        (
            (IMAGE, np.zeros((12, 16), np.uint8)),
            "expected a label uint8 (H, W) or None, found a NumPy array uint8 (12, 16). "
            "Return torch.from_numpy(array).",
        ),
        ((IMAGE, LABEL, DEPTH), "expected further maps as {name: tensor (H, W)}, found torch.float32 (12, 16)."),
        ((IMAGE, LABEL, {"depth": 1.5}), "expected the map 'depth' (H, W), found float."),
        (
            (IMAGE, LABEL, {"depth": DEPTH[:5]}),
            "expected the map 'depth' (12, 16), as its image, found torch.float32 (5, 16).",
        ),
        (
            (IMAGE, LABEL, {"weight": DEPTH}),
            "expected a map's name to be a word other than a stream's own fields, found 'weight'.",
        ),
    ],
)
def test_any_other_item_is_one_message_with_its_name(item, told):
    with pytest.raises(DataError) as caught:
        checked_item(Items(IMAGE, item), 1)
    assert str(caught.value) == f"street 1: {told}"


def test_a_label_alone_is_read_by_the_data_sets_own_method_and_else_with_its_image():
    class Labels(Items):
        def label(self, index):
            return LABEL + index

    assert label_of(Labels("no item"), 0) is not LABEL and torch.equal(label_of(Labels("no item"), 2), LABEL + 2)
    assert label_of(Items((IMAGE, LABEL)), 0) is LABEL and label_of(Items(IMAGE), 0) is None
    with pytest.raises(DataError, match=r"^street 7: expected train ids in 0..4 or 255, found 7.$"):
        label_of(Labels("no item"), 7)


def test_a_data_set_is_labelled_if_an_item_is():
    unlabelled = [IMAGE, (IMAGE, None), (IMAGE, torch.full_like(LABEL, 255))]
    assert not labelled(Items(*unlabelled)) and not labelled(Items())
    assert labelled(Items(*unlabelled, (IMAGE, LABEL)))


def test_images_without_labels_are_examined_and_scored_as_ignored_everywhere():
    assert examine(Items(IMAGE)).ignored == 1
    both, one = (evaluate(tiny_model(), Items(*items)) for items in ([(IMAGE, LABEL), IMAGE], [(IMAGE, LABEL)]))
    assert torch.equal(both.confusion, one.confusion) and both.images == 2


class Named:
    """Two items of two classes."""

    classes = ("ground", "thing")
    palette = ((1, 2, 3), (4, 5, 6))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return IMAGE, torch.full((12, 16), index, dtype=torch.uint8)


def test_classes_and_colours_are_found_through_the_wrappers_of_torch():
    whole = Named()
    for wrapped in (
        Subset(whole, [1]),
        random_split(whole, [1, 1])[1],
        ConcatDataset([whole, Subset(Subset(whole, [0]), [0])]),
    ):
        assert classes_of(wrapped) == Named.classes and palette_of(wrapped) == Named.palette
    assert own_classes(Subset(TinyData(), [0])) is None and len(classes_of(Subset(TinyData(), [0]))) == 19


def test_joined_data_sets_of_other_classes_or_order_are_refused():
    other = Named()
    other.classes = ("thing", "ground")
    with pytest.raises(DataError, match="they differ in their order"):
        classes_of(ConcatDataset([Named(), other]))


def test_ids_are_checked_against_the_classes_found_through_a_wrapper():
    with pytest.raises(DataError, match=r"expected train ids in 0\.\.4 or 255, found 7"):
        checked_item(Subset(Items((IMAGE, LABEL + 7)), [0]), 0)


def test_a_target_is_read_without_a_look_at_its_labels():
    assert checked_item(Items((IMAGE, "no label")), 0, with_label=False).label is None


def test_a_label_of_another_size_is_read_only_for_a_score_and_where_the_data_set_says_so():
    items = Items((IMAGE, LABEL[:6, :8]))
    with pytest.raises(DataError, match=r"expected a label uint8 \(12, 16\), as its image"):
        checked_item(items, 0, scored=True)
    items.labels_at_own_size = True
    assert checked_item(items, 0, scored=True).label.shape == (6, 8)
    with pytest.raises(DataError, match=r"expected a label uint8 \(12, 16\), as its image"):
        checked_item(items, 0)


def test_classes_without_a_pixel_are_named_and_masks_of_0_and_255_are_told_apart():
    pixels = torch.zeros(256, dtype=torch.int64)
    assert absent_classes(("a", "b"), pixels) == ""
    pixels[0] = 5
    assert absent_classes(("a", "b"), pixels) == "classes without a pixel: b."
    pixels[255] = 1
    assert "`ids: {0: a, 255: b}`" in absent_classes(("a", "b"), pixels)
    assert "255" not in absent_classes(("a", "b", "c"), pixels)
    assert "`ids: {0: background, 255: crack}`" in absent_classes(CITYSCAPES_CLASSES, pixels)
    assert "255" not in absent_classes(CITYSCAPES_CLASSES, pixels[[1, 0, *range(2, 256)]])
    pixels[1] = 1
    assert absent_classes(("a", "b"), pixels) == ""


def test_pixels_are_counted_in_items_spread_over_the_data_set():
    pixels = label_pixels(ConcatDataset([Named()] * 50))
    assert pixels.sum() == 32 * 12 * 16 and (pixels[:2] > 0).all()
