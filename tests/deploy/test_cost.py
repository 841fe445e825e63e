"""Multiply-adds and memory of a forward: the published counts, and sums that can be done by hand."""

import pytest
import torch
from torch import Tensor, nn

from dalib import create_model
from dalib.deploy.cost import count_macs, peak_memory
from dalib_plugins.adversarial import OutputDiscriminator


def test_counts_products_batch_norm_and_interpolation_as_fvcore_does() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Upsample((8, 8), mode="bilinear")
    )
    convolution, norm, bilinear = 4 * 4 * 5 * 27, 2 * 5 * 16, 4 * 5 * 64
    assert count_macs(layers, (1, 3, 4, 4)) == convolution + norm + bilinear
    assert count_macs(nn.Linear(7, 2), (3, 7)) == 42


@pytest.mark.parametrize(
    ("name", "published"), [("bisenet", 25.78e9), ("deeplabv2", 374.7e9), ("pidnet_s", 11.9e9), ("pidnet_l", 68.9e9)]
)
def test_networks_have_the_published_counts(name: str, published: float) -> None:
    assert count_macs(create_model(name), (1, 3, 512, 1024)) == pytest.approx(published, rel=2e-3)


def test_the_discriminator_has_the_published_count() -> None:
    assert count_macs(OutputDiscriminator(19), (1, 19, 512, 1024)) == pytest.approx(15.4e9, rel=5e-3)


class Doubling(nn.Module):
    """Holds its input's size in one, in two, and again in one tensor beside the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(100))

    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        z = y + 1
        del y
        return z.view(-1)


def test_peak_memory_is_what_lives_at_one_time() -> None:
    x = torch.zeros(1000)
    assert peak_memory(Doubling(), x) == 4 * (100 + 2 * 1000)
