"""Entropies against published numbers, float64 and half precision."""

import copy
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dalib import Engine, create_strategy
from dalib.errors import StackError
from dalib_plugins.minent import MinEnt, charbonnier, normalized_entropy, self_information
from tests.tiny import TinyModel, tiny_batch, tiny_model


class Coarse(TinyModel):
    """Gives logits at a quarter of the size, too."""

    def forward(self, x: torch.Tensor, outputs: bool = False):
        found = super().forward(x, outputs)
        return {**found, "low_res": F.avg_pool2d(found["logits"], 4)} if outputs else found


def test_equals_the_definition_in_float64():
    logits = torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(0)) * 5
    p = logits.double().softmax(1)
    expected = -(p * p.log()).sum(1) / np.log(7)
    torch.testing.assert_close(normalized_entropy(logits).double(), expected, atol=1e-6, rtol=1e-6)


def test_certainty_is_zero_and_ignorance_one():
    logits = torch.zeros(1, 4, 1, 2)
    logits[0, 2, 0, 1] = 1000.0
    torch.testing.assert_close(normalized_entropy(logits), torch.tensor([[[1.0, 0.0]]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_of_half_precision_give_finite_values_and_gradients(dtype):
    logits = torch.tensor([60000.0, -60000.0, 0.0], dtype=dtype).view(1, 3, 1, 1).requires_grad_()
    entropy = normalized_entropy(logits)
    entropy.sum().backward()
    assert entropy.dtype == torch.float32
    assert entropy.isfinite().all() and logits.grad.isfinite().all()


def test_equals_advents_numbers(shared: Path):
    golden = np.load(shared / "golden" / "losses.npz")
    logits = torch.from_numpy(golden["logits"])
    assert normalized_entropy(logits).mean().item() == pytest.approx(golden["minent"].item(), rel=1e-6)
    torch.testing.assert_close(self_information(logits), torch.from_numpy(golden["self_information"]))


def test_the_strategy_minimises_the_targets_entropy():
    engine = Engine(tiny_model(), [MinEnt()], device="cpu")
    batch = tiny_batch()
    entropies = [engine.step(batch)["minent/entropy"].item() for _ in range(5)]
    assert entropies == sorted(entropies, reverse=True) and entropies[-1] < entropies[0]


def test_the_penalty_equals_fdas_number(shared: Path):
    golden = np.load(shared / "golden" / "losses.npz")
    entropy = normalized_entropy(torch.from_numpy(golden["logits"])) * np.log(19) / 2.9444  # its rounded constant
    assert charbonnier(entropy, 2.0).mean().item() == pytest.approx(golden["fda_entropy_eta2"].item(), rel=1e-6)


def test_with_eta_the_strategy_trains_by_fdas_penalty_of_the_output_that_is_named():
    """Weights after a step are, bit for bit, those of a loss written out."""
    model = Coarse().to(memory_format=torch.channels_last)
    sgd = partial(torch.optim.SGD, lr=0.1)
    engine = Engine(
        copy.deepcopy(model), [MinEnt(weight=0.005, eta=2.0, output="low_res")], optimizer=sgd, device="cpu"
    )
    batch = tiny_batch()
    term = engine.step(batch)["minent/entropy"]
    log_p = model.train()(batch["target"].image, outputs=True)["low_res"].log_softmax(1)
    entropy = (-log_p.exp() * log_p / math.log(5)).sum(1)
    penalty = (entropy.square() + 1e-8).pow(2.0).mean()
    optimizer = sgd(model.parameters())
    (0.005 * penalty).backward()
    optimizer.step()
    assert torch.equal(term, penalty.detach())
    assert all(torch.equal(p, q) for p, q in zip(engine.model.parameters(), model.parameters(), strict=True))


def test_auxiliary_logits_are_an_output_like_any():
    terms = Engine(tiny_model(), [MinEnt(output="aux.1")], device="cpu").step(tiny_batch())
    model = tiny_model().train()
    auxiliary = model(tiny_batch()["target"].image, outputs=True)["aux.1"]
    torch.testing.assert_close(terms["minent/entropy"], normalized_entropy(auxiliary).mean().detach())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("low_res", "'minent' reads the output target.low_res, which this model does not give"),
        ("features", "'minent': output 'features' has 8 channels, and logits have 5, one per class; take `logits`"),
    ],
)
def test_an_output_that_is_missing_or_has_no_channel_per_class_is_named(output, message):
    with pytest.raises(StackError, match=message):
        Engine(tiny_model(), [MinEnt(output=output)], device="cpu").step(tiny_batch())


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("minent", {}),
        ("adversarial", {}),
        ("adversarial", {"input": "self_information"}),
        ("supervised", {}),
        ("dacs", {}),
    ],
)
def test_a_single_class_is_refused_at_setup_by_all_whose_loss_is_then_nothing(use, options):
    with pytest.raises(StackError, match=rf"strategy '{use}' needs 2 classes or more, and the model has 1: every"):
        Engine(tiny_model(num_classes=1), [create_strategy(use, **options)], device="cpu")
    assert Engine(tiny_model(num_classes=2), [create_strategy(use, **options)], device="cpu")
