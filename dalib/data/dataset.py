"""The dataset protocol, its optional attributes, and the check of every item."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, IGNORE, Color

Draw = Callable[[int], int]
"""Maps a position in a stream's endless sequence of samples to a dataset index; pure, so that runs can be resumed."""


@runtime_checkable
class SegmentationDataset(Protocol):
    """A map-style dataset of labelled images; any object with these two methods is one.

    Optional attributes: ``classes`` (names by train id) and ``palette`` (RGB by train id), by default Cityscapes' 19;
    ``item_name(index) -> str``, an item's name in error messages; ``for_evaluation()``, the dataset to score on, whose
    labels may be larger than its images.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Return the image, uint8 (3, H, W) RGB, and its label, uint8 (H, W) train ids; 255 = ignore or unlabelled."""
        ...


def classes_of(dataset: object) -> tuple[str, ...]:
    """Return the names of a dataset's classes, by train id."""
    return tuple(getattr(dataset, "classes", CITYSCAPES_CLASSES))


def same_classes(present: Mapping[str, tuple[str, ...]]) -> None:
    """Raise DataError unless all data sets have the same classes; ``present``: classes by data set name."""
    (first, classes), *rest = present.items() or [("", ())]
    for name, others in rest:
        if others != classes:
            odd = sorted(set(classes) ^ set(others)) or ["their order"]
            raise DataError(
                f"{first} has {len(classes)} classes and {name} has {len(others)}; they differ in "
                f"{', '.join(odd[:5])}. Map both to one set of classes (the `folder` data set takes a label map)."
            )


def palette_of(dataset: object) -> tuple[Color, ...]:
    """Return the RGB colours of a dataset's classes, by train id."""
    return tuple(getattr(dataset, "palette", CITYSCAPES_PALETTE))


def checked_item(dataset: "SegmentationDataset", index: int) -> tuple[Tensor, Tensor]:
    """Read an item and check it against the protocol.

    Raises:
        DataError: wrong types or shapes, or train ids beyond the data set's ``classes``.
    """
    image, label = dataset[index]
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        found = f"{image.dtype} {tuple(image.shape)}"
        raise DataError(f"expected an image uint8 (3, H, W), found {found}.", item=item_name(dataset, index))
    if label.dtype != torch.uint8 or label.shape != image.shape[1:]:
        raise DataError(
            f"expected a label uint8 {tuple(image.shape[1:])}, as its image, found {label.dtype} {tuple(label.shape)}.",
            item=item_name(dataset, index),
            kind="labels unlike their images",
        )
    outside = (label >= len(classes_of(dataset))) & (label != IGNORE)
    if hasattr(dataset, "classes") and outside.any():
        raise DataError(
            f"expected train ids in 0..{len(classes_of(dataset)) - 1} or 255, found {int(label[outside].max())}.",
            item=item_name(dataset, index),
            kind="unknown train ids",
        )
    return image, label


def item_name(dataset: object, index: int) -> str:
    """Return an item's name for messages: its file where the dataset knows it, else its index."""
    name = getattr(dataset, "item_name", None)
    return str(name(index)) if callable(name) else f"item {index}"
