"""Optimisers and schedules are torch's and the papers'."""

import pytest
import torch
from torch import nn

from dalib import Engine
from dalib.optim import OPTIMIZERS, SCHEDULES, constant, poly, sgd
from tests.tiny import Supervised, tiny_batch, tiny_model


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}),
        ("adam", torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.0}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.01}),
    ],
)
def test_a_named_optimiser_is_torchs_with_the_fields_defaults(name, kind, options):
    made = OPTIMIZERS[name](lr=0.1)([nn.Parameter(torch.zeros(1))])
    assert type(made) is kind
    assert {key: made.param_groups[0][key] for key in options} == options


def test_poly_follows_its_formula_from_1_to_0():
    factor = poly(steps=10, power=0.9)
    assert [factor(t) for t in range(11)] == pytest.approx([(1 - t / 10) ** 0.9 for t in range(11)])
    assert factor(12) == 0.0


def test_warmup_rises_linearly_to_the_curve():
    factor, plain = poly(steps=100, warmup=4), poly(steps=100)
    assert [factor(t) / plain(t) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_constant_stays():
    assert {constant(steps=5)(t) for t in range(9)} == {1.0}
    assert set(SCHEDULES) == {"poly", "constant"}


def test_the_engine_scales_each_groups_own_rate_by_the_step():
    def two_rates(parameters):
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": rest, "lr": 0.1}])

    engine = Engine(tiny_model(), [Supervised()], optimizer=two_rates, schedule=lambda t: 0.5**t, device="cpu")
    rates = []
    for index in range(3):
        engine.step(tiny_batch(index))
        rates.append([group["lr"] for group in engine.optimizer.param_groups])
    assert rates == [[1.0, 0.1], [0.5, 0.05], [0.25, 0.025]]


def test_without_a_schedule_the_rate_stays():
    engine = Engine(tiny_model(), [Supervised()], optimizer=sgd(lr=0.3), device="cpu")
    engine.step(tiny_batch())
    assert engine.optimizer.param_groups[0]["lr"] == 0.3
