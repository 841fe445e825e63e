"""Random scale, crop and flip as one sampling, by the nearest pixel for labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import IGNORE, Stream


@dataclass(frozen=True)
class View:
    """Sampling positions of a view in its image: rows (B, h) and columns (B, w), in pixels, possibly outside.

    Flip, scale and crop are separable, so one gather does all three, with one interpolation at most; a chain of
    kornia's augmentations would interpolate for each and carry labels as floats.
    """

    rows: Tensor
    columns: Tensor

    def image(self, image: Tensor, *, interpolate: bool) -> Tensor:
        """Return the view of (B, 3, H, W); mirrored outside, since black bars would distort BatchNorm and FFT."""
        x, y = (_normalized(p, n) for p, n in ((self.columns, image.shape[-1]), (self.rows, image.shape[-2])))
        shape = (len(image), y.shape[1], x.shape[1])
        grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), -1)
        mode = "bilinear" if interpolate else "nearest"
        return F.grid_sample(image, grid, mode, padding_mode="reflection", align_corners=False)

    def mask(self, values: Tensor, outside: float) -> Tensor:
        """Return the view of (B, H, W) of any type: the nearest pixel, or ``outside`` beyond the image."""
        height, width = values.shape[-2:]
        rows, columns = self.rows.round().long(), self.columns.round().long()
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        sample = torch.arange(len(values), device=values.device)[:, None, None]
        near = values[sample, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
        return near.masked_fill(~inside, outside)

    def stream(self, stream: Stream, *, interpolate: bool) -> Stream:
        """Return the view of a stream; pixels from outside the image have label 255, weight 0, and 0 in maps."""
        weight = torch.ones_like(stream.image[:, 0]) if stream.weight is None else stream.weight
        return replace(
            stream,
            image=self.image(stream.image, interpolate=interpolate),
            label=None if stream.label is None else self.mask(stream.label, IGNORE),
            weight=self.mask(weight, 0.0),
            extra={name: self.mask(values, 0) for name, values in stream.extra.items()},
        )


def draw_view(
    count: int, size: tuple[int, int], crop: tuple[int, int], scale: Sequence[float], flip: float, device: torch.device
) -> View:
    """Draw a view for each of ``count`` images of ``size`` (H, W).

    Args:
        crop: (h, w) of the views; a smaller scaled image is placed in the view at random.
        scale: range of the scale factor, drawn uniformly. flip: probability of a horizontal flip.
    """
    scales = torch.empty(count, 1, device=device).uniform_(scale[0], scale[1])
    rows, columns = (_draw_positions(scales, n, m) for n, m in zip(size, crop, strict=True))
    flipped = torch.rand(count, 1, device=device) < flip
    return View(rows, torch.where(flipped, size[1] - 1 - columns, columns))


def _draw_positions(scales: Tensor, size: int, crop: int) -> Tensor:
    """Return (B, crop) positions in images of ``size`` pixels along one axis: integers where the scale is 1."""
    slack = (scales * size).round() - crop
    # The number of whole offsets is |slack| + 1; rand < 1, but their product may round up to it.
    steps = (torch.rand_like(scales) * (slack.abs() + 1)).floor().minimum(slack.abs())
    pixels = torch.arange(crop, device=scales.device) + steps * slack.sign()
    return (pixels + 0.5) / scales - 0.5


def _normalized(position: Tensor, size: int) -> Tensor:
    """Convert pixel positions to ``grid_sample``'s coordinates, which run from -1 to 1 over the image."""
    return (2 * position + 1) / size - 1
