"""Reads a dataset before anybody waits for it: counts, sizes, classes, and every faulty item in one pass."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dalib.data.dataset import SegmentationDataset, classes_of, item_name
from dalib.data.labels import IGNORE
from dalib.data.pairs import UnpairedError
from dalib.errors import DataError

_SHOWN = 10  # names in a note


@dataclass
class Findings:
    """What ``examine`` saw.

    Fields:
        length: items in the dataset. examined: those that were read.
        sizes: how many images have each (H, W).
        pixels: (256,) int64, labelled pixels by train id; 255 = ignored.
        images: (256,) int64, images in which each train id occurs.
        faults: reason by item or file; empty when all is well.
        single_color: images of one colour: black frames and the like, no fault but seldom wanted.
    """

    name: str
    classes: tuple[str, ...] = ()
    length: int = 0
    examined: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    pixels: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int64))
    images: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int64))
    faults: dict[str, str] = field(default_factory=dict)
    single_color: list[str] = field(default_factory=list)

    @property
    def ignored(self) -> float:
        """Share of pixels that are ignored, 0..1."""
        return float(self.pixels[IGNORE] / self.pixels.sum().clamp(min=1))

    @property
    def absent(self) -> list[str]:
        """Classes that no pixel belongs to."""
        return [name for name, count in zip(self.classes, self.pixels.tolist(), strict=False) if count == 0]

    def notes(self) -> list[str]:
        """What is no fault but worth a look."""
        notes = []
        if self.examined and self.ignored == 1:
            notes.append("every pixel is ignored: unlabelled images, or a label map that fits no id")
        elif self.examined and self.absent:
            notes.append(f"classes without a pixel: {', '.join(self.absent)}")
        if len(self.sizes) > 1:
            notes.append("images differ in size: give `size: [H, W]`")
        if self.single_color:
            notes.append(f"{len(self.single_color)} images of one colour: {', '.join(self.single_color[:_SHOWN])}")
        return notes

    def render(self) -> RenderableType:
        """Return the findings for a rich console: the first fault in full, then tables."""
        parts: list[RenderableType] = [Text(f"{self.name}: {self.length} images, {self.examined} read", style="bold")]
        if self.faults:
            item, reason = next(iter(self.faults.items()))
            parts += [Text(f"first fault: {_told(item, reason)}", style="red"), self._fault_table()]
        if self.examined:
            parts += [self._size_table(), self._class_table()]
        return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in self.notes()))

    def _fault_table(self) -> Table:
        table = Table("item", "fault", title=f"{len(self.faults)} faults", title_justify="left")
        for item, reason in self.faults.items():
            table.add_row(Text(item), Text(reason))
        return table

    def _size_table(self) -> Table:
        table = Table("H x W", "images", title="sizes", title_justify="left")
        for (height, width), count in self.sizes.most_common():
            table.add_row(f"{height} x {width}", str(count))
        return table

    def _class_table(self) -> Table:
        table = Table("id", "class", "pixels %", "images", title="labels", title_justify="left")
        total = max(int(self.pixels.sum()), 1)
        pixels, images = self.pixels.tolist(), self.images.tolist()
        for train_id, name in [*enumerate(self.classes), (IGNORE, "ignored")]:
            table.add_row(str(train_id), Text(name), f"{100 * pixels[train_id] / total:.3f}", str(images[train_id]))
        return table


def examine(
    dataset: SegmentationDataset,
    *,
    name: str = "dataset",
    limit: int | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Read a dataset, any with the two methods of the protocol, and collect what is wrong instead of stopping at it.

    Args:
        limit: read at most this many items, evenly spread; None reads all.
        advance: called with (items done, items to do), for a progress bar.
    """
    findings = Findings(name, classes_of(dataset), len(dataset))
    indices = _spread(len(dataset), limit)
    for done, index in enumerate(indices, 1):
        try:
            image, label = _checked(dataset[index], len(findings.classes))
        except Exception as error:  # of whatever kind: a dataset may be anybody's
            known = isinstance(error, DataError)
            findings.faults[item_name(dataset, index)] = str(error) if known else f"{type(error).__name__}: {error}"
        else:
            _count(findings, image, label, item_name(dataset, index))
        findings.examined = done
        advance(done, len(indices))
    return findings


def examine_new(
    create: Callable[[], SegmentationDataset],
    *,
    name: str = "dataset",
    limit: int | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Like ``examine``, for a dataset that may not even open: what stops it is a fault among the others."""
    unpaired: Mapping[str, str] = {}
    try:
        dataset = create()
    except UnpairedError as error:
        dataset, unpaired = error.pairs, error.faults
    except DataError as error:
        return Findings(name, faults={name: str(error)})
    findings = examine(dataset, name=name, limit=limit, advance=advance)
    findings.faults = {**unpaired, **findings.faults}
    return findings


def _spread(length: int, limit: int | None) -> list[int]:
    count = length if limit is None else min(limit, length)
    return [i * length // count for i in range(count)]


def _checked(item: tuple[Tensor, Tensor], num_classes: int) -> tuple[Tensor, Tensor]:
    image, label = item
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise DataError(f"expected an image uint8 (3, H, W), found {image.dtype} {tuple(image.shape)}.")
    if label.dtype != torch.uint8 or label.shape != image.shape[1:]:
        expected = tuple(image.shape[1:])
        raise DataError(f"expected a label uint8 {expected}, as its image, found {label.dtype} {tuple(label.shape)}.")
    outside = label[(label >= num_classes) & (label != IGNORE)]
    if len(outside):
        raise DataError(f"expected train ids in 0..{num_classes - 1} or 255, found {int(outside.max())}.")
    return image, label


def _count(findings: Findings, image: Tensor, label: Tensor, item: str) -> None:
    pixels = label.flatten().int().bincount(minlength=256)
    findings.pixels += pixels
    findings.images += pixels > 0
    findings.sizes[image.shape[-2], image.shape[-1]] += 1
    if (image == image[:, :1, :1]).all():
        findings.single_color.append(item)


def _told(item: str, reason: str) -> str:
    return reason if reason.startswith(item) else f"{item}: {reason}"
