"""What a sampler sees of a stream's data: all but the target's labels."""

import pytest
import torch

from dalib.data import label_counts
from dalib.data.bad_items import BadItems
from dalib.data.dataset import checked_item, label_of
from dalib.data.sampled import Sampled
from dalib.errors import StackError
from tests.tiny import TinyData


class Cities(TinyData):
    """A data set with more to it than images and labels."""

    classes = ("a", "b", "c", "d", "e")
    city = "Zurich"

    def __getitem__(self, index):
        return *super().__getitem__(index), {"depth": self.images[index, 0]}

    def item_name(self, index):
        return f"street {index}"


def sampled(stream):
    return Sampled(Cities(3), stream, BadItems())


def test_of_a_labelled_stream_everything_can_be_read():
    data, seen = Cities(3), sampled("source")
    assert len(seen) == 3 and seen.classes == data.classes and seen.city == "Zurich"
    assert torch.equal(seen[1][1], data.labels[1]) and torch.equal(label_of(seen, 1), data.labels[1])
    assert torch.equal(label_counts(seen), label_counts(data)) and label_counts(seen).shape == (3, 5)


def test_of_the_target_no_label_can_be_read():
    data, seen = Cities(3), sampled("target")
    item = checked_item(seen, 2)
    assert torch.equal(item.image, data.images[2]) and item.label is None and list(item.extra) == ["depth"]
    assert len(seen) == 3 and seen.classes == data.classes and seen.item_name(2) == "street 2"
    for read in (lambda: label_counts(seen), lambda: label_of(seen, 0), lambda: seen.label(0)):
        with pytest.raises(StackError, match=r"of the target: labels of the target never reach training"):
            read()
    with pytest.raises(AttributeError):
        seen.labels  # noqa: B018
