"""How fast evaluation is: with worker processes, in this one, and as it was before it had workers, in turn.

    python tests/benchmarks/evaluation_speed.py [--network nothing|bisenet] [--workers 2] [--rounds 5] [--images 200]

Scores a network on PNG files of 512x1024, made here. ``nothing`` costs nothing: it returns logits that were made
before. Prints wall seconds and load of each round, the medians and their ratios, and the share of the time with workers
that went by waiting for them, their start included. Workers gain where cores are free: look at the load.
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
from dalib.data.dataset import SegmentationDataset, checked_item
from dalib.evaluation import evaluate as evaluate_module
from dalib.evaluation.chunks import share_of_chunks
from dalib.evaluation.panels import write_png
from dalib.labels import IGNORE

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


def evaluate_before(model: nn.Module, data: SegmentationDataset) -> None:
    """Read, predict, take the argmax and count in one process."""
    pairs = 19**2
    counts = torch.zeros(pairs + 2, dtype=torch.int64)
    with torch.no_grad():
        for index in range(len(data)):
            image, label, _ = checked_item(data, index, scored=True)
            assert label is not None and not (label == IGNORE).all()
            prediction = model(image[None].float() / 255).argmax(1)
            truth = label[None].long()
            bins = torch.where(truth < 19, truth * 19 + prediction, pairs + 1)
            bins = bins.masked_fill(truth == IGNORE, pairs).flatten()
            counts.scatter_add_(0, bins, torch.ones_like(bins))


def seconds(score: Callable[[], object]) -> float:
    started = time.perf_counter()
    score()
    return time.perf_counter() - started


@contextmanager
def timed_reading(waited: list[float]) -> Iterator[None]:
    """Note the seconds that evaluation waits for images, the start of the workers among them, while the body runs."""

    @contextmanager
    def timed(*arguments: Any, **options: Any) -> Iterator[Iterator[Any]]:
        started = time.perf_counter()
        with share_of_chunks(*arguments, **options) as chunks:
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
    model = Nothing() if options.network == "nothing" else create_model(options.network).eval()
    with TemporaryDirectory() as folder:
        write_streets(Path(folder), options.images)
        data = create_dataset("folder", root=folder, split="val")
        size = sum(file.stat().st_size for file in (Path(folder) / "images" / "val").iterdir()) / options.images
        print(f"{options.images} images of {SIZE[0]}x{SIZE[1]}, {size / 1e3:.0f} kB each; {os.cpu_count()} cores")
        rounds, shares = [], []
        evaluate(model, data, limit=4)
        for _ in range(options.rounds):
            waited: list[float] = []
            before = seconds(lambda: evaluate_before(model, data))
            alone = seconds(lambda: evaluate(model, data))
            with timed_reading(waited):
                shared = seconds(lambda: evaluate(model, data, workers=options.workers))
            rounds.append((before, alone, shared))
            shares.append(sum(waited) / shared)
            print(f"{told(*rounds[-1])}; load {os.getloadavg()[0]:.1f}", flush=True)
    before, alone, shared = map(statistics.median, zip(*rounds, strict=True))
    print(f"medians: {told(before, alone, shared)}; ratios {before / shared:.2f} and {alone / shared:.2f}")
    print(f"waiting: {100 * statistics.median(shares):.1f} % of the time with {options.workers} workers")


def told(before: float, alone: float, shared: float) -> str:
    return f"{before:.2f} s before, {alone:.2f} s in this process, {shared:.2f} s with workers"


if __name__ == "__main__":
    main()
