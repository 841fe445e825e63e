"""Joined data sets are one data set with the items of all."""

import pytest
import torch

from dalib.data.dataset import label_of
from dalib.data.joined import Joined
from dalib.errors import DataError
from tests.tiny import TinyData


class Named(TinyData):
    """TinyData with names of its own, and labels at another size for evaluation."""

    def __init__(self, name, *sizes):
        super().__init__(*sizes)
        self.name = name

    def item_name(self, index):
        return f"{self.name}_{index}.png"

    def label(self, index):
        return self.labels[index].clone().fill_(3)

    def for_evaluation(self):
        return Named(f"scored {self.name}", len(self))


def test_the_items_of_all_sets_come_one_after_the_other():
    a, b = TinyData(3), Named("b", 2)
    joined = Joined({"a": a, "empty": TinyData(0), "b": b})
    assert len(joined) == 5
    assert all(torch.equal(joined[i][0], a.images[i]) for i in range(3))
    assert all(torch.equal(joined[3 + i][1], b.labels[i]) for i in range(2))
    assert [joined.item_name(i) for i in (2, 3)] == ["item 2", "b_0.png"]
    assert torch.equal(label_of(joined, 0), a.labels[0]) and (label_of(joined, 4) == 3).all()
    for outside in (-1, 5):
        with pytest.raises(IndexError, match=f"have 5 images; there is no image {outside}"):
            joined[outside]


def test_sets_of_other_classes_do_not_join():
    other = TinyData(2)
    other.classes = ("road", "car")
    with pytest.raises(DataError, match=r"data.source\[0\] has 19 classes and data.source\[1\] has 2; they differ in"):
        Joined({"data.source[0]": TinyData(2), "data.source[1]": other})


def test_each_set_is_scored_as_it_asks_for():
    scored = Joined({"a": TinyData(1), "b": Named("b", 2)}).for_evaluation()
    assert [scored.item_name(i) for i in range(3)] == ["item 0", "scored b_0.png", "scored b_1.png"]
