"""What activation checkpointing saves and costs: the same steps with it and without, in turn, in one process.

    python tests/benchmarks/activation_checkpointing.py [STEPS [NETWORK ...]]

Prints, of a step on one stream of 2 images of 256x512, the peak of all tensors' bytes (weights, gradients and
activations; what a kernel takes for itself is not seen), as torch's memory tracker counts them, the median CPU time on
one thread, and the ratios.
"""

import statistics
import sys
import time
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from dalib import Batch, Engine, Stream, create_model, create_strategy
from dalib.models import checkpoint_activations

NETWORKS: dict[str, dict[str, Any]] = {
    "bisenet": {},
    "bisenet_v1": {},
    "pidnet_s": {},
    "deeplabv2": {},
    "timm_resnet18": {},
    "timm_vit_small": {"backbone": "vit_small_patch16_224", "head": "daformer"},
}


def seconds_of_a_step(engine: Engine, batch: Batch) -> float:
    """Return the CPU's seconds, which other processes on the machine do not stretch as they do a wall clock's."""
    started = time.process_time()
    engine.step(batch)
    return time.process_time() - started


def peak_of_a_step(engine: Engine, batch: Batch) -> float:
    """Return MiB, weights and the optimiser's state included."""
    tracker = MemTracker()
    tracker.track_external(engine.model, engine.optimizer)
    with tracker:
        engine.step(batch)
    return float(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]) / 2**20


def main(steps: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    batch = Batch({"source": Stream(torch.rand(2, 3, 256, 512), torch.randint(0, 19, (2, 256, 512)))})
    for name in names:
        engines = {}
        for again in (False, True):
            model = create_model("timm" if name.startswith("timm_") else name, 19, **NETWORKS[name])
            if again:
                checkpoint_activations(model)
            engines[again] = Engine(model, [create_strategy("supervised")], device="cpu")
            engines[again].step(batch)
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * steps):
            again = number % 4 in (0, 3)  # each comes first as often as the other
            times[again].append(seconds_of_a_step(engines[again], batch))
        plain, less = (peak_of_a_step(engines[again], batch) for again in (False, True))
        ratio = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True))
        before, after = (statistics.median(times[again]) for again in (False, True))
        print(
            f"{name}: {plain:.0f} MiB, {less:.0f} MiB with it, ratio {less / plain:.2f}; "
            f"{before:.2f} s, {after:.2f} s with it, ratio {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or list(NETWORKS))
