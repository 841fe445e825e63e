"""The Dice loss of a labelled stream (Milletari et al. 2016)."""

import torch
from torch import Tensor

from dalib.losses.contract import LOCAL, Local
from dalib.losses.regions import RegionLoss, mean_of_present, regions


def dice(logits: Tensor, label: Tensor, weight: Tensor | None = None, *, across: Local = LOCAL) -> Tensor:
    """Return the mean of 1 - 2 sum(w p g) / (sum(w p^2) + sum(w g^2)) over the classes that the labels hold.

    p is the probability of the class, g is 1 where it is the true one, w the weight, and the sums go over the valid
    pixels of the whole batch. The mean weight multiplies the loss, see ``mean_of_present``.

    Args:
        logits: (B, K, h, w) of any float type; resized bilinearly where the label's size differs.
        label: (B, H, W) int64 in 0..K-1 or 255 = ignore.
        weight: (B, H, W) float >= 0.

    Returns:
        A scalar in float32; exactly 0, and still in the graph, where no pixel is valid.
    """
    probability, truth, weights = regions(logits, label, weight)
    amount = across.sum(weights * truth, (1,))
    shared = across.sum(weights * probability * truth, (1,))
    total = across.sum(weights * probability.square(), (1,)) + amount
    losses = 1 - 2 * shared / total.clamp(min=torch.finfo(total.dtype).tiny)
    return mean_of_present(losses, amount, weights, label, across)


class DiceLoss(RegionLoss):
    """``dice`` as a loss of a recipe."""

    of = staticmethod(dice)
