"""Panels that show a few images of the evaluation data with a run's predictions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dalib.core.engine import Engine
from dalib.data.dataset import checked_item, item_name
from dalib.data.decode import resize_label
from dalib.evaluation.metrics import ConfusionMatrix, intersection_over_union
from dalib.evaluation.panels import sample_panel, write_png
from dalib.labels import IGNORE

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset

CANDIDATES = 12
LEGIBLE_HEIGHT = 192  # pixels


class Samples:
    """A few images spread evenly over a data set, and the predictions for them by caption."""

    def __init__(self, dataset: "SegmentationDataset", palette: Sequence[tuple[int, int, int]]) -> None:
        count = min(CANDIDATES, len(dataset))
        indices = [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]
        items = [checked_item(dataset, index, scored=True) for index in indices]
        self._items = [(item.image, item.filled_label) for item in items]
        self._names = [item_name(dataset, index) for index in indices]
        self._palette = palette
        self._predictions: dict[str, list[Tensor]] = {}

    def predict(self, caption: str, engine: Engine, *, teacher: bool = False) -> None:
        """Store the predictions of the engine's student or teacher under ``caption``."""
        self._predictions[caption] = [engine.predict(image[None], teacher=teacher)[0] for image, _ in self._items]

    def write(self, folder: Path) -> None:
        """Write panels of the images with the worst, the median and the best score of the last predictions.

        Each is image, truth where there is one, then the predictions in the order they were made; its ``dalib`` text
        says what is where.
        """
        for number, (rank, score, i) in enumerate(self._chosen(), start=1):
            image, truth = self._items[i]
            labels = {"truth": _fitted(truth, image)} if (truth != IGNORE).any() else {}
            labels |= {caption: predictions[i] for caption, predictions in self._predictions.items()}
            panel = sample_panel(enlarged(image), {c: enlarged(label) for c, label in labels.items()}, self._palette)
            height, width = enlarged(image).shape[-2:]
            of = f" of {len(self._items)}" if rank else ""
            scored = f", mIoU {100 * score:.1f} %" if rank else ""
            contents = {
                "title": f"{rank}{of}: {self._names[i]}{scored}" if rank else self._names[i],
                "captions": ["image", *labels],
                "size": [height, width],
            }
            name = f"{number}_{rank or 'unlabelled'}.png"
            write_png(folder / name, panel, {"dalib": json.dumps(contents)})

    def _chosen(self) -> list[tuple[str, float, int]]:
        """Return rank, score and position of each image to show; the first three without rank if none has labels."""
        *_, predictions = self._predictions.values()
        scores = []
        for i, ((image, truth), prediction) in enumerate(zip(self._items, predictions, strict=True)):
            matrix = ConfusionMatrix(len(self._palette))
            matrix.update(prediction, _fitted(truth, image))
            score = intersection_over_union(matrix.compute()).nanmean().item()
            if score == score:  # not nan, so labelled
                scores.append((score, i))
        scores.sort()
        if not scores:
            return [("", 0.0, i) for i in range(len(self._items))][:3]
        places = {"worst": 0, "median": len(scores) // 2, "best": len(scores) - 1}
        chosen = {place: rank for rank, place in reversed(places.items())}  # fewer than three: the first rank stays
        return [(chosen[place], *scores[place]) for place in sorted(chosen)]


def _fitted(label: Tensor, image: Tensor) -> Tensor:
    return resize_label(label[None], (image.shape[-2], image.shape[-1]))[0]


def enlarged(pixels: Tensor) -> Tensor:
    """Return (..., H, W) enlarged by repeating pixels, if it is less than half of ``LEGIBLE_HEIGHT`` high."""
    factor = max(1, LEGIBLE_HEIGHT // pixels.shape[-2])
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
