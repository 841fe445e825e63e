"""The pixels of each class in each item of a data set, counted once for a set of label files."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from torch import Tensor

from dalib.data.bad_items import BadItems, ItemError
from dalib.data.dataset import classes_of, item_name, label_of
from dalib.data.joined import Joined
from dalib.errors import DalibError, DataError
from dalib.files import load_tensors, replaced

if TYPE_CHECKING:
    from dalib.data.dataset import SegmentationDataset

logger = logging.getLogger(__name__)

Faults = dict[int, str]  # why an item's label cannot be read, by index
OnFault = Callable[[int, str], None]


def label_counts(dataset: "SegmentationDataset") -> Tensor:
    """Return how many pixels of each item belong to each class, (N, K) int64; ignored pixels count nowhere.

    A data set that has ``label_counts()`` is asked. Else each label is read once, by ``dataset.label``. Counts of label
    files are kept in the folder ``$DALIB_CACHE``, by default ``~/.cache/dalib``, until a file, the label map or the
    size changes.

    In a ``sampler``, an unreadable label is what the run's ``data.on_bad_item`` says: an error, or counted as a bad
    item, with 0 everywhere so that it is not drawn.

    Raises:
        DataError: a label cannot be read.
    """
    return counted(dataset, "data set's", BadItems())


def counted(dataset: "SegmentationDataset", stream: str, bad_items: BadItems) -> Tensor:
    """Return ``label_counts(dataset)``; an unreadable label of the stream is counted among ``bad_items``."""

    def tell(index: int, message: str) -> None:
        bad_items.count({f"{stream} {item_name(dataset, index)}": message})

    return _counts(dataset, stream, tell)[0]


def cache_folder() -> Path:
    """Return the user's cache folder of dalib: ``$DALIB_CACHE``, else ``~/.cache/dalib``."""
    return Path(os.environ.get("DALIB_CACHE") or "~/.cache/dalib").expanduser()


def _counts(dataset: "SegmentationDataset", stream: str, tell: OnFault) -> tuple[Tensor, Faults]:
    shape = len(dataset), len(classes_of(dataset))
    if isinstance(dataset, Joined):
        parts, faults = [], Faults()
        for start, part in zip(dataset.starts, dataset.datasets, strict=False):
            found, bad = _counts(part, stream, lambda index, message, start=start: tell(start + index, message))  # type: ignore[misc]
            parts.append(found)
            faults |= {start + index: message for index, message in bad.items()}
        return torch.cat(parts), faults
    if callable(own := getattr(dataset, "label_counts", None)):
        counts = own()
        if not isinstance(counts, Tensor) or counts.dtype != torch.int64 or tuple(counts.shape) != shape:
            kind = f"{counts.dtype} {tuple(counts.shape)}" if isinstance(counts, Tensor) else type(counts).__name__
            raise DataError(f"label_counts() of the {stream} data: expected int64 {shape}, found {kind}.")
        return counts, {}
    depends_on = getattr(dataset, "labels_depend_on", lambda: None)()
    if depends_on is None:
        return _read(dataset, stream, tell)
    first = None  # tells a reader that has changed
    with suppress(Exception):
        first = _of(label_of(dataset, 0), 256).tolist()
    key = json.dumps([shape, depends_on, first], default=repr)  # an object's repr has its address: never found again
    return _cached(dataset, shape, key, stream, tell)


def _cached(
    dataset: "SegmentationDataset", shape: tuple[int, int], key: str, stream: str, tell: OnFault
) -> tuple[Tensor, Faults]:
    file = cache_folder() / "label_counts" / f"{hashlib.sha256(key.encode()).hexdigest()}.pt"
    with _locked(file):
        if stored := _stored(file, shape):
            for index, message in stored[1].items():
                tell(index, message)
            return stored
        logger.info("counting the labels of %d images once; their counts are kept in %s", shape[0], file.parent)
        counts, faults = _read(dataset, stream, tell)
        try:
            with replaced(file) as opened:
                torch.save({"counts": counts, "faults": faults}, opened)
        except DalibError as error:
            logger.warning("the counts of labels are not kept for the next run: %s", error)
    return counts, faults


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other processes from counting the same labels meanwhile, where the cache can be written."""
    lock = FileLock(file.with_suffix(".lock"))
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _stored(file: Path, shape: tuple[int, int]) -> tuple[Tensor, Faults] | None:
    """Return what a file of the cache holds; None where there is none, or a damaged one, which is made again."""
    if not file.exists():
        return None
    try:
        found = load_tensors(file)
        counts, faults = found["counts"], found["faults"]
        return (counts, faults) if tuple(counts.shape) == shape else None
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        logger.warning("%s: the kept counts of labels are damaged (%s) and are made again.", file, error)
        return None


def _read(dataset: "SegmentationDataset", stream: str, tell: OnFault) -> tuple[Tensor, Faults]:
    counts = torch.zeros(len(dataset), len(classes_of(dataset)), dtype=torch.int64)
    faults: Faults = {}
    for index in range(len(dataset)):
        try:
            label = label_of(dataset, index)
        except DalibError as error:
            faults[index] = str(error)
            tell(index, str(error))
            continue
        except Exception as error:
            where = f"the label of {item_name(dataset, index)} of the {stream} data"
            raise ItemError(f"{where} could not be loaded: {type(error).__name__}: {error}") from error
        counts[index] = _of(label, counts.shape[1])
    return counts, faults


def _of(label: Tensor | None, num_classes: int) -> Tensor:
    if label is None:
        return torch.zeros(num_classes, dtype=torch.int64)
    return label.flatten().int().bincount(minlength=256)[:num_classes]
