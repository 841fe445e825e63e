"""Virtual adversarial training (Miyato et al. 2018): predictions stay as they are where they would change most."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import Step, Strategy, hookimpl
from dalib.options import Count, Positive


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """Return KL(p || q) of each pixel, (B, H, W) in float32, of the predictions p and q from logits (B, K, H, W)."""
    log_p, log_q = logits.float().log_softmax(1), other.float().log_softmax(1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)


def of_unit_rms(x: Tensor) -> Tensor:
    """Return (B, C, H, W) scaled so that each sample's values have a root mean square of 1."""
    return F.normalize(x.flatten(1)).view_as(x) * math.sqrt(x[0].numel())


class Vat(Strategy):
    """Minimise the divergence of the predictions on target images from those on the same with a small perturbation, in
    the direction that changes them most, which the power method finds. No label enters.

    Options:
        epsilon: root mean square of the perturbation, in images of 0..1. The authors' L2 norm is this times the square
            root of the number of values, and so depends on the image's size.
        xi: the same of the trial perturbation; the run's precision has to resolve it (the authors' 1e-6 is for fp32).
        iterations: of the power method.
    """

    epsilon: Positive = 0.03
    xi: Positive = 0.01
    iterations: Count = 1

    requires = frozenset({"target.image"})
    outputs = frozenset({"target.logits"})

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        target = step.batch["target"]
        logits = step.logits("target").detach()
        direction = of_unit_rms(torch.randn_like(target.image))
        for _ in range(self.iterations):
            trial = (self.xi * direction).requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(logits, step.student(target.image + trial)).sum(), trial)
            direction = of_unit_rms(gradient)
        values = divergence(logits, step.student(target.image + self.epsilon * direction))
        return {"divergence": step.mean(values, torch.ones_like(values, dtype=torch.bool), target.weight)}
