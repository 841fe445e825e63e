"""A stream's data set as a strategy's ``sampler`` sees it."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from dalib.data.bad_items import BadItems
from dalib.data.counts import counted
from dalib.data.dataset import checked_item, classes_of, item_name, label_of, palette_of
from dalib.errors import StackError

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset


class Sampled:
    """The data set of a stream; the target's has no labels, and nothing else that may lead to them.

    Args:
        bad_items: counts the items whose label cannot be read, in ``label_counts``.
    """

    def __init__(self, dataset: "SegmentationDataset", stream: str, bad_items: BadItems) -> None:
        self.classes = classes_of(dataset)
        self.palette = palette_of(dataset)
        self._dataset = dataset
        self._stream = stream
        self._bad_items = bad_items

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        if self._stream != "target":
            return self._dataset[index]
        return checked_item(self._dataset, index, with_label=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self._stream == "target":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._dataset, name)

    def item_name(self, index: int) -> str:
        """The item's name."""
        return item_name(self._dataset, index)

    def label(self, index: int) -> Tensor | None:
        """An item's label alone; StackError for the target."""
        self._check_labels("label")
        return label_of(self._dataset, index)

    def label_counts(self) -> Tensor:
        """Pixels of each item and class, (N, K) int64, 0 for unreadable items; StackError for the target."""
        self._check_labels("label_counts")
        return counted(self._dataset, self._stream, self._bad_items)

    def _check_labels(self, wanted: str) -> None:
        if self._stream == "target":
            raise StackError(
                f"`{wanted}` of the target: labels of the target never reach training, so its data set has none in "
                "`sampler`. Draw by its images, or put a few labelled ones into a stream of data.streams."
            )
