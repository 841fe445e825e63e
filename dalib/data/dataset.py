"""The dataset protocol, its optional attributes, and the check of every item."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from dalib.data.batch import OWN_FIELDS
from dalib.data.encodings import MASKS
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

    Optional attributes: ``classes`` (names by train id) and ``palette`` (RGB by train id), by default Cityscapes' 19,
    found through torch's ``Subset`` and ``ConcatDataset`` as well; ``item_name(index) -> str``, an item's name in error
    messages; ``for_evaluation()``, the dataset to score on, whose labels may differ from its images in size if it has
    ``labels_at_own_size = True``; ``label(index)``, an item's label alone, without decoding its image;
    ``label_counts()``, see ``dalib.data.label_counts``, or ``labels_depend_on()``, numbers and texts that change with
    any label, by which counts of them are kept; ``own_size(index)``, (H, W) of an image before it is resized;
    ``identity()``, what tells whether the data set is still the one that a run began with, see ``identity_of``;
    ``doubt(pixels)``, why labels with these pixels (256,) by train id are not of the encoding that it reads, or None.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """Return ``(image, label)``, ``(image, label, {name: map})`` or the image alone; types and shapes as in Item.

        An unlabelled image may also have the label None, or one of 255 everywhere.
        """
        ...


def classes_of(dataset: object) -> tuple[str, ...]:
    """Return the names of a dataset's classes, by train id."""
    return own_classes(dataset) or CITYSCAPES_CLASSES


def own_classes(dataset: object) -> tuple[str, ...] | None:
    """Return the classes that a data set names itself, by train id; None where it names none.

    Raises:
        DataError: torch's ``ConcatDataset`` holds data sets with different ones.
    """
    named = [tuple(part.classes) for part in _parts(dataset) if hasattr(part, "classes")]
    if len(named) > 1:
        same_classes({f"part {number} of the ConcatDataset": classes for number, classes in enumerate(named)})
    return named[0] if named else None


def _parts(dataset: object) -> Iterator[Any]:
    """Yield the data set, or those within it where it is a wrapper without classes of its own.

    As torch's ``Subset`` and ``ConcatDataset``, a wrapper has what it wraps as ``dataset`` or ``datasets``.
    """
    inner = dataset.datasets if isinstance(dataset, ConcatDataset) else [getattr(dataset, "dataset", None)]
    if hasattr(dataset, "classes") or inner == [None]:
        yield dataset
    else:
        for part in inner:
            yield from _parts(part)


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
    return next((tuple(part.palette) for part in _parts(dataset) if hasattr(part, "palette")), CITYSCAPES_PALETTE)


def checked_item(dataset: "SegmentationDataset", index: int, *, with_label: bool = True, scored: bool = False) -> Item:
    """Read an item and check it against the protocol.

    Args:
        with_label: False leaves the label out unseen, as training does of the target's.
        scored: the label may have another size than its image where the data set says so, as in evaluation.

    Raises:
        DataError: an item of another form, wrong types or shapes, or train ids beyond the data set's ``classes``.
    """
    item = _read_item(dataset, index, with_label)
    with _naming(dataset, index):
        image, label, extra = item
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise DataError(f"expected an image uint8 (3, H, W), found {_described(image)}.")
        size = tuple(image.shape[1:])
        if label is not None:
            own_size = scored and any(getattr(part, "labels_at_own_size", False) for part in _parts(dataset))
            _check_label(dataset, label, None if own_size else size)
        for name, values in extra.items():
            if tuple(values.shape) != size:
                raise DataError(f"expected the map {name!r} {size}, as its image, found {_described(values)}.")
    return item


def _read_item(dataset: "SegmentationDataset", index: int, with_label: bool) -> Item:
    """Read an item of any allowed form, without a look at shapes and values."""
    found = dataset[index]
    parts = tuple(found) if isinstance(found, tuple | list) else (found,)
    with _naming(dataset, index):
        if not 1 <= len(parts) <= 3:
            raise DataError(f"expected an image, (image, label) or (image, label, maps), found {len(parts)} values.")
        image, label, extra = (*parts, None, None)[:3]
        label = label if with_label else None
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
    for index in spread(len(dataset), looked_at):
        try:
            label = label_of(dataset, index)
        except Exception:  # it is told where the item is loaded
            return True
        if label is not None and (label != IGNORE).any():
            return True
    return False


def spread(length: int, count: int) -> list[int]:
    """Return up to ``count`` indices, spread evenly over ``length`` items."""
    count = min(count, length)
    return [position * length // count for position in range(count)]


def label_pixels(dataset: "SegmentationDataset", looked_at: int = 32) -> Tensor:
    """Return the pixels of each train id in ``looked_at`` items, spread over the data set, (256,) int64.

    Raises:
        DataError: a data set with ``doubt(pixels)`` finds that its labels are not of the encoding that it reads.
    """
    if callable(own := getattr(dataset, "label_pixels", None)):
        found: Tensor = own(looked_at)
        return found
    pixels = torch.zeros(256, dtype=torch.int64)
    for index in spread(len(dataset), looked_at):
        with suppress(Exception):  # it is told where the item is loaded
            if (label := label_of(dataset, index)) is not None:
                pixels += label.flatten().int().bincount(minlength=256)
    if doubt := getattr(dataset, "doubt", lambda pixels: None)(pixels):
        raise DataError(doubt, item=item_name(dataset, 0))
    return pixels


def identity_of(dataset: "SegmentationDataset") -> dict[str, Any]:
    """Return what a resumed run compares: the number of ``images``, and what a data set's ``identity()`` adds.

    That is ``files``, a digest of their names, and ``stored``, the class of each stored value of its labels. Files that
    have moved are the same.
    """
    own: dict[str, Any] = getattr(dataset, "identity", dict)()
    return {"images": len(dataset), **own}


def absent_classes(classes: tuple[str, ...], pixels: Tensor) -> str:
    """Return a sentence that names the classes without a pixel and what may be the cause; "" where there is none.

    Args:
        pixels: (256,) labelled pixels by train id, 255 = ignored.
    """
    counts = pixels.tolist()
    absent = [name for name, count in zip(classes, counts, strict=False) if not count]
    if not absent or not sum(counts[:IGNORE]):
        return ""
    return f"classes without a pixel: {', '.join(absent)}.{mask_advice(classes, pixels)}"


def mask_advice(classes: tuple[str, ...], pixels: Tensor) -> str:
    """Return what to do where labels may be masks of 0 and 255; "" where they are none.

    They may be where one class of two occurs, or road alone of Cityscapes' 19, which is 0 without a label map, and
    ignored pixels.

    Args:
        pixels: (256,) labelled pixels by train id, 255 = ignored.
    """
    present = pixels[:IGNORE].nonzero().flatten().tolist()
    unmapped = classes == CITYSCAPES_CLASSES and present == [0]
    if not pixels[IGNORE] or not (unmapped or (len(classes) == 2 and len(present) == 1)):
        return ""
    proposal = MASKS if unmapped else f"`ids: {{0: {classes[0]}, 255: {classes[1]}}}`"
    return f" Masks of 0 and 255? 255 is ignored unless the label map says {proposal}."


def _check_label(dataset: object, label: Tensor, size: tuple[int, ...] | None = None) -> None:
    if label.dtype != torch.uint8 or label.dim() != 2 or (size and tuple(label.shape) != size):
        expected = f"{size}, as its image" if size else "(H, W)"
        advice = ""
        if label.numel() and label.dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
            advice = f" of {label.min()}..{label.max()}. Train ids are 0..{len(classes_of(dataset)) - 1}, 255 = ignored"
        raise DataError(
            f"expected a label uint8 {expected}, found {_described(label)}{advice}.", kind="labels unlike their images"
        )
    classes = own_classes(dataset)
    outside = (label >= len(classes or CITYSCAPES_CLASSES)) & (label != IGNORE)
    if classes and outside.any():
        raise DataError(
            f"expected train ids in 0..{len(classes) - 1} or 255, found {int(label[outside].max())}.",
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
