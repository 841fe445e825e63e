"""Datasets of file pairs, an image and its label."""

import copy
import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dalib.data.decode import IMAGE_SUFFIXES, Size, image_size, read_image, read_label
from dalib.data.encodings import ColorMap, IdMap, LabelMap
from dalib.data.faults import Fault, report
from dalib.data.reframe import Resize, frame, native_size
from dalib.errors import DataError
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, IGNORE, Color


class PairedFiles:
    """Images and labels in files, matched by key.

    Args:
        images: file of each image by key; their order is the dataset's.
        labels: file of each label by key; None for images alone, whose labels are all 255.
        label_map: maps what the label files store to train ids; applied after the resize.
        size: (H, W) to resize to, images bilinear and labels nearest; None keeps each file's own.
        resize: what becomes of a picture of another shape than ``size``.
        classes, palette: names and RGB colours by train id.

    Raises:
        DataError: an image without label, a label without image, or an invalid size.
    """

    def __init__(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path] | None,
        *,
        label_map: LabelMap,
        size: Size | None = None,
        resize: Resize = "squeeze",
        classes: tuple[str, ...] = CITYSCAPES_CLASSES,
        palette: tuple[Color, ...] = CITYSCAPES_PALETTE,
    ) -> None:
        self.files: list[tuple[Path, Path | None]]
        if labels is None:
            self.files = [(file, None) for file in images.values()]
        else:
            self.files = [(file, labels[key]) for key, file in images.items() if key in labels]
        self.label_map = label_map
        self.size = _checked(size)
        self.resize: Resize = resize
        self.classes = classes
        self.palette = palette
        self.resizes_labels = True
        unpaired = [] if labels is None else list(_unpaired(images, labels))
        report(unpaired, _told(unpaired))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_file, label_file = self.files[index]
        image = read_image(image_file)
        own = _size(image)
        size = self.size or own
        resized = frame(own, size, self.resize).image(image)
        if label_file is None:
            return resized, torch.full(size, IGNORE, dtype=torch.uint8)
        stored = self._stored(label_file)
        if stored.shape[-2:] != image.shape[-2:]:
            raise DataError(
                f"expected the size of its image, {_times(image)}, found {_times(stored)}; "
                f"image: {image_file} (EXIF orientation applied). Replace one of them, or leave the pair out.",
                item=label_file,
                kind="labels of another size than their images",
            )
        return resized, self._mapped(stored, label_file)

    def label(self, index: int) -> Tensor | None:
        """The label alone, as an item's; None for images alone. It is not compared with its image."""
        file = self.files[index][1]
        if file is None:
            return None
        return self._mapped(self._stored(file), file)

    def own_size(self, index: int) -> Size:
        """(H, W) of an image's file, from its header."""
        return image_size(self.files[index][0])

    def doubt(self, pixels: Tensor) -> str | None:
        """Why labels with these ``pixels`` (256,) by train id are not what the label map reads, where it can tell."""
        doubt: str | None = getattr(self.label_map, "doubt", lambda pixels: None)(pixels)
        return doubt

    def identity(self) -> dict[str, object]:
        """What a resumed run compares: the files' names below the folder that holds all of them, and the label map."""
        files = [file for pair in self.files for file in pair if file is not None]
        base = os.path.commonpath({file.parent for file in files}) if files else ""
        names = "\n".join(os.path.relpath(file, base) for file in files)
        stored: dict[str, int] = {}
        if any(label for _, label in self.files):
            stored = getattr(self.label_map, "stored", dict)()
        return {
            "files": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
            "stored": {value: self.classes[train_id] for value, train_id in stored.items()},
        }

    def labels_depend_on(self) -> list[object] | None:
        """What the labels are made from, so that counts of them can be kept; None where it cannot be told."""
        if not isinstance(self.label_map, IdMap | ColorMap):
            return None  # somebody's function, which may read anything
        kind = type(self.label_map)
        how = [kind.__qualname__, *((name, _plain(value)) for name, value in sorted(vars(self.label_map).items()))]
        files = [[str(file.resolve()), *_state(file)] for _, file in self.files if file is not None]
        return [how, self.size, self.resize, self.classes, self.resizes_labels, files]

    def _stored(self, file: Path) -> Tensor:
        return read_label(file, painted=isinstance(self.label_map, ColorMap))

    def _mapped(self, stored: Tensor, file: Path) -> Tensor:
        own = _size(stored)
        size = self.size or own
        if not self.resizes_labels:
            size = native_size(own, size, self.resize)
        return frame(own, size, self.resize).label(stored, lambda ids: self.label_map(ids, file))

    def for_evaluation(self) -> "PairedFiles":
        """Return the same images at ``size`` with labels at their own size, at which published scores are computed.

        Cropped or fitted, they have the same shape as the images.
        """
        scored = copy.copy(self)
        scored.resizes_labels = False
        return scored

    @property
    def labels_at_own_size(self) -> bool:
        """Whether labels keep their files' size where images are resized."""
        return not self.resizes_labels

    def item_name(self, index: int) -> str:
        """The image's path."""
        return str(self.files[index][0])


def _unpaired(images: Mapping[str, Path], labels: Mapping[str, Path]) -> Iterator[Fault]:
    yield from (Fault(str(file), "image without label") for key, file in images.items() if key not in labels)
    for key, file in labels.items():
        if key not in images:
            other = _of_another_type(key, images)
            types = ", ".join(sorted(IMAGE_SUFFIXES))
            why = f"label of {other}, which is of no type that is read ({types}); convert that" if other else ""
            yield Fault(str(file), why or "label without image")


def _of_another_type(key: str, images: Mapping[str, Path]) -> Path | None:
    """Return the picture of a label's key that is of no type that is read; keys are paths below the images' folder."""
    if not images:
        return None
    known, image = next(iter(images.items()))
    place = image.parents[known.count("/")] / key
    found = sorted(place.parent.glob(f"{glob.escape(place.name)}.*"))
    return next((file for file in found if file.suffix.lower() not in IMAGE_SUFFIXES), None)


def _told(unpaired: Sequence[Fault]) -> str:
    first = "; ".join(map(str, unpaired[:5]))
    more = f"; and {len(unpaired) - 5} more" if len(unpaired) > 5 else ""
    number = "1 file has" if len(unpaired) == 1 else f"{len(unpaired)} files have"
    return f"{number} no partner: {first}{more}. Add what is missing, or name the pairs that are meant in a `list:`."


def _checked(size: Size | None) -> Size | None:
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise DataError(f"size: expected (H, W) in pixels, both at least 1, found {size}.")
    return size and (size[0], size[1])


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, Tensor) else value


def _state(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:  # it is told where the file is read
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _size(pixels: Tensor) -> Size:
    return pixels.shape[-2], pixels.shape[-1]


def _times(image: Tensor) -> str:
    return f"{image.shape[-2]} x {image.shape[-1]}"
