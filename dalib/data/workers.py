"""Worker processes that load items: one that dies, or a data set that fails in it, is told by the item it was at."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dalib.errors import DalibError, DataError


class ItemError(RuntimeError):
    """A data set failed at an item for no fault of the user's; from a worker, the message holds the traceback there."""


class WatchedLoader:
    """A ``DataLoader`` whose workers note where they are.

    Args:
        items: the data set. name: what to call an item of it, by index. stream: what to call the data set.
        options: those of ``DataLoader``.
    """

    def __init__(
        self, items: "Dataset[Any]", name: Callable[[int], str], stream: str, workers: int, **options: Any
    ) -> None:
        self._at = torch.zeros(max(workers, 1), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._name = name
        self._stream = stream
        watched = _Watched(items, name, stream, self._at)
        self._loader: DataLoader[Any] = DataLoader(watched, num_workers=workers, **options)

    @contextmanager
    def open(self) -> Iterator[Iterator[Any]]:
        """Give the batches in order; the workers end with the body."""
        batches = iter(self._loader)
        with _deaths_unheard():
            try:
                yield self._watch(batches)
            finally:
                shutdown = getattr(batches, "_shutdown_workers", None)
                if shutdown:
                    shutdown()

    def _watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except ItemError:
                raise
            except (RuntimeError, OSError, EOFError):  # the last two: it died while it handed over a batch
                self._check_alive(getattr(batches, "_workers", ()))
                raise
            yield batch

    def _check_alive(self, workers: Any) -> None:
        wait([worker.sentinel for worker in workers], timeout=1)  # a death is seen a moment before its exit status
        for number, worker in enumerate(workers):
            if worker.exitcode:
                end = f"exit status {worker.exitcode}"
                if worker.exitcode < 0:
                    end = signal.Signals(-worker.exitcode).name
                raise DataError(
                    f"a worker process that loads the {self._stream} data was ended by {end}; it was at "
                    f"{self._name(int(self._at[number]))}. Is the system short of memory? Lower data.workers "
                    "or data.batch_size."
                ) from None


class _Watched(Dataset[Any]):
    """Items of a data set; the index of each is noted before it is loaded."""

    def __init__(self, items: "Dataset[Any]", name: Callable[[int], str], stream: str, at: Tensor) -> None:
        self._items = items
        self._name = name
        self._stream = stream
        self._at = at

    def __getitem__(self, index: int) -> Any:
        worker = get_worker_info()
        self._at[worker.id if worker else 0] = index
        try:
            return self._items[index]
        except DalibError:
            raise
        except Exception as error:
            where = f"{self._name(index)} of the {self._stream} data"
            raise ItemError(f"{where} could not be loaded: {type(error).__name__}: {error}") from error


@contextmanager
def _deaths_unheard() -> Iterator[None]:
    """Keep torch from raising at a worker's death wherever the program is, such as in the middle of an update.

    The loader sees it, too, when it next waits for that worker, seconds later at most.
    """
    heard = None
    with suppress(ValueError):  # only the main thread has handlers, and torch sets one there alone
        heard = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if heard is not None:
            signal.signal(signal.SIGCHLD, heard)
