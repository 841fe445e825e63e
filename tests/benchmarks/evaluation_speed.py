"""How fast evaluation reads: with worker processes and without, in turn, in one process.

    python tests/benchmarks/evaluation_speed.py [--network nothing|bisenet] [--workers 2] [--rounds 5] [--images 200]

Scores a network on PNG files of 512x1024, made here. ``nothing`` costs nothing: it returns logits that were made
before. Prints the wall seconds of each round, their medians and ratio, and the share of the time with workers that went
by waiting for them, the start of the workers included.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from dalib import create_dataset, create_model, evaluate
from dalib.evaluation import evaluate as evaluate_module
from dalib.evaluation.chunks import share_of_chunks
from dalib.evaluation.panels import write_png

SIZE = (512, 1024)
SCENES = 20  # drawn; the files are copies of theirs


class Nothing(nn.Module):
    """Returns the same logits for every image."""

    num_classes = 19

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.randn(1, self.num_classes, *SIZE, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def write_streets(root: Path, count: int) -> None:
    """Write images with a camera's noise, which makes their files as large as photos', and their labels."""
    scenes = create_dataset("diorama", domain="target", split="test", size=SIZE, length=SCENES)
    for number in range(count):
        for kind, pixels in zip(("images", "labels"), scenes[number], strict=True) if number < SCENES else ():
            (root / kind / "val").mkdir(parents=True, exist_ok=True)
            write_png(root / kind / "val" / f"{number}.png", pixels if pixels.dim() == 3 else pixels[None])
        for kind in ("images", "labels") if number >= SCENES else ():
            folder = root / kind / "val"
            shutil.copy(folder / f"{number % SCENES}.png", folder / f"{number}.png")


def seconds(score: Callable[[], object]) -> float:
    started = time.perf_counter()
    score()
    return time.perf_counter() - started


@contextmanager
def timed_reading(waited: list[float]) -> Iterator[None]:
    """Note the seconds that evaluation waits for images, the start of the workers among them, while the body runs."""

    @contextmanager
    def timed(*arguments: Any) -> Iterator[Iterator[Any]]:
        started = time.perf_counter()
        with share_of_chunks(*arguments) as chunks:
            waited.append(time.perf_counter() - started)
            yield each_timed(chunks)

    def each_timed(chunks: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            chunk = next(chunks, None)
            waited.append(time.perf_counter() - started)
            if chunk is None:
                return
            yield chunk

    with patch.object(evaluate_module, "share_of_chunks", timed):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="nothing")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Nothing() if options.network == "nothing" else create_model(options.network)
    with TemporaryDirectory() as folder:
        write_streets(Path(folder), options.images)
        data = create_dataset("folder", root=folder, split="val")
        size = sum(file.stat().st_size for file in (Path(folder) / "images" / "val").iterdir()) / options.images
        print(f"{options.images} images of {SIZE[0]}x{SIZE[1]}, {size / 1e3:.0f} kB each; {os.cpu_count()} cores")
        times: dict[int, list[float]] = {0: [], options.workers: []}
        shares = []
        evaluate(model, data, limit=4)
        for _ in range(options.rounds):
            times[0].append(seconds(lambda: evaluate(model, data)))
            waited: list[float] = []
            with timed_reading(waited):
                took = seconds(lambda: evaluate(model, data, workers=options.workers))
            times[options.workers].append(took)
            shares.append(sum(waited) / took)
            load = " ".join(f"{value:.1f}" for value in os.getloadavg()[:1])
            print(f"{times[0][-1]:.2f} s in this process, {took:.2f} s with workers, load {load}", flush=True)
    alone, together = (statistics.median(of) for of in times.values())
    print(f"medians: {alone:.2f} s and {together:.2f} s, ratio {alone / together:.2f}")
    print(f"waiting: {100 * statistics.median(shares):.1f} % of the time with {options.workers} workers")


if __name__ == "__main__":
    main()
