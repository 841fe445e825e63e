"""The part of a process in a job that torchrun has started."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from dalib import ranks
from dalib.device import choose_device
from dalib.errors import RankError, RecipeError
from dalib.watch import Watch

_BEFORE_NCCL = 0.9  # of the timeout, after which NCCL ends the process without a word to Python
_AFTER_GLOO = 5.0  # seconds after the timeout, at which gloo raises in the main thread, which may still save


class Job:
    """The ranks that torchrun has started, or this process alone.

    Attributes:
        rank: this process's number; the first alone says and writes what there is to say and write.
    """

    def __init__(self) -> None:
        self.rank = 0
        if dist.is_torchelastic_launched():
            gpu = int(os.environ["LOCAL_RANK"])
            store, self.rank, world = next(rendezvous("env://"))
            start = number_of_start(store, self.rank, world)
            ranks.watch = Watch(store, start, self.rank, world)
            self._members = {"store": PrefixStore(f"start {start}", store), "rank": self.rank, "world_size": world}
            if gpu < torch.cuda.device_count():
                torch.cuda.set_device(gpu)
        if self.rank:
            logging.getLogger("dalib").setLevel(logging.ERROR)
            warnings.simplefilter("ignore")

    def console(self) -> Console:
        """Return the terminal, or one that shows nothing."""
        return Console(quiet=True, force_terminal=False) if self.rank else Console()

    def connect(self, timeout: float, device: str | None) -> None:
        """Connect the ranks.

        Args:
            timeout: seconds in which every rank must come to a collective. device: the recipe's.

        Raises:
            RecipeError: there are fewer GPUs than ranks on this host.
        """
        if ranks.watch is None:
            return
        gpu = choose_device(device).type == "cuda"
        if gpu:
            _check_gpus(device)
        within = timedelta(seconds=timeout)
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=within, **self._members)
        except RuntimeError as error:
            raise RankError(f"the ranks did not connect within {timeout:g} s (train.timeout): {error}") from error
        ranks.watch.start(within, _BEFORE_NCCL * timeout if gpu else timeout + _AFTER_GLOO)


@contextmanager
def joined() -> Iterator[Job]:
    """Take part in torchrun's job in the body; without torchrun, a job of one process."""
    job = Job()
    try:
        yield job
    except BaseException as error:
        if ranks.watch:
            ranks.watch.leave(getattr(error, "signal", 0))
        raise
    if ranks.watch:
        ranks.watch.close()
        dist.destroy_process_group()


def number_of_start(store: Store, rank: int, world: int) -> int:
    """Return the number of this start of the job, from 1, the same on all ranks.

    torchrun counts on each host the restarts for which that host is to blame, so its counts differ. As the store still
    holds what the ranks of earlier starts have said, rank 0 answers each rank's own question.
    """
    if rank:
        question = uuid4().hex
        store.set(f"question of {rank}", question)
        start = int(store.get(f"answer to {question}"))
        store.set(f"start {start} heard by {rank}", "")
        return start
    start, waiting = store.add("starts", 1), list(range(1, world))
    while waiting := [other for other in waiting if not store.check([f"start {start} heard by {other}"])]:
        for other in waiting:
            if store.check([f"question of {other}"]):
                store.set(f"answer to {store.get(f'question of {other}').decode()}", str(start))
        time.sleep(0.02)
    return start


def _check_gpus(device: str | None) -> None:
    count, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if count > 1 and device is not None and torch.device(device).index is not None:
        raise RecipeError(
            f"train.device: {device} is one GPU, and torchrun has started {count} ranks here, each with a GPU of its "
            "own; say cuda, or leave it out."
        )
    if count > gpus:
        raise RecipeError(
            f"torchrun has started {count} ranks here, and torch sees {gpus} GPUs; start as many as there are GPUs "
            "with --nproc-per-node, or say train.device=cpu."
        )
