"""Entropy minimisation on the target: MinEnt of ADVENT (Vu et al. 2019), and FDA's penalty (Yang & Soatto 2020)."""

import math
from collections.abc import Mapping

from torch import Tensor

from dalib import SetupContext, StackError, Step, Strategy, hookimpl
from dalib.options import Positive
from dalib_plugins.one_class import refuse_one_class


def self_information(logits: Tensor) -> Tensor:
    """Return -p log p / log K of each class, (B, K, H, W) in float32, each in 0..1/(e ln K) (ADVENT, eq. 4).

    Computed by ``log_softmax`` in float32: the published ``p log(p + 1e-30)`` is NaN in half precision, as 1e-30 is 0.

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


def charbonnier(entropy: Tensor, eta: float) -> Tensor:
    """Return FDA's penalty (x^2 + 1e-8)^eta of each pixel, which weighs uncertain pixels most (FDA, eq. 5).

    Args:
        entropy: of any shape, normalised to 0..1.
    """
    return entropy.square().add(1e-8).pow(eta)


class MinEnt(Strategy):
    """Minimise the mean entropy of the target's predictions.

    Published ``weight``: 0.001 (ADVENT), 0.005 with ``eta: 2.0`` and ``output: low_res`` (FDA).

    Options:
        eta: exponent of FDA's penalty of the entropy; None: the entropy itself, as in ADVENT.
        output: the network's output to read, one with K channels: ``logits``, ``low_res`` or an ``aux.*``.
    """

    eta: Positive | None = None
    output: str = "logits"

    requires = frozenset({"target.image"})

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset({f"target.{self.output}"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        self._num_classes = ctx.num_classes

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        logits = step.output("target", self.output)
        if logits.shape[1] != self._num_classes:
            raise StackError(
                f"strategy {self.name!r}: output {self.output!r} has {logits.shape[1]} channels, and logits have "
                f"{self._num_classes}, one per class; take `logits`, `low_res` or an `aux.*`."
            )
        entropy = normalized_entropy(logits)
        return {"entropy": (entropy if self.eta is None else charbonnier(entropy, self.eta)).mean()}
