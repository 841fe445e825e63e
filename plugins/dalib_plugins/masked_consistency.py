"""Masked image consistency: MIC (Hoyer et al. 2023), and its complementary form, MaskTwins (Wang et al. 2025)."""

from collections.abc import Iterable, Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import Ramp, SetupContext, Step, Strategy, Stream, hookimpl
from dalib.options import Count, NotNegative, Probability, Whole
from dalib_plugins.one_class import refuse_one_class
from dalib_plugins.pseudo_labels import Scope, pseudo_label
from dalib_plugins.ranges import Interval, Share
from dalib_plugins.strong import Strong

LARGE = 1024  # pixels of the shorter side of published crops at full resolution, which have blocks of 64


def block_grid(size: tuple[int, int], block: int | None = None) -> tuple[int, int]:
    """Return the number of blocks along height and width, at least 1 each.

    Args:
        size: (H, W) in pixels.
        block: wanted side in pixels; the real ones differ where it divides no side. None: 64 where the shorter side has
            1,024 pixels or more, else 32, as published for crops of 1024x1024 and 512x512.
    """
    side = block or (64 if min(size) >= LARGE else 32)
    return max(1, round(size[0] / side)), max(1, round(size[1] / side))


def block_mask(
    count: int, size: tuple[int, int], ratio: float, block: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Draw which pixels stay, (count, H, W) bool: each block goes with probability ``ratio``.

    Args:
        size: (H, W). block: see ``block_grid``.
    """
    kept = torch.rand(count, 1, *block_grid(size, block), device=device) > ratio
    return F.interpolate(kept.float(), size, mode="nearest")[:, 0] > 0


class MaskedConsistency(Strategy):
    """Add a stream and train on it: target images of which most blocks are hidden, with the teacher's pseudo-labels of
    the whole images, so that the network learns to tell a pixel's class from what is around it.

    Hidden pixels have the mean colour that the model subtracts. Labels and their weight are those of ``dacs`` with the
    same ``threshold`` and ``confidence``, and so is the teacher, whose one forward serves both; alone it has its own.
    Published ``weight``: 1.

    Options:
        into: the name of that stream; with ``complementary`` a second one has ``_complement`` appended.
        ratio: the probability that a block is hidden; None: as published, 0.7, and 0.5 with ``complementary``.
        block: side of a block in pixels; None: 64 where the shorter side has 1,024 pixels or more, else 32.
        complementary: hide in a second stream what the first one shows (MaskTwins). Both are trained, by half each, and
            their logits drawn together.
        consistency: factor of the mean squared difference of the two streams' logits, with ``complementary``.
        threshold, confidence: as of ``dacs``.
        jitter, jitter_p, blur, blur_p: as of ``dacs``, before the blocks are hidden.
        ema, teacher_batch_norm, teacher_start: as of ``dacs``; the published decay is 0.999.
    """

    into: str = "masked"
    ratio: Probability | None = None
    block: Count | None = None
    complementary: bool = False
    consistency: NotNegative = 0.01
    threshold: Probability = 0.968
    confidence: Scope = "batch"
    jitter: Share = 0.2
    jitter_p: Probability = 0.8
    blur: Interval = (0.15, 1.15)
    blur_p: Probability = 0.5
    ema: Probability | Ramp | None = None
    teacher_batch_norm: Literal["train", "eval"] | None = None
    teacher_start: Whole | None = None

    requires = frozenset({"target.image"})
    same_size = frozenset({"target"})

    @property
    def provides(self) -> frozenset[str]:
        return frozenset(f"{stream}.{part}" for stream in self._streams for part in ("image", "label", "weight"))

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(f"{stream}.logits" for stream in self._streams)

    def check_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> Iterable[str]:
        size = sizes.get("target")
        if size and min(block_grid(size, self.block)) < 2:
            rows, columns = block_grid(size, self.block)
            yield (
                f"strategy {self.name!r} hides a target of {size[0]}x{size[1]} pixels in {rows}x{columns} blocks, so "
                "that little of many images is left to tell classes from; give a smaller `block`."
            )

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        ctx.teacher(decay=self.ema, batch_norm=self.teacher_batch_norm, start=self.teacher_start)
        self._mean = cast(Tensor, ctx.model.mean)
        self._strong = Strong(self.name, self.jitter, self.jitter_p, self.blur, self.blur_p)

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        target = step.batch["target"]
        logits = step.teacher_logits("target")
        label, weight = pseudo_label(logits, self.threshold, self.confidence, across=step.across)
        step.log("confident", weight.mean())
        weight = weight if target.weight is None else weight * target.weight
        ratio = self.ratio if self.ratio is not None else 0.5 if self.complementary else 0.7
        kept = block_mask(len(label), target.size, ratio, self.block, label.device)
        image, mean = self._strong(target.image), self._mean.view(3, 1, 1)
        for stream, shown in zip(self._streams, (kept, ~kept), strict=False):
            step.batch.add(stream, Stream(torch.where(shown[:, None], image, mean), label, weight))

    @hookimpl
    def loss(self, step: Step) -> Mapping[str, Tensor]:
        losses = [step.segmentation_loss(stream) for stream in self._streams]
        if not self.complementary:
            return {self.into: losses[0]}
        one, other = (step.logits(stream).float() for stream in self._streams)
        difference = step.mean((one - other).square().mean(1), weight=step.batch["target"].weight)
        return {self.into: torch.stack(losses).mean(), "consistency": self.consistency * difference}

    @property
    def _streams(self) -> tuple[str, ...]:
        return (self.into, f"{self.into}_complement") if self.complementary else (self.into,)
