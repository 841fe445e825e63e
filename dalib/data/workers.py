"""Worker processes that load data: one that dies is told, and none is left behind."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

from dalib.errors import DataError


@contextmanager
def watched_workers() -> Iterator[dict[str, Iterator[Any]]]:
    """Yield a dict for the iterators of torch's loaders, by stream or ``eval``; their workers end with the block.

    Raises:
        DataError: a worker process was killed.
    """
    iterators: dict[str, Iterator[Any]] = {}
    try:
        yield iterators
    except (Exception, GeneratorExit):  # torch's SIGCHLD handler raises anywhere, e.g. in a strategy's hook
        _through_deaths(_check_alive, iterators)
        raise
    finally:
        _through_deaths(_end_workers, iterators)


def _check_alive(iterators: Mapping[str, Any]) -> None:
    workers = [(stream, worker) for stream, it in iterators.items() for worker in getattr(it, "_workers", ())]
    if workers:
        wait([worker.sentinel for _, worker in workers], timeout=1)  # the exit status comes a moment after the signal
    for stream, worker in workers:
        if worker.exitcode:
            end = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else f"exit status {worker.exitcode}"
            raise DataError(
                f"a worker process that loads the {stream} data (pid {worker.pid}) was ended by {end}. Is the system "
                f"short of memory? Lower data.workers or {'evaluate' if stream == 'eval' else 'data'}.batch_size."
            ) from None


def _end_workers(iterators: Mapping[str, Any]) -> None:
    for iterator in iterators.values():
        getattr(iterator, "_shutdown_workers", lambda: None)()  # else an error's traceback keeps the iterator alive
        for worker in getattr(iterator, "_workers", ()):  # alive where another's death interrupted torch's own end
            if worker.is_alive():
                worker.terminate()
                worker.join(timeout=5)


def _through_deaths(act: Callable[[Mapping[str, Any]], None], iterators: Mapping[str, Any]) -> None:
    """Call ``act``, and again, once per stream at most, when torch interrupts it because another worker died."""
    for _ in iterators:
        with suppress(RuntimeError):
            return act(iterators)
    return act(iterators)
