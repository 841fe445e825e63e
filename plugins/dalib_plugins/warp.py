"""Kornia's augmentations by name, applied to images alone or together with label, weight and further maps."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from dalib import IGNORE, StackError, Stream, suggest


def make_augmentation(owner: str, use: str = "", **options: Any) -> nn.Module:
    """Return an augmentation of ``kornia.augmentation`` by its class name, after a trial on noise.

    Raises:
        StackError: no image augmentation has that name, or it refuses the options; names the strategy ``owner``.
    """
    import kornia.augmentation as kornia  # here, since it is slow to import and not every stack needs it
    from kornia.augmentation._2d.base import AugmentationBase2D

    known = [n for n, c in vars(kornia).items() if isinstance(c, type) and issubclass(c, AugmentationBase2D)]
    known = [name for name in known if not name.endswith("Base2D")]
    if use in ("Normalize", "Denormalize"):
        raise StackError(
            f"strategy {owner!r}: kornia's {use} takes images out of [0, 1], which strategies and model expect; a "
            "model normalises by itself, by the mean and std that wrap_model is given. Drop it."
        )
    if use not in known:
        raise StackError(f"strategy {owner!r}: kornia has no image augmentation {use!r}.{suggest(use, known)}")
    try:
        with torch.device("cpu"):  # a plan runs on the meta device, which has no values for a trial
            augmentation: nn.Module = getattr(kornia, use)(**options)
            augmentation(torch.rand(2, 3, 64, 64))
    except Exception as error:
        raise StackError(f"strategy {owner!r}: kornia's {use} refuses the options {options}: {error}") from error
    return augmentation


def make_warp(owner: str, use: str = "", **options: Any) -> nn.Module:
    """Return an augmentation for ``apply``, which transforms label and weight with the image.

    Raises:
        StackError: as ``make_augmentation``, and for one that cannot transform labels or changes the size.
    """
    import kornia.augmentation as kornia

    augmentation = make_augmentation(owner, use, **options)
    warp: nn.Module = kornia.AugmentationSequential(augmentation, data_keys=["input", "mask"], same_on_batch=None)
    try:
        with torch.device("cpu"):
            image, mask = warp(torch.rand(2, 3, 64, 64), torch.zeros(2, 2, 64, 64))
    except Exception as error:
        raise StackError(f"strategy {owner!r}: kornia's {use} does not take labels along. {error}") from error
    if not image.shape[-2:] == mask.shape[-2:] == (64, 64):
        raise StackError(f"strategy {owner!r}: kornia's {use} changes the size of images; use `crop` and `scale`.")
    return warp


def apply(warp: nn.Module, stream: Stream) -> Stream:
    """Return the stream with image, label, weight and ``extra`` maps transformed by the same random parameters.

    All but the image are channels of one mask, with labels shifted so that kornia's zero padding means ignore. Masks
    are sampled by nearest neighbour, and float32 keeps labels exact whatever the run's precision; maps are as exact.
    Images are clamped to [0, 1], which noise would leave.
    """
    label = torch.full_like(stream.image[:, 0], IGNORE) if stream.label is None else stream.label.float()
    weight = torch.ones_like(label) if stream.weight is None else stream.weight.float()
    maps = [values.float() for values in stream.extra.values()]
    image, mask = warp(stream.image, torch.stack([label - IGNORE, weight, *maps], 1))
    moved = zip(stream.extra.items(), mask[:, 2:].unbind(1), strict=True)
    return dataclasses.replace(
        stream,
        image=image.clamp(0, 1),
        label=None if stream.label is None else (mask[:, 0] + IGNORE).round().long(),
        weight=mask[:, 1],
        extra={name: _as(values, before.dtype) for (name, before), values in moved},
    )


def _as(values: Tensor, dtype: torch.dtype) -> Tensor:
    return (values if dtype.is_floating_point else values.round()).to(dtype)
