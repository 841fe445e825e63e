"""Every mode and depth that image files come in."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalib.data.decode import png_size, read_image, read_label, resize_image, resize_label
from dalib.errors import DataError


def indexed(pixels: np.ndarray, colors: int) -> Image.Image:
    image = Image.fromarray(pixels)
    palette = Image.new("P", image.size)
    palette.frombytes(image.tobytes())
    palette.putpalette([value for i in range(colors) for value in (255 - i, 2 * i % 256, 7)])
    return palette


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indexed_png_gives_its_indices_at_any_depth(save, bits):
    pixels = (np.arange(77) % min(2**bits, 200)).astype(np.uint8).reshape(7, 11)
    file = save("label.png", indexed(pixels, 2**bits), bits=bits)
    assert torch.equal(read_label(file), torch.from_numpy(pixels)[None])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_is_not_stretched(tmp_path, bits):
    pixels = np.arange(8, dtype=np.uint8) % 2**bits
    packed = np.packbits(np.unpackbits(pixels[:, None], axis=1)[:, -bits:].ravel()).tobytes()
    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + packed)) + chunk(b"IEND", b"")
    file = tmp_path / "label.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert read_label(file)[0, 0].tolist() == pixels.tolist()


def test_labels_keep_sixteen_bits_and_channels(save, rgb, ids):
    deep = ids.astype(np.uint16) * 200
    assert torch.equal(read_label(save("deep.png", deep)).int(), torch.from_numpy(deep.astype(np.int32))[None])
    assert read_label(save("rgba.png", Image.fromarray(rgb).convert("RGBA"))).shape == (4, 6, 8)


def test_images_of_every_mode_come_out_as_rgb(save, rgb):
    expected = torch.from_numpy(rgb).permute(2, 0, 1)
    grey = rgb[..., 0]
    assert torch.equal(read_image(save("rgb.png", rgb)), expected)
    assert torch.equal(read_image(save("rgba.png", Image.fromarray(rgb).convert("RGBA"))), expected)
    assert torch.equal(read_image(save("grey.png", grey)), expected[:1].expand(3, -1, -1))
    assert torch.equal(read_image(save("one.png", rgb[:1, :1])), expected[:, :1, :1])
    deep = save("deep.png", grey.astype(np.uint16) * 257)
    assert torch.equal(read_image(deep), expected[:1].expand(3, -1, -1))
    colors = indexed(grey % 5, 5)
    assert np.array_equal(read_image(save("indexed.png", colors)).permute(1, 2, 0), colors.convert("RGB"))


def test_cmyk_jpeg_keeps_its_colours(save):
    flat = np.full((16, 16, 3), (200, 90, 30), dtype=np.uint8)
    image = read_image(save("cmyk.jpg", Image.fromarray(flat).convert("CMYK"), quality=98))
    assert (image.float().mean((1, 2)) - torch.tensor([200.0, 90, 30])).abs().max() < 3


def test_photographs_come_out_upright(save, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = save("phone.png", rgb, exif=exif)
    assert torch.equal(read_image(file), torch.from_numpy(rgb).permute(2, 0, 1).rot90(-1, (1, 2)))


def test_label_resize_takes_the_pixel_under_the_centre(save, ids):
    for size in [(3, 4), (13, 9), (1, 1), (6, 8)]:
        expected = np.array(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))
        assert np.array_equal(resize_label(torch.from_numpy(ids)[None], size)[0], expected)


def triangle_weights(out: int, stored: int) -> np.ndarray:
    """Antialiased bilinear along one axis, in float64."""
    scale = stored / out
    width = max(scale, 1.0)
    centers = (np.arange(out) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(stored) + 0.5 - centers[:, None]) / width)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(20, 31), (90, 40), (7, 120)])
def test_image_resize_equals_a_float64_reference(size):
    image = np.random.default_rng(1).integers(0, 256, (3, 60, 80), dtype=np.uint8)
    rows, columns = triangle_weights(size[0], 60), triangle_weights(size[1], 80)
    expected = np.einsum("ih,chw,jw->cij", rows, image.astype(np.float64), columns)
    resized = resize_image(torch.from_numpy(image), size)
    assert resized.dtype == torch.uint8
    assert np.abs(resized.numpy() - expected).max() < 1.6  # two roundings, one an axis


def test_png_size_reads_height_and_width(save, rgb):
    assert png_size(save("a.png", rgb)) == (6, 8)


def damaged(path: Path, cut: slice | None = None, flip: bool = False) -> Path:
    data = bytearray(path.read_bytes())
    if flip:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data[cut] if cut else data)
    return path


BROKEN_IMAGES = {
    "missing": (lambda save, rgb: Path("no such file.png"), "No such file or directory"),
    "a folder": (lambda save, rgb: save("d.png/x.png", rgb).parent, "Is a directory"),
    "empty": (
        lambda save, rgb: damaged(save("é a.png", rgb), slice(0, 0)),
        "expected an image, found an empty file; replace it.",
    ),
    "truncated png": (lambda save, rgb: damaged(save("a.png", rgb), slice(0, -30)), "truncated or damaged at byte"),
    "damaged png": (lambda save, rgb: damaged(save("a.png", rgb), flip=True), "truncated or damaged at byte"),
    "signature alone": (lambda save, rgb: damaged(save("a.png", rgb), slice(0, 8)), "truncated or damaged at byte 8"),
    "truncated jpeg": (
        lambda save, rgb: damaged(save("a.jpg", rgb), slice(0, -40)),
        "Image is incomplete or truncated",
    ),
    "other format": (lambda save, rgb: save("a.bmp", rgb), "(Unsupported image file); replace the file"),
}


@pytest.mark.parametrize(("make", "text"), BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_broken_image_is_named_with_its_fault(save, rgb, make, text):
    file = make(save, rgb)
    with pytest.raises(DataError) as caught:
        read_image(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert text in str(caught.value)


def test_symbolic_link_to_itself_is_an_error(tmp_path):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"loop\.png: cannot be read \(Too many levels of symbolic links\)"):
        read_image(loop)


def test_png_that_claims_a_huge_size_is_refused_before_memory_is_taken(tmp_path):
    header = struct.pack(">IIBBBBB", 900_000, 900_000, 8, 2, 0, 0, 0)
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(DataError, match="expected at most 268435456 pixels, found 900000 x 900000"):
        read_image(file)


def test_label_in_a_lossy_format_is_refused(save, ids):
    with pytest.raises(DataError, match="expected a PNG label, found another format"):
        read_label(save("label.jpg", ids))
