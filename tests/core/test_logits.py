"""A network of one's own that returns probabilities is refused; its loss would take the softmax twice."""

import pytest
import torch
from torch import nn

from dalib import Engine, StackError, wrap_model
from dalib.core.trained_classes import check_logits
from dalib.losses import DiceLoss, SegmentationLoss
from tests.tiny import Supervised, TinyData, TinyModel


class Own(nn.Module):
    """A network with BatchNorm and dropout whose last step is ``end``."""

    def __init__(self, end):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 5, 1)
        )
        self.end = end

    def forward(self, x):
        return self.end(self.layers(x))


class OwnModel(TinyModel):
    """A model that needs no wrapper."""

    def forward(self, x, outputs=False):
        found = super().forward(x, outputs)
        return {**found, "logits": found["logits"].softmax(1)} if outputs else found.softmax(1)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("make", [lambda: wrap_model(Own(lambda x: x.softmax(1)), 5), lambda: OwnModel()])
@pytest.mark.parametrize("loss", [None, DiceLoss()])
def test_probabilities_are_refused_before_the_first_step_changes_anything(make, loss):
    engine = Engine(make(), [Supervised()], device="cpu", loss=loss)
    before = state_of(engine.model)
    with pytest.raises(StackError, match=r"lie in \[0, 1\] and sum to 1 .* return what its softmax is given"):
        engine.fit(TinyData(), steps=1, batch_size=2)
    assert same(engine.model, before) and engine.index == 0


def log_softmax(x):
    return x.log_softmax(1)


@pytest.mark.parametrize("end", [nn.Identity(), log_softmax, torch.sigmoid, lambda x: x.softmax(1) + 1])
def test_other_outputs_train(end):
    model = wrap_model(Own(end), 5)
    Engine(model, [Supervised()], device="cpu").fit(TinyData(), steps=1, batch_size=2)


def test_a_loss_of_ones_own_may_take_probabilities():
    def likelihood(outputs, label, weight=None, *, across):
        p = outputs["logits"].clamp(min=1e-6).log()
        return nn.functional.nll_loss(p, label, ignore_index=255)

    Engine(wrap_model(Own(lambda x: x.softmax(1)), 5), [Supervised()], device="cpu", loss=likelihood).fit(
        TinyData(), steps=1, batch_size=2
    )


def test_a_softmax_in_evaluation_alone_is_no_fault():
    class Deployed(Own):
        def forward(self, x):
            return super().forward(x) if self.training else super().forward(x).softmax(1)

    Engine(wrap_model(Deployed(nn.Identity()), 5), [Supervised()], device="cpu").fit(TinyData(), steps=1, batch_size=2)


def test_a_network_that_cannot_take_the_trial_trains():
    def small(x):
        assert x.shape[-1] == 7
        return x

    Engine(wrap_model(Own(small), 5), [Supervised()], device="cpu").fit(TinyData(), steps=1, batch_size=2)


def test_the_trial_moves_no_statistics_no_modes_and_no_generator():
    model = wrap_model(Own(nn.Identity()), 5)
    model.network.layers[1].eval()
    before, modes, random = state_of(model), [m.training for m in model.modules()], torch.get_rng_state()
    check_logits(model, SegmentationLoss())
    assert same(model, before) and modes == [m.training for m in model.modules()]
    assert torch.equal(torch.get_rng_state(), random)
