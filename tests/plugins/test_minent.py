"""Entropies against published numbers, float64 and half precision."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dalib import Engine, create_strategy
from dalib.errors import StackError
from dalib_plugins.minent import MinEnt, normalized_entropy, self_information
from tests.tiny import tiny_batch, tiny_model


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


@pytest.mark.parametrize(
    ("use", "options"),
    [("minent", {}), ("fda", {"entropy": {}}), ("adversarial", {"input": "self_information"})],
)
def test_entropy_of_a_single_class_is_refused_at_setup_by_all_that_use_it(use, options):
    with pytest.raises(StackError, match=rf"'{use}': the entropy of predictions needs 2 classes .* the model has 1;"):
        Engine(tiny_model(num_classes=1), [create_strategy(use, **options)], device="cpu")
    assert Engine(tiny_model(num_classes=2), [create_strategy(use, **options)], device="cpu")
