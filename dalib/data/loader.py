"""From data sets to batches: which image comes when depends on the seed and the step alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dalib.batch import Batch, Stream
from dalib.data.dataset import item_name
from dalib.errors import DalibError, DataError
from dalib.randomness import seed_of

if TYPE_CHECKING:
    from dalib.data import Draw, SegmentationDataset

Item = tuple[Tensor, Tensor, int]


def shuffled(length: int, *key: str | int) -> "Draw":
    """Return the draw that goes through all images in a new random order each epoch."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed_of(*key, epoch))
        return torch.randperm(length, generator=generator).tolist()

    def draw(position: int) -> int:
        return order(position // length)[position % length]

    return draw


def first_size(dataset: "SegmentationDataset", stream: str) -> tuple[int, int]:
    """Return the (H, W) of a data set's first image, which the others have to share to make a batch."""
    _check_not_empty(dataset, stream)
    height, width = dataset[0][0].shape[-2:]
    return height, width


def _check_not_empty(dataset: "SegmentationDataset", stream: str) -> None:
    if len(dataset) == 0:
        raise DataError(f"the {stream} data set is empty; check its root, split and lists.")


class StreamLoader:
    """Batches of every stream, from any step on: position p of a stream is image ``draw(p)``, so resuming is seeking.

    Args:
        datasets: by stream name. draws: those that strategies brought; the others are shuffled.
        batch_size: images a stream an optimiser step. accumulate: micro-batches an optimiser step.
        workers: processes a stream; 0 loads in this one.
    """

    def __init__(
        self,
        datasets: Mapping[str, "SegmentationDataset"],
        draws: Mapping[str, "Draw"],
        batch_size: int,
        accumulate: int,
        seed: int,
        workers: int,
    ) -> None:
        if batch_size % accumulate:
            raise DataError(
                f"batch_size {batch_size} does not divide into {accumulate} micro-batches (train.accumulate); "
                "it counts the images of one optimiser step."
            )
        for stream, dataset in datasets.items():
            _check_not_empty(dataset, stream)
        self._datasets = datasets
        self._draws = {s: draws.get(s) or shuffled(len(d), seed, "order", s) for s, d in datasets.items()}
        self._micro_size = batch_size // accumulate
        self._accumulate = accumulate
        self._workers = workers

    @contextmanager
    def batches(self, start: int, stop: int, device: torch.device) -> Iterator[Iterator[list[Batch]]]:
        """Give the micro-batches of optimiser steps ``start`` to ``stop``; the loader's processes end with the body."""
        loaders = {stream: self._loader(stream, start, stop) for stream in self._datasets}
        iterators = {stream: iter(loader) for stream, loader in loaders.items()}
        try:
            yield self._group(iterators, stop - start, device)
        finally:
            for iterator in iterators.values():
                shutdown = getattr(iterator, "_shutdown_workers", None)
                if shutdown:
                    shutdown()

    def _group(
        self, iterators: Mapping[str, Iterator[Stream | DalibError]], steps: int, device: torch.device
    ) -> Iterator[list[Batch]]:
        for _ in range(steps):
            yield [
                Batch({stream: _arrive(next(it), device) for stream, it in iterators.items()})
                for _ in range(self._accumulate)
            ]

    def _loader(self, stream: str, start: int, stop: int) -> "DataLoader[Any]":
        size, draw = self._micro_size, self._draws[stream]
        indices = [
            [draw(p) for p in range(batch * size, (batch + 1) * size)]
            for batch in range(start * self._accumulate, stop * self._accumulate)
        ]
        return DataLoader(
            _Indexed(self._datasets[stream]),
            batch_sampler=indices,
            num_workers=self._workers,
            collate_fn=_Collate(stream, self._datasets[stream]),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or the loader would take a draw from the global one
        )


def _arrive(stream: Stream | DalibError, device: torch.device) -> Stream:
    """Take a stream of bytes to the device and make it float there: a quarter of the traffic."""
    if isinstance(stream, DalibError):
        raise stream
    arrived = stream.to(device)
    label = None if arrived.label is None else arrived.label.long()
    return Stream(arrived.image.float() / 255, label, index=arrived.index)


class _Indexed(Dataset[Item | DalibError]):
    """Items together with their index; a user's error travels as a value, for torch would make a traceback its text."""

    def __init__(self, dataset: "SegmentationDataset") -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Item | DalibError:
        try:
            image, label = self._dataset[index]
        except DalibError as error:
            return error
        return image, label, index


class _Collate:
    """Stacks items to a stream of uint8 images and labels; a target stream leaves its labels behind here."""

    def __init__(self, stream: str, dataset: "SegmentationDataset") -> None:
        self._stream = stream
        self._dataset = dataset

    def __call__(self, loaded: list[Item | DalibError]) -> Stream | DalibError:
        errors = [item for item in loaded if isinstance(item, DalibError)]
        if errors:
            return errors[0]
        items = [item for item in loaded if not isinstance(item, DalibError)]
        sizes = {tuple(image.shape[-2:]): index for image, _, index in items}
        if len(sizes) > 1:
            (one, i), (other, j) = list(sizes.items())[:2]
            return DataError(
                f"the {self._stream} images differ in size: {item_name(self._dataset, i)} is {one[0]}x{one[1]}, "
                f"{item_name(self._dataset, j)} is "
                f"{other[0]}x{other[1]} (H x W). Set data.{self._stream}.size: [H, W] to resize them."
            )
        image = torch.stack([image for image, _, _ in items])
        label = torch.stack([label for _, label, _ in items]) if self._stream == "source" else None
        return Stream(image, label, index=torch.tensor([index for _, _, index in items]))
