"""The result of an evaluation: IoU by class, the mean IoU and a table of both."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from dalib.errors import DataError, suggest
from dalib.evaluation.metrics import intersection_over_union

SUBSETS: dict[str, tuple[str, ...]] = {
    "synthia16": (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
        *("vegetation", "sky", "person", "rider", "car", "bus", "motorcycle", "bicycle"),
    ),
    "synthia13": (
        *("road", "sidewalk", "building", "traffic light", "traffic sign", "vegetation", "sky"),
        *("person", "rider", "car", "bus", "motorcycle", "bicycle"),
    ),
}
"""Classes that SYNTHIA shares with Cityscapes; the 13 leave out wall, fence and pole."""


def class_ids(classes: Sequence[str | int] | str | None, names: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of the ``classes`` to average over: names or ids, a name of ``SUBSETS``, or None for all.

    Raises:
        DataError: a class that is not among ``names``, or no class at all.
    """
    if classes is None:
        return tuple(range(len(names)))
    if isinstance(classes, str):
        if classes not in SUBSETS:
            raise DataError(f"no set of classes is called {classes!r}.{suggest(classes, SUBSETS)}")
        classes = SUBSETS[classes]
    if not classes:
        raise DataError("classes: expected at least one class to average over, got an empty list.")
    return tuple(_class_id(entry, names) for entry in classes)


def _class_id(entry: str | int, names: Sequence[str]) -> int:
    if isinstance(entry, str):
        if entry not in names:
            raise DataError(f"classes: the data has no class {entry!r}.{suggest(entry, names)}")
        return list(names).index(entry)
    if not 0 <= entry < len(names):
        raise DataError(f"classes: expected ids in 0..{len(names) - 1}, got {entry}.")
    return entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The confusion matrix of an evaluation and the scores computed from it.

    Fields:
        confusion: (K, K) int64, rows = truth, columns = prediction.
        classes: names of the K classes.
        counted: ids of the classes that ``miou`` averages over where they occur.
        protocol: name of the protocol.
        images: number of images scored.
        epsilon: added to each union, in pixels (0 in all but one published protocol).
    """

    confusion: Tensor
    classes: tuple[str, ...]
    counted: tuple[int, ...]
    protocol: str = "full"
    images: int = 0
    epsilon: float = 0.0

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class, (K,) float64 in [0, 1], nan where the class is absent."""
        return intersection_over_union(self.confusion, self.epsilon)

    @property
    def averaged(self) -> tuple[int, ...]:
        """Ids of the counted classes that have a score, which are those that ``miou`` averages over."""
        absent = self.iou.isnan().tolist()
        return tuple(i for i in self.counted if not absent[i])

    @property
    def miou(self) -> float:
        """Mean in [0, 1] over the counted classes that occur in truth or prediction; nan when none does."""
        return float(self.iou[list(self.averaged)].mean())

    @property
    def pixel_accuracy(self) -> float:
        """Share in [0, 1] of the labelled pixels that are predicted right; nan without any."""
        return float(self.confusion.trace().double() / self.confusion.sum())

    def over(self, classes: Sequence[str | int] | str | None) -> "Result":
        """Return the same counts, with ``miou`` over other ``classes``: ``result.over("synthia13").miou``."""
        return dataclasses.replace(self, counted=class_ids(classes, self.classes))

    def to_dict(self) -> dict[str, Any]:
        """Return its part of ``results.json``; None is for nan, which JSON lacks."""
        scores = {name: _number(value) for name, value in zip(self.classes, self.iou.tolist(), strict=True)}
        counted = [self.classes[i] for i in self.counted]
        return {
            "miou": _number(self.miou),
            "iou": scores,
            "counted": counted,
            "protocol": self.protocol,
            "images": self.images,
            "pixel_accuracy": _number(self.pixel_accuracy),
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> Table:
        """Return a table of IoU and share of the labelled pixels by class, classes outside the mean dimmed."""
        title = f"protocol {self.protocol}, {self.images} images"
        table = Table("class", title=title, show_footer=True)
        table.columns[0].footer = f"mean of {len(self.averaged)}"
        table.add_column("IoU %", footer=_percent(self.miou), justify="right")
        table.add_column("pixels %", justify="right")
        share = self.confusion.sum(1).double() / self.confusion.sum().clamp(min=1)
        for i, (name, iou, pixels) in enumerate(zip(self.classes, self.iou.tolist(), share.tolist(), strict=True)):
            table.add_row(name, _percent(iou), _percent(pixels), style=None if i in self.counted else "dim")
        return table


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
