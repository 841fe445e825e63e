"""Bringing pictures and labels of any aspect to one size: squeezed, fitted with a margin, or cropped."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from dalib.data.decode import Size, resize_image, resize_label
from dalib.labels import IGNORE

Resize = Literal["squeeze", "fit", "crop"]
"""What becomes of a picture whose shape is not the size's.

squeeze: all of it, its shape changed. fit: all of it, in a margin that repeats its edge and has the label 255. crop:
the largest part around its middle that has the size's shape.
"""


@dataclass(frozen=True)
class Frame:
    """How a picture is brought to ``size``: ``window`` of it, around its middle, is scaled to ``inner``, in the middle.

    All are (H, W) in pixels.
    """

    window: Size
    inner: Size
    size: Size

    def image(self, image: Tensor) -> Tensor:
        """Return uint8 (3, H, W) at ``size``."""
        inner = resize_image(self._cut(image), self.inner)
        if self.inner == self.size:
            return inner
        rows, columns = (
            (torch.arange(out) - (out - length) // 2).clamp(0, length - 1)
            for out, length in zip(self.size, self.inner, strict=True)
        )
        return inner[:, rows[:, None], columns]

    def label(self, stored: Tensor, to_train_ids: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a stored label (C, H, W) as train ids (H, W) at ``size``, mapped after the resize."""
        label = to_train_ids(resize_label(self._cut(stored), self.inner))
        if self.inner == self.size:
            return label
        (top, bottom), (left, right) = (
            ((out - length) // 2, (out - length + 1) // 2) for out, length in zip(self.size, self.inner, strict=True)
        )
        return pad(label, (left, right, top, bottom), value=IGNORE)

    def _cut(self, pixels: Tensor) -> Tensor:
        top, left = ((own - part) // 2 for own, part in zip(pixels.shape[-2:], self.window, strict=True))
        return pixels[..., top : top + self.window[0], left : left + self.window[1]]


def frame(own: Size, size: Size, how: Resize) -> Frame:
    """Return the way of a picture of ``own`` (H, W) to ``size``."""
    scales = [out / length for out, length in zip(size, own, strict=True)]
    if how == "squeeze":
        return Frame(own, size, size)
    if how == "crop":
        return Frame(_scaled(size, 1 / max(scales), own), size, size)
    return Frame(own, _scaled(own, min(scales), size), size)


def native_size(own: Size, size: Size, how: Resize) -> Size:
    """Return the size of a picture of ``own`` (H, W) that is brought to the shape of ``size`` without scaling it."""
    if how == "squeeze":
        return own
    shaped = round(own[1] * size[0] / size[1]), round(own[0] * size[1] / size[0])
    return tuple(max(1, (min if how == "crop" else max)(pair)) for pair in zip(own, shaped, strict=True))  # type: ignore[return-value]


def _scaled(size: Size, factor: float, most: Size) -> Size:
    height, width = (max(1, min(round(length * factor), limit)) for length, limit in zip(size, most, strict=True))
    return height, width
