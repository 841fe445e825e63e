"""A worker that dies and a data set that fails are told by the item, and nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from dalib.data.loader import StreamLoader
from dalib.data.workers import ItemError
from dalib.errors import DataError
from tests.faulty_plugin import FaultyData

CPU = torch.device("cpu")


def loader(how, workers, **datasets):
    datasets = datasets or {"source": FaultyData(how)}
    return StreamLoader(datasets, dict.fromkeys(datasets, lambda position: position % 6), 1, 1, 0, workers)


def test_a_worker_that_is_killed_is_told_by_the_item_it_was_at_and_the_others_end():
    handler = signal.getsignal(signal.SIGCHLD)
    with (
        pytest.raises(DataError) as caught,
        loader("", 2, source=FaultyData(), target=FaultyData("death")).batches(0, 9, CPU) as batches,
    ):
        for _ in batches:
            pass
    assert str(caught.value) == (
        "a worker process that loads the target data was ended by SIGKILL; it was at street_4.png. Is the system short "
        "of memory? Lower data.workers or data.batch_size."
    )
    assert multiprocessing.active_children() == []
    with loader("none", 2).batches(0, 1, CPU):
        pass
    assert handler in (signal.SIG_DFL, signal.getsignal(signal.SIGCHLD))


def test_a_death_is_not_heard_in_the_middle_of_a_step():
    with loader("slow", 2).batches(0, 9, CPU) as batches:
        next(batches)
        victim = multiprocessing.active_children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        total = sum(range(100_000))  # where torch's handler would raise
        with pytest.raises(DataError, match="was ended by SIGKILL; it was at street_"):
            list(batches)
    assert total


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_fails_is_told_by_the_item_with_its_traceback(workers):
    with pytest.raises(ItemError) as caught, loader("code", workers).batches(0, 6, CPU) as batches:
        list(batches)
    assert "street_4.png of the source data could not be loaded: KeyError: 'oops'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError) or 'raise KeyError("oops")' in str(caught.value)
    assert multiprocessing.active_children() == []


ENDLESS = """\
import multiprocessing, time, torch
from dalib.data.loader import StreamLoader
from tests.faulty_plugin import FaultyData
loader = StreamLoader({"source": FaultyData()}, {}, 4, 1, 0, 2)
with loader.batches(0, 1000, torch.device("cpu")) as batches:
    next(batches)
    time.sleep(1)  # until the queues are full
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""


def test_a_killed_run_leaves_no_worker_behind_though_its_queues_are_full():
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", ENDLESS], env=environment, stdout=subprocess.PIPE) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    """Whether a process runs; one that has ended and waits for its reaper does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
