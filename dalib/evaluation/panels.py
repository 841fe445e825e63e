"""Pictures side by side under their captions: image, truth, prediction before, prediction after."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dalib.data.palette import colorize
from dalib.files import write_atomically
from dalib.labels import Color

GAP = 4
BACKGROUND = 255


def draw_panel(pictures: Mapping[str, Tensor]) -> Tensor:
    """Return the pictures in one row, each under its caption.

    Args:
        pictures: uint8 (3, H, W) of one size, by caption.

    Returns:
        (3, H + caption, total width) uint8 on the CPU.
    """
    columns: list[Tensor] = []
    for caption, picture in pictures.items():
        picture = picture.cpu()
        columns += [torch.cat([_caption(caption, *picture.shape[1:]), picture], 1)]
    gap = torch.full((3, columns[0].shape[1], GAP), BACKGROUND, dtype=torch.uint8)
    return torch.cat([part for column in columns for part in (gap, column)][1:], 2)


def sample_panel(image: Tensor, truth: Tensor, predictions: Mapping[str, Tensor], palette: Sequence[Color]) -> Tensor:
    """Return the panel of one scene: image, truth and each network's prediction.

    Args:
        image: (3, H, W) uint8 RGB.
        truth: (H, W) train ids, 255 = ignore.
        predictions: (H, W) train ids by caption, such as "before" and "after".
        palette: (red, green, blue) in 0..255 of each class.

    Returns:
        uint8 (3, H + caption, total width) on the CPU.
    """
    labels = {"truth": truth, **predictions}
    return draw_panel({"image": image} | {caption: colorize(label, palette) for caption, label in labels.items()})


def write_png(path: Path, image: Tensor, texts: Mapping[str, str] | None = None) -> None:
    """Write uint8 (1 or 3, H, W) as a PNG, atomically, with the texts, by keyword, in it."""
    pixels = image.cpu().movedim(0, -1).squeeze(-1).numpy()
    encoded, info = BytesIO(), PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    Image.fromarray(pixels).save(encoded, "PNG", pnginfo=info)
    write_atomically(path, encoded.getvalue())


def _caption(text: str, height: int, width: int) -> Tensor:
    size = max(10, height // 14)
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (width, round(1.6 * size)), (BACKGROUND,) * 3)
    ImageDraw.Draw(strip).text((width / 2, 0.8 * size), text, fill=(40, 40, 40), font=font, anchor="mm")
    pixels = torch.frombuffer(bytearray(strip.tobytes()), dtype=torch.uint8)
    return pixels.view(strip.height, width, 3).movedim(-1, 0)
