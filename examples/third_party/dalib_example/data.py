"""Disks and squares on a ground, bright in one domain and dim in the other."""

from typing import Literal
from zlib import crc32

import torch
from torch import Tensor

COLORS = {
    "source": ((200, 200, 200), (220, 40, 40), (40, 80, 220)),
    "target": ((90, 90, 70), (130, 60, 40), (50, 60, 110)),
}


def shapes(
    *,
    domain: Literal["source", "target"] = "source",
    split: str = "train",
    size: tuple[int, int] = (48, 64),
    length: int = 200,
) -> "Shapes":
    """Return a data set of ``length`` images of ``size`` (H, W); each split has scenes of its own."""
    return Shapes(domain, split, size, length)


class Shapes:
    """Item i depends on (domain, split, i) and the size alone."""

    classes = ("ground", "disk", "square")
    palette = ((128, 128, 128), (220, 20, 60), (0, 0, 142))

    def __init__(self, domain: Literal["source", "target"], split: str, size: tuple[int, int], length: int) -> None:
        self.domain, self.split, self.size, self.length = domain, split, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the image, uint8 (3, H, W), and its label, uint8 (H, W)."""
        if not 0 <= index < self.length:
            raise IndexError(f"shapes has {self.length} images; there is no image {index}")
        draw = torch.Generator().manual_seed(crc32(f"{self.domain}/{self.split}/{index}".encode()))
        label = self._label(draw)
        colors = torch.tensor(COLORS[self.domain], dtype=torch.float32)
        image = colors[label].permute(2, 0, 1) + 12 * torch.randn(3, *self.size, generator=draw)
        return image.clamp(0, 255).to(torch.uint8), label.to(torch.uint8)

    def _label(self, draw: torch.Generator) -> Tensor:
        height, width = self.size
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        label = torch.zeros(self.size, dtype=torch.int64)
        for shape in (1, 2, 1, 2):
            middle = torch.rand(2, generator=draw) * torch.tensor([height, width])
            away = torch.stack([(rows - middle[0]).abs(), (columns - middle[1]).abs()])
            distance = away.norm(dim=0) if shape == 1 else away.amax(0)
            label[distance < height / 6] = shape
        return label
