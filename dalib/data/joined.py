"""Several data sets as one."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dalib.data.dataset import classes_of, item_name, label_of, label_pixels, palette_of, same_classes

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset


class Joined:
    """Data sets one after the other, such as several sources.

    Args:
        datasets: by name, which an error gives; an empty one has no image to draw.
        shares: of the images that a stream draws from each, > 0; None: in proportion to their sizes.

    Raises:
        DataError: their classes differ.
    """

    def __init__(self, datasets: "Mapping[str, SegmentationDataset]", shares: Sequence[float] | None = None) -> None:
        same_classes({name: classes_of(dataset) for name, dataset in datasets.items()})
        self.datasets = tuple(datasets.values())
        self.names = tuple(datasets)
        self.shares = shares
        self.lengths = [len(dataset) for dataset in self.datasets]
        self.starts = [0, *accumulate(self.lengths)]
        self.classes = classes_of(self.datasets[0])
        self.palette = palette_of(self.datasets[0])

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Any:
        dataset, within = self._at(index)
        return dataset[within]

    def label(self, index: int) -> Tensor | None:
        """An item's label alone."""
        return label_of(*self._at(index))

    def label_pixels(self, looked_at: int) -> Tensor:
        """The pixels of each train id in ``looked_at`` items of each data set, (256,) int64."""
        return torch.stack([label_pixels(dataset, looked_at) for dataset in self.datasets]).sum(0)

    def item_name(self, index: int) -> str:
        """The item's name in its own data set."""
        return item_name(*self._at(index))

    @property
    def labels_at_own_size(self) -> bool:
        """Whether labels of a data set may differ from their images in size."""
        return any(getattr(dataset, "labels_at_own_size", False) for dataset in self.datasets)

    def for_evaluation(self) -> "Joined":
        """Return the data sets to score on, joined."""
        scored = (getattr(dataset, "for_evaluation", lambda dataset=dataset: dataset)() for dataset in self.datasets)
        return Joined(dict(zip(self.names, scored, strict=True)))

    def _at(self, index: int) -> "tuple[SegmentationDataset, int]":
        if not 0 <= index < len(self):
            raise IndexError(f"the joined data sets have {len(self)} images; there is no image {index}")
        number = bisect_right(self.starts, index) - 1
        return self.datasets[number], index - self.starts[number]
