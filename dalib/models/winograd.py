"""3x3 convolutions by minimal filtering: a quarter of the multiplications, for inference on a CPU."""

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

STEP = 4  # a tile of 6x6 inputs gives 4x4 outputs
FILTERS = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]  # 24 G of F(4, 3)
FEWEST_CHANNELS = 64  # below, transforming a tile costs more than its multiplications save


def winograd(model: Model) -> Model:
    """Return a copy of ``model`` whose wide 3x3 convolutions of stride 1 run as ``WinogradConv``; for inference.

    Outputs are equal up to rounding, of some 1e-5 of their spread in float32. It pays in compiled code on a CPU, for
    fused models; a GPU's libraries choose such algorithms by themselves.
    """
    changed = deepcopy(model).eval().requires_grad_(False)
    for name, module in list(changed.named_modules()):
        if isinstance(module, nn.Conv2d) and _suits(module):
            changed.set_submodule(name, WinogradConv(module))
    return changed


def _suits(conv: nn.Conv2d) -> bool:
    return (
        type(conv) is nn.Conv2d  # a subclass may compute its weight, or its padding, anew
        and (conv.kernel_size, conv.stride, conv.dilation, conv.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and conv.padding == (1, 1)
        and conv.padding_mode == "zeros"
        and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
    )


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1 as F(4x4, 3x3) of Lavin and Gray (CVPR 2016, section 4.3).

    Images and filters go to a domain in which a 4x4 tile of the output takes 36 multiplications per pair of channels
    instead of 144: 36 products of matrices, one for each place in a tile.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        filters = torch.tensor(FILTERS, dtype=torch.float64, device=conv.weight.device) / 24
        weight = torch.einsum("ia,kcab,jb->jick", filters, conv.weight.detach().double(), filters)
        self.weight = nn.Parameter(weight.flatten(0, 1).to(conv.weight.dtype), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, K, H, W), in channels-last memory."""
        batch, channels, height, width = x.shape
        down, across = -(-height // STEP), -(-width // STEP)
        x = F.pad(x, (1, STEP * (across + 1) - width - 1, 1, STEP * (down + 1) - height - 1)).permute(0, 2, 3, 1)
        # Stacking in between makes the compiler write the half-transformed tiles down instead of computing them anew.
        rows = torch.stack(_transform_input(_overlapping(x, 1)))
        tiles = torch.stack(_transform_input(_overlapping(rows, 3)))
        products = torch.bmm(tiles.view(36, -1, channels), self.weight).view(6, 6, batch, down, across, -1)
        columns = torch.stack([torch.stack(_transform_output(p.unbind())) for p in products.unbind()])
        pixels = torch.stack(_transform_output(columns.unbind()))  # (4 across, 4 down, B, tiles down, tiles across, K)
        image = pixels.permute(2, 3, 1, 4, 0, 5).reshape(batch, STEP * down, STEP * across, -1)[:, :height, :width]
        return (image if self.bias is None else image + self.bias).permute(0, 3, 1, 2)


def _overlapping(x: Tensor, dim: int) -> list[Tensor]:
    """Return the six elements of every tile along ``dim``, whose 4 (n + 1) elements make n tiles."""
    blocks = torch.unflatten(x, dim, (-1, STEP))
    count = blocks.shape[dim] - 1
    own, following = blocks.narrow(dim, 0, count), blocks.narrow(dim, 1, count)
    return [*own.unbind(dim + 1), *following.unbind(dim + 1)[:2]]


def _transform_input(d: Sequence[Tensor]) -> list[Tensor]:
    """Apply B^T of F(4, 3), with the points 0, 1, -1, 2, -2 and infinity, to six elements."""
    plus, minus = d[4] - 4 * d[2], d[3] - 4 * d[1]
    far, near = d[4] - d[2], 2 * (d[3] - d[1])
    return [4 * d[0] - 5 * d[2] + d[4], plus + minus, plus - minus, far + near, far - near, 4 * d[1] - 5 * d[3] + d[5]]


def _transform_output(m: Sequence[Tensor]) -> list[Tensor]:
    """Apply A^T of F(4, 3) to six products."""
    near, far = m[1] + m[2], m[3] + m[4]
    odd_near, odd_far = m[1] - m[2], m[3] - m[4]
    return [m[0] + near + far, odd_near + 2 * odd_far, near + 4 * far, odd_near + 8 * odd_far + m[5]]
