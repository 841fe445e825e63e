"""What a step takes on 1 to 1,024 GPUs, by a model of it, and the model against processes of gloo on this machine.

    python -m tests.benchmarks.scaling table    # of docs/scaling.md: real networks, the vendors' published rates
    python -m tests.benchmarks.scaling data     # images decoded per processor second
    python -m tests.benchmarks.scaling check    # steps of 1, 2 and 4 processes against the model

The model: a rank computes, then waits for collectives, one after the other, since the reduction comes after the last
backward pass; data is loaded meanwhile.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import ceil, log2
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dalib import Batch, Engine, SegmentationLoss, Stream, create_dataset, create_model, create_strategy, ranks
from dalib.deploy.cost import count_macs
from dalib.evaluation.panels import write_png
from tests.distributed.launch import on_ranks

CLASSES, SIZE = 19, (512, 1024)
GPUS = (1, 2, 4, 8, 16, 64, 256, 1024)
FLOPS, MEMORY = 989e12, 3.35e12  # of an H100 SXM, as NVIDIA publishes: dense bfloat16, and bytes of HBM3 a second
PER_NODE = 8
NVLINK = 450e9  # bytes a second and direction of an H100, published: 900 GB/s in both
FABRICS = {"8 x 400 Gb/s": 8 * 50e9, "1 x 100 Gb/s": 12.5e9}  # of a node, published: a DGX H100's, and one network card
PASSES = 17  # over all parameters: 7 of AdamW, 6 of the flat reduction's copies, 3 of the teacher, 1 of the guard
SMALL = 10  # small all-reduces of a step with `supervised` and `dacs`, as `check` records them
NORM = 2 * 4 * 256  # bytes of a mean and a variance of 256 channels
HARD = 100_000  # values that each rank gives to OHEM for a loss, SegmentationLoss.min_kept


# ------------------------------------------------------------------------------------------------ the model for GPUs


@dataclass(frozen=True)
class Way:
    """How NCCL sends: microseconds to start, of a hop in a node and between nodes, and what divides the bandwidth."""

    start: float
    near: float
    between: float
    slower: float = 1

    def inside(self, nodes: int) -> float:
        return self.near * (1.8 if nodes > 1 and self.slower > 1 else 1)


RING = (Way(8.4, 3.4, 9.6), Way(3.6, 0.47, 2.7, 4))  # in large pieces, and with low latency
TREE = (Way(0, 28, 50), Way(4.4, 0.52, 5, 3.8))


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes of eight; times and their constants are those by which NCCL chooses (src/graph/tuning.cc)."""

    gpus: int
    network: float  # bytes a second of a node

    @property
    def nodes(self) -> int:
        return ceil(self.gpus / PER_NODE)

    @property
    def bandwidth(self) -> float:
        return NVLINK if self.nodes == 1 else min(NVLINK, self.network)

    def all_reduce(self, size: float) -> float:
        """Return the seconds of the fastest way."""
        if self.gpus == 1:
            return 0.0
        share = (self.gpus - 1) / self.gpus
        rings = (self._ring(way, 2, 2 * share * size) for way in RING)
        return min(*rings, *(self._tree(way, 2 * size / 0.9) for way in TREE))

    def all_gather(self, size: float) -> float:
        """Return the seconds in which each gives ``size`` bytes and gets everybody's."""
        return 0.0 if self.gpus == 1 else min(self._ring(way, 1, (self.gpus - 1) * size) for way in RING)

    def _ring(self, way: Way, rounds: int, size: float) -> float:
        hops = (self.gpus - self.nodes) * way.inside(self.nodes) + (self.nodes - 1) * way.between
        return 1e-6 * (way.start + rounds * hops) + way.slower * size / self.bandwidth

    def _tree(self, way: Way, size: float) -> float:
        hops = (self.gpus / self.nodes - 1) * way.inside(self.nodes) + log2(self.nodes) * way.between
        return 1e-6 * (way.start + 2 * hops) + way.slower * size / self.bandwidth


class BytesMoved(TorchDispatchMode):
    """Counts the bytes that the operators of eager PyTorch read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.count += sum(t.nbytes for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor))
        return result


@dataclass(frozen=True)
class Network:
    """What the model needs to know of a network, trained in bfloat16 with a source, a mixed image and a teacher."""

    parameters: int
    statistics: int  # values of BatchNorm's running means and variances
    norms: int
    macs: int  # of a forward of one image
    trained: int  # bytes moved in a forward and backward of one image
    judged: int  # in a forward

    @property
    def reduced(self) -> int:
        """Bytes of the flat all-reduce: gradients, and the statistics of student and teacher."""
        return 4 * (self.parameters + 2 * self.statistics)

    def compute(self, images: int) -> float:
        """Return the seconds of a step at the published rates, for ``images`` of each domain."""
        operations = 2 * self.macs * (3 + 3 + 1) * images  # a backward is two forwards
        moved = (2 * self.trained + self.judged) * images + PASSES * 4 * self.parameters
        return operations / FLOPS + moved / MEMORY


def network(name: str, **options: Any) -> Network:
    """Count a network on the meta device."""
    with torch.device("meta"):
        model = create_model(name, CLASSES, **options)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    statistics_ = sum(2 * norm.num_features for norm in norms)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Network(parameters, statistics_, len(norms), count_macs(model, (1, 3, *SIZE)), *bytes_moved(model))


def bytes_moved(model: nn.Module) -> tuple[int, int]:
    """Return the bytes of a forward and backward of one image in bfloat16, and of a forward.

    Attention reads its inputs and writes its output, as flash attention does, which keeps the matrix on the chip.
    """
    image = torch.empty(1, 3, *SIZE, device="meta", dtype=torch.bfloat16)
    model = model.to(torch.bfloat16).train()
    with patch("torch.nn.functional.scaled_dot_product_attention", lambda q, k, v, **_: q + k + v):
        with BytesMoved() as trained:
            model(image).sum().backward()
        with BytesMoved() as judged, torch.no_grad():
            model(image)
    return trained.count, judged.count


def table() -> None:
    """Print the page's tables, times in ms."""
    networks = {
        "BiSeNet-R18": (network("bisenet"), 4),
        "ViT-L/14": (network("timm", backbone="vit_large_patch14_dinov2", head="daformer"), 1),
    }
    row(
        "network", "parameters", "multiply-adds", "moved", "in a forward", "reduced", "images a rank", "images a second"
    )
    for name, (of, images) in networks.items():
        counted = f"{of.parameters / 1e6:.1f} M", f"{of.macs / 1e9:,.1f} G"
        moved = (f"{size / 1e9:.2f} GB" for size in (of.trained, of.judged))
        reduced, rate = f"{of.reduced / 1e6:,.1f} MB", f"{2 * images / of.compute(images):,.0f}"
        row(name, *counted, *moved, reduced, f"{images}", rate)
    of_network = ["compute", *(title for fabric in FABRICS for title in (f"reduction, {fabric}", "step"))]
    row("GPUs", *(f"{name}: {title}" for name in networks for title in of_network), "small collectives")
    for gpus in GPUS:
        clusters = [Cluster(gpus, bandwidth) for bandwidth in FABRICS.values()]
        small = SMALL * clusters[0].all_reduce(8)
        times = []
        for of, images in networks.values():
            times.append(of.compute(images))
            for reduced in (cluster.all_reduce(of.reduced) for cluster in clusters):
                times += [reduced, of.compute(images) + reduced + small]
        row(f"{gpus:,}", *map(milli, times), milli(small))
    row("GPUs", "gathered by OHEM, MB that each rank gets", "time", "values to select from", "synchronised BatchNorm")
    for gpus in GPUS:
        cluster, values = Cluster(gpus, FABRICS["8 x 400 Gb/s"]), 2 * gpus * HARD
        exchanged = networks["BiSeNet-R18"][0].norms * (3 * cluster.all_gather(NORM) + 2 * cluster.all_reduce(NORM))
        gathered = milli(2 * cluster.all_gather(4 * HARD))
        row(f"{gpus:,}", f"{4 * values / 1e6:,.1f}", gathered, f"{values:,}", milli(exchanged))


def row(*cells: str) -> None:
    print("|", " | ".join(cells), "|")


def milli(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


# ---------------------------------------------------------------------------------------------------------- the data


def data(images: int = 12) -> None:
    """Print how many Cityscapes-sized files a core decodes, with their labels, to images of half the size."""
    torch.set_num_threads(1)
    streets = create_dataset("diorama", domain="target", size=(1024, 2048))
    with tempfile.TemporaryDirectory() as folder:
        for index in range(images):
            image, label = streets[index][:2]
            write_png(Path(folder, f"images/{index}.png"), image)
            write_png(Path(folder, f"labels/{index}.png"), label[None])
        files = sum(path.stat().st_size for path in Path(folder, "images").iterdir()) / images
        for what, options in (("image and label", {}), ("image alone", {"labels": None})):
            read = create_dataset("folder", root=folder, size=SIZE, **options)
            times = []
            for index in range(images):
                started = time.process_time()
                read[index]
                times.append(time.process_time() - started)
            rate = 1 / statistics.median(times)
            print(f"{what}: {rate:.1f} a processor second, PNG of 1024x2048 and {files / 1e6:.1f} MB to {SIZE}")


# --------------------------------------------------------------------------------------------------------- the check


def steps(count: int, images: int = 2, size: tuple[int, int] = (64, 128)) -> dict[str, Any]:
    """Return the processor and wall seconds of this rank's steps, and the sizes of the last one's collectives."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(ranks.rank())
    image = torch.rand(2, images, 3, *size, generator=generator)
    batch = Batch({"source": Stream(image[0], torch.randint(0, CLASSES, (images, *size))), "target": Stream(image[1])})
    stack = [create_strategy("supervised"), create_strategy("dacs")]
    engine = Engine(create_model("bisenet", CLASSES), stack, loss=SegmentationLoss(ohem=0.7), device="cpu")
    recorded: list[tuple[str, int]] = []
    record(recorded)
    engine.step(batch)
    measured = []
    for _ in range(count):
        recorded.clear()
        measured.append(timed(lambda: engine.step(batch)))
    return {"seconds": measured, "collectives": recorded}


def reductions(count: int) -> dict[str, Any]:
    """Return the processor and wall seconds of this rank's reductions: small, flat, and flat with the copies."""
    torch.set_num_threads(1)
    network = create_model("bisenet", CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    gradients = [torch.zeros_like(parameter) for parameter in network.parameters()]  # laid out as the engine's
    small, flat = torch.zeros(2), torch.zeros(sum(gradient.numel() for gradient in gradients))
    acts = (partial(dist.all_reduce, small), partial(dist.all_reduce, flat), partial(ranks.average, gradients))
    rounds = [[timed(act) for act in acts] for _ in range(count)]
    return {"bytes": flat.nbytes, "seconds": [list(of_act) for of_act in zip(*rounds, strict=True)]}


def timed(act: Callable[[], object]) -> tuple[float, float]:
    processor, wall = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - processor, time.perf_counter() - wall


def record(into: list[tuple[str, int]]) -> None:
    """Note the name and bytes of each collective from here on."""
    for name in ("all_reduce", "all_gather"):
        original = getattr(dist, name)

        def noting(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            into.append((_name, args[-1].nbytes if _name == "all_gather" else args[0].nbytes))
            return _original(*args, **kwargs)

        setattr(dist, name, noting)


def check(count: int = 9) -> None:
    """Print steps of 1, 2 and 4 ranks, and what one process and two ranks' reductions predict for them.

    Compared are processor seconds of all ranks together, which other processes on the machine stretch least.
    """
    from tests.benchmarks import scaling as own  # ranks import functions by their module

    with tempfile.TemporaryDirectory() as room:
        folders = [Path(room, name) for name in ("1", "2", "4", "two")]
        for folder in folders:
            folder.mkdir()
        found = {n: on_ranks(n, own.steps, f, count=count) for n, f in zip((1, 2, 4), folders, strict=False)}
        two = on_ranks(2, own.reductions, folders[-1], count=4 * count)
    of_acts = zip(*(of_rank["seconds"] for of_rank in two), strict=True)
    call, sent, averaged = (processor_seconds(of_act) / 2 for of_act in of_acts)  # of one rank
    size = two[0]["bytes"]
    hop, per_byte, copied = call / 2, (sent - call) / size, (averaged - sent) / size
    print(f"a hop {1e6 * hop:.0f} us, to send {1e9 * per_byte:.2f} s a GB, to copy {1e9 * copied:.2f}")
    alone = processor_seconds([of_rank["seconds"] for of_rank in found[1]])
    row("ranks", "processor seconds of a step, all ranks", "predicted", "deviation", "wall seconds")
    for world, of_ranks in found.items():
        calls, measured = of_ranks[0]["collectives"], [of_rank["seconds"] for of_rank in of_ranks]
        rounds = {"all_reduce": 2, "all_gather": 1}
        hops = sum(rounds[name] * (world - 1) for name, _ in calls)
        moved = sum(part * (world - 1) * (2 / world if name == "all_reduce" else 1) for name, part in calls)
        flat = max((part for _, part in calls), default=0)
        predicted = world * (alone + hops * hop + moved * per_byte + flat * copied)
        seconds = processor_seconds(measured)
        wall = statistics.median(max(wall for _, wall in step) for step in zip(*measured, strict=True))
        row(f"{world}", f"{seconds:.3f}", f"{predicted:.3f}", f"{seconds / predicted - 1:+.1%}", f"{wall:.3f}")
    print("collectives of a step on two ranks, in bytes:", found[2][0]["collectives"])


def processor_seconds(of_ranks: Iterable[list[tuple[float, float]]]) -> float:
    """Return the median of all ranks' processor seconds together."""
    return statistics.median(sum(processor for processor, _ in one) for one in zip(*of_ranks, strict=True))


if __name__ == "__main__":
    {"table": table, "data": data, "check": check}[sys.argv[1]]()
