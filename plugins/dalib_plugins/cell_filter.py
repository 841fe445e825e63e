"""A Gaussian filter of position and colour (a bilateral filter), approximated by cells of pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST = -30.0  # smallest exponent of the kernel: e^-30 is negligible, and subnormal numbers are slow


class CellFilter:
    """Filters an image with a Gaussian of position and colour that sums over cells of pixels, not over single pixels.

    Each pixel sums over the cells of ``cell`` x ``cell`` pixels that are up to ``reach`` cells away. A cell enters as
    two halves, the pixels brighter than its mean and the others: each as the sum of its values, placed at the cell's
    centre, with the half's mean colour. The pixels of one cell use ("hear") only the ``heard`` halves with the largest
    total weight, since most colours within reach are too different to count.

    Args:
        colors: (B, 3, H, W) in units of the kernel's standard deviation of colour.
        position: standard deviation of position in pixels.
        cell: side of a cell in pixels.
        reach: window of cells in each direction.
        heard: halves of cells used per cell, or None for all within reach.
    """

    def __init__(self, colors: Tensor, position: float, cell: int, reach: int, heard: int | None) -> None:
        self.size, self.cell, self.reach = colors.shape[-2:], cell, reach
        colors = colors - colors.mean((2, 3), keepdim=True)  # keeps the squares below small
        self.bright = self._is_bright(colors.mean(1, keepdim=True))
        halves = self._halves(torch.cat((colors, torch.ones_like(colors[:, :1])), dim=1))
        reached = self._reached(colors)
        sums, counts = halves[reached][..., :3], halves[reached][..., 3]
        centers = sums / counts[..., None].clamp(min=1)
        # |a - b|^2 / 2 as a product: (a, -|a|^2 / 2, 1) . (b, 1, -|b|^2 / 2) is its negative.
        pixels, one = self._pixels(colors), torch.ones_like
        pixels = torch.cat((pixels, _half_square(pixels), one(pixels[..., :1])), dim=-1)
        centers = torch.cat((centers, one(centers[..., :1]), _half_square(centers)), dim=-1)
        real = self._pixels(torch.ones_like(colors[:, :1]))
        nearness = -self._squared_distances(colors).repeat(1, 2) / (2 * position**2)
        heard = min(heard or centers.shape[2], centers.shape[2])
        # One row of cells at a time, which bounds the memory of the kernel before its columns are selected.
        rows = [
            _heaviest(_kernel(features, near, nearness), is_real, count, heard)
            for features, is_real, near, count in zip(pixels, real, centers, counts, strict=True)
        ]
        self.kernel, places = (torch.stack(parts) for parts in zip(*rows, strict=True))
        self.heard = reached.gather(2, places)

    def __call__(self, x: Tensor) -> Tensor:
        """Return sum_j k(i, j) x_j for every pixel i, (B, C, H, W)."""
        return self._image(self.kernel @ self._halves(x)[self.heard], x.shape[0])

    def _is_bright(self, brightness: Tensor) -> Tensor:
        mean = self._cell_sums(brightness) / self._cell_sums(torch.ones_like(brightness))
        height, width = self.size
        spread = mean.repeat_interleave(self.cell, 2).repeat_interleave(self.cell, 3)[..., :height, :width]
        return (brightness >= spread).to(brightness.dtype)

    def _halves(self, x: Tensor) -> Tensor:
        """Return sums over the halves of cells, (1 + 2 * B * h * w, C): a zero, all bright halves, all dark ones."""
        sums = [self._cell_sums(x * half).permute(0, 2, 3, 1).flatten(0, 2) for half in (self.bright, 1 - self.bright)]
        return torch.cat([torch.zeros_like(sums[0][:1]), *sums])

    def _reached(self, x: Tensor) -> Tensor:
        """Return the indices into ``_halves`` within reach of each cell, (rows of cells, B * columns, 2 * window)."""
        batch, (rows, columns) = x.shape[0], (-(-side // self.cell) for side in self.size)
        numbers = torch.arange(1, 1 + 2 * batch * rows * columns, device=x.device)
        places = numbers.view(2, batch, 1, rows, columns)
        return torch.cat([self._windows(half)[..., 0] for half in places], dim=2)

    def _cell_sums(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(_whole_cells(x, self.cell), self.cell) * self.cell**2

    def _pixels(self, x: Tensor) -> Tensor:
        """Rearrange (B, C, H, W) to (rows of cells, B * columns of cells, pixels of a cell, C)."""
        s = self.cell
        x = _whole_cells(x, self.cell)
        x = x.view(*x.shape[:2], x.shape[2] // s, s, x.shape[3] // s, s)  # (B, C, h, s, w, s)
        return x.permute(2, 0, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def _image(self, x: Tensor, batch: int) -> Tensor:
        """Undo ``_pixels``."""
        s, (height, width) = self.cell, self.size
        x = x.view(x.shape[0], batch, -1, s, s, x.shape[-1])  # (h, B, w, s, s, C)
        return x.permute(1, 5, 0, 3, 2, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]

    def _windows(self, cells: Tensor) -> Tensor:
        """Return (rows of cells, B * columns, cells of a window, C) of cells (B, C, h, w), zeros outside."""
        r, side = self.reach, 2 * self.reach + 1
        x = F.pad(cells, (r, r, r, r)).unfold(2, side, 1).unfold(3, side, 1)  # (B, C, h, w, side, side)
        return x.permute(2, 0, 3, 4, 5, 1).flatten(3, 4).flatten(1, 2)

    def _squared_distances(self, like: Tensor) -> Tensor:
        """Return (pixels of a cell, cells of a window) in pixels squared."""
        s, r = self.cell, self.reach
        pixel = torch.arange(s, device=like.device, dtype=like.dtype)
        center = torch.arange(-r, r + 1, device=like.device, dtype=like.dtype) * s + (s - 1) / 2
        axis = (pixel[:, None] - center).square()  # (pixel, cell) along either side
        return (axis[:, None, :, None] + axis[None, :, None, :]).flatten(2, 3).flatten(0, 1)


def _kernel(pixels: Tensor, centers: Tensor, nearness: Tensor) -> Tensor:
    """Return (N, pixels of a cell, centers) of features (N, pixels of a cell, 5) and (N, centers, 5)."""
    return torch.bmm(pixels, centers.mT).add_(nearness).clamp_(min=LOWEST).exp_()


def _heaviest(kernel: Tensor, real: Tensor, counts: Tensor, heard: int) -> tuple[Tensor, Tensor]:
    """Return the columns of (N, P, M) with the largest total weight, (N, P, heard), and their indices, (N, heard).

    Args:
        real: (N, P, 1), 0 for padding beyond the image's edge, else 1.
        counts: (N, M), the number of pixels in each column's half.
    """
    places = ((real.mT @ kernel).squeeze(1) * counts).topk(heard, sorted=False).indices
    return kernel.gather(2, places[:, None].expand(-1, kernel.shape[1], -1)), places


def _half_square(x: Tensor) -> Tensor:
    return -x.square().sum(-1, keepdim=True) / 2


def _whole_cells(x: Tensor, cell: int) -> Tensor:
    """Zero-pad (B, C, H, W) at the right and below, to sides that are multiples of ``cell``."""
    return F.pad(x, (0, -x.shape[-1] % cell, 0, -x.shape[-2] % cell))
