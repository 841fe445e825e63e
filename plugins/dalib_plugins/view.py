"""Random views of images: flip, scale and crop as one sampling, with labels that stay exact."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class View:
    """Where each pixel of a view lies in its image: rows (B, h) and columns (B, w), in pixels, maybe outside.

    Flip, scale and crop keep rows and columns apart, so one gather does all three, and one interpolation at most;
    a chain of kornia's warps would do one each and carry labels as floats.
    """

    rows: Tensor
    columns: Tensor

    def image(self, image: Tensor, *, interpolate: bool) -> Tensor:
        """Return the view of (B, 3, H, W); outside, the image is mirrored: black bars would bend BatchNorm and FFT."""
        x, y = (_normalized(p, n) for p, n in ((self.columns, image.shape[-1]), (self.rows, image.shape[-2])))
        shape = (len(image), y.shape[1], x.shape[1])
        grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), -1)
        mode = "bilinear" if interpolate else "nearest"
        return F.grid_sample(image, grid, mode, padding_mode="reflection", align_corners=False)

    def mask(self, values: Tensor, outside: float) -> Tensor:
        """Return the view of (B, H, W) of any type: the nearest pixel, ``outside`` where there is none."""
        height, width = values.shape[-2:]
        rows, columns = self.rows.round().long(), self.columns.round().long()
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        sample = torch.arange(len(values), device=values.device)[:, None, None]
        near = values[sample, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
        return near.masked_fill(~inside, outside)


def draw_view(
    count: int, size: tuple[int, int], crop: tuple[int, int], scale: Sequence[float], flip: float, device: torch.device
) -> View:
    """Draw a view for each of ``count`` images of ``size`` (H, W).

    Args:
        crop: (h, w) of the views; where the scaled image is smaller, it lies somewhere in the view.
        scale: least and greatest factor on the image, drawn uniformly. flip: probability of a mirrored view.
    """
    scales = torch.empty(count, 1, device=device).uniform_(scale[0], scale[1])
    rows, columns = (_draw_positions(scales, n, m) for n, m in zip(size, crop, strict=True))
    flipped = torch.rand(count, 1, device=device) < flip
    return View(rows, torch.where(flipped, size[1] - 1 - columns, columns))


def _draw_positions(scales: Tensor, size: int, crop: int) -> Tensor:
    """Return (B, crop) positions in images of ``size``: whole numbers where the scale is 1."""
    slack = (scales * size).round() - crop
    # The number of whole offsets is |slack| + 1; rand < 1, but their product may round up to it.
    steps = (torch.rand_like(scales) * (slack.abs() + 1)).floor().minimum(slack.abs())
    pixels = torch.arange(crop, device=scales.device) + steps * slack.sign()
    return (pixels + 0.5) / scales - 0.5


def _normalized(position: Tensor, size: int) -> Tensor:
    """Return grid_sample's coordinates, in which an image reaches from -1 to 1."""
    return (2 * position + 1) / size - 1
