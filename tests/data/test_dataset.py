"""The forms of an item, and what is said of one that has none of them."""

import numpy as np
import pytest
import torch

from dalib import evaluate
from dalib.data.dataset import checked_item, label_of, labelled
from dalib.data.doctor import examine
from dalib.errors import DataError
from tests.tiny import tiny_model

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
