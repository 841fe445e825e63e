"""TENT against a plain reference in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dalib import Engine, Strategy, hookimpl
from dalib.errors import StackError
from dalib_plugins.bn_adapt import BnAdapt
from dalib_plugins.crf import Crf
from dalib_plugins.tent import Tent
from tests.plugins.test_bn_adapt import images, trained
from tests.tiny import Supervised, tiny_model


def reference(model, batches, lr, momentum, weight_decay):
    """Return each batch's logits: batch statistics, and between batches one step of SGD on scales and shifts."""
    layers = [layer for layer in model.body if isinstance(layer, nn.BatchNorm2d)]
    learned = [p.detach().clone() for layer in layers for p in (layer.weight, layer.bias)]
    velocity = [torch.zeros_like(p) for p in learned]
    found = []
    for number, x in enumerate(batches):
        given = [p.requires_grad_() for p in learned]
        pairs = iter(zip(given[::2], given[1::2], strict=True))
        for layer in model.body:
            x = F.batch_norm(x, None, None, *next(pairs), training=True, eps=layer.eps) if layer in layers else layer(x)
        logits = F.conv2d(x, model.head.weight.detach(), model.head.bias.detach())
        p = logits.softmax(1)
        gradients = torch.autograd.grad(-(p * p.log()).sum(1).mean(), given)
        found.append(logits.detach())
        for i, gradient in enumerate(gradients):
            gradient = gradient + weight_decay * learned[i].detach()
            velocity[i] = momentum * velocity[i] + gradient if number else gradient
            learned[i] = learned[i].detach() - lr * velocity[i]
    return found


@pytest.mark.parametrize("options", [{}, {"lr": 0.5, "momentum": 0.5, "weight_decay": 0.1}])
def test_each_batch_is_predicted_and_then_trains_scales_and_shifts(options):
    model, batches = trained(), [images(seed) for seed in range(4)]
    expected = reference(model, batches, **({"lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4} | options))
    adapting = copy.deepcopy(model)
    predict = Tent(**options).predictor(adapting, adapting)
    with torch.no_grad():
        for x, wanted in zip(batches, expected, strict=True):
            found = predict(x)
            assert not found.requires_grad
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    unchanged, changed = dict(model.named_parameters()), dict(adapting.named_parameters())
    of_norms = {name for name in unchanged if name.startswith(("body.1.", "body.4."))}
    assert {name for name in unchanged if not torch.equal(unchanged[name], changed[name])} == of_norms


def test_it_warns_where_a_stack_is_built(caplog):
    Engine(tiny_model(), [Supervised(), Tent()], device="cpu")
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "32 to 16 % mIoU" in record.getMessage()


def test_it_takes_the_place_of_bn_adapt():
    with pytest.raises(StackError, match="strategies 'bn_adapt' and 'tent' both adapt the model"):
        Engine(tiny_model(), [Supervised(), BnAdapt(), Tent()], device="cpu")


def test_gradients_that_a_predictor_before_it_cuts_are_told():
    class Cuts(Strategy):
        @hookimpl
        def predictor(self, model, predict):
            return lambda images: predict(images).detach()

    engine = Engine(tiny_model(), [Cuts(), Tent()], device="cpu")
    with pytest.raises(StackError, match="strategy 'tent' needs gradients through what predicts before it"):
        engine.predictor(engine.model)(torch.rand(1, 3, 8, 8))
    around = Engine(tiny_model(), [Tent(), Cuts(), Crf(iterations=1)], device="cpu")
    assert around.predictor(around.model)(torch.rand(1, 3, 8, 8)).shape == (1, 5, 8, 8)


def test_it_adapts_in_half_precision_too():
    engine = Engine(tiny_model(), [Tent(lr=1.0, momentum=0.0, weight_decay=0.0)], device="cpu", precision="bf16")
    predict, x = engine.predictor(engine.model), torch.rand(1, 3, 16, 16)
    first, second = predict(x), predict(x)

    def entropy(logits):
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    assert entropy(second) < entropy(first)
