"""Items of a data set that cannot be read: the first one stops a run, or a bounded number is passed over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from dalib.data.dataset import checked_item, item_name
from dalib.errors import DalibError, DataError

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset


class ItemError(RuntimeError):
    """A data set failed at an item for no fault of the user's; from a worker, the message holds the traceback there."""


@dataclass(frozen=True)
class Loaded:
    """The item of an index, or the first readable one after it.

    Fields:
        item: image, label and index; None where none could be read.
        faults: what is wrong with those passed over, by name.
    """

    item: tuple[Tensor, Tensor, int] | None
    faults: Mapping[str, str]


def load(dataset: "SegmentationDataset", stream: str, index: int, spare: int) -> Loaded:
    """Read an item; in place of one that cannot be read the next of the data set, at most ``spare`` times.

    What comes in its place depends on the index alone, so a run that skips can be resumed bit for bit.

    Raises:
        ItemError: the data set raised something else than a ``DalibError``.
    """
    faults: dict[str, str] = {}
    for candidate in range(index, index + 1 + spare):
        candidate %= len(dataset)
        try:
            return Loaded((*checked_item(dataset, candidate), candidate), faults)
        except DalibError as error:  # travels as a value: from a worker, torch would make a traceback its text
            faults[f"{stream} {item_name(dataset, candidate)}"] = str(error)
        except Exception as error:
            where = f"{item_name(dataset, candidate)} of the {stream} data"
            raise ItemError(f"{where} could not be loaded: {type(error).__name__}: {error}") from error
    return Loaded(None, faults)


@dataclass
class BadItems:
    """The different items that a run could not read; more than ``limit`` of them end it, so by default the first does.

    Fields:
        limit: how many are passed over.
        tell: called with the message of each, once.
        messages: what is wrong, by stream and name.
    """

    limit: int = 0
    tell: Callable[[str], None] = lambda message: None
    messages: dict[str, str] = field(default_factory=dict)

    def count(self, faults: Mapping[str, str]) -> None:
        """Count those that were not met before; DataError beyond the limit."""
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
