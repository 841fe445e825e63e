"""What a dataset is, and what dalib reads from one."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from dalib.data.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, Color

Draw = Callable[[int], int]
"""From a position in the endless stream of one domain to the index of the image to load; pure, so that runs resume."""


@runtime_checkable
class SegmentationDataset(Protocol):
    """A map-style dataset of labelled images; any object with these two methods is one.

    Optional attributes: ``classes`` (names by train id) and ``palette`` (RGB by train id), by default Cityscapes' 19;
    ``item_name(index) -> str``, what error messages call an item; ``for_evaluation()``, the data set to score on, whose
    labels may be larger than its images.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Return the image, uint8 (3, H, W) RGB, and its label, uint8 (H, W) train ids; 255 = ignore or unlabelled."""
        ...


def classes_of(dataset: object) -> tuple[str, ...]:
    """Names of a dataset's classes, by train id."""
    return tuple(getattr(dataset, "classes", CITYSCAPES_CLASSES))


def palette_of(dataset: object) -> tuple[Color, ...]:
    """RGB colours of a dataset's classes, by train id."""
    return tuple(getattr(dataset, "palette", CITYSCAPES_PALETTE))


def item_name(dataset: object, index: int) -> str:
    """What to call an item in a message: its file where the dataset knows it, else its index."""
    name = getattr(dataset, "item_name", None)
    return str(name(index)) if callable(name) else f"item {index}"
