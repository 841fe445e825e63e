"""Minimal filtering: the same 3x3 convolutions from fewer multiplications."""

import os
import platform
import re
import subprocess
import sys

import pytest
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn

from dalib import DalibError, create_model
from dalib.deploy.cost import count_macs
from dalib.deploy.fuse import fuse
from dalib.models import winograd
from dalib.models.winograd import FEWEST_CHANNELS, WinogradConv, convolve, library
from tests.compiler import COMPILER, needs_compiler

pytestmark = needs_compiler

SIZES = [(8, 12), (1, 1), (5, 3), (4, 7), (33, 17), (1, 250)]


def difference(conv: nn.Conv2d, image: Tensor) -> float:
    """The largest between the outputs of both, which are of one size."""
    with torch.inference_mode():
        output, expected = WinogradConv(conv)(image), conv(image)
    assert output.shape == expected.shape
    return float((output - expected).abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "bias"), [((32, 32), True), ((48, 96), False), ((32, 128), True)])
def test_a_convolution_by_minimal_filtering_is_the_convolution(
    size: tuple[int, int], stride: int, channels: tuple[int, int], bias: bool
) -> None:
    """In float64, where rounding leaves room to see anything else."""
    torch.manual_seed(0)
    conv = nn.Conv2d(*channels, 3, stride, padding=1, bias=bias).double()
    assert difference(conv, torch.randn(2, channels[0], *size, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (1, 4), (1, 24), (2, 2), (2, 3)])
def test_a_dilated_convolution_is_one_of_every_so_many_pixels(
    size: tuple[int, int], stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, stride, padding=dilation, dilation=dilation).double()
    assert difference(conv, torch.randn(2, 32, *size, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
def test_in_float32_it_differs_by_rounding_alone(stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, stride, padding=1)
    assert 0 < difference(conv, torch.randn(1, 64, 29, 43)) < 1e-4


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about registers of x86")
def test_narrower_registers_give_the_same(tmp_path) -> None:
    """What a processor without AVX-512 runs."""
    code = (
        "import torch\nfrom torch import nn\nfrom dalib.models.winograd import WinogradConv\n"
        "torch.manual_seed(0)\n"
        "for stride in (1, 2):\n"
        "    for outputs in (96, 128):\n"
        "        for dtype, most in ((torch.float32, 1e-4), (torch.float64, 1e-12)):\n"
        "            conv = nn.Conv2d(48, outputs, 3, stride, 1).to(dtype)\n"
        "            image = torch.randn(1, 48, 29, 43, dtype=dtype)\n"
        "            assert (WinogradConv(conv)(image) - conv(image)).abs().max() < most\n"
    )
    environment = {**os.environ, "CXX": f"{COMPILER} -mno-avx512f"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", ["bisenet", "bisenet_v1", "pidnet_s", "timm", "deeplabv2"])
def test_a_network_by_minimal_filtering_gives_the_same_logits(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = fuse(create_model(name, num_classes=5)).double()
    image = torch.rand(1, 3, 65, 96, dtype=torch.float64)
    changed = winograd(model).to(memory_format=layout)
    assert any(isinstance(module, WinogradConv) for module in changed.modules())
    assert not any(isinstance(module, WinogradConv) for module in model.modules())
    with torch.inference_mode():
        expected = model(image)
        torch.testing.assert_close(changed(image), expected, rtol=0, atol=1e-9 * float(expected.std()))


def test_threads_change_no_bit() -> None:
    torch.manual_seed(0)
    conv, image = WinogradConv(nn.Conv2d(32, 64, 3, padding=1)), torch.randn(2, 32, 37, 41)
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outputs.append(conv(image))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_compiler_of_pytorch_can_trace_it(stride: int) -> None:
    conv = WinogradConv(nn.Conv2d(32, 64, 3, stride, padding=2, dilation=2).requires_grad_(False))
    torch.library.opcheck(convolve, (torch.randn(1, 32, 9, 10), conv.weight, conv.bias, stride, 2))


@pytest.mark.parametrize(("shape", "stride"), [((0, 32, 8, 8), 1), ((1, 32, 0, 8), 2)])
def test_nothing_makes_nothing(shape: tuple[int, ...], stride: int) -> None:
    assert WinogradConv(nn.Conv2d(32, 32, 3, stride, padding=1))(torch.rand(shape)).numel() == 0


def test_other_types_of_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 or float64, and these filters are torch\.bfloat16"):
        WinogradConv(nn.Conv2d(32, 32, 3, padding=1)).bfloat16()(torch.rand(1, 32, 8, 8).bfloat16())


def test_an_image_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="a convolution of 32 channels got an image of 16"):
        WinogradConv(nn.Conv2d(32, 32, 3, padding=1))(torch.rand(1, 16, 8, 8))


@pytest.mark.parametrize(("stride", "share"), [(1, 36 / 144), (2, 81 / 144)])
def test_it_multiplies_less_often(stride: int, share: float) -> None:
    conv = nn.Conv2d(64, 64, 3, stride, padding=1)
    shape = (1, 64, 32, 64)
    assert count_macs(winograd(nn.Sequential(conv)), shape) == share * count_macs(conv, shape)


def test_a_tile_of_a_dilated_convolution_is_counted_where_it_holds_any_pixel() -> None:
    """Of 9 rows and 17 columns, dilation 2 makes 5 and 4 rows, 9 and 8 columns: 3 times 5 tiles."""
    conv = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
    assert count_macs(winograd(nn.Sequential(conv)), (1, 32, 9, 17)) == 3 * 5 * 36 * 32 * 32


@pytest.mark.parametrize(
    "other",
    [
        StdConv2d(64, 64, 3, padding=1),  # computes its weight from another
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3, padding=1, stride=3),
        nn.Conv2d(64, 64, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(64, 64, 3, padding=1, dilation=2),
        nn.Conv2d(64, 64, 3, padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(FEWEST_CHANNELS // 2, 64, 3, padding=1),
        nn.Conv2d(FEWEST_CHANNELS + 1, 64, 3, padding=1),
        nn.Conv2d(64, FEWEST_CHANNELS + 16, 3, padding=1),
    ],
)
def test_other_convolutions_stay(other: nn.Conv2d) -> None:
    assert isinstance(winograd(nn.Sequential(other))[0], nn.Conv2d)


def test_a_compiler_that_writes_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "true")
    library.cache_clear()
    with pytest.raises(DalibError, match=r"needs a C\+\+ compiler .* 'true' failed: .*winograd\.so"):
        winograd(nn.Conv2d(64, 64, 3, padding=1))


@pytest.mark.parametrize("compiler", ["no-such-compiler", f"{COMPILER} --no-such-option"])
def test_without_a_compiler_it_says_what_is_needed(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler)
    library.cache_clear()
    with pytest.raises(DalibError, match=rf"needs a C\+\+ compiler .* '{re.escape(compiler)}' failed: .*no-such-.*CXX"):
        winograd(nn.Conv2d(64, 64, 3, padding=1))
