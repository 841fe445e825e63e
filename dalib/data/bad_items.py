"""Items of a data set that cannot be read: the first one stops a run, or a bounded number is skipped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dalib.data.dataset import Item, checked_item, item_name
from dalib.errors import DalibError, DataError

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset


class ItemError(RuntimeError):
    """A data set's own code failed at an item; from a worker process, the message holds the traceback."""


@dataclass(frozen=True)
class Loaded:
    """The item at an index, or the first readable one after it.

    Fields:
        item: None where none could be read. index: its own, of those tried the last.
        faults: message of each skipped item, by stream and item name.
    """

    item: Item | None
    index: int
    faults: Mapping[str, str]

    def present(self, stream: str) -> Item:
        """Return the item; DataError where no item could be read."""
        if self.item is None:
            raise DataError(f"none of the {len(self.faults)} images of the {stream} can be read; see `dalib doctor`.")
        return self.item


def load(dataset: "SegmentationDataset", stream: str, index: int, spare: int) -> Loaded:
    """Read item ``index``; where it cannot be read, try the following ones, at most ``spare`` of them.

    The replacement depends on the index alone, so a run that skips items resumes bit for bit. The target's label is not
    read; that of ``eval`` may have another size than its image.

    Raises:
        ItemError: the data set raised something else than a ``DalibError``.
    """
    faults: dict[str, str] = {}
    for candidate in range(index, index + 1 + spare):
        candidate %= len(dataset)
        try:
            item = checked_item(dataset, candidate, with_label=stream != "target", scored=stream == "eval")
            return Loaded(item, candidate, faults)
        except DalibError as error:  # returned as a value, since torch puts a worker's traceback into the message
            faults[f"{stream} {item_name(dataset, candidate)}"] = str(error)
        except Exception as error:
            where = f"{item_name(dataset, candidate)} of the {stream} data"
            raise ItemError(f"{where} could not be loaded: {type(error).__name__}: {error}") from error
    return Loaded(None, candidate, faults)


class Readable:
    """A data set whose unreadable items give their place to the next one, as in training: for images without labels."""

    def __init__(self, dataset: "SegmentationDataset", stream: str, bad_items: "BadItems") -> None:
        self.dataset, self.stream, self.bad_items = dataset, stream, bad_items

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        loaded = load(self.dataset, self.stream, index, self.bad_items.limit)
        self.bad_items.count(loaded.faults)
        return loaded.present(self.stream)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


@dataclass
class BadItems:
    """The distinct items that a run could not read; more than ``limit`` of them end it, so by default the first does.

    Fields:
        limit: how many may be skipped.
        tell: called once with the message of each.
        messages: the messages so far, by stream and item name.
    """

    limit: int = 0
    tell: Callable[[str], None] = lambda message: None
    messages: dict[str, str] = field(default_factory=dict)

    def count(self, faults: Mapping[str, str]) -> None:
        """Count the faults that are new; DataError beyond the limit."""
        for name, message in faults.items():
            if name in self.messages:
                continue
            if not self.limit:
                raise DataError(message)
            if len(self.messages) == self.limit:
                raise DataError(
                    f"{message} It is one more than the {self.limit} unreadable items that data.max_bad_items allows; "
                    "`dalib doctor` lists all of them. Mend them, or raise the number and go on with --resume."
                )
            self.messages[name] = message
            self.tell(message)
