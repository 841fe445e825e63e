"""Entropy minimisation on the target (MinEnt of ADVENT, Vu et al. 2019)."""

import math
from collections.abc import Mapping

from torch import Tensor

from dalib import SetupContext, StackError, Step, Strategy, hookimpl


def self_information(logits: Tensor) -> Tensor:
    """Return -p log p / log K of each class, (B, K, H, W) in float32, each in 0..1/(e ln K) (ADVENT, eq. 4).

    From ``log_softmax`` in float32: the published ``p log(p + 1e-30)`` is NaN in half precision, where 1e-30 is 0.

    Args:
        logits: (B, K, H, W) of any float type.
    """
    log_p = logits.float().log_softmax(1)
    return -log_p.exp() * log_p / math.log(logits.shape[1])


def normalized_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each pixel's prediction over log K, (B, H, W) in float32 in 0..1 (ADVENT, eq. 2).

    Args:
        logits: (B, K, H, W) of any float type.
    """
    return self_information(logits).sum(1)


def refuse_one_class(ctx: SetupContext) -> None:
    """Raise StackError where log K is 0, which the functions above divide by."""
    if ctx.num_classes < 2:
        raise StackError(
            f"strategy {ctx.strategy!r}: the entropy of predictions needs 2 classes or more, and the model has "
            f"{ctx.num_classes}; give it a class for the background, or train without this entropy."
        )


class MinEnt(Strategy):
    """Minimise the mean entropy of the target's predictions; published ``weight``: 0.001."""

    requires = frozenset({"target.image"})
    forwards = frozenset({"target"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {"entropy": normalized_entropy(step.logits("target")).mean()}
