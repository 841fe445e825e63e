"""Loading of batches from data sets, in an order that depends on the seed and the step alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from dalib import ranks
from dalib.data.bad_items import BadItems, Loaded, load
from dalib.data.batch import Batch, Stream
from dalib.data.dataset import Item, item_name, labelled
from dalib.data.draws import in_shares, shuffled
from dalib.data.joined import Joined
from dalib.data.workers import watched_workers
from dalib.errors import DataError

if TYPE_CHECKING:
    from dalib.data.dataset import Draw, SegmentationDataset


def first_look(dataset: "SegmentationDataset", stream: str, bad_items: BadItems) -> Stream:
    """Return the stream of a data set's first image, of joined ones' first images; others have to be like them.

    It is uint8 and on the CPU; its size and fields are those of every batch.

    Raises:
        DataError: the data set is empty, or the images differ in size or in their further maps.
    """
    check_not_empty(dataset, stream)
    firsts = sorted(set(dataset.starts[:-1])) if isinstance(dataset, Joined) else [0]
    loaded = [load(dataset, stream, index, bad_items.limit) for index in firsts if index < len(dataset)]
    collated, faults = _Collate(stream, dataset, _keeps_labels(dataset, stream))(loaded)
    bad_items.count(faults)
    if isinstance(collated, DataError):
        raise collated
    return collated


def _keeps_labels(dataset: "SegmentationDataset", stream: str) -> bool:
    """Return whether a stream's batches have labels; DataError where one of the data sets that it joins has none."""
    if stream == "target" or not labelled(dataset):
        return False
    for name, part in zip(dataset.names, dataset.datasets, strict=True) if isinstance(dataset, Joined) else ():
        if len(part) and not labelled(part):
            raise DataError(
                f"{name}: none of its images that were looked at has a labelled pixel, unlike the other {stream} data. "
                "Check its labels, its split and its label map, or leave it out."
            )
    return True


def _order(dataset: "SegmentationDataset", *key: str | int) -> "Draw":
    if isinstance(dataset, Joined) and dataset.shares is not None:
        return in_shares(dataset.lengths, dataset.shares, *key)
    return shuffled(len(dataset), *key)


def check_not_empty(dataset: "SegmentationDataset", stream: str) -> None:
    if len(dataset) == 0:
        raise DataError(f"the {stream} data set is empty; check its root, split and lists.")


Collated = tuple[Stream | DataError, dict[str, str]]  # a uint8 stream, or why there is none; faults of skipped items


class StreamLoader:
    """Loads every stream from any step on: sample p of a stream is item ``draw(p)``, so resuming is seeking.

    Each rank loads its part of every micro-batch, so that the ranks' parts together are the batch of one process.

    Args:
        datasets: by stream name. draws: of strategies' ``sampler``, by stream name; other streams are shuffled.
        batch_size: images per stream and optimiser step, over all ranks. accumulate: micro-batches per optimiser step.
        workers: processes per stream; 0 loads in this one.
        bad_items: counts unreadable items; by default the first one ends the run.
    """

    def __init__(
        self,
        datasets: Mapping[str, "SegmentationDataset"],
        draws: Mapping[str, "Draw"],
        batch_size: int,
        accumulate: int,
        seed: int,
        workers: int,
        bad_items: BadItems | None = None,
    ) -> None:
        if batch_size % (accumulate * ranks.world()):
            by = f" on {ranks.world()} ranks" if ranks.world() > 1 else ""
            raise DataError(
                f"batch_size {batch_size} does not divide into {accumulate} micro-batches (train.accumulate){by}; "
                "it counts the images of one optimiser step."
            )
        for stream, dataset in datasets.items():
            check_not_empty(dataset, stream)
        self._datasets = datasets
        self._draws = {s: draws.get(s) or _order(d, seed, "order", s) for s, d in datasets.items()}
        self._micro_size = batch_size // accumulate
        self._accumulate = accumulate
        self._workers = workers
        self._bad_items = bad_items or BadItems()
        self._labelled = {stream for stream, dataset in datasets.items() if _keeps_labels(dataset, stream)}

    @contextmanager
    def batches(self, start: int, stop: int, device: torch.device) -> Iterator[Iterator[list[Batch]]]:
        """Yield the micro-batches of optimiser steps ``start`` to ``stop``, exclusive; workers end with the block.

        Raises:
            DataError: a worker process was killed.
        """
        with watched_workers() as iterators:
            iterators |= {stream: iter(self._loader(stream, start, stop)) for stream in self._datasets}
            yield self._group(iterators, stop - start, device)

    def _group(
        self, iterators: Mapping[str, Iterator[Collated]], steps: int, device: torch.device
    ) -> Iterator[list[Batch]]:
        for _ in range(steps):
            yield [
                Batch({stream: self._arrive(next(it), device) for stream, it in iterators.items()})
                for _ in range(self._accumulate)
            ]

    def _arrive(self, collated: Collated, device: torch.device) -> Stream:
        """Move a uint8 stream to the device and convert it to float there, which transfers a quarter of the bytes."""
        stream, faults = collated
        self._bad_items.count(faults)
        if isinstance(stream, DataError):
            raise stream
        arrived = stream.to(device)
        label = None if arrived.label is None else arrived.label.long()
        return arrived.replace(image=arrived.image.float() / 255, label=label)

    def _loader(self, stream: str, start: int, stop: int) -> DataLoader[Loaded]:
        size, draw = self._micro_size, self._draws[stream]
        own = size // ranks.world()
        first = ranks.rank() * own  # of this rank's images within each micro-batch
        indices = (  # a generator, since a list would grow with the run
            [draw(p) for p in range(batch * size + first, batch * size + first + own)]
            for batch in range(start * self._accumulate, stop * self._accumulate)
        )
        return DataLoader(
            _Items(self._datasets[stream], stream, self._bad_items.limit),
            num_workers=self._workers,
            batch_sampler=indices,
            collate_fn=_Collate(stream, self._datasets[stream], keeps_labels=stream in self._labelled),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the loader draws from the global generator
        )


class _Items(Dataset[Loaded]):
    """A map-style dataset for torch's loader, whose items are what ``load`` returns."""

    def __init__(self, dataset: "SegmentationDataset", stream: str, spare: int) -> None:
        self._dataset = dataset
        self._stream = stream
        self._spare = spare

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Loaded:
        return load(self._dataset, self._stream, index, self._spare)


class _Collate:
    """Stacks items into a stream of uint8; the target's labels never reach training.

    Where other items of the stream have labels, one without is ignored everywhere.
    """

    def __init__(self, stream: str, dataset: "SegmentationDataset", keeps_labels: bool) -> None:
        self._stream = stream
        self._dataset = dataset
        self._keeps_labels = keeps_labels

    def __call__(self, loaded: list[Loaded]) -> Collated:
        faults = {name: message for one in loaded for name, message in one.faults.items()}
        try:
            items = [one.present(self._stream) for one in loaded]
            self._check_alike(loaded, items)
            return self._stack([one.index for one in loaded], items), faults
        except DataError as error:
            return error, faults

    def _check_alike(self, loaded: list[Loaded], items: list[Item]) -> None:
        """Raise DataError unless the images have one size, and further maps of the same names."""
        sizes = {tuple(item.image.shape[-2:]): one.index for one, item in zip(loaded, items, strict=True)}
        if len(sizes) > 1:
            (one, i), (other, j) = list(sizes.items())[:2]
            raise DataError(
                f"the {self._stream} images differ in size: {item_name(self._dataset, i)} is {one[0]}x{one[1]}, "
                f"{item_name(self._dataset, j)} is {other[0]}x{other[1]} (H x W). "
                f"Set {place_of(self._stream)}.size: [H, W] to resize them."
            )
        maps = {
            tuple(sorted((n, str(v.dtype)) for n, v in item.extra.items())): one.index
            for one, item in zip(loaded, items, strict=True)
        }
        if len(maps) > 1:
            (first, i), (second, j) = list(maps.items())[:2]
            raise DataError(
                f"the {self._stream} images differ in their further maps: {item_name(self._dataset, i)} has "
                f"{_listed(first)}, {item_name(self._dataset, j)} has {_listed(second)}. Give each image the same ones."
            )

    def _stack(self, indices: list[int], items: list[Item]) -> Stream:
        return Stream(
            torch.stack([item.image for item in items]),
            torch.stack([item.filled_label for item in items]) if self._keeps_labels else None,
            index=torch.tensor(indices),
            extra={name: torch.stack([item.extra[name] for item in items]) for name in items[0].extra},
        )


def place_of(stream: str) -> str:
    """Return where a recipe names a stream's data, or ``eval``."""
    return f"data.{stream}" if stream in ("source", "target", "eval") else f"data.streams.{stream}"


def _listed(maps: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in maps) or "none"
