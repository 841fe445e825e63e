"""Every bundled strategy trains alike with and without labels of the target."""

import pytest
import torch

from dalib import Engine, create_strategy
from tests.plugins.test_registration import OPTIONS, make
from tests.tiny import TinyData, tappable_model

SIZE = (41, 50)


class Unlabelled(TinyData):
    """The same images, whose labels are as ``form`` says."""

    def __init__(self, form):
        super().__init__(4, SIZE, seed=1)
        self.form = form

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return {
            "labelled": (image, label),
            "alone": image,
            "none": (image, None),
            "ignored": (image, torch.full_like(label, 255)),
            "other": (image, label.long()[None] - 1),
        }[self.form]


def trained(name, form):
    stack = [make(name, OPTIONS[name])]
    if name != "supervised":
        stack.append(create_strategy("supervised"))
    engine = Engine(tappable_model(), stack, device="cpu")
    engine.fit(TinyData(4, SIZE), Unlabelled(form), steps=2, batch_size=2)
    return engine


@pytest.fixture(scope="module")
def labelled():
    return {name: trained(name, "labelled") for name in OPTIONS}


@pytest.mark.parametrize("form", ["alone", "none", "ignored", "other"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_strategy_trains_the_same_where_the_target_has_no_labels_or_any(name, form, labelled):
    expected, found = labelled[name].model.state_dict(), trained(name, form).model.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
