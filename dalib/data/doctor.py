"""Examination of a dataset before training: counts, sizes, classes, and every faulty item in one pass."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from dalib.data.dataset import (
    Item,
    SegmentationDataset,
    absent_classes,
    checked_item,
    classes_of,
    item_name,
    same_classes,
    spread,
)
from dalib.data.decode import Size
from dalib.data.faults import Fault, collecting
from dalib.errors import DataError
from dalib.labels import IGNORE

_SHOWN = 5  # items listed per kind of fault or note
SQUEEZED = 0.05  # a change of shape that is told


@dataclass
class Findings:
    """The result of ``examine``.

    Fields:
        length: items in the dataset. examined: those that were read.
        sizes: how many images have each (H, W).
        own_sizes: how many have each pair of the file's own (H, W), None where the data set does not say, and that.
        squeezed: names of the images whose shape was changed by 5 % or more.
        pixels: (256,) int64, labelled pixels by train id; 255 = ignored.
        images: (256,) int64, images in which each train id occurs.
        faults: each once; empty when all is well.
        single_color: names of images of one colour, such as black frames; noted, not a fault.
        remarks: further notes, of who called ``examine``.
    """

    name: str
    classes: tuple[str, ...] = ()
    length: int = 0
    examined: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    own_sizes: Counter[tuple[Size | None, Size]] = field(default_factory=Counter)
    squeezed: list[str] = field(default_factory=list)
    pixels: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int64))
    images: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int64))
    faults: list[Fault] = field(default_factory=list)
    single_color: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def ignored(self) -> float:
        """The share of ignored pixels, 0..1."""
        return float(self.pixels[IGNORE] / self.pixels.sum().clamp(min=1))

    def notes(self) -> list[str]:
        """Return remarks that are not faults."""
        notes = [*self.remarks]
        if self.sizes and self.ignored == 1:
            notes.append("no labels are read: images alone, as of a target; or, where labels are meant, none that fits")
        elif absent := absent_classes(self.classes, self.pixels):
            notes.append(absent.removesuffix("."))
        if self.squeezed:
            told = f"{counted(len(self.squeezed), 'image')} squeezed into another shape, by 5 % or more"
            notes.append(f"{told}; `resize: fit` or `resize: crop` keep it: {_first(self.squeezed)}")
        if self.single_color:
            notes.append(f"{counted(len(self.single_color), 'image')} of one colour: {_first(self.single_color)}")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Return everything found, every fault included, for a JSON file."""
        labelled = [*enumerate(self.classes), (IGNORE, "ignored")]
        return {
            "name": self.name,
            "length": self.length,
            "read": self.examined,
            "faults": [fault._asdict() for fault in self.faults],
            "sizes": [
                {"size": list(size), "own": own and list(own), "images": count}
                for (own, size), count in self.own_sizes.most_common()
            ],
            "pixels": {name: int(self.pixels[train_id]) for train_id, name in labelled},
            "images": {name: int(self.images[train_id]) for train_id, name in labelled},
            "notes": self.notes(),
        }

    def render(self, known: Collection[Fault] = ()) -> RenderableType:
        """Return the findings for a rich console: faults by kind, then tables; ``known`` faults are only counted."""
        new = [fault for fault in self.faults if fault not in known]
        found = counted(len(self.faults), "fault") if self.faults else "no faults"
        above = f", {len(self.faults) - len(new)} listed above" if len(new) < len(self.faults) else ""
        title = f"{self.name}: {counted(self.length, 'image')}, {self.examined} read, {found}{above}"
        parts: list[RenderableType] = [Text(title, style="bold red" if self.faults else "bold"), *_by_kind(new)]
        if self.sizes:
            parts.append(self._size_table())
        if self.pixels[:IGNORE].any():
            parts.append(self._class_table())
        return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in self.notes()))

    def _size_table(self) -> Table:
        table = Table("file's H x W", "as read", "images", title="sizes", title_justify="left")
        for (own, size), count in self.own_sizes.most_common():
            table.add_row("" if own is None else _times(own), _times(size), str(count))
        return table

    def _class_table(self) -> Table:
        table = Table(title="labels", title_justify="left")
        table.add_column("id", justify="right")
        table.add_column("class", max_width=20, no_wrap=True, overflow="ellipsis")
        table.add_column("pixels %", justify="right")
        table.add_column("share", width=20)
        table.add_column("images", justify="right")
        shares = (self.pixels / self.pixels.sum()).tolist()
        images = self.images.tolist()
        for train_id, name in [*enumerate(self.classes), (IGNORE, "ignored")]:
            bar = Bar(max(shares), 0, shares[train_id], color="cyan")
            table.add_row(str(train_id), Text(name), f"{100 * shares[train_id]:.3f}", bar, str(images[train_id]))
        return table


def examine(
    dataset: SegmentationDataset,
    *,
    name: str = "dataset",
    limit: int | None = None,
    one_size: bool = False,
    needs_labels: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Read the items of any ``SegmentationDataset`` and collect all faults instead of stopping at the first.

    Args:
        limit: read at most this many items, evenly spread; None reads all.
        one_size: count it as a fault when images differ in size, since they cannot be batched.
        needs_labels: count it as a fault when no pixel has a label.
        advance: called with (items done, items to do), for a progress bar.
    """
    findings = Findings(name, classes_of(dataset), len(dataset))
    indices = spread(len(dataset), len(dataset) if limit is None else limit)
    for done, index in enumerate(indices, 1):
        try:
            item = checked_item(dataset, index)
        except Exception as error:  # a third-party dataset may raise anything
            findings.faults.append(_fault(dataset, index, error))
        else:
            _count(findings, dataset, index, item)
        findings.examined = done
        advance(done, len(indices))
    if not len(dataset):
        findings.faults.append(Fault("", "expected images, found none; check its root, split and lists."))
    if doubt := getattr(dataset, "doubt", lambda pixels: None)(findings.pixels):
        findings.faults.append(Fault("", doubt))
    if one_size and len(findings.sizes) > 1:
        findings.faults.append(Fault("", "the images differ in size; give `size: [H, W]` to make batches of them."))
    if needs_labels and findings.sizes and findings.ignored == 1:
        reason = "no pixel has a label, and a strategy trains on them; check the labels, the split and the label map."
        findings.faults.append(Fault("", reason))
    return findings


def examine_new(create: Callable[[], SegmentationDataset], *, name: str = "dataset", **options: Any) -> Findings:
    """Like ``examine``, for a dataset still to be created: an error in ``create`` is listed among the faults."""
    with collecting() as faults:
        try:
            dataset = create()
        except DataError as error:
            return Findings(name, faults=[*faults, Fault("", str(error))])
    findings = examine(dataset, name=name, **options)
    findings.faults = list(dict.fromkeys([*faults, *findings.faults]))
    return findings


def compare(first: Findings, other: Findings) -> None:
    """Add a fault to ``other`` where its classes are not those of ``first``."""
    try:
        same_classes({findings.name: findings.classes for findings in (first, other) if findings.classes})
    except DataError as error:
        other.faults.append(Fault("", str(error)))


def compare_sizes(first: Findings, other: Findings) -> None:
    """Add a fault to ``other``, of the same stream, where its images have another size than those of ``first``."""
    if first.sizes and other.sizes and first.sizes.keys() != other.sizes.keys():
        one, two = (findings.sizes.most_common(1)[0][0] for findings in (first, other))
        reason = (
            f"{first.name} has images of {one[0]} x {one[1]}, {other.name} of {two[0]} x {two[1]} (H x W); give both "
            "the same `size: [H, W]` to make batches of them."
        )
        other.faults.append(Fault("", reason))


def counted(number: int, what: str) -> str:
    """Return "1 fault", "2 faults"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _times(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _by_kind(faults: Iterable[Fault]) -> list[Text]:
    """Return, per kind of fault, a line with the first one's reason and the names of its first items."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind or fault.reason, []).append(fault)
    lines = []
    for alike in kinds.values():
        number = f" ({len(alike)} of this kind)" if len(alike) > 1 else ""
        lines.append(Text(f"  {alike[0].reason}{number}", style="red"))
        lines += [Text(f"    {fault.item}") for fault in alike[:_SHOWN] if fault.item]
        if len(alike) > _SHOWN:
            lines.append(Text(f"    and {len(alike) - _SHOWN} more"))
    return lines


def _fault(dataset: SegmentationDataset, index: int, error: Exception) -> Fault:
    """Return an item's error as a fault of the file that it names, which may be the label's."""
    if isinstance(error, DataError):
        return Fault(error.item or item_name(dataset, index), error.reason, error.kind)
    return Fault(item_name(dataset, index), f"{type(error).__name__}: {error}")


def _count(findings: Findings, dataset: SegmentationDataset, index: int, item: Item) -> None:
    image, pixels = item.image, item.filled_label.flatten().int().bincount(minlength=256)
    size = image.shape[-2], image.shape[-1]
    own: Size | None = getattr(dataset, "own_size", lambda index: None)(index)
    findings.pixels += pixels
    findings.images += pixels > 0
    findings.sizes[size] += 1
    findings.own_sizes[own, size] += 1
    if own and getattr(dataset, "resize", "squeeze") == "squeeze" and _shape_change(own, size) >= SQUEEZED:
        findings.squeezed.append(item_name(dataset, index))
    if (image == image[:, :1, :1]).all():
        findings.single_color.append(item_name(dataset, index))


def _shape_change(own: Size, size: Size) -> float:
    """Return by how much the shape, width to height, was changed, 0 where it was kept."""
    ratio = (own[1] / own[0]) / (size[1] / size[0])
    return max(ratio, 1 / ratio) - 1
