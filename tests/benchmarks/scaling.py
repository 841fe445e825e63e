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
from collections.abc import Callable
from dataclasses import dataclass
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
SMALL = 12  # small all-reduces of a step with `supervised` and `dacs`; `check` records them
HARD = 100_000  # values that a rank gives to OHEM, SegmentationLoss.min_kept


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
    """Print the page's tables."""
    networks = {
        "BiSeNet-R18": (network("bisenet"), 4),
        "ViT-L/14": (network("timm", backbone="vit_large_patch14_dinov2", head="daformer"), 1),
    }
    for name, (of, images) in networks.items():
        print(
            f"{name}: {of.parameters / 1e6:.1f} M parameters, {of.norms} BatchNorm, {of.macs / 1e9:.0f} G multiply-adds an "
            f"image, {of.trained / 1e9:.2f} GB moved in training on it, {of.reduced / 1e6:.1f} MB reduced a step"
        )
        print(
            "| GPUs | images a step and domain | compute |", " | ".join(f"{f}: reduce | small | step" for f in FABRICS)
        )
        for gpus in GPUS:
            row = [f"{gpus:,}", f"{gpus * images:,}", milli(of.compute(images))]
            for bandwidth in FABRICS.values():
                cluster = Cluster(gpus, bandwidth)
                reduced, small = cluster.all_reduce(of.reduced), SMALL * cluster.all_reduce(256)
                row += [milli(reduced), milli(small), milli(of.compute(images) + reduced + small)]
            print("|", " | ".join(row), "|")
        rate = 2 * images / of.compute(images)
        print(f"data at full speed: {rate:.0f} images a second and GPU")
    print("| GPUs | OHEM: MB a rank gets | ms | values sorted | synchronised BatchNorm of BiSeNet, ms |")
    for gpus in GPUS:
        cluster = Cluster(gpus, FABRICS["8 x 400 Gb/s"])
        norms = networks["BiSeNet-R18"][0].norms
        exchanged = norms * (3 * cluster.all_gather(2 * 4 * 256) + 2 * cluster.all_reduce(2 * 4 * 256))
        row = [f"{gpus:,}", f"{gpus * HARD * 4 / 1e6:,.1f}", milli(cluster.all_gather(4 * HARD)), f"{gpus * HARD:,}"]
        print("|", " | ".join([*row, milli(exchanged)]), "|")


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


def collectives(sizes: list[int], count: int) -> list[list[tuple[float, float]]]:
    """Return the processor and wall seconds of this rank's all-reduces, by bytes."""
    torch.set_num_threads(1)
    tensors = [torch.zeros(size // 4) for size in sizes]
    for tensor in tensors:
        dist.all_reduce(tensor)
    rounds = [[timed(lambda t=tensor: dist.all_reduce(t)) for tensor in tensors] for _ in range(count)]  # type: ignore[misc]
    return [list(of_size) for of_size in zip(*rounds, strict=True)]


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
    """Print steps of 1, 2 and 4 ranks, and what constants of one process and of two ranks' all-reduces predict."""
    from tests.benchmarks import scaling as own  # ranks import functions by their module

    small, large = 64, 16 * 2**20
    print("| ranks | processor s a step, all ranks | predicted | deviation | wall s a step |")
    found = {}
    with tempfile.TemporaryDirectory() as room:
        for number, world in enumerate((1, 2, 4)):
            folder = Path(room, f"steps{number}")
            folder.mkdir()
            found[world] = on_ranks(world, own.steps, folder, count=count)
        of_two = Path(room, "reduce")
        of_two.mkdir()
        two = on_ranks(2, own.collectives, of_two, sizes=[small, large], count=8 * count)
    call, transfer = (processor_of(two, size) for size in (0, 1))
    alone = total(found[1])
    hop, per_byte = (
        call / 2 / 2,
        (transfer - call) / 2 / large,
    )  # per rank: 2 hops, and 2 (n - 1) / n = 1 times the bytes
    print(f"a hop {1e6 * hop:.0f} us, {1 / per_byte / 1e9:.2f} GB a processor second, each of two ranks")
    for world, of_ranks in found.items():
        calls = of_ranks[0]["collectives"]
        moved = sum(size * (2 / world if name == "all_reduce" else 1) * (world - 1) for name, size in calls)
        hops = sum((2 if name == "all_reduce" else 1) * (world - 1) for name, _ in calls)
        predicted = world * (alone + hops * hop + moved * per_byte)
        measured = total(of_ranks)
        wall = statistics.median(max(pair[1] for pair in step) for step in zip(*(r["seconds"] for r in of_ranks)))
        row = [f"{world}", f"{measured:.3f}", f"{predicted:.3f}", f"{measured / predicted - 1:+.1%}", f"{wall:.3f}"]
        print("|", " | ".join(row), "|")
    sizes = [(name, size) for name, size in found[2][0]["collectives"]]
    print(f"{len(sizes)} collectives a step on two ranks: {sizes}")


def total(of_ranks: list[dict[str, Any]]) -> float:
    """Return the median over steps of all ranks' processor seconds."""
    return statistics.median(sum(pair[0] for pair in step) for step in zip(*(r["seconds"] for r in of_ranks)))


def processor_of(of_ranks: list[list[list[tuple[float, float]]]], size: int) -> float:
    return statistics.median(sum(pair[0] for pair in one) for one in zip(*(r[size] for r in of_ranks)))


if __name__ == "__main__":
    {"table": table, "data": data, "check": check}[sys.argv[1]]()
