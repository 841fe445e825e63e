"""Pictures side by side under their captions: image, truth, prediction before, prediction after."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

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


def sample_panel(image: Tensor, labels: Mapping[str, Tensor], palette: Sequence[Color]) -> Tensor:
    """Return the panel of one scene: image, truth where it is known, and each network's prediction.

    Args:
        image: (3, H, W) uint8 RGB.
        labels: (H, W) train ids by caption, such as "truth", "before" and "after"; 255 = ignore.
        palette: (red, green, blue) in 0..255 of each class.

    Returns:
        uint8 (3, H + caption, total width) on the CPU.
    """
    return draw_panel({"image": image} | {caption: colorize(label, palette) for caption, label in labels.items()})


def with_legend(picture: Tensor, entries: Mapping[str, Color]) -> Tensor:
    """Return uint8 (3, H, W) with a strip below it in which each text stands beside its colour.

    The result is as wide as the picture, or as the longest text.
    """
    size = max(12, picture.shape[2] // 64)
    font = ImageFont.load_default(size)
    widths = {text: round(2.5 * size + font.getlength(text)) for text in entries}
    width = max(picture.shape[2], *widths.values())
    places, x, y = {}, 0, 0
    for text, needed in widths.items():
        if x + needed > width:
            x, y = 0, y + 3 * size // 2
        places[text] = (x, y)
        x += needed
    strip = Image.new("RGB", (width, y + 2 * size), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(strip)
    for text, (x, y) in places.items():
        middle = y + size
        draw.rectangle(
            (x + size // 2, middle - size // 2, x + 3 * size // 2, middle + size // 2),
            fill=entries[text],
            outline=(40, 40, 40),
        )
        draw.text((x + 2 * size, middle), text, fill=(40, 40, 40), font=font, anchor="lm")
    padding = (0, width - picture.shape[2])
    return torch.cat([torch.nn.functional.pad(picture.cpu(), padding, value=BACKGROUND), _pixels(strip)], 1)


def write_png(path: Path, image: Tensor, texts: Mapping[str, str] | None = None) -> None:
    """Write uint8 (1 or 3, H, W) as a PNG, atomically, with the texts, by keyword, in it."""
    info = PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    _write(path, image, "PNG", pnginfo=info)


def write_jpeg(path: Path, image: Tensor) -> None:
    """Write uint8 (3, H, W) as a JPEG, atomically: for pictures to look at, ten times as fast and small as a PNG."""
    _write(path, image, "JPEG", quality=90)


def _write(path: Path, image: Tensor, format: str, **options: Any) -> None:
    pixels = image.cpu().movedim(0, -1).squeeze(-1).numpy()
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, format, **options)
    write_atomically(path, encoded.getvalue())


def _caption(text: str, height: int, width: int) -> Tensor:
    size = max(10, height // 14)
    font = ImageFont.load_default(size)
    strip = Image.new("RGB", (width, round(1.6 * size)), (BACKGROUND,) * 3)
    ImageDraw.Draw(strip).text((width / 2, 0.8 * size), text, fill=(40, 40, 40), font=font, anchor="mm")
    return _pixels(strip)


def _pixels(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).movedim(-1, 0)
