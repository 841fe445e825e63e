"""Benchmarks of networks on this machine: parameters, multiply-adds, latency, throughput and memory."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from dalib.core.create import model_from
from dalib.core.uses import parse_use
from dalib.deploy.bfloat16 import in_bfloat16
from dalib.deploy.cost import count_macs, peak_memory
from dalib.deploy.export import streets, trace, write_onnx
from dalib.deploy.fuse import fuse
from dalib.deploy.quantize import quantize
from dalib.deploy.runtimes import PACKAGES, Run, Size, Sizes, open_onnx, require
from dalib.device import choose_device, hardware_name
from dalib.errors import DalibError, suggest
from dalib.models import SegmentationModel
from dalib.models.wrapper import training_heads

FORMS = ("fused", "bf16", "channels-last", "compiled")  # in the order of application
VARIANTS = ("eager", "channels-last", "fused", "bf16", "compiled", "fused+bf16+channels-last+compiled")
RUNTIMES = ("onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8")  # of the exported file; not combined by "+"
ALONE = ("eager", *RUNTIMES)
WARM_UP = 3
FEWEST_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network in one form on one machine, fed one image at a time.

    Fields:
        parameters, inference_parameters: of all modules, and without the training heads'.
        macs: multiply-adds of a forward, see ``dalib.deploy.cost.count_macs``.
        median_ms, p95_ms: latency over ``runs`` forwards, the device synchronised after each.
        processor_ms: median CPU time of a forward, summed over threads; on one thread of a shared machine, this is the
            latency that an idle machine would show.
        images_per_second: of back-to-back forwards, the device synchronised at the end.
        peak_memory: bytes, see ``dalib.deploy.cost.peak_memory``; None for compiled code on a CPU and for runtimes,
            whose allocations PyTorch does not see.
        hardware, threads, torch: what it was measured on.
    """

    model: str
    variant: str
    size: Size
    parameters: int
    inference_parameters: int
    macs: int
    median_ms: float
    p95_ms: float
    processor_ms: float
    images_per_second: float
    peak_memory: int | None
    runs: int
    hardware: str
    threads: int
    torch: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as primitives, for JSON."""
        return asdict(self)


def bench(
    networks: Sequence[str | tuple[str, SegmentationModel]],
    size: Size = (512, 1024),
    variants: Sequence[str] = VARIANTS,
    *,
    device: torch.device | str | None = None,
    threads: int | None = None,
    seconds: float = 5.0,
) -> Iterator[Row]:
    """Measure networks in each variant, with random weights unless their options load some; yield rows one by one.

    Args:
        networks: registered models, see ``dalib.list_models``, alone or with options: "timm backbone=convnext_atto";
            or models with the names to measure them under.
        size: (H, W) of the image.
        variants: "eager"; "fused", "bf16", "channels-last" and "compiled", alone or joined by "+"; or the exported file
            in "onnxruntime" or "openvino", on a CPU, with "-int8" quantised and calibrated on procedural streets.
        device: None: the GPU, if there is one.
        threads: of the CPU; None: as many as PyTorch takes.
        seconds: how long latency and then throughput are each measured; at least five forwards.

    Raises:
        DalibError: an unknown variant or device, or a network that cannot be made, before anything is measured; or a
            variant that this machine cannot run, when its turn comes.
    """
    chosen = choose_device(device)
    for variant in variants:
        check_variant(variant)
    models = [_named(network) for network in networks]

    def rows() -> Iterator[Row]:
        with cpu_threads(threads):
            for name, model in models:
                for variant in variants:
                    yield measure(model, size, variant, name=name, device=chosen, seconds=seconds)

    return rows()


def _named(network: str | tuple[str, SegmentationModel]) -> tuple[str, SegmentationModel]:
    if not isinstance(network, str):
        return network
    use = parse_use(network)
    return network, cast(SegmentationModel, model_from(use, 19, use["use"]))


def measure(
    model: SegmentationModel,
    size: Size,
    variant: str = "eager",
    *,
    name: str,
    device: torch.device | str | None = None,
    seconds: float = 5.0,
) -> Row:
    """Measure one model, which is not changed, in one variant; see ``bench``."""
    device = choose_device(device)
    forms = check_variant(variant)
    form = in_form(model, forms).to(device)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    if "channels-last" in forms:
        image = image.contiguous(memory_format=torch.channels_last)
    torch.compiler.reset()  # else PyTorch gives up on the forward after eight recompilations, one per model
    ready: Callable[[Tensor], Tensor] = form
    if variant in RUNTIMES:
        if device.type != "cpu":
            raise DalibError(f"variant {variant!r} runs on a CPU, and the device is {device.type}; say --device cpu.")
        ready = in_runtime(model, variant, size)
    elif "compiled" in forms:
        ready = compiled(form, image)
    with torch.inference_mode():
        _try(ready, image, name)
        times, processor, rate = time_forward(lambda: ready(image), device, seconds)
    return Row(
        model=name,
        variant=variant,
        size=size,
        parameters=sum(p.numel() for p in model.parameters()),
        inference_parameters=inference_parameters(model),
        macs=count_macs(form, (1, 3, *size)),
        median_ms=1000 * statistics.median(times),
        p95_ms=1000 * sorted(times)[ceil(0.95 * len(times)) - 1],
        processor_ms=1000 * statistics.median(processor),
        images_per_second=rate,
        peak_memory=None if ready is not form and device.type == "cpu" else peak_memory(form, image),
        runs=len(times),
        hardware=hardware_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def check_variant(variant: str) -> tuple[str, ...]:
    """Return the forms that a variant combines, in the order of application.

    Raises:
        DalibError: an unknown variant, or a runtime whose package is absent.
    """
    if variant in RUNTIMES:
        runtime = variant.removesuffix("-int8")
        require(f"variant {variant!r}", (*PACKAGES, runtime), "openvino" if runtime == "openvino" else "onnx")
        return ("fused",)
    forms = [] if variant == "eager" else variant.split("+")
    for form in forms:
        if form not in FORMS:
            raise DalibError(
                f"unknown variant {variant!r} of a benchmark: {form!r} is no form."
                f"{suggest(form, FORMS if len(forms) > 1 else (*FORMS, *ALONE))} Forms are joined by '+', as in "
                f"fused+bf16; {', '.join(ALONE)} stand alone."
            )
    return tuple(form for form in FORMS if form in forms)


def in_form(model: SegmentationModel, forms: Sequence[str]) -> SegmentationModel:
    """Return a copy of ``model`` in eval mode and in these forms, except "compiled", which ``compiled`` applies."""
    model = fuse(model) if "fused" in forms else deepcopy(model).eval()
    if "bf16" in forms:
        model = in_bfloat16(model)
    return model.to(memory_format=torch.channels_last) if "channels-last" in forms else model


def compiled(model: SegmentationModel, image: Tensor) -> SegmentationModel:
    """Return ``model`` compiled for images of this shape; on the CPU with its weights frozen into the code.

    Raises:
        DalibError: compiling fails.
    """
    ready = torch.compile(model, dynamic=False)
    # Patched around the first forward, not given to torch.compile, since tracing reads the setting too.
    with torch.inference_mode(), torch._inductor.config.patch(freezing=image.device.type == "cpu"):
        try:
            ready(image)
        except Exception as error:  # a missing compiler and a broken one raise different kinds
            reason = str(error).strip().partition("\n")[0]
            raise DalibError(
                f"the compiled form needs what torch.compile needs, on a CPU a C++ compiler, and that failed: {reason} "
                "Install one (Debian's package is g++), name another in the environment variable CXX, or do without "
                "compiled."
            ) from error
    return cast(SegmentationModel, ready)


def in_runtime(model: SegmentationModel, variant: str, size: Size) -> Run:
    """Return a function that runs the model, exported for images of this size, in a runtime of ``RUNTIMES``."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        sizes = Sizes(size=size, multiple=None, batch=1)
        write_onnx(trace(model, sizes), path, sizes)
        if variant.endswith("-int8"):
            quantize(path, path, streets(size, 2), goal=0)  # latency needs no search for layers to keep in float
        return open_onnx(path, variant.removesuffix("-int8"))


def time_forward(
    forward: Callable[[], object], device: torch.device, seconds: float
) -> tuple[list[float], list[float], float]:
    """Return wall and CPU seconds of single forwards, and the number of back-to-back forwards per second."""
    for _ in range(WARM_UP):
        forward()
    _synchronize(device)
    times: list[float] = []
    processor: list[float] = []
    while len(times) < FEWEST_RUNS or sum(times) < seconds:
        started = time.process_time()
        times.append(_timed(forward, 1, device))
        processor.append(time.process_time() - started)
    return times, processor, len(times) / _timed(forward, len(times), device)


def _try(ready: Callable[[Tensor], Tensor], image: Tensor, name: str) -> None:
    try:
        ready(image)
    except RuntimeError as error:
        height, width = image.shape[-2:]
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DalibError(
            f"{name} fails on an image of {height}x{width} (HxW): {reason}. Give another --size."
        ) from error


def inference_parameters(model: SegmentationModel) -> int:
    """Count the parameters outside the training-only heads."""
    heads = tuple(f"{head}." for head in training_heads(model.network))
    return sum(p.numel() for name, p in model.network.named_parameters() if not name.startswith(heads))


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use ``count`` CPU threads within the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(forward: Callable[[], object], repeats: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        forward()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
