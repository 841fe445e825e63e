"""What can be said of predictions without labels: how sure they are, which classes, and whether two networks agree."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalib.evaluation.metrics import best_class
from dalib.ranks import total

CONFIDENT = 0.9
"""The probability from which on a prediction counts as confident."""

UNIT = 2**20
"""Parts of one pixel's entropy or probability in which sums are counted."""

ROWS = 128
"""Rows of pixels at a time: on a CPU smaller temporaries take half the time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelFree:
    """Measures over the pixels of images, whose labels, if there are any, are not looked at.

    Fields:
        images: how many.
        entropy: mean entropy of the predictions over log K, 0..1.
        confident: share of the pixels whose largest probability is at least ``CONFIDENT``.
        predicted: (K,) float64, share of the pixels that each class is predicted for.
        probability: (K,) float64, mean probability of each class.
        agreement: share of the pixels where student and teacher predict one class; None where there is one network.
    """

    images: int
    entropy: float
    confident: float
    predicted: Tensor
    probability: Tensor
    agreement: float | None = None

    def figures(self) -> dict[str, float]:
        """Return the measures that are one number, those that are known."""
        known = {"entropy": self.entropy, "confident": self.confident, "agreement": self.agreement}
        return {name: value for name, value in known.items() if value is not None}

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Return its part of ``results.json``."""
        predicted = dict(zip(classes, self.predicted.tolist(), strict=True))
        return {"images": self.images, **self.figures(), "threshold": CONFIDENT, "predicted": predicted}

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", student and teacher agree on {100 * self.agreement:.1f} %"
        return (
            f"mean entropy {self.entropy:.3f} of 1, {100 * self.confident:.1f} % of the pixels with a probability of "
            f"{CONFIDENT} or more{agreement}"
        )


class LabelFreeSums:
    """Sums over pixels, kept on the device until ``compute``; integers, whose sum over ranks no order changes.

    Args:
        compared: whether ``update`` is given the logits of another network, too.
    """

    def __init__(self, num_classes: int, device: torch.device, compared: bool) -> None:
        self._classes, self.compared = num_classes, compared
        self._sums = torch.zeros(
            4 + 2 * num_classes, dtype=torch.int64, device=device
        )  # images, then as ``_add`` has it

    def update(self, logits: Tensor, other: Tensor | None = None) -> None:
        """Add images' logits (B, K, H, W), and those of another network for the same images."""
        self._sums[0] += len(logits)
        for top in range(0, logits.shape[2], ROWS):
            rows = slice(top, top + ROWS)
            self._add(logits[:, :, rows], None if other is None else other[:, :, rows])

    def _add(self, logits: Tensor, other: Tensor | None) -> None:
        below = logits.float() - logits.amax(1, keepdim=True)
        exponentials = below.exp()
        normalizer = exponentials.sum(1, keepdim=True)
        probability = exponentials.div_(normalizer)
        by_class = probability.sum((0, 2, 3))
        entropy = (normalizer.log().sum() - probability.mul_(below).sum()) / math.log(max(self._classes, 2))
        prediction = best_class(logits)
        agreeing = torch.zeros_like(entropy) if other is None else (best_class(other) == prediction).sum()
        sums = [_parts(entropy), (normalizer <= 1 / CONFIDENT).sum(), agreeing]
        self._sums[1:4] += torch.stack([value.long() for value in sums])
        flat = prediction.flatten().long() + 4
        self._sums.scatter_add_(0, flat, torch.ones_like(flat))
        self._sums[4 + self._classes :] += _parts(by_class)

    def add_ranks(self) -> None:
        """Add the sums of all ranks."""
        self._sums = total(self._sums)

    def __add__(self, other: "LabelFreeSums") -> "LabelFreeSums":
        both = LabelFreeSums(self._classes, self._sums.device, self.compared)
        both._sums = self._sums + other._sums
        return both

    def compute(self) -> LabelFree | None:
        """Return the measures so far; None before the first image."""
        images, *sums = self._sums[:4].tolist()
        if not images:
            return None
        predicted, probability = self._sums[4:].cpu().double().view(2, self._classes)
        pixels = float(predicted.sum())
        entropy, confident, agreeing = (value / pixels for value in sums)
        return LabelFree(
            images=images,
            entropy=entropy / UNIT,
            confident=confident,
            predicted=predicted / pixels,
            probability=probability / UNIT / pixels,
            agreement=agreeing if self.compared else None,
        )


def _parts(pixels: Tensor) -> Tensor:
    """Return sums over pixels as whole numbers of ``UNIT``."""
    return (pixels.double() * UNIT).round().long()
