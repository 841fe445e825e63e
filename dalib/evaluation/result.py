"""The result of an evaluation: IoU by class, the mean IoU and a table of both."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from torch import Tensor

from dalib.errors import DataError, suggest
from dalib.evaluation.label_free import LabelFree
from dalib.evaluation.metrics import intersection_over_union
from dalib.evaluation.validators import Evidence

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

NONE = "–"  # in tables, in place of a figure


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
        counted: ids of the classes that ``miou`` averages over where the labels have them.
        protocol: name of the protocol.
        images: number of images, those without labels included.
        epsilon: added to each union, in pixels (0 in all but one published protocol).
        label_free: measures of the images without labels; None where there are none.
        evidence: what validators see, see the ``needs`` of ``dalib.evaluate``.
    """

    confusion: Tensor
    classes: tuple[str, ...]
    counted: tuple[int, ...]
    protocol: str = "full"
    images: int = 0
    epsilon: float = 0.0
    label_free: LabelFree | None = None
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class, (K,) float64 in [0, 1], nan where the class is absent."""
        return intersection_over_union(self.confusion, self.epsilon)

    @property
    def averaged(self) -> tuple[int, ...]:
        """Ids of the classes that ``miou`` averages over: the counted ones that the labels have.

        The labels alone decide, so that all results on a data set average over the same classes. Only a protocol with
        ``epsilon`` averages over all that are counted, absent ones as 0, which is how it was published.
        """
        pixels = self.confusion.sum(1).tolist()
        return tuple(i for i in self.counted if pixels[i] or (self.epsilon and sum(pixels)))

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the counted classes that no labelled pixel belongs to, so that they are not in the mean."""
        return tuple(self.classes[i] for i in self.counted if i not in self.averaged)

    @property
    def miou(self) -> float | None:
        """Mean in [0, 1] over the counted classes that the labels have; None where there are no labels of them."""
        return float(self.iou[list(self.averaged)].mean()) if self.averaged else None

    @property
    def pixel_accuracy(self) -> float | None:
        """Share in [0, 1] of the labelled pixels that are predicted right; None without any."""
        pixels = int(self.confusion.sum())
        return int(self.confusion.trace()) / pixels if pixels else None

    def over(self, classes: Sequence[str | int] | str | None) -> "Result":
        """Return the same counts, with ``miou`` over other ``classes``: ``result.over("synthia13").miou``."""
        return dataclasses.replace(self, counted=class_ids(classes, self.classes))

    def to_dict(self) -> dict[str, Any]:
        """Return its part of ``results.json``; the IoU of a class in neither labels nor predictions is None."""
        scores = {name: _number(value) for name, value in zip(self.classes, self.iou.tolist(), strict=True)}
        return {
            "miou": self.miou,
            "iou": scores,
            "counted": [self.classes[i] for i in self.averaged],
            "absent": list(self.absent),
            "protocol": self.protocol,
            "images": self.images,
            "pixel_accuracy": self.pixel_accuracy,
            "confusion": self.confusion.tolist() if self.confusion.any() else [],
            **({"label_free": self.label_free.to_dict(self.classes)} if self.label_free else {}),
        }

    def table(self, source: Mapping[str, float] | None = None) -> Table:
        """Return a table of IoU and share of the labelled pixels by class, classes outside the mean dimmed.

        Without labels it is one of the predicted shares, beside those of the classes in the ``source``'s labels.
        """
        if self.label_free and not self.confusion.any():
            return self._label_free_table(self.label_free, source or {})
        unlabelled = f", {self.label_free.images} of them without labels" if self.label_free else ""
        title = f"protocol {self.protocol}, {self.images} images{unlabelled}"
        table = Table("class", title=title, show_footer=True)
        table.caption = f"not in the mean, without a labelled pixel: {', '.join(self.absent)}" if self.absent else None
        table.columns[0].footer = f"mean of {len(self.averaged)}" + (f" of {len(self.counted)}" if self.absent else "")
        table.add_column("IoU %", footer=_percent(math.nan if self.miou is None else self.miou), justify="right")
        table.add_column("pixels %", justify="right")
        share = self.confusion.sum(1).double() / self.confusion.sum().clamp(min=1)
        for i, (name, iou, pixels) in enumerate(zip(self.classes, self.iou.tolist(), share.tolist(), strict=True)):
            known = pixels or i in self.averaged  # an absent class that is predicted somewhere has the IoU 0, too
            scores = (_percent(iou), share_text(pixels)) if known else (NONE, "absent")
            table.add_row(name, *scores, style=None if i in self.averaged else "dim")
        return table

    def _label_free_table(self, measures: LabelFree, source: Mapping[str, float]) -> Table:
        title = f"no labels, so no mIoU: protocol {self.protocol}, {self.images} images"
        table = Table("class", title=title, caption=f"{measures}", caption_justify="left")
        table.add_column("predicted %", justify="right")
        if source:
            table.add_column("labels of the source %", justify="right")
        for name, share in zip(self.classes, measures.predicted.tolist(), strict=True):
            table.add_row(name, share_text(share), *([share_text(source[name])] if source else []))
        return table


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return NONE if math.isnan(value) else f"{100 * value:.1f}"


def share_text(value: float) -> str:
    """Return a share in %, in which no pixel at all is told from a few."""
    return NONE if not value else "<0.1" if value < 0.0005 else f"{100 * value:.1f}"
