"""A segmentation loss without a gradient on the classes that occur is refused before the first step."""

import pytest
import torch

from dalib import Engine, Strategy, create_strategy, hookimpl
from dalib.core.trained_classes import untrained
from dalib.errors import DataError
from dalib.losses import DiceLoss, LovaszLoss, SegmentationLoss
from tests.tiny import Entropy, Supervised, TinyData, tiny_model

CLASSES = tuple("abcde")
PIXELS = torch.zeros(256, dtype=torch.int64).index_fill_(0, torch.tensor([0, 3, 255]), 9)


def found(loss, *strategies, pixels=PIXELS):
    return untrained(strategies or (Supervised(),), loss, CLASSES, {"source": pixels})


class Few(TinyData):
    """Labels of the classes 0 and 3."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label % 2 * 3


@pytest.mark.parametrize("weights", [[0, 1, 1, 0, 1], [0.0, 0.0, 1e-6, 0.0, 0.0]])
def test_fit_refuses_class_weights_of_0_for_all_classes_that_occur(weights):
    engine = Engine(tiny_model(), [Supervised()], device="cpu", loss=SegmentationLoss(class_weights=weights))
    before = [value.clone() for value in engine.model.state_dict().values()]
    with pytest.raises(DataError, match=r"'supervised': the class_weights .* labels of the source \(0, 3\), so it"):
        engine.fit(Few(), steps=1, batch_size=2)
    assert engine.index == 0 and all(map(torch.equal, before, engine.model.state_dict().values()))
    engine.fit(TinyData(), steps=1, batch_size=2)


@pytest.mark.parametrize(
    "loss",
    [
        SegmentationLoss(),
        SegmentationLoss(class_weights=[0, 0, 0, 1e-9, 0]),
        SegmentationLoss(ohem=0.01, min_kept=0),
        SegmentationLoss(class_weights=[0, 0, 0, 1, 0], ohem=0.01, min_kept=0),
        SegmentationLoss(auxiliary=0),
        DiceLoss(),
        LovaszLoss(),
        lambda outputs, label, weight=None, *, across=None: outputs["boundary"].sum(),
    ],
)
@pytest.mark.parametrize("present", [[0, 3], [3], [0, 1, 2, 3, 4]])
def test_a_loss_that_trains_on_one_of_them_is_none_and_one_of_other_outputs_is_left(loss, present):
    pixels = torch.zeros(256, dtype=torch.int64).index_fill_(0, torch.tensor(present), 1)
    assert found(loss, pixels=pixels) == {}


def test_a_loss_that_is_flat_in_even_logits_alone_is_none():
    assert found(lambda outputs, label, weight=None, *, across=None: outputs["logits"].var(1).mean()) == {}


@pytest.mark.parametrize("make", [lambda x: x.detach().sum(), lambda x: 0 * x.sum(), lambda x: (x * 0).sum() + 1])
def test_a_loss_of_ones_own_that_leaves_nothing_is_told(make):
    def loss(outputs, label, weight=None, *, across=None):
        return make(outputs["logits"])

    assert "strategy 'supervised': the segmentation loss has no gradient on any class" in found(loss)["source"]


FLAT = SegmentationLoss(class_weights=[0, 1, 1, 0, 1])


def test_what_takes_no_loss_of_the_labels_is_left_alone():
    class Looks(Strategy):
        requires = frozenset({"source.label"})

        @hookimpl
        def pre_batch(self, step):
            pass

    mixes = create_strategy("dacs")
    assert found(FLAT, Looks(), Entropy(), mixes, Supervised(weight=0.0), create_strategy("augment")) == {}
    assert found(FLAT, Supervised(weight={"from": 0, "to": 1, "steps": 9})) != {}
    assert found(FLAT, create_strategy("supervised", class_weights=[1, 0, 0, 0, 0])) == {}
    assert found(SegmentationLoss(), create_strategy("supervised", class_weights=[0, 1, 1, 0, 1])) != {}
    assert found(FLAT, pixels=torch.zeros(256, dtype=torch.int64)) == {}
