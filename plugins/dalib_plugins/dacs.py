"""DACS: self-training on images that mix source classes into target images (Tranheden et al. 2021)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Generator, Tensor

from dalib import IGNORE, Ramp, SetupContext, Step, Strategy, Stream, hookimpl
from dalib.losses import LOCAL, Local
from dalib.options import Probability
from dalib_plugins.one_class import refuse_one_class
from dalib_plugins.ranges import Interval, Share
from dalib_plugins.warp import make_augmentation

LABELS = 256  # train ids and 255: a table of fixed size needs no synchronisation with the device

Scope = Literal["batch", "image"]


def pseudo_label(
    logits: Tensor, threshold: float, confidence: Scope = "batch", *, across: Local = LOCAL
) -> tuple[Tensor, Tensor]:
    """Return pseudo-labels and their weight: the share of pixels whose probability is at least ``threshold``.

    Args:
        logits: (B, K, H, W) of any float type.
        confidence: take the share over the whole batch, as published, or per image.
        across: sums over the whole batch.

    Returns:
        label: (B, H, W) int64; weight: (B, H, W) float32 in 0..1, constant over the batch or over each image.
    """
    probability, label = logits.float().softmax(1).max(1)
    confident = (probability >= threshold).float()
    if confidence == "batch":
        share = across.sum(confident) / across.sum(torch.full_like(confident[:, 0, 0], confident[0].numel()))
    else:
        share = confident.mean((1, 2), keepdim=True)
    return label, share.expand_as(confident)


def classmix_mask(
    label: Tensor,
    generator: Generator | None = None,
    classes: Scope = "image",
    ignore_is_class: bool = False,
    *,
    across: Local = LOCAL,
) -> Tensor:
    """Return the mask of a random half of each image's classes, (B, H, W) bool: (n + 1) // 2 of n classes.

    Never waits for the device, as ``torch.unique`` would: all 256 ids get a random rank, absent ones last.

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


class Dacs(Strategy):
    """Add a stream and train on it: half of the classes of a source image, pasted with their labels into the target
    image at the same position in the batch, whose other pixels have the teacher's pseudo-labels.

    Options:
        into: the name of that stream.
        threshold: probability from which a pixel counts as confident.
        confidence: the weight of target pixels is the share of confident ones in the batch (published) or the image.
        classes: draw the pasted classes from those of the image (published) or of the batch (DAFormer).
        ignore_is_class: let ignored pixels be pasted like a class (published).
        jitter: strength of the jitter in brightness, contrast, saturation and hue (0..0.5); jitter_p: its probability.
        blur: least and greatest sigma in pixels; blur_p: its probability. Both come after mixing, drawn per sample.
        ema: limit of the teacher's decay, or a ramp; teacher_batch_norm: its BatchNorm uses batch statistics
            (``"train"``, published) or running statistics. None takes another strategy's setting, else 0.99 and
            ``"train"``.
    """

    into: str = "mixed"
    threshold: Probability = 0.968
    confidence: Scope = "batch"
    classes: Scope = "image"
    ignore_is_class: bool = False
    jitter: Share = 0.25
    jitter_p: Probability = 0.8
    blur: Interval = (0.15, 1.15)
    blur_p: Probability = 0.5
    ema: Probability | Ramp | None = None
    teacher_batch_norm: Literal["train", "eval"] | None = None

    requires = frozenset({"source.image", "source.label", "target.image"})
    same_size = frozenset({"source", "target"})

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(f"{self.into}.{part}" for part in ("image", "label", "weight"))

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset({f"{self.into}.logits"})

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        ctx.teacher(decay=self.ema, batch_norm=self.teacher_batch_norm)
        # DACS jittered brightness by adding, as kornia's ColorJitter of its time did; ColorJiggle still does.
        strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), self.jitter)
        # The published kernel is a tenth of the image; beyond four sigma it is zero.
        kernel = 2 * math.ceil(4 * self.blur[1]) + 1
        self._strong = (
            make_augmentation(self.name, "ColorJiggle", p=self.jitter_p, **strengths),
            make_augmentation(
                self.name, "RandomGaussianBlur", p=self.blur_p, kernel_size=(kernel, kernel), sigma=self.blur
            ),
        )

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        source, target = step.batch["source"], step.batch["target"]
        assert source.label is not None  # the stack has checked `requires`
        across = step.across
        pseudo = pseudo_label(step.teacher_logits("target"), self.threshold, self.confidence, across=across)
        mask = classmix_mask(source.label, classes=self.classes, ignore_is_class=self.ignore_is_class, across=across)
        mixed = mix(source, target, pseudo, mask)
        image = mixed.image
        for augmentation in self._strong:
            image = augmentation(image)
        step.batch.add(self.into, dataclasses.replace(mixed, image=image))
        step.log("confident", pseudo[1].mean())

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {self.into: step.segmentation_loss(self.into)}
