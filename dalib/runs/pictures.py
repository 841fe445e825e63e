"""Panels that show a few images of the evaluation data with a run's predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dalib.core.engine import Engine
from dalib.data.dataset import checked_item
from dalib.data.decode import resize_label
from dalib.evaluation.panels import sample_panel, write_png
from dalib.labels import IGNORE

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset

SCENES = 4
LEGIBLE_HEIGHT = 192  # pixels


class Samples:
    """A few images spread evenly over a data set, and the predictions for them by caption."""

    def __init__(self, dataset: "SegmentationDataset", palette: Sequence[tuple[int, int, int]]) -> None:
        count = min(SCENES, len(dataset))
        items = [checked_item(dataset, (2 * i + 1) * len(dataset) // (2 * count), scored=True) for i in range(count)]
        self._items = [(item.image, item.label) for item in items]
        self._palette = palette
        self._predictions: dict[str, list[Tensor]] = {}

    def predict(self, caption: str, engine: Engine, *, teacher: bool = False) -> None:
        """Store the predictions of the engine's student or teacher under ``caption``."""
        self._predictions[caption] = [engine.predict(image[None], teacher=teacher)[0] for image, _ in self._items]

    def write(self, folder: Path) -> None:
        """Write a panel per image: image, truth if it has labels, then the predictions in the order they were made."""
        for number, (image, truth) in enumerate(self._items):
            predictions = {caption: labels[number] for caption, labels in self._predictions.items()}
            if truth is not None and (truth != IGNORE).any():
                truth = resize_label(truth[None], (image.shape[-2], image.shape[-1]))[0]
                predictions = {"truth": truth} | predictions
            panel = sample_panel(
                enlarged(image),
                {caption: enlarged(label) for caption, label in predictions.items()},
                self._palette,
            )
            write_png(folder / f"scene_{number}.png", panel)


def enlarged(pixels: Tensor) -> Tensor:
    """Return (..., H, W) enlarged by repeating pixels, if it is less than half of ``LEGIBLE_HEIGHT`` high."""
    factor = max(1, LEGIBLE_HEIGHT // pixels.shape[-2])
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
