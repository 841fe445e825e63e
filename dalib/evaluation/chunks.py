"""The images to evaluate on, in chunks: each rank reads its share of them, in worker processes or in its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dalib.data.bad_items import BadItems, Readable, load
from dalib.data.dataset import Item, SegmentationDataset
from dalib.data.workers import watched_workers
from dalib.errors import DataError
from dalib.labels import IGNORE
from dalib.ranks import rank, world


class Alike(NamedTuple):
    """Consecutive images of one size, uint8 (B, 3, H, W), and their labels, uint8 (B, H, W), or None."""

    image: Tensor
    label: Tensor | None


class _Chunk(NamedTuple):
    alike: list[Alike] | DataError  # or why there are none
    faults: Mapping[str, str]  # of skipped items


@contextmanager
def share_of_chunks(
    dataset: SegmentationDataset, length: int, size: int, workers: int, device: torch.device, *, in_order: bool = False
) -> Iterator[Iterator[list[Alike]]]:
    """Yield this rank's chunks of ``size`` of the leading ``length`` images; workers end with the block.

    Rank r has chunks r, r + ranks, ...; ``in_order`` the first rank has all, and the others none. A chunk is parted
    where the images' size changes, or where labels begin or end, so that no batch depends on the number of ranks.

    Raises:
        DataError: an item cannot be read or is malformed, or a worker process was killed.
    """
    bad_items = dataset.bad_items if isinstance(dataset, Readable) else BadItems()
    chunks = _Chunks(dataset, length, size)
    mine = range(len(chunks) if rank() == 0 else 0) if in_order else range(rank(), len(chunks), world())
    with watched_workers() as iterators:
        iterators["eval"] = iter(
            DataLoader(
                chunks,
                batch_size=None,
                sampler=mine,
                num_workers=min(workers, len(mine)),
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # else the loader draws from the global generator
            )
        )
        yield (_sound(chunk, bad_items) for chunk in iterators["eval"])


def _sound(chunk: _Chunk, bad_items: BadItems) -> list[Alike]:
    bad_items.count(chunk.faults)
    if isinstance(chunk.alike, DataError):
        raise chunk.alike
    return chunk.alike


class _Chunks(Dataset[_Chunk]):
    """A map-style data set of chunks for torch's loader; of ``Readable`` it has what a process of its own can do."""

    def __init__(self, dataset: SegmentationDataset, length: int, size: int) -> None:
        self._dataset, self._stream, self._spare = dataset, "eval", 0
        if isinstance(dataset, Readable):
            self._dataset, self._stream, self._spare = dataset.dataset, dataset.stream, dataset.bad_items.limit
        self._length, self._size = length, size

    def __len__(self) -> int:
        return -(-self._length // self._size)

    def __getitem__(self, number: int) -> _Chunk:
        indices = range(number * self._size, min((number + 1) * self._size, self._length))
        loaded = [load(self._dataset, self._stream, index, self._spare) for index in indices]
        faults = {name: message for one in loaded for name, message in one.faults.items()}
        try:
            pairs = [_pair(one.present(self._stream)) for one in loaded]
        except DataError as error:
            return _Chunk(error, faults)
        return _Chunk([_stacked(list(alike)) for _, alike in groupby(pairs, _shapes)], faults)


def _pair(item: Item) -> Alike:
    """Return image and label; a label of 255 everywhere is none."""
    return Alike(item.image, None if item.label is None or (item.label == IGNORE).all() else item.label)


def _shapes(pair: Alike) -> list[torch.Size | None]:
    return [None if tensor is None else tensor.shape for tensor in pair]


def _stacked(pairs: list[Alike]) -> Alike:
    labels = [pair.label for pair in pairs if pair.label is not None]
    return Alike(torch.stack([pair.image for pair in pairs]), torch.stack(labels) if labels else None)
