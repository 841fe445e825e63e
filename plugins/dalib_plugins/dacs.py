"""DACS (Tranheden et al. 2021): self-training on target images into which parts of source images are pasted."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from dalib import IGNORE, Ramp, SetupContext, StackError, Step, Strategy, Stream, hookimpl
from dalib.losses import Local
from dalib.options import Probability, Whole
from dalib_plugins.mixing import classmix_mask, cow_mask, cutmix_mask, mix
from dalib_plugins.one_class import refuse_one_class
from dalib_plugins.pseudo_labels import Scope, confident_classes, pseudo_label
from dalib_plugins.ranges import Interval, Parts, Share
from dalib_plugins.strong import Strong
from dalib_plugins.view import draw_view

__all__ = ["Dacs", "classmix_mask", "mix", "pseudo_label"]

OPTIONS_OF_MASKS = {
    "classes": ("classmix",),
    "ignore_is_class": ("classmix",),
    "area": ("cutmix", "cowmask"),
    "sigma": ("cowmask",),
}
AREAS = {"cutmix": (0.5, 0.5), "cowmask": (0.2, 0.8)}  # as published
ECAP_SCALE, ECAP_FLIP = (0.1, 1.0), 0.5


def paste_confident(source: Stream, target: Stream, logits: Tensor, threshold: float) -> Stream:
    """Return ``source`` with the confident classes of target images pasted in, with their pseudo-labels.

    Each source image gets those of the target image before the one at its position in the batch, mirrored or not,
    scaled by 0.1 to 1 and placed at random, as ECAP does. Where that image's own weight is 0, nothing is pasted.

    Args:
        logits: the teacher's of the target, (B, K, H, W). threshold: see ``confident_classes``.
    """
    assert source.label is not None  # the stack has checked `requires`
    sure, label = confident_classes(logits, threshold), logits.argmax(1)
    if target.weight is not None:
        sure = sure & (target.weight > 0)
    image, sure, label = (values.roll(1, 0) for values in (target.image, sure, label))
    view = draw_view(len(image), source.size, source.size, ECAP_SCALE, ECAP_FLIP, image.device)
    donor = Stream(view.image(image, interpolate=True), view.mask(label, IGNORE))
    label, weight = source.label, torch.ones_like(image[:, 0]) if source.weight is None else source.weight
    return mix(donor, dataclasses.replace(source, weight=None), (label, weight), view.mask(sure, False))


class Dacs(Strategy):
    """Add a stream and train on it: parts of a source image, pasted with their labels into the target image at the same
    position in the batch, whose other pixels have the teacher's pseudo-labels. By default the parts are half of the
    source image's classes, as in DACS.

    Options:
        into: the name of that stream.
        mask: which pixels are pasted: ``"classmix"``, half of the classes; ``"cutmix"``, a rectangle (Yun et al. 2019,
            French et al. 2020); ``"cowmask"``, blotches of smoothed noise (French, Oliver & Salimans 2020).
        area: range of the share of the image that ``cutmix`` and ``cowmask`` paste; None: as published, 0.5 and
            0.2 to 0.8. sigma: range of the noise's smoothing in ``cowmask``, in pixels.
        confident_classes: first paste, into the source images, those classes of other target images whose pixels have
            at least this mean probability (the idea of ECAP, Brorsson et al. 2024, which keeps them in a memory bank);
            None: none.
        threshold: probability from which a pixel counts as confident.
        confidence: the weight of target pixels is the share of confident ones in the batch (published) or the image.
        classes: draw the pasted classes from those of the image (published) or of the batch (DAFormer).
        ignore_is_class: let ignored pixels be pasted like a class (published).
        jitter: strength of the jitter in brightness, contrast, saturation and hue (0..0.5); jitter_p: its probability.
        blur: least and greatest sigma in pixels; blur_p: its probability. Both come after mixing, drawn per sample.
        ema: limit of the teacher's decay, or a ramp; teacher_batch_norm: its BatchNorm uses batch statistics
            (``"train"``, published) or running statistics; teacher_start: the optimiser step of its first average,
            before which it equals the student. None takes another strategy's setting, else 0.99, ``"train"`` and 0.
    """

    into: str = "mixed"
    mask: Literal["classmix", "cutmix", "cowmask"] = "classmix"
    area: Parts | None = None
    sigma: Interval = (4.0, 16.0)
    confident_classes: Probability | None = None
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
    teacher_start: Whole | None = None

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
        self._refuse_options_of_other_masks()
        ctx.teacher(decay=self.ema, batch_norm=self.teacher_batch_norm, start=self.teacher_start)
        self._strong = Strong(self.name, self.jitter, self.jitter_p, self.blur, self.blur_p)

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        source, target = step.batch["source"], step.batch["target"]
        logits = step.teacher_logits("target")
        pseudo = pseudo_label(logits, self.threshold, self.confidence, across=step.across)
        if self.confident_classes is not None:
            source = paste_confident(source, target, logits, self.confident_classes)
        mixed = mix(source, target, pseudo, self._draw_mask(source, step.across))
        step.batch.add(self.into, dataclasses.replace(mixed, image=self._strong(mixed.image)))
        step.log("confident", pseudo[1].mean())

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        return {self.into: step.segmentation_loss(self.into)}

    def _draw_mask(self, source: Stream, across: Local) -> Tensor:
        assert source.label is not None  # the stack has checked `requires`
        if self.mask == "classmix":
            return classmix_mask(
                source.label, classes=self.classes, ignore_is_class=self.ignore_is_class, across=across
            )
        count, area, device = len(source.label), self.area or AREAS[self.mask], source.label.device
        if self.mask == "cutmix":
            return cutmix_mask(count, source.size, area, device)
        return cow_mask(count, source.size, area, self.sigma, device)

    def _refuse_options_of_other_masks(self) -> None:
        for option, masks in OPTIONS_OF_MASKS.items():
            if self.mask not in masks and getattr(self, option) != getattr(type(self), option):
                raise StackError(
                    f"strategy {self.name!r}: {option} is an option of the mask {' or '.join(masks)}, and the mask is "
                    f"{self.mask}; drop one of the two."
                )
