"""Whole inputs, and what turns them into hostile ones."""

import io
import struct
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from imagecodecs import png_encode
from PIL import Image

from dalib.core import checkpoint
from dalib.core.engine import Engine
from dalib.yaml import parse_yaml
from tests.command import RECIPE
from tests.tiny import TinyModel

LABEL_MAP = """\
classes: [road, car]
palette: [[128, 64, 128], [0, 0, 142]]
ids: {1: road, 2: 1, 3: ignore}
unknown: ignore
channel: red
bits: 8
"""

# Where and how to change bytes, and by what.
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "cut", "swap"]),
        st.integers(0, 2**16),
        st.one_of(
            st.binary(min_size=1, max_size=6), st.sampled_from([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0"])
        ),
    ),
    min_size=1,
    max_size=6,
)


def mutated(whole: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Apply changes to bytes, each at a place within them."""
    data = bytearray(whole)
    for kind, place, value in changes:
        place %= max(len(data), 1)
        length = 1 + value[0]
        if kind == "set":
            data[place : place + len(value)] = value
        elif kind == "insert":
            data[place:place] = value
        elif kind == "delete":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * (1 + value[-1] % 4)
        elif kind == "cut" and place > 8:
            del data[place:]
        elif kind == "swap":
            data[place : place + length] = data[place : place + length][::-1]
    return bytes(data)


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """Damaged PNG: any byte; or one chunk, its checksum mended; or the rows, compressed anew."""
    whole, changes = draw(st.sampled_from(png_files())), draw(CHANGES)
    how = draw(st.sampled_from(["bytes", "chunk", "rows"]))
    if how == "bytes":
        return mutated(whole, changes)
    chunks = list(_chunks(whole))
    chosen = draw(st.integers(0, len(chunks) - 1))
    written = []
    for number, (kind, body) in enumerate(chunks):
        if how == "rows" and kind == b"IDAT":
            body = zlib.compress(mutated(zlib.decompress(body), changes))
        if how == "chunk" and number == chosen:
            body = mutated(body, changes)
        written.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join([whole[:8], *written])


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    """Damaged JPEG."""
    return mutated(draw(st.sampled_from(jpeg_files())), draw(CHANGES))


@st.composite
def webps(draw: st.DrawFn) -> bytes:
    """Damaged WebP."""
    return mutated(draw(st.sampled_from(webp_files())), draw(CHANGES))


@st.composite
def bitmaps(draw: st.DrawFn) -> bytes:
    """Damaged TIFF and BMP."""
    return mutated(draw(st.sampled_from(bitmap_files())), draw(CHANGES))


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """Damaged checkpoints: any byte; or one file of the archive, packed anew with a valid checksum."""
    whole, changes = checkpoint_file(), draw(CHANGES)
    if draw(st.booleans()):
        return mutated(whole, changes)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    chosen = draw(st.one_of(st.just(pickled), st.sampled_from(sorted(files))))
    files[chosen] = mutated(files[chosen], changes)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.sampled_from([10**400, -(10**30), float("nan"), float("inf"), 1e308, -1e-320]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["road", "fda", "dacs", "diorama", "bisenet", "ignore", "1,2,3", "cuda:9", "\0", "../..", "source"]
    ),
)
KEYS = st.one_of(
    st.text(max_size=6), st.integers(-1, 300), st.sampled_from(["use", "name", "weight", "size", "plugins"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def values(draw: st.DrawFn, text: str) -> Any:
    """What a YAML text says, with one to three entries replaced, removed or added anywhere."""
    whole = parse_yaml(text)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = whole
        while (inner := _containers(place)) and draw(st.booleans()):
            place = draw(st.sampled_from(inner))
        _change(draw, place)
    return whole


@st.composite
def texts(draw: st.DrawFn, text: str) -> str:
    """Damaged YAML: bytes changed, or pieces of YAML's grammar put in."""
    pieces = draw(st.lists(st.sampled_from(GRAMMAR), max_size=4))
    for piece in pieces:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + piece + text[place:]
    damaged = mutated(text.encode(), draw(CHANGES)) if not pieces or draw(st.booleans()) else text.encode()
    return damaged.decode("utf-8", "surrogateescape")


GRAMMAR = [
    *("!!bool ", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!pairs ", "!!null "),
    *("!!python/object/apply:os.system ", "&a ", "*a", "<<: ", "? ", "- ", ": ", "[", "]", "{", "}", "|\n", ">\n"),
    *("2024-13-45", "1:2:3", "0x", "0o9", ".inf", ".nan", "1e999", "%YAML 3.0\n", "---\n", "...\n", "\t", "\x85"),
    *("~", "null", "true", "9" * 5000, '"\\ud800"', '"\\0"', "[" * 60, "é", "'", '"', "\ufeff", "!!map "),
]


@cache
def png_files() -> list[bytes]:
    """Small PNG of every mode that matters, one with orientation."""
    rgb = _picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = [rgb.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    deep = Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600)
    few = _encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=4), "PNG", bits=2)
    deep_rgb = png_encode(np.arange(288, dtype=np.uint16).reshape(8, 12, 3) * 200)  # decoded by the extra ``png16``
    return [*(_encoded(image, "PNG") for image in (*modes, deep)), few, _encoded(rgb, "PNG", exif=exif), deep_rgb]


@cache
def jpeg_files() -> list[bytes]:
    """Small JPEG: baseline, progressive, grey with restarts, CMYK."""
    rgb = _picture()
    return [
        _encoded(rgb, "JPEG"),
        _encoded(rgb, "JPEG", progressive=True, exif=_exif()),
        _encoded(rgb.convert("L"), "JPEG", restart_marker_blocks=1),
        _encoded(rgb.convert("CMYK"), "JPEG", subsampling=0),
    ]


@cache
def webp_files() -> list[bytes]:
    """Small WebP with and without loss."""
    rgb = _picture()
    return [_encoded(rgb, "WEBP", exif=_exif()), _encoded(rgb.convert("RGBA"), "WEBP", lossless=True)]


@cache
def bitmap_files() -> list[bytes]:
    """Small TIFF of every compression that matters, and BMP of colours and grey."""
    rgb = _picture()
    tiff = [_encoded(rgb, "TIFF", compression=kind) for kind in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    return [*tiff, _encoded(rgb, "TIFF", exif=_exif()), _encoded(rgb, "BMP"), _encoded(rgb.convert("L"), "BMP")]


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a street"
    return exif


@cache
def checkpoint_file() -> bytes:
    """A checkpoint of the tiny model as a run writes it."""
    recipe = RECIPE.replace("bisenet", "tiny")
    engine = Engine(TinyModel(num_classes=19), [])
    extras = {"recipe": recipe, "classes": [f"class {i}" for i in range(19)], "palette": [[i, i, i] for i in range(19)]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        checkpoint.write(engine.state_dict() | extras, path)
        return path.read_bytes()


def _picture() -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    return Image.fromarray(torch.randint(0, 256, (8, 12, 3), generator=generator, dtype=torch.uint8).numpy())


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunks(png: bytes) -> Any:
    position = 8
    while position < len(png):
        (length,) = struct.unpack_from(">I", png, position)
        yield png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        position += 12 + length


def _containers(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value
    return [child for child in children if isinstance(child, dict | list) and child]


def _change(draw: st.DrawFn, place: Any) -> None:
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if draw(st.booleans()) and keys:
        place[draw(st.sampled_from(keys))] = draw(VALUES)
    elif isinstance(place, list):
        place.append(draw(VALUES))
    elif draw(st.booleans()) and keys:
        del place[draw(st.sampled_from(keys))]
    else:
        place[draw(KEYS)] = draw(VALUES)
