"""A network of one's own that returns probabilities is refused; its loss would take the softmax twice."""

import pytest
import torch
from torch import nn

from dalib import Engine, StackError, wrap_model
from dalib.losses import DiceLoss
from tests.tiny import Supervised, TinyModel, tiny_batch, tiny_model


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
        engine.step(tiny_batch())
    assert same(engine.model, before) and engine.index == 0


def log_softmax(x):
    return x.log_softmax(1)


@pytest.mark.parametrize("end", [nn.Identity(), log_softmax, torch.sigmoid, lambda x: x.softmax(1) + 1])
def test_other_outputs_train(end):
    model = wrap_model(Own(end), 5)
    Engine(model, [Supervised()], device="cpu").step(tiny_batch())


def test_a_loss_of_ones_own_may_take_probabilities():
    def likelihood(outputs, label, weight=None, *, across):
        p = outputs["logits"].clamp(min=1e-6).log()
        return nn.functional.nll_loss(p, label, ignore_index=255)

    Engine(wrap_model(Own(lambda x: x.softmax(1)), 5), [Supervised()], device="cpu", loss=likelihood).step(tiny_batch())


def test_a_softmax_in_evaluation_alone_is_no_fault():
    class Deployed(Own):
        def forward(self, x):
            return super().forward(x) if self.training else super().forward(x).softmax(1)

    Engine(wrap_model(Deployed(nn.Identity()), 5), [Supervised()], device="cpu").step(tiny_batch())


def test_the_first_step_alone_is_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr("dalib.core.step._refuse_probabilities", lambda logits: seen.append(logits.shape))
    engine = Engine(tiny_model(), [Supervised()], device="cpu")
    engine.step(tiny_batch(), tiny_batch(1))
    engine.step(tiny_batch())
    assert seen == [(2, 5, 12, 16)]
