"""Minimal filtering: the same 3x3 convolutions from fewer multiplications."""

import pytest
import torch
from torch import nn

from dalib import create_model
from dalib.cost import count_macs
from dalib.models import fuse, winograd
from dalib.models.winograd import FEWEST_CHANNELS, WinogradConv


@pytest.mark.parametrize("size", [(8, 12), (1, 1), (5, 3), (4, 7), (33, 17)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_by_minimal_filtering_is_the_convolution(size: tuple[int, int], bias: bool) -> None:
    """In float64, where rounding leaves room to see anything else."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(WinogradConv(conv)(image), conv(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["bisenet", "bisenet_v1", "pidnet_s", "timm", "deeplabv2"])
def test_a_network_by_minimal_filtering_gives_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    model = fuse(create_model(name, num_classes=5)).double()
    image = torch.rand(1, 3, 65, 96, dtype=torch.float64)
    changed = winograd(model)
    assert any(isinstance(module, WinogradConv) for module in changed.modules())
    assert not any(isinstance(module, WinogradConv) for module in model.modules())
    with torch.inference_mode():
        expected = model(image)
        torch.testing.assert_close(changed(image), expected, rtol=0, atol=1e-9 * float(expected.std()))


def test_in_float32_the_logits_move_by_rounding_alone() -> None:
    torch.manual_seed(0)
    model = fuse(create_model("bisenet"))
    image = torch.rand(1, 3, 96, 192)
    with torch.inference_mode():
        expected = model(image)
        torch.testing.assert_close(winograd(model)(image), expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_it_multiplies_a_quarter_as_often() -> None:
    conv = nn.Conv2d(64, 64, 3, padding=1)
    assert count_macs(winograd(nn.Sequential(conv)), (1, 64, 32, 64)) == count_macs(conv, (1, 64, 32, 64)) / 4


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(FEWEST_CHANNELS - 1, 64, 3, padding=1),
    ],
)
def test_other_convolutions_stay(other: nn.Conv2d) -> None:
    assert isinstance(winograd(nn.Sequential(other))[0], nn.Conv2d)
