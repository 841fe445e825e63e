"""Runs that are killed with SIGKILL anywhere, and resumed to their end, come to what the unbroken run came to."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.equal import assert_equal
from tests.faults.victim import RECIPE, Strike, train

pytestmark = pytest.mark.faults

NOT_COMPARED = ("seconds", "images_per_second", "time", "recipe")  # clocks, and the number of workers
PATIENCE = 120  # seconds
STEPS = RECIPE["train"]["steps"]
draw = random.Random(4)

context = multiprocessing.get_context("forkserver")


def checkpoint_strikes():
    """Return strikes at the writes, flushes and renames of checkpoints, of which a run writes about 400 a file."""
    yield from (Strike("write", "last.pt", nth=draw.randrange(1, 1200)) for _ in range(8))
    yield from (Strike("write", file, nth=draw.randrange(1, 300)) for file in ("best.pt", "step_000004.pt"))
    yield from (Strike("fsync", "last.pt", nth, after) for nth in (1, 3) for after in (False, True))
    yield from (Strike("fsync", file, 1, True) for file in ("best.pt", "step_000008.pt"))
    yield from (Strike("rename", "last.pt", nth, after) for nth in (1, 2, 4) for after in (False, True))
    yield from (Strike("rename", "previous.pt", nth, after) for nth in (1, 3) for after in (False, True))
    yield from (Strike("rename", file, 1, after) for file in ("best.pt", "step_000004.pt") for after in (False, True))
    yield from (Strike("fsync", "checkpoints", nth, False) for nth in (1, 4))


ELSEWHERE = [
    *(Strike("build", after=after) for after in (False, True)),
    *(Strike("rename", "recipe.yaml", after=after) for after in (False, True)),
    Strike("rename", "environment.json"),
    *(Strike("evaluate", nth=nth, after=after) for nth, after in ((1, False), (1, True), (3, False), (3, True))),
    Strike("predict", nth=2),
    Strike("rename", "2_median.png"),
    Strike("rename", "results.json"),
    Strike("rename", "report.html"),
    Strike("write", "report.html"),
]
# (what kills each sitting; the run is then resumed to its end); a number: once this step is seen in metrics.jsonl
SITTINGS = [
    *([strike] for strike in checkpoint_strikes()),
    *([strike] for strike in ELSEWHERE),
    *([draw.randrange(1, STEPS)] for _ in range(10)),
    *([draw.randrange(1, 5), draw.randrange(5, STEPS + 1)] for _ in range(4)),
    [3, Strike("rename", "last.pt", 1, True), Strike("write", "last.pt", 200)],
    [Strike("rename", "previous.pt", 2, True), Strike("rename", "last.pt", 1, False)],
]

IDS = [", ".join(f"step {s}" if isinstance(s, int) else str(s) for s in sittings) for sittings in SITTINGS]


@pytest.fixture(scope="module")
def tally(request):
    counts = Counter()
    yield counts
    text = "{runs} runs killed ({kills} kills, {checkpoint} of them while a checkpoint was written), {resumed} resumed"
    line = (text + ", {equal} equal").format_map(counts)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{line}")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    # The server imports torch once, before any thread has started, and forks every run.
    context.set_forkserver_preload(["tests.faults.victim"])
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    process = start(folder)
    process.join(PATIENCE)
    assert process.exitcode == 0
    return result(folder)


@pytest.mark.parametrize(("number", "sittings"), list(enumerate(SITTINGS)), ids=IDS)
def test_a_killed_run_is_resumed_to_the_end_of_the_unbroken_one(number, sittings, unbroken, tmp_path, tally):
    folder, workers = tmp_path / "run", 2 * (number % 3 == 0)
    for sitting, strike in enumerate(sittings):
        kill(folder, resume=sitting > 0, workers=workers, strike=strike)
        tally["kills"] += 1
        tally["checkpoint"] += isinstance(strike, Strike) and strike.file.endswith((".pt", "checkpoints"))
    tally["runs"] += 1
    process = start(folder, resume=True, workers=workers)
    process.join(PATIENCE)
    assert process.exitcode == 0
    tally["resumed"] += 1
    assert_equal(unbroken, result(folder))
    tally["equal"] += 1


def start(folder: Path, resume: bool = False, workers: int = 0, strike: Strike | None = None) -> BaseProcess:
    process = context.Process(target=train, args=(folder, resume, workers, strike))
    process.start()
    return process


def kill(folder: Path, resume: bool, workers: int, strike: Strike | int) -> None:
    """Train until the strike, which must happen."""
    if isinstance(strike, Strike):
        process = start(folder, resume, workers, strike)
    else:
        process = start(folder, resume, workers)
        wait_for_step(folder, strike, process)
        os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL, f"{strike} did not come to pass"


def wait_for_step(folder: Path, step: int, process: BaseProcess) -> None:
    end = time.monotonic() + PATIENCE
    while not any(line["step"] >= step for line in metrics(folder)):
        assert process.is_alive() and time.monotonic() < end, f"step {step} was never seen"
        time.sleep(0.002)


def metrics(folder: Path) -> list[dict[str, float]]:
    """Return the whole lines of the metrics, without what a clock has said."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [timeless(json.loads(line)) for line in lines if line.endswith("\n")]


def timeless(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def result(folder: Path) -> dict:
    """Return all that a run came to, and the names of its files."""
    return {
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        "checkpoints": {
            path.name: timeless(torch.load(path, weights_only=True)) for path in sorted(folder.glob("checkpoints/*"))
        },
        "metrics": metrics(folder),
        "results": timeless(json.loads((folder / "results.json").read_text())),
        "panels": {path.name: path.read_bytes() for path in folder.glob("panels/*")},
    }
