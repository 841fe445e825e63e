"""What losses on regions share: probabilities and truth by class, and the mean over the classes that are present."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dalib.labels import IGNORE
from dalib.losses.contract import LOCAL, Local, with_auxiliary
from dalib.options import NotNegative
from dalib.resizing import resize


def regions(logits: Tensor, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities (K, N), the truth, 0 or 1, (K, N), and weights (N,) of all N pixels, in float32.

    Ignored pixels stay, with probability and truth 0, so that they add nothing: taking them out would wait for the
    device.

    Args:
        logits: (B, K, h, w) of any float type; resized bilinearly where the label's size differs.
        label: (B, H, W) int64 in 0..K-1 or 255. weight: (B, H, W) float >= 0.
    """
    valid = label != IGNORE
    probability = resize(logits.float(), (label.shape[-2], label.shape[-1])).softmax(1)
    probability = probability.masked_fill(~valid[:, None], 0.0)
    classes = torch.arange(logits.shape[1], device=label.device)
    truth = (label[None] == classes.view(-1, 1, 1, 1)).float()
    weights = torch.ones_like(probability[:, 0]) if weight is None else weight.float()
    return probability.transpose(0, 1).flatten(1), truth.flatten(1), weights.flatten()


def mean_of_present(losses: Tensor, amount: Tensor, weights: Tensor, label: Tensor, across: Local) -> Tensor:
    """Return the mean of the losses (K,) of classes whose ``amount`` in the labels, (K,), is above 0; 0 without any.

    The mean weight of the valid pixels multiplies it. In a ratio of sums a weight that is the same for every pixel, as
    DACS's is, would cancel; by this factor it counts as it does in a mean.
    """
    present = (amount > 0).float()
    share = across.mean(torch.ones_like(weights), (label != IGNORE).flatten(), weights)
    return share * (losses * present).sum() / present.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class RegionLoss:
    """The loss ``of`` logits, on the main ones and, where the network gives them, on those of its auxiliary heads.

    Options:
        auxiliary: weight of each auxiliary head.
    """

    auxiliary: NotNegative = 1.0

    of: ClassVar[Callable[..., Tensor]]

    def __call__(
        self, outputs: Mapping[str, Tensor], label: Tensor, weight: Tensor | None = None, *, across: Local = LOCAL
    ) -> Tensor:
        """Return the loss of one stream; see ``SegmentationLossFunction``."""

        def term(logits: Tensor) -> Tensor:
            return self.of(logits, label, weight, across=across)

        return with_auxiliary(term(outputs["logits"]), term, outputs, self.auxiliary)
