"""BatchNorm of the target against a plain reference, and what happens to the student."""

import copy

import pytest
import torch
from torch import nn

from dalib import Engine, create_strategy, wrap_model
from dalib.errors import StackError
from dalib_plugins.bn_adapt import BnAdapt
from dalib_plugins.crf import Crf
from tests.tiny import Supervised, TinyData, tiny_batch, tiny_model


def trained():
    """Return a tiny network in float64 with running statistics of its own."""
    model = tiny_model()
    Engine(model, [Supervised()], device="cpu").step(tiny_batch(0))
    return model.eval().double()


def images(seed, batch=1):
    return torch.rand(batch, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** 2


def reference(model, x, alpha, carry=False):
    """Logits by formulas alone: running = (1 - a) source + a batch, of the unbiased variance.

    With ``carry`` the running statistics of ``model`` are moved.
    """
    for layer in model.body:
        if isinstance(layer, nn.BatchNorm2d):
            values = x.movedim(1, 0).flatten(1)
            count = values.shape[1]
            mean = values.sum(1) / count
            variance = ((values - mean[:, None]) ** 2).sum(1) / (count - 1)
            mean = (1 - alpha) * layer.running_mean + alpha * mean
            variance = (1 - alpha) * layer.running_var + alpha * variance
            if carry:
                layer.running_mean, layer.running_var = mean, variance
            scale = layer.weight / (variance + layer.eps).sqrt()
            x = (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
        else:
            x = layer(x)
    return model.head(x)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_statistics_are_a_blend_of_the_networks_and_the_batchs(alpha, batch):
    model = trained()
    predict = BnAdapt(alpha=alpha).predictor(copy.deepcopy(model), None)
    assert predict is None  # the network adapts by itself, whatever predicts with it
    adapting = copy.deepcopy(model)
    BnAdapt(alpha=alpha).predictor(adapting, adapting)
    with torch.no_grad():
        for seed in (1, 2):  # each batch from the network's own statistics
            torch.testing.assert_close(
                adapting(images(seed, batch)), reference(model, images(seed, batch), alpha), rtol=1e-10, atol=1e-10
            )
        if not alpha:
            torch.testing.assert_close(adapting(images(1)), model(images(1)), rtol=0, atol=0)


def test_statistics_can_go_on_from_batch_to_batch():
    model = trained()
    adapting, expected = copy.deepcopy(model), copy.deepcopy(model)
    BnAdapt(alpha=0.3, carry=True).predictor(adapting, adapting)
    with torch.no_grad():
        for seed in (1, 2, 3):
            wanted = reference(expected, images(seed), 0.3, carry=True)
            torch.testing.assert_close(adapting(images(seed)), wanted, rtol=1e-10, atol=1e-10)


def test_a_layer_that_sees_one_value_per_channel_keeps_its_own_statistics():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).eval()
    model[1].running_mean.fill_(0.25)
    adapting = copy.deepcopy(model)
    BnAdapt(alpha=1.0).predictor(adapting, adapting)
    one, two = torch.rand(1, 3, 4, 4), torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        assert not torch.allclose(adapting(two), model(two))
        assert torch.equal(adapting(one), model(one))  # and does not keep those of the batch before


@pytest.mark.parametrize("name", ["bn_adapt", "tent"])
def test_the_student_stays_as_it_is_and_each_evaluation_begins_anew(name):
    engine = Engine(tiny_model(), [Supervised(), create_strategy(name)], device="cpu")
    engine.step(tiny_batch())
    before = {key: value.clone() for key, value in engine.model.state_dict().items()}
    asked = [parameter.requires_grad for parameter in engine.model.parameters()]
    data = TinyData(6)
    results = [engine.evaluate(data) for _ in range(2)]
    assert torch.equal(results[0].confusion, results[1].confusion)
    assert all(torch.equal(value, engine.model.state_dict()[key]) for key, value in before.items())
    assert [parameter.requires_grad for parameter in engine.model.parameters()] == asked
    assert engine.model.training and all(parameter.grad is not None for parameter in engine.model.body.parameters())
    engine.step(tiny_batch(1))


def test_it_changes_what_is_predicted_and_others_may_stand_around_it():
    plain = Engine(trained().float(), [Supervised()], device="cpu")
    wanted = reference(trained(), images(1), 1.0).float()
    for stack in ([BnAdapt(alpha=1.0), Crf(iterations=1)], [Crf(iterations=1), BnAdapt(alpha=1.0)]):
        engine = Engine(trained().float(), stack, device="cpu")
        found = engine.predictor(engine.model)(images(1).float())
        torch.testing.assert_close(found, Crf(iterations=1).refine(wanted, images(1).float()), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(plain.predictor(plain.model)(images(1).float()), wanted, atol=1e-2)


@pytest.mark.parametrize("name", ["bn_adapt", "tent"])
def test_a_network_without_running_statistics_is_refused_before_a_training(name):
    model = wrap_model(nn.Conv2d(3, 5, 1), 5)
    with pytest.raises(StackError, match=f"strategy '{name}' adapts the running statistics of BatchNorm, and"):
        Engine(model, [Supervised(), create_strategy(name)], device="cpu")
