"""Masks that say where one image is pasted into another, and the mixture itself."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dalib import IGNORE, Stream
from dalib.losses import LOCAL, Local
from dalib_plugins.pseudo_labels import Scope

LABELS = 256  # train ids and 255: a table of fixed size needs no synchronisation with the device


def classmix_mask(
    label: Tensor,
    generator: Generator | None = None,
    classes: Scope = "image",
    ignore_is_class: bool = False,
    *,
    across: Local = LOCAL,
) -> Tensor:
    """Return the mask of a random half of each image's classes, (B, H, W) bool: (n + 1) // 2 of n classes.

    ClassMix (Olsson et al. 2021). Never waits for the device, as ``torch.unique`` would: all 256 ids get a random
    rank, absent ones last.

    Args:
        label: (B, H, W) int64 in 0..255.
        generator: draws on the label's device; default torch's own.
        classes: draw from the classes of each image, or, as DAFormer's code does, from those of the whole batch.
        ignore_is_class: let 255 be drawn like a class, as the published code does.
        across: sums over the whole batch.
    """
    flat = label.flatten(1)
    present = torch.zeros(len(label), LABELS, dtype=torch.bool, device=label.device).scatter_(1, flat, True)
    if not ignore_is_class:
        present[:, IGNORE] = False
    if classes == "batch":
        present = (across.sum(present, (0,)) > 0).expand_as(present)
    order = torch.rand(present.shape, generator=generator, device=label.device).masked_fill(~present, 2.0)
    rank = order.argsort(1).argsort(1)
    chosen = rank < (present.sum(1, keepdim=True) + 1) // 2
    return chosen.gather(1, flat).view_as(label)


def cutmix_mask(
    count: int, size: tuple[int, int], area: tuple[float, float], device: torch.device | None = None
) -> Tensor:
    """Return a random rectangle in each of ``count`` masks, (count, H, W) bool.

    CutMix (Yun et al. 2019) as French et al. (2020) draw it for segmentation: the height's share of H is p^u, the
    width's share of W is p^(1 - u), with u uniform in 0..1, so that the rectangle has the share p of the image.

    Args:
        size: (H, W). area: range of p in 0..1, drawn uniformly.
    """
    share = torch.empty(count, 1, device=device).uniform_(*area)
    height = share ** torch.rand_like(share)
    near = []
    for pixels, part in zip(size, (height, share / height), strict=True):
        side = (part * pixels).round()
        start = ((pixels - side) * torch.rand_like(side)).round()
        position = torch.arange(pixels, device=device)
        near.append((position >= start) & (position < start + side))
    return near[0][:, :, None] & near[1][:, None, :]


def cow_mask(
    count: int,
    size: tuple[int, int],
    area: tuple[float, float],
    sigma: tuple[float, float],
    device: torch.device | None = None,
) -> Tensor:
    """Return random blotches as on a cow, (count, H, W) bool.

    CowMask (French, Oliver & Salimans 2020): normal noise, smoothed by a Gaussian, up to mean + sqrt(2) erfinv(2p - 1)
    times its standard deviation, below which lies the share p of a normal distribution.

    Args:
        size: (H, W). area: range of p in 0..1, drawn uniformly.
        sigma: range of the Gaussian's standard deviation in pixels, drawn uniformly in its logarithm.
    """
    share = torch.empty(count, 1, 1, device=device).uniform_(*area)
    sigmas = torch.empty(count, device=device).uniform_(math.log(sigma[0]), math.log(sigma[1])).exp()
    kernels = gaussian_kernels(sigmas, math.ceil(4 * sigma[1]))
    noise = torch.randn(1, count, *size, device=device)
    smooth = F.conv2d(noise, kernels[:, None, None, :], padding="same", groups=count)
    smooth = F.conv2d(smooth, kernels[:, None, :, None], padding="same", groups=count)[0]
    deviation, mean = torch.std_mean(smooth, (1, 2), correction=0, keepdim=True)
    return smooth <= mean + math.sqrt(2) * torch.erfinv(2 * share - 1) * deviation


def gaussian_kernels(sigmas: Tensor, reach: int) -> Tensor:
    """Return exp(-x^2 / (2 sigma^2)) at -reach..reach, divided by its sum, for each of ``sigmas`` (N,)."""
    x = torch.arange(-reach, reach + 1, device=sigmas.device)
    return (-x.square() / (2 * sigmas[:, None].square())).softmax(1)


def mix(source: Stream, target: Stream, pseudo: tuple[Tensor, Tensor], mask: Tensor) -> Stream:
    """Return ``target`` with ``source`` where ``mask`` holds: image, label, and the weight of each pixel.

    A stream's own weight, where it has one, still applies, so that padding by a crop has weight 0 in the mixture too.

    Args:
        pseudo: label and weight of the target, both (B, H, W). mask: (B, H, W) bool.
    """
    assert source.label is not None  # the stack has checked `requires`
    label, weight = pseudo
    ours = torch.ones_like(weight) if source.weight is None else source.weight
    theirs = weight if target.weight is None else weight * target.weight
    return Stream(
        image=torch.where(mask[:, None], source.image, target.image),
        label=torch.where(mask, source.label, label),
        weight=torch.where(mask, ours, theirs),
    )
