"""The Lovász-Softmax loss of a labelled stream (Berman et al. 2018)."""

import torch
from torch import Tensor

from dalib.losses.contract import LOCAL, Local
from dalib.losses.regions import RegionLoss, mean_of_present, regions


def lovasz_softmax(logits: Tensor, label: Tensor, weight: Tensor | None = None, *, across: Local = LOCAL) -> Tensor:
    """Return the mean of the Jaccard losses' Lovász extensions over the classes that the labels hold.

    The pixels of the whole batch count as one image, as by default in the published code, or those of one process where
    there are several. Pixels count by their weight in the Jaccard index, and the mean weight multiplies the loss, see
    ``mean_of_present``.

    Args:
        logits: (B, K, h, w) of any float type; resized bilinearly where the label's size differs.
        label: (B, H, W) int64 in 0..K-1 or 255 = ignore.
        weight: (B, H, W) float >= 0.

    Returns:
        A scalar in float32; exactly 0, and still in the graph, where no pixel is valid.
    """
    probability, truth, weights = regions(logits, label, weight)
    # Class by class, for the memory of the intermediate results.
    losses = [jaccard_extension((t - p).abs(), t, weights) for p, t in zip(probability, truth, strict=True)]
    return mean_of_present(torch.stack(losses), (weights * truth).sum(1), weights, label, across)


def jaccard_extension(errors: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return the Lovász extension of one class's Jaccard loss at ``errors``, a scalar.

    Args:
        errors: (N,) in 0..1, |truth - probability|. truth: (N,) 0 or 1. weights: (N,) >= 0.
    """
    errors, order = errors.sort(descending=True)
    with torch.no_grad():  # in float64: of N pixels, neighbours differ by about 1 / N
        wrong, right = ((weights * side)[order].double() for side in (1 - truth, truth))
        shared = right.sum() - right.cumsum(0)
        either = right.sum() + wrong.cumsum(0)
        jaccard = 1 - shared / either.clamp(min=torch.finfo(either.dtype).tiny)
        slope = jaccard.diff(prepend=jaccard.new_zeros(1)).float()
    return (errors * slope).sum()


class LovaszLoss(RegionLoss):
    """``lovasz_softmax`` as a loss of a recipe."""

    of = staticmethod(lovasz_softmax)
