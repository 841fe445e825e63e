"""Image and label files to tensors, whatever their mode and depth.

Images come out upright: the EXIF orientation of a photograph is applied. Labels are read as they are stored.
torchvision does the decoding: unlike Pillow it keeps 16-bit RGB. From 0.29 on it calls that deprecated, in favour of
TorchCodec, another package to install beside it; when it goes, this is the only module to change. It sees no file that
could end the process, or that claims a size beyond a bound.
"""

import re
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from dalib.data.jpeg import SIGNATURE as JPEG_SIGNATURE
from dalib.data.jpeg import jpeg_size, scan_count
from dalib.data.png import GREY, INDEXED, Png, parse_png
from dalib.data.png import SIGNATURE as PNG_SIGNATURE
from dalib.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
LABEL_SUFFIXES = frozenset({".png"})

Side = Annotated[int, Field(ge=1)]
Size = tuple[Side, Side]

_RIFF, _WEBP = b"RIFF", b"WEBP"
_MAX_PIXELS = 2**27  # 8192 x 16384
_MAX_SCANS = 100  # of a JPEG; encoders write about ten


def read_image(file: Path) -> Tensor:
    """Read an image as RGB, uint8 (3, H, W): grey, indexed, CMYK, 16-bit and alpha images are converted.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    data = _read(file)
    if data.startswith(PNG_SIGNATURE):
        image = _decode_png(parse_png(file, data), ImageReadMode.RGB)
    elif data.startswith(JPEG_SIGNATURE):
        image = _decode_jpeg(file, data)
    elif data.startswith(_RIFF) and data[8:12] == _WEBP:  # claims at most 16383 x 16383 pixels, by its format
        image = _decode(file, bytearray(data), ImageReadMode.RGB)
    else:
        raise _undecodable(file, len(data), "Unsupported image file")
    return image if image.dtype == torch.uint8 else ((image.int() + 128) // 257).to(torch.uint8)


def read_label(file: Path) -> Tensor:
    """Read a label as it is stored, (C, H, W) uint8 or uint16: the indices of an indexed PNG, not its colours.

    Raises:
        DataError: the file is no PNG, or cannot be read or decoded.
    """
    data = _read(file)
    if not data.startswith(PNG_SIGNATURE):
        raise DataError(f"{file}: expected a PNG label, found another format; lossy formats blur class ids, use PNG.")
    image = parse_png(file, data)
    stored = _decode_png(image, ImageReadMode.UNCHANGED)
    return _samples(stored, image.depth, image.color_type) if image.depth < 8 else stored


def png_size(file: Path) -> Size:
    """(H, W) of a PNG by its header."""
    header = _read(file)[:24].ljust(24)
    return int.from_bytes(header[20:]), int.from_bytes(header[16:20])


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
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise DataError(f"{file}: expected a file, found a pipe or a device, which may never end; take it away.")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}); check that it exists and its permissions."
        ) from None
    if not data:
        raise DataError(f"{file}: expected an image, found an empty file; replace it.")
    return data


def _decode_png(image: Png, mode: ImageReadMode) -> Tensor:
    _check_pixels(image.file, (image.height, image.width))
    return _decode(image.file, image.rebuilt(), mode)


def _decode_jpeg(file: Path, data: bytes) -> Tensor:
    _check_pixels(file, jpeg_size(data) or (0, 0))
    if scan_count(data) > _MAX_SCANS:
        raise DataError(f"{file}: expected a JPEG of at most {_MAX_SCANS} scans, found more; save it anew.")
    return _decode(file, bytearray(data), ImageReadMode.RGB)


def _decode(file: Path, data: bytearray, mode: ImageReadMode) -> Tensor:
    """Decode what has been checked; images are turned upright, labels are not."""
    upright = mode == ImageReadMode.RGB
    try:
        decoded: Tensor = decode_image(torch.frombuffer(data, dtype=torch.uint8), mode, apply_exif_orientation=upright)
    except (RuntimeError, ValueError) as error:
        reason = re.sub(r"^.*\.cpp:\d+, ", "", str(error)).partition(". ")[0].strip(". ")
        raise _undecodable(file, len(data), reason) from None
    return decoded


def _undecodable(file: Path, length: int, reason: str) -> DataError:
    return DataError(
        f"{file}: expected a whole {', '.join(sorted(IMAGE_SUFFIXES))} file, found {length} bytes that do not "
        f"decode ({reason}); replace the file, or convert it."
    )


def _check_pixels(file: Path, size: Size) -> None:
    """Refuse a size before it is decoded: a header may claim any, and decoders allocate what it claims."""
    if size[0] * size[1] > _MAX_PIXELS:
        raise DataError(f"{file}: expected at most {_MAX_PIXELS} pixels, found {size[0]} x {size[1]}; scale it down.")


def _samples(stored: Tensor, depth: int, color_type: int) -> Tensor:
    """Undo what torchvision does to 1, 2 and 4 bits: grey comes stretched to 0..255, indices come packed in bytes."""
    if color_type == GREY:
        return stored.floor_divide(255 // (2**depth - 1))
    if color_type != INDEXED:
        return stored
    width, a_byte = stored.shape[-1], 8 // depth
    packed = stored[..., : -(-width // a_byte)]
    shifts = torch.arange(8 - depth, -1, -depth, dtype=torch.uint8)
    samples = packed[..., None].bitwise_right_shift(shifts).bitwise_and(2**depth - 1)
    return samples.flatten(-2)[..., :width]
