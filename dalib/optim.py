"""Optimisers and learning-rate schedules that a recipe can name."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from dalib.critic import MakeOptimizer

Schedule = Callable[[int], float]


def sgd(*, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, nesterov: bool = False) -> MakeOptimizer:
    """Return a maker of SGD; the defaults are the field's."""
    return _maker(torch.optim.SGD, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def adam(*, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0) -> MakeOptimizer:
    """Return a maker of Adam."""
    return _maker(torch.optim.Adam, lr=lr, betas=betas, weight_decay=weight_decay)


def adamw(*, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.01) -> MakeOptimizer:
    """Return a maker of AdamW; the defaults are DAFormer's but for the rate."""
    return _maker(torch.optim.AdamW, lr=lr, betas=betas, weight_decay=weight_decay)


def poly(*, steps: int, power: float = 0.9, warmup: int = 0) -> Schedule:
    """Return (1 - t / steps) ** power after a linear rise over the first ``warmup`` steps."""

    def factor(step: int) -> float:
        rise = min((step + 1) / (warmup + 1), 1.0)
        return rise * math.pow(max(1 - step / steps, 0.0), power)

    return factor


def constant(*, steps: int) -> Schedule:
    """Return 1 for every step."""
    return lambda step: 1.0


OPTIMIZERS: dict[str, Callable[..., MakeOptimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
SCHEDULES: dict[str, Callable[..., Schedule]] = {"poly": poly, "constant": constant}


def _maker(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> MakeOptimizer:
    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return kind(parameters, **options)

    return make
