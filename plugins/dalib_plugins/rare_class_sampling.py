"""Rare class sampling: images, and crops of them, drawn by class (DAFormer, Hoyer et al. 2022, section 3.4)."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from dalib import SetupContext, StackError, Step, Strategy, hookimpl
from dalib.data import Draw, SegmentationDataset, label_counts
from dalib.options import Count, NotNegative, Positive, Whole
from dalib_plugins.view import View, draw_view

logger = logging.getLogger("dalib")


def class_probabilities(counts: Tensor, temperature: float) -> Tensor:
    """Return P(c) = softmax((1 - f_c) / T) over the classes that occur, (K,) float64; 0 for others (DAFormer, eq. 6).

    Args:
        counts: (N, K) pixels of each class in each image. f_c is a class's share of them all.
        temperature: T > 0; the smaller, the more the rarest classes are preferred.
    """
    pixels = counts.sum(0).double()
    scores = (1 - pixels / pixels.sum()) / temperature
    return scores.masked_fill(pixels == 0, -torch.inf).softmax(0)


def holding(counts: Tensor, min_pixels: int) -> Tensor:
    """Return which images may be drawn for each class, (N, K) bool: those with more than ``min_pixels`` of it.

    Of a class that no image has so many pixels of, those that have any.
    """
    holds = counts > min_pixels
    return torch.where(holds.any(0), holds, counts > 0)


class RareClassSampling(Strategy):
    """Draw a class by its rarity, then an image that holds it; with ``crop``, then a crop that holds it.

    Classes are drawn from ``class_probabilities``, images of a class uniformly. The crop's class is drawn given the
    image, so that classes, images and crops are distributed as if one class had been drawn for all three.

    Options:
        stream: the labelled stream to draw.
        temperature: T, the smaller the more rare classes (published: 0.01).
        min_pixels: an image is drawn for a class that it has more pixels of, at the size at which it is loaded.
        crop: (H, W) of crops; None: leave images whole.
        crop_share: a crop holds the class if it has more than this share of ``min_pixels`` of it; HRDA takes 2.
        tries: crops that are drawn at most until one holds the class.
    """

    stream: str = "source"
    temperature: Positive = 0.01
    min_pixels: Whole = 3000
    crop: tuple[Count, Count] | None = None
    crop_share: NotNegative = 0.5
    tries: Count = 10

    @property
    def requires(self) -> frozenset[str]:
        parts = ("image", "label", "index") if self.crop else ("image", "label")
        return frozenset(f"{self.stream}.{part}" for part in parts)

    @property
    def writes(self) -> frozenset[str]:
        parts = ("image", "label", "weight", "extra") if self.crop else ()
        return frozenset(f"{self.stream}.{part}" for part in parts)

    def sizes(self, before: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        return {self.stream: self.crop} if self.crop else {}

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        self._device = ctx.device
        self._classes_of_image: Tensor | None = None  # (N, K): P(c) given the image, but for a factor

    @hookimpl
    def sampler(self, stream: str, dataset: SegmentationDataset) -> Draw | None:
        if stream != self.stream:
            return None
        if getattr(dataset, "shares", None):
            raise StackError(
                f"strategy {self.name!r} draws the {stream} images by their classes, so not by `share` of their data "
                "sets; drop one of the two."
            )
        counts = label_counts(dataset)
        if not counts.any():
            raise StackError(f"strategy {self.name!r}: no image of the {stream} data has a labelled pixel.")
        probabilities, holds = class_probabilities(counts, self.temperature), holding(counts, self.min_pixels)
        self._tell_of_sparse(counts, dataset)
        self._classes_of_image = (holds * probabilities / holds.sum(0).clamp(min=1)).float().to(self._device)
        images = [column.nonzero().flatten() for column in holds.T]

        def draw(position: int) -> int:
            among = images[int(torch.multinomial(probabilities, 1))]
            return int(among[torch.randint(len(among), ())])

        return draw

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        if self.crop is None:
            return
        stream = step.batch[self.stream]
        if self._classes_of_image is None:
            raise StackError(
                f"strategy {self.name!r} crops by the classes of the data set that `fit` or `iterate` is given; with "
                "batches of your own leave `crop` out."
            )
        assert stream.label is not None and stream.index is not None  # the stack has checked `requires`
        likely = self._classes_of_image[stream.index]
        drawn = (likely / torch.empty_like(likely).exponential_()).argmax(1)  # multinomial() waits for the device
        views = draw_view(
            self.tries * len(drawn), stream.size, self.crop, (1.0, 1.0), flip=0.0, device=stream.label.device
        )
        wanted = (stream.label == drawn[:, None, None]).repeat(self.tries, 1, 1)
        pixels = views.mask(wanted, 0).sum((1, 2)).view(self.tries, -1)
        first = (pixels > self.crop_share * self.min_pixels).int().argmax(0)  # 0 where none holds it
        chosen = first * len(drawn) + torch.arange(len(drawn), device=first.device)
        view = View(views.rows[chosen], views.columns[chosen]).stream(stream, interpolate=False)
        step.batch.write(self.stream, image=view.image, label=view.label, weight=view.weight, extra=view.extra)

    def _tell_of_sparse(self, counts: Tensor, dataset: SegmentationDataset) -> None:
        """Warn of classes that no image has enough pixels of."""
        most = counts.amax(0).tolist()
        classes = getattr(dataset, "classes", range(len(most)))
        few = [f"{name} ({n})" for name, n in zip(classes, most, strict=True) if 0 < n <= self.min_pixels]
        if few:
            logger.warning(
                "strategy %r: no image of the %s data has more than %d pixels of %s (the most in one image). All "
                "images with any are drawn for these; set min_pixels for images of this size.",
                *(self.name, self.stream, self.min_pixels, ", ".join(few)),
            )
