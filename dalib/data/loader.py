"""From data sets to batches: which image comes when depends on the seed and the step alone."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dalib.data.bad_items import BadItems, Loaded, load
from dalib.data.batch import Batch, Stream
from dalib.data.dataset import item_name
from dalib.errors import DataError
from dalib.randomness import seed_of

if TYPE_CHECKING:
    from dalib.data.dataset import Draw, SegmentationDataset


def shuffled(length: int, *key: str | int) -> "Draw":
    """Return the draw that goes through all images in a new random order each epoch."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed_of(*key, epoch))
        return torch.randperm(length, generator=generator).tolist()

    def draw(position: int) -> int:
        return order(position // length)[position % length]

    return draw


def first_size(dataset: "SegmentationDataset", stream: str, bad_items: BadItems) -> tuple[int, int]:
    """Return the (H, W) of a data set's first image, which the others have to share to make a batch."""
    check_not_empty(dataset, stream)
    loaded = load(dataset, stream, 0, bad_items.limit)
    bad_items.count(loaded.faults)
    height, width = _present(loaded, stream)[0].shape[-2:]
    return height, width


def check_not_empty(dataset: "SegmentationDataset", stream: str) -> None:
    if len(dataset) == 0:
        raise DataError(f"the {stream} data set is empty; check its root, split and lists.")


def _present(loaded: Loaded, stream: str) -> tuple[Tensor, Tensor, int]:
    """Return the item; DataError where every one of the data set was passed over."""
    if loaded.item is None:
        raise DataError(f"none of the {len(loaded.faults)} images of the {stream} can be read; see `dalib doctor`.")
    return loaded.item


Collated = tuple[Stream | DataError, dict[str, str]]  # a stream of uint8, or what forbids it; items passed over


class StreamLoader:
    """Batches of every stream, from any step on: position p of a stream is image ``draw(p)``, so resuming is seeking.

    Args:
        datasets: by stream name. draws: those that strategies brought; the others are shuffled.
        batch_size: images per stream and optimiser step. accumulate: micro-batches per optimiser step.
        workers: processes per stream; 0 loads in this one.
        bad_items: counts what cannot be read; default the first ends the run.
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
        if batch_size % accumulate:
            raise DataError(
                f"batch_size {batch_size} does not divide into {accumulate} micro-batches (train.accumulate); "
                "it counts the images of one optimiser step."
            )
        for stream, dataset in datasets.items():
            check_not_empty(dataset, stream)
        self._datasets = datasets
        self._draws = {s: draws.get(s) or shuffled(len(d), seed, "order", s) for s, d in datasets.items()}
        self._micro_size = batch_size // accumulate
        self._accumulate = accumulate
        self._workers = workers
        self._bad_items = bad_items or BadItems()

    @contextmanager
    def batches(self, start: int, stop: int, device: torch.device) -> Iterator[Iterator[list[Batch]]]:
        """Give the micro-batches of optimiser steps ``start`` to ``stop``; the loader's processes end with the body.

        Raises:
            DataError: one of these processes was killed.
        """
        iterators: dict[str, Iterator[Collated]] = {}
        try:
            iterators |= {stream: iter(self._loader(stream, start, stop)) for stream in self._datasets}
            yield self._group(iterators, stop - start, device)
        except (Exception, GeneratorExit):  # torch raises at a death wherever this process is, as in a strategy's hook
            _through_deaths(_check_alive, iterators)
            raise
        finally:
            _through_deaths(_end_workers, iterators)

    def _group(
        self, iterators: Mapping[str, Iterator[Collated]], steps: int, device: torch.device
    ) -> Iterator[list[Batch]]:
        for _ in range(steps):
            yield [
                Batch({stream: self._arrive(next(it), device) for stream, it in iterators.items()})
                for _ in range(self._accumulate)
            ]

    def _arrive(self, collated: Collated, device: torch.device) -> Stream:
        """Take a stream of bytes to the device and make it float there: a quarter of the traffic."""
        stream, faults = collated
        self._bad_items.count(faults)
        if isinstance(stream, DataError):
            raise stream
        arrived = stream.to(device)
        label = None if arrived.label is None else arrived.label.long()
        return Stream(arrived.image.float() / 255, label, index=arrived.index)

    def _loader(self, stream: str, start: int, stop: int) -> DataLoader[Loaded]:
        size, draw = self._micro_size, self._draws[stream]
        indices = (  # drawn as they are needed: a list of them all would grow with the run
            [draw(p) for p in range(batch * size, (batch + 1) * size)]
            for batch in range(start * self._accumulate, stop * self._accumulate)
        )
        return DataLoader(
            _Items(self._datasets[stream], stream, self._bad_items.limit),
            num_workers=self._workers,
            batch_sampler=indices,
            collate_fn=_Collate(stream, self._datasets[stream]),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # or the loader would take a draw from the global one
        )


def _check_alive(iterators: Mapping[str, Any]) -> None:
    workers = [(stream, worker) for stream, it in iterators.items() for worker in getattr(it, "_workers", ())]
    if workers:
        wait([worker.sentinel for _, worker in workers], timeout=1)  # a death is seen a moment before its exit status
    for stream, worker in workers:
        if worker.exitcode:
            end = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else f"exit status {worker.exitcode}"
            raise DataError(
                f"a worker process that loads the {stream} data (pid {worker.pid}) was ended by {end}. Is the system "
                "short of memory? Lower data.workers or data.batch_size."
            ) from None


def _end_workers(iterators: Mapping[str, Any]) -> None:
    for iterator in iterators.values():
        getattr(iterator, "_shutdown_workers", lambda: None)()  # else the traceback of an error would keep them


def _through_deaths(act: Callable[[Mapping[str, Any]], None], iterators: Mapping[str, Any]) -> None:
    """Do what may be done twice, though torch raises in it at a further death: once per stream."""
    for _ in iterators:
        with suppress(RuntimeError):
            return act(iterators)
    return act(iterators)


class _Items(Dataset[Loaded]):
    """The items of a data set as ``load`` gives them."""

    def __init__(self, dataset: "SegmentationDataset", stream: str, spare: int) -> None:
        self._dataset = dataset
        self._stream = stream
        self._spare = spare

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Loaded:
        return load(self._dataset, self._stream, index, self._spare)


class _Collate:
    """Stacks items to a stream of uint8 images and labels; a target stream leaves its labels behind here."""

    def __init__(self, stream: str, dataset: "SegmentationDataset") -> None:
        self._stream = stream
        self._dataset = dataset

    def __call__(self, loaded: list[Loaded]) -> Collated:
        faults = {name: message for one in loaded for name, message in one.faults.items()}
        try:
            return self._stack([_present(one, self._stream) for one in loaded]), faults
        except DataError as error:
            return error, faults

    def _stack(self, items: list[tuple[Tensor, Tensor, int]]) -> Stream:
        sizes = {tuple(image.shape[-2:]): index for image, _, index in items}
        if len(sizes) > 1:
            (one, i), (other, j) = list(sizes.items())[:2]
            raise DataError(
                f"the {self._stream} images differ in size: {item_name(self._dataset, i)} is {one[0]}x{one[1]}, "
                f"{item_name(self._dataset, j)} is "
                f"{other[0]}x{other[1]} (H x W). Set data.{self._stream}.size: [H, W] to resize them."
            )
        image = torch.stack([image for image, _, _ in items])
        label = torch.stack([label for _, label, _ in items]) if self._stream == "source" else None
        return Stream(image, label, index=torch.tensor([index for _, _, index in items]))
