"""Class balance from the pixels of each class: weights of the cross-entropy, and the prior of logit adjustment."""

from typing import Literal, get_args

import torch
from torch import Tensor

from dalib.errors import DataError

WeightRule = Literal["enet", "median_frequency"]


def balanced_weights(counts: Tensor, rule: WeightRule) -> list[float]:
    """Return a weight of each class, the greater the rarer it is; their mean over all pixels is 1.

    ``enet``: 1 / ln(1.02 + f_c), where f_c is the class's share of all pixels (Paszke et al. 2016), so that no weight
    is more than 36 times as large as another. ``median_frequency``: the median of g over g_c, where g_c is the class's
    share of the pixels of the images that have it (Eigen & Fergus 2015); a class without pixels has the median.

    Dividing by the mean is what torch's weighted cross-entropy does, over a batch; thus a learning rate stays right.

    Args:
        counts: (N, K) int64, pixels of each class in each image, as ``dalib.data.label_counts`` gives them.
    """
    pixels, share = _pixels(counts)
    if rule == "enet":
        weights = 1 / (1.02 + share).log()
    elif rule == "median_frequency":
        around = ((counts > 0) * counts.sum(1, keepdim=True)).sum(0)
        frequency = pixels / around
        median = frequency[pixels > 0].quantile(0.5)
        weights = torch.where(pixels > 0, median / frequency, 1.0)
    else:
        raise ValueError(f"rule: expected one of {', '.join(get_args(WeightRule))}, got {rule!r}")
    found: list[float] = (weights / (weights * share).sum()).tolist()
    return found


def log_prior(counts: Tensor, tau: float = 1.0) -> list[float]:
    """Return tau * log f_c of each class, which logit adjustment adds to the logits in training (Menon et al. 2021).

    Without it at inference, rare classes are predicted as if all were equally frequent. A class without pixels counts
    as if it had one.

    Args:
        counts: (N, K) int64, pixels of each class in each image. tau: published: 1.
    """
    pixels, _ = _pixels(counts)
    found: list[float] = (tau * (pixels.clamp(min=1) / pixels.sum()).log()).tolist()
    return found


def _pixels(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of each class and their shares of all, float64; DataError where there is none."""
    pixels = counts.sum(0).double()
    if not pixels.any():
        raise DataError("no image has a labelled pixel, so its classes cannot be balanced.")
    return pixels, pixels / pixels.sum()
