"""Decoding and resizing of image and label files of any mode and bit depth.

The EXIF orientation is applied to images; labels are read as they are stored.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from pydantic import Field
from torch import Tensor

from dalib.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
LABEL_SUFFIXES = frozenset({".png"})

Side = Annotated[int, Field(ge=1)]
Size = tuple[Side, Side]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SCAN, _MAX_SCANS = b"\xff\xda", 100  # encoders write about ten; at 8192 x 8192 each costs 99 bytes and 40 ms
_STRETCHED = {"L;2": 255 // 3, "L;4": 255 // 15}  # Pillow rescales 2- and 4-bit grey to 0..255; the factor to undo it
_CUT = ("RGB;16B", "RGBA;16B", "LA;16B")  # modes of which Pillow drops the lower byte
_WIDE = ("I", "F")  # 32 bits a pixel, which convert("RGB") clips


def read_image(file: Path) -> Tensor:
    """Read an image as RGB, uint8 (3, H, W): grey, indexed, CMYK, 16-bit and alpha images are converted.

    Of 16 bits the range is 0..65535; values of 12 bits, which come out dark, are told once per folder.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    data = _read(file)
    with _decoding(file, len(data)):
        image = _open(data)
        if image.mode in _WIDE:
            raise ValueError("32 bits a pixel, whose range is not known")
        deep = ";16" in _raw_mode(image)
        image.getexif()  # caches the orientation before `info` is emptied
        image.info.clear()  # else exif_transpose rewrites all of EXIF, which fails on some cameras' tags
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):  # convert("RGB") would clip it
            stored = np.array(image, np.int32)
            _tell_dark(file, int(stored.max()))
            return torch.from_numpy(((stored + 128) // 257).astype(np.uint8)).repeat(3, 1, 1)
        pixels = _tensor(image if image.mode == "RGB" else image.convert("RGB"))
        if deep:  # Pillow gives the upper byte
            _tell_dark(file, 256 * int(pixels.max()))
        return pixels


def read_label(file: Path, *, painted: bool = False) -> Tensor:
    """Read a label as it is stored, (C, H, W) uint8 or uint16: the indices of an indexed PNG, or its colours.

    Args:
        painted: give an indexed PNG in the colours of its palette.

    Raises:
        DataError: the file is no PNG, cannot be read or decoded, or needs the extra ``png16``.
    """
    data = _read(file)
    if not data.startswith(_PNG_SIGNATURE):
        raise no_png(file)
    with _decoding(file, len(data)):
        image = _open(data)
        if painted and image.mode == "P":
            return _tensor(image.convert("RGB"))
        stored = _raw_mode(image)
        if stored in _CUT:
            return _sixteen_bits(file, data)
        label = _tensor(image)
    return label.floor_divide(_STRETCHED[stored]) if stored in _STRETCHED else label


def no_png(file: Path) -> DataError:
    """Return the error of a label in another format."""
    return DataError(
        "expected a PNG label, found another format; lossy formats blur class ids. Write them as PNG where they are "
        "made, not from such files.",
        item=file,
        kind="labels that are no PNG",
    )


def image_size(file: Path) -> Size:
    """Return (H, W) of a picture by its header, EXIF orientation applied."""
    with _reading(file), file.open("rb") as opened, _decoding(file, file.stat().st_size):
        image = Image.open(opened, formats=_FORMATS)
        turned = image.getexif().get(0x0112, 1) >= 5 and image.format != "TIFF"  # of a TIFF Pillow turns the size
        return image.size if turned else image.size[::-1]


def _tell_dark(file: Path, greatest: int) -> None:
    if 0 < greatest < 2**12:
        _warn_dark(file.parent)


@cache
def _warn_dark(folder: Path) -> None:
    logger.warning(
        "%s: pictures of 16 bits whose values are all below 4096, as of a camera of 12 bits; read as 0..65535 they are "
        "dark. Write them as 8 bits, or times 16.",
        folder,
    )


def in_color(file: Path) -> bool:
    """Return whether a picture has colour channels by its header; an indexed one has none."""
    with _reading(file), file.open("rb") as opened, _decoding(file, file.stat().st_size):
        return len(Image.open(opened, formats=_FORMATS).getbands()) > 2


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Resize uint8 (3, H, W) to ``size``: bilinear, antialiased."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None], tuple(size), mode="bilinear", antialias=True, align_corners=False)[0]


def resize_label(stored: Tensor, size: Size) -> Tensor:
    """Resize (C, H, W) to ``size`` by nearest neighbour at pixel centres, so that no new value appears."""
    if tuple(stored.shape[-2:]) == tuple(size):
        return stored
    rows, columns = (_centers(n, m) for n, m in zip(size, stored.shape[-2:], strict=True))
    return stored[:, rows[:, None], columns]


def _centers(out: int, stored: int) -> Tensor:
    return ((2 * torch.arange(out) + 1) * stored).floor_divide(2 * out)


def _read(file: Path) -> bytes:
    with _reading(file):
        data = file.read_bytes()
    if not data:
        raise DataError("expected an image, found an empty file; replace it.", item=file)
    return data


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Refuse a pipe before the body reads it, and turn the body's OSError into a DataError that names the file."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise DataError("expected a file, found a pipe or a device, which may never end; take it away.", item=file)
        yield
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check that it exists and its permissions."
        raise DataError(reason, item=file) from None


@contextmanager
def _decoding(file: Path, length: int) -> Iterator[None]:
    """Turn Pillow's errors, its warning about too many pixels included, into a DataError that names the file."""
    try:
        with warnings.catch_warnings(action="ignore"):  # e.g. of truncated EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"{str(error).partition(',')[0]}; scale it down."
        raise DataError(reason, item=file, kind="pictures beyond the limit of pixels") from None
    except Exception as error:  # a damaged file fails anywhere in Pillow's readers
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no header of these formats" if unknown else str(error) or type(error).__name__
        raise DataError(
            f"expected a whole {', '.join(sorted(IMAGE_SUFFIXES))} file, found {length} bytes that do not "
            f"decode ({reason}); replace the file, or convert it.",
            item=file,
            kind=f"undecodable: {reason}",
        ) from None


def _open(data: bytes) -> ImageFile:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if image.format == "PNG":
        image.verify()  # decoding alone ignores the checksums of the pixel data
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    elif image.format == "JPEG" and data.count(_SCAN) > _MAX_SCANS:
        raise ValueError(f"more than {_MAX_SCANS} scans")
    return image


def _raw_mode(image: ImageFile) -> str:
    """Return Pillow's raw mode, channels and bit depth as in the file, such as RGB;16B; "" where it tells none."""
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else str(next(iter(args or ()), ""))


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image, np.uint8 if image.mode == "1" else None))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _sixteen_bits(file: Path, data: bytes) -> Tensor:
    try:
        from imagecodecs import png_decode
    except ImportError:
        raise DataError(
            "expected a label of 8 bits or of one channel, found several channels of 16 bits, which take one more "
            "package: pip install 'dalib-seg[png16]'.",
            item=file,
        ) from None
    return torch.from_numpy(png_decode(data)).permute(2, 0, 1)
