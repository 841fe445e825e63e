"""The dataset protocol, its optional attributes, and the check of every item."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dalib.data.batch import OWN_FIELDS
from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, IGNORE, Color

Draw = Callable[[int], int]
"""Maps a position in a stream's endless sequence of samples to a dataset index; pure, so that runs can be resumed."""


class Item(NamedTuple):
    """One image with what belongs to it, checked.

    Fields:
        image: uint8 (3, H, W) RGB.
        label: uint8 (H, W) train ids, 255 = ignore; None for an image without.
        extra: further maps (H, W) by name, such as depth, of any type.
    """

    image: Tensor
    label: Tensor | None
    extra: Mapping[str, Tensor]

    @property
    def filled_label(self) -> Tensor:
        """The label; 255 everywhere for an image without."""
        return torch.full_like(self.image[0], IGNORE) if self.label is None else self.label


@runtime_checkable
class SegmentationDataset(Protocol):
    """A map-style dataset of images; any object with these two methods is one.

    Optional attributes: ``classes`` (names by train id) and ``palette`` (RGB by train id), by default Cityscapes' 19;
    ``item_name(index) -> str``, an item's name in error messages; ``for_evaluation()``, the dataset to score on, whose
    labels may be larger than its images; ``label(index)``, an item's label alone, without decoding its image;
    ``label_counts()``, see ``dalib.data.label_counts``, or ``labels_depend_on()``, numbers and texts that change with
    any label, by which counts of them are kept.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """Return ``(image, label)``, ``(image, label, {name: map})`` or the image alone; types and shapes as in Item.

        An unlabelled image may also have the label None, or one of 255 everywhere.
        """
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


def checked_item(dataset: "SegmentationDataset", index: int) -> Item:
    """Read an item and check it against the protocol.

    Raises:
        DataError: an item of another form, wrong types or shapes, or train ids beyond the data set's ``classes``.
    """
    item = read_item(dataset, index)
    with _naming(dataset, index):
        image, label, extra = item
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise DataError(f"expected an image uint8 (3, H, W), found {_described(image)}.")
        size = tuple(image.shape[1:])
        if label is not None:
            _check_label(dataset, label, size)
        for name, values in extra.items():
            if tuple(values.shape) != size:
                raise DataError(f"expected the map {name!r} {size}, as its image, found {_described(values)}.")
    return item


def read_item(dataset: "SegmentationDataset", index: int) -> Item:
    """Read an item of any allowed form, without a look at shapes and values.

    Raises:
        DataError: an item of another form, or something else than tensors in it.
    """
    found = dataset[index]
    parts = tuple(found) if isinstance(found, tuple | list) else (found,)
    with _naming(dataset, index):
        if not 1 <= len(parts) <= 3:
            raise DataError(f"expected an image, (image, label) or (image, label, maps), found {len(parts)} values.")
        image, label, extra = (*parts, None, None)[:3]
        extra = {} if extra is None else extra
        if not isinstance(extra, Mapping):
            raise DataError(f"expected further maps as {{name: tensor (H, W)}}, found {_described(extra)}.")
        _check_tensor(image, "an image uint8 (3, H, W)")
        if label is not None:
            _check_tensor(label, "a label uint8 (H, W) or None")
        for name, values in extra.items():
            if not isinstance(name, str) or not name.isidentifier() or name in (*OWN_FIELDS, "extra"):
                raise DataError(f"expected a map's name to be a word other than a stream's own fields, found {name!r}.")
            _check_tensor(values, f"the map {name!r} (H, W)")
    return Item(image, label, extra)


def label_of(dataset: "SegmentationDataset", index: int) -> Tensor | None:
    """Return an item's label alone, uint8 (H, W), None for an image without; read by ``dataset.label`` if it has one.

    Raises:
        DataError: as ``checked_item``; where ``dataset.label`` reads it, the image is not looked at.
    """
    if not callable(getattr(dataset, "label", None)):
        return checked_item(dataset, index).label
    label: Tensor | None = dataset.label(index)  # type: ignore[attr-defined]
    if label is not None:
        with _naming(dataset, index):
            _check_tensor(label, "a label uint8 (H, W) or None")
            _check_label(dataset, label)
    return label


def labelled(dataset: "SegmentationDataset", looked_at: int = 32) -> bool:
    """Return whether any of ``looked_at`` items, spread over the data set, has a labelled pixel."""
    count = min(looked_at, len(dataset))
    for position in range(count):
        try:
            label = label_of(dataset, position * len(dataset) // count)
        except Exception:  # it is told where the item is loaded
            return True
        if label is not None and (label != IGNORE).any():
            return True
    return False


def _check_label(dataset: object, label: Tensor, size: tuple[int, ...] | None = None) -> None:
    if label.dtype != torch.uint8 or label.dim() != 2 or (size and tuple(label.shape) != size):
        expected = f"{size}, as its image" if size else "(H, W)"
        raise DataError(
            f"expected a label uint8 {expected}, found {_described(label)}.", kind="labels unlike their images"
        )
    outside = (label >= len(classes_of(dataset))) & (label != IGNORE)
    if hasattr(dataset, "classes") and outside.any():
        raise DataError(
            f"expected train ids in 0..{len(classes_of(dataset)) - 1} or 255, found {int(label[outside].max())}.",
            kind="unknown train ids",
        )


def _check_tensor(values: object, expected: str) -> None:
    if not isinstance(values, Tensor):
        advice = ""
        if isinstance(values, np.ndarray):
            channels_last = values.ndim == 3 and values.shape[-1] == 3
            advice = f" Return torch.from_numpy(array){'.permute(2, 0, 1)' if channels_last else ''}."
        raise DataError(f"expected {expected}, found {_described(values)}.{advice}")


def _described(values: object) -> str:
    if isinstance(values, Tensor):
        return f"{values.dtype} {tuple(values.shape)}"
    if isinstance(values, np.ndarray):
        return f"a NumPy array {values.dtype} {values.shape}"
    return "None" if values is None else type(values).__name__


@contextmanager
def _naming(dataset: object, index: int) -> Iterator[None]:
    """Let an error in the body name the item."""
    try:
        yield
    except DataError as error:
        raise DataError(error.reason, item=item_name(dataset, index), kind=error.kind) from None


def item_name(dataset: object, index: int) -> str:
    """Return an item's name for messages: its file where the dataset knows it, else its index."""
    name = getattr(dataset, "item_name", None)
    return str(name(index)) if callable(name) else f"item {index}"
