"""3x3 convolutions by minimal filtering: 36 or, with stride 2, 81 multiplications instead of 144, on a CPU."""

import ctypes
import os
import shlex
import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dalib.errors import DalibError

Model = TypeVar("Model", bound=nn.Module)

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC")
STEP = 4  # outputs of a tile, along a side
POINTS = {1: 6, 2: 9}  # by stride: products that make a tile, along a side
NARROW, WIDE = 32, 64  # output channels that are computed together
LANES = 16  # input channels that are transformed together
FEWEST_CHANNELS = 32  # below, transforming a tile costs more than its multiplications save
# By stride: the six filters, times 24, that the three taps along a side become; the source says at which points.
FILTERS = {
    1: [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    2: [[12, 0, 0], [-12, 0, -12], [-4, 0, 4], [4, 0, 8], [0, 0, 24], [0, 24, 0]],
}


def winograd(model: Model) -> Model:
    """Return a copy of ``model`` whose wide 3x3 convolutions run as ``WinogradConv``; for inference.

    Outputs are equal up to rounding: in float32 some 1e-5 of their spread on average, and 1e-4 at the worst pixel of a
    network with random weights. It is for a CPU: a GPU's libraries choose such algorithms by themselves.

    Raises:
        DalibError: there is no C++ compiler to compile it with, as there has to be for ``torch.compile``.
    """
    library()
    changed = deepcopy(model).eval().requires_grad_(False)
    for name, module in list(changed.named_modules()):
        # A subclass may compute its weight, or its padding, anew.
        if type(module) is nn.Conv2d and _suits(module):
            changed.set_submodule(name, WinogradConv(module))
    return changed


def _suits(conv: nn.Conv2d) -> bool:
    return (
        (conv.kernel_size, conv.groups, conv.padding_mode) == ((3, 3), 1, "zeros")
        and conv.stride in ((1, 1), (2, 2))
        and conv.padding == conv.dilation == 2 * conv.dilation[:1]
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
        and conv.in_channels % LANES == conv.out_channels % NARROW == 0
    )


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 or 2 by minimal filtering (Lavin and Gray, CVPR 2016, section 4.3).

    Its padding is its dilation. Images and filters go to a domain in which a 4x4 tile of the output takes 36
    multiplications per pair of channels instead of 144: 36 products of matrices, one for each place in a tile. That is
    F(4x4, 3x3). With stride 2 the middle tap sees other inputs than the outer two, along each side; these go by
    F(4, 2), and a tile takes 81, which are summed in 25 places.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.dilation = conv.stride[0], conv.dilation[0]
        taps = torch.tensor(FILTERS[self.stride], dtype=torch.float64) / 24
        filters = torch.einsum("ia,kcab,jb->ijck", taps, conv.weight.detach().double(), taps).flatten(0, 1)
        panel = _panel(conv.out_channels)
        panels = torch.unflatten(filters, 2, (-1, panel)).transpose(1, 2)  # (36, K / panel, C, panel)
        # Not of four dimensions, which ``to(memory_format=torch.channels_last)`` would lay out anew.
        self.weight = nn.Parameter(panels.flatten(0, 1).to(conv.weight.dtype).contiguous(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, K, H / stride, W / stride), sizes rounded up, in channels-last memory."""
        output: Tensor = convolve(x, self.weight, self.bias, self.stride, self.dilation)
        return output


def _panel(outputs: int) -> int:
    """Return how many output channels are computed together: with registers for more, these take fewer loads."""
    return WIDE if outputs % WIDE == 0 and torch.backends.cpu.get_cpu_capability() == "AVX512" else NARROW


@torch.library.custom_op("dalib::winograd", mutates_args=(), device_types="cpu")
def convolve(image: Tensor, filters: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
    """Convolve (B, C, H, W) with the filters of a ``WinogradConv``, in float32 or float64.

    Raises:
        ValueError: the image has other channels than the filters, or these are of another type.
    """
    batch, channels, height, width = image.shape
    if channels != filters.shape[1]:
        raise ValueError(f"a convolution of {filters.shape[1]} channels got an image of {channels}")
    if filters.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"minimal filtering computes in float32 or float64, and these filters are {filters.dtype}")
    output: Tensor = _output(image, filters, bias, stride, dilation)
    if output.numel() == 0:
        return output
    pixels = image.permute(0, 2, 3, 1).to(filters.dtype).contiguous()
    run = getattr(library(), f"convolve_{str(filters.dtype).removeprefix('torch.')}")
    shape = (ctypes.c_long * 6)(batch, height, width, channels, output.shape[1], filters.shape[2])
    tensors = (pixels, filters, bias, output)
    addresses = [None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    run(*addresses, shape, ctypes.c_long(stride), ctypes.c_long(dilation), torch.get_num_threads())
    return output


@convolve.register_fake
def _output(image: Tensor, filters: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
    """Return what ``convolve`` does, not computed."""
    batch, _, height, width = image.shape
    size = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    outputs = filters.shape[0] // len(FILTERS[stride]) ** 2 * filters.shape[2]
    return filters.new_empty(batch, *size, outputs).permute(0, 3, 1, 2)


def count_flops(
    image: Any, filters: Any, bias: Any, stride: int, dilation: int, *, out_shape: Any, **unused: Any
) -> int:
    """Return twice the multiply-adds of ``convolve``, from shapes, as a formula of a ``FlopCounterMode``."""
    batch, outputs, *sides = out_shape
    down, across = (sum(-(-len(range(i, side, dilation)) // STEP) for i in range(dilation)) for side in sides)
    tiles = batch * down * across
    return int(2 * tiles * POINTS[stride] ** 2 * image[1] * outputs)


@cache
def library() -> ctypes.CDLL:
    """Compile the source for this machine's processor, which takes a few seconds, and load it.

    Raises:
        DalibError: the compiler is missing, or fails.
    """
    compiler = os.environ.get("CXX", "c++")
    with TemporaryDirectory(prefix="dalib-") as folder:  # a library that is loaded needs its file no longer
        built = Path(folder) / "winograd.so"
        try:
            command = [*shlex.split(compiler), *FLAGS, str(SOURCE), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            return ctypes.CDLL(str(built))
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            raise DalibError(
                f"the winograd form needs a C++ compiler with OpenMP, and {compiler!r} failed: {said}. "
                "Install one (Debian's package is g++), name another in the environment variable CXX, or do without "
                "winograd."
            ) from error
