"""Cross-entropy of a labelled stream, with class weights and online hard example mining."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dalib.errors import RecipeError
from dalib.labels import IGNORE
from dalib.losses.contract import LOCAL, Local, with_auxiliary
from dalib.options import NotNegative, Whole
from dalib.resizing import resize


def cross_entropy(logits: Tensor, label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each pixel, (B, H, W) in float32; 0 where the label is 255.

    Args:
        logits: (B, K, h, w) of any float type; resized bilinearly where the label's size differs.
        label: (B, H, W) int64 in 0..K-1 or 255.
        class_weights: (K,) factor by the true class.
    """
    logits = resize(logits.float(), (label.shape[-2], label.shape[-1]))
    return F.cross_entropy(logits, label, weight=class_weights, ignore_index=IGNORE, reduction="none")


def hard_pixels(values: Tensor, valid: Tensor, threshold: float, min_kept: int, *, across: Local = LOCAL) -> Tensor:
    """Return the mask of pixels that online hard example mining keeps (Shrivastava et al. 2016).

    Kept are the valid pixels whose true class has a probability below ``threshold``, and at least the ``min_kept``
    hardest of the whole batch.

    Args:
        values: (B, H, W) cross-entropy without class weights. valid: (B, H, W) bool.
    """
    values = values.detach()
    cut = across.kth(values.masked_fill(~valid, -1.0), max(min_kept, 1))
    return valid & (values >= cut.clamp(max=-math.log(threshold)))


@dataclass(frozen=True, kw_only=True)
class SegmentationLoss:
    """Cross-entropy on the logits and, where the network gives them, on its auxiliary heads.

    Options:
        class_weights: factor of each class; the denominator stays the number of valid pixels.
        logit_adjustment: what is added to the logits of each class, see ``dalib.losses.log_prior``.
        ohem: in the main output keep only pixels whose true class has a probability below this, in (0, 1].
        min_kept: with ``ohem``, keep at least so many pixels per batch.
        auxiliary: weight of each auxiliary head (BiSeNet's authors use 1).
    """

    class_weights: Sequence[NotNegative] | None = None
    logit_adjustment: Sequence[float] | None = None
    ohem: Annotated[float, Field(gt=0, le=1)] | None = None
    min_kept: Whole = 100_000
    auxiliary: NotNegative = 1.0

    def __post_init__(self) -> None:
        if self.class_weights is not None and not any(weight > 0 for weight in self.class_weights):
            raise RecipeError(
                f"class_weights: expected one above 0 at least, got {list(self.class_weights)}; nothing would train."
            )

    def __call__(
        self, outputs: Mapping[str, Tensor], label: Tensor, weight: Tensor | None = None, *, across: Local = LOCAL
    ) -> Tensor:
        """Return the loss of one stream; see ``SegmentationLossFunction``."""
        main = self._term(outputs["logits"], label, weight, self.ohem, across)
        return with_auxiliary(
            main, lambda logits: self._term(logits, label, weight, None, across), outputs, self.auxiliary
        )

    def _term(self, logits: Tensor, label: Tensor, weight: Tensor | None, ohem: float | None, across: Local) -> Tensor:
        valid = label != IGNORE
        weights = None if self.class_weights is None else _on_device(tuple(self.class_weights), logits.device)
        if self.logit_adjustment is not None:
            logits = logits.float() + _on_device(tuple(self.logit_adjustment), logits.device).view(-1, 1, 1)
        values = cross_entropy(logits, label, weights)
        if ohem is not None:  # class weights must not change which pixels are hard
            hardness = values if weights is None else cross_entropy(logits, label)
            valid = hard_pixels(hardness, valid, ohem, self.min_kept, across=across)
        return across.mean(values, valid, weight)


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a constant tensor, copied to the device only once, since each copy synchronises."""
    return torch.tensor(values, dtype=torch.float32, device=device)
