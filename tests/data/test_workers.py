"""A worker that dies is told by its stream, a data set that fails by the item, and nothing is left behind."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from dalib.data.bad_items import ItemError
from dalib.data.loader import StreamLoader
from dalib.errors import DataError
from tests.faulty_plugin import FaultyData

CPU = torch.device("cpu")


def loader(how, workers, **datasets):
    datasets = datasets or {"source": FaultyData(how)}
    return StreamLoader(datasets, dict.fromkeys(datasets, lambda position: position % 6), 1, 1, 0, workers)


def test_a_worker_that_is_killed_is_told_and_the_others_end():
    with (
        pytest.raises(DataError) as caught,
        loader("", 2, source=FaultyData(), target=FaultyData("death")).batches(0, 9, CPU) as batches,
    ):
        for _ in batches:
            pass
    assert re.sub(r"pid \d+", "pid 1", str(caught.value)) == (
        "a worker process that loads the target data (pid 1) was ended by SIGKILL. Is the system short of memory? "
        "Lower data.workers or data.batch_size."
    )
    assert multiprocessing.active_children() == []


def kill(number):
    for worker in multiprocessing.active_children()[:number]:
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(10)  # torch's handler raises out of this


@pytest.mark.parametrize("victims", [1, 4])
def test_a_death_that_is_heard_in_the_middle_of_a_step_is_no_fault_of_the_step(victims):
    with (
        pytest.raises(DataError, match=r"a worker process that loads the \w+ data \(pid \d+\) was ended by SIGKILL"),
        loader("", 2, source=FaultyData("slow"), target=FaultyData("slow")).batches(0, 9, CPU) as batches,
    ):
        next(batches)
        try:
            kill(victims)
            pytest.fail("torch said nothing")
        except RuntimeError as error:
            raise KeyError("a hook") from error
    assert multiprocessing.active_children() == []


def test_a_death_that_a_hook_caught_ends_the_loading():
    started = time.monotonic()
    with pytest.raises(DataError, match="was ended by SIGKILL"), loader("slow", 2).batches(0, 99, CPU) as batches:
        next(batches)
        with contextlib.suppress(RuntimeError):
            kill(1)
        list(batches)
    assert time.monotonic() - started < 20


def test_an_error_of_a_step_stays_what_it_is_while_the_workers_live():
    with pytest.raises(KeyError, match="a hook"), loader("none", 2).batches(0, 9, CPU) as batches:
        next(batches)
        raise KeyError("a hook")
    assert multiprocessing.active_children() == []


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
