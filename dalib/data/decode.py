"""Image and label files to tensors, whatever their mode and depth.

Images come out upright: the EXIF orientation of a photograph is applied. Labels are read as they are stored.
torchvision does the decoding: unlike Pillow it keeps 16-bit RGB. From 0.29 on it calls that deprecated, in favour of
TorchCodec, another package to install beside it; when it goes, this is the only module to change.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from dalib.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
LABEL_SUFFIXES = frozenset({".png"})

Side = Annotated[int, Field(ge=1)]
Size = tuple[Side, Side]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PIXELS = 2**28  # 16384 x 16384; a header may claim any size, and the decoder allocates what it claims
_GREY, _INDEXED = 0, 3  # PNG colour types


def read_image(file: Path) -> Tensor:
    """Read an image as RGB, uint8 (3, H, W): grey, indexed, CMYK, 16-bit and alpha images are converted.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    image = _decode(file, _read(file), ImageReadMode.RGB)
    return image if image.dtype == torch.uint8 else ((image.int() + 128) // 257).to(torch.uint8)


def read_label(file: Path) -> Tensor:
    """Read a label as it is stored, (C, H, W) uint8 or uint16: the indices of an indexed PNG, not its colours.

    Raises:
        DataError: the file is no PNG, or cannot be read or decoded.
    """
    data = _read(file)
    if not data.startswith(_PNG_SIGNATURE):
        raise DataError(f"{file}: expected a PNG label, found another format; lossy formats blur class ids, use PNG.")
    stored = _decode(file, data, ImageReadMode.UNCHANGED)
    depth, color_type = data[24], data[25]
    return _samples(stored, depth, color_type) if depth < 8 else stored


def png_size(file: Path) -> Size:
    """(H, W) of a PNG from its header alone."""
    with file.open("rb") as stream:
        width, height = struct.unpack(">II", stream.read(24).ljust(24)[16:])
    return height, width


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Resize uint8 (3, H, W) to ``size``: bilinear, antialiased."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None], tuple(size), mode="bilinear", antialias=True, align_corners=False)[0]


def resize_label(stored: Tensor, size: Size) -> Tensor:
    """Resize (C, H, W) to ``size``: each pixel takes the one under its centre, so no value is made up."""
    if tuple(stored.shape[-2:]) == tuple(size):
        return stored
    rows, columns = (_centers(n, m) for n, m in zip(size, stored.shape[-2:], strict=True))
    return stored[:, rows[:, None], columns]


def _centers(out: int, stored: int) -> Tensor:
    return ((2 * torch.arange(out) + 1) * stored).floor_divide(2 * out)


def _read(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); check that it exists and its permissions."
        ) from None
    if not data:
        raise DataError(f"{file}: expected an image, found an empty file; replace it.")
    return data


def _decode(file: Path, data: bytes, mode: ImageReadMode) -> Tensor:
    if data.startswith(_PNG_SIGNATURE):
        _check_png(file, data)
    upright = mode == ImageReadMode.RGB
    try:
        stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        decoded: Tensor = decode_image(stored, mode, apply_exif_orientation=upright)
    except (RuntimeError, ValueError) as error:
        reason = re.sub(r"^.*\.cpp:\d+, ", "", str(error)).partition(". ")[0].strip(". ")
        raise DataError(
            f"{file}: expected a whole {', '.join(sorted(IMAGE_SUFFIXES))} file, found {len(data)} bytes that do not "
            f"decode ({reason}); replace the file, or convert it."
        ) from None
    return decoded


def _check_png(file: Path, data: bytes) -> None:
    """Verify the checksums of the chunks: on a damaged one torchvision's decoder ends the process (SIGSEGV)."""
    view, position, kind = memoryview(data), len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        kind = bytes(view[position + 4 : position + 8])
        if end > len(data) or zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DataError(
                f"{file}: expected a whole PNG, found it truncated or damaged at byte {position}; replace it."
            )
        position = end
    width, height = struct.unpack(">II", view[16:24])
    if width * height > _MAX_PIXELS:
        raise DataError(f"{file}: expected at most {_MAX_PIXELS} pixels, found {height} x {width}; scale it down.")


def _samples(stored: Tensor, depth: int, color_type: int) -> Tensor:
    """Undo what torchvision does to 1, 2 and 4 bits: grey comes stretched to 0..255, indices come packed in bytes."""
    if color_type == _GREY:
        return stored.floor_divide(255 // (2**depth - 1))
    if color_type != _INDEXED:
        return stored
    width, a_byte = stored.shape[-1], 8 // depth
    packed = stored[..., : -(-width // a_byte)]
    shifts = torch.arange(8 - depth, -1, -depth, dtype=torch.uint8)
    samples = packed[..., None].bitwise_right_shift(shifts).bitwise_and(2**depth - 1)
    return samples.flatten(-2)[..., :width]
