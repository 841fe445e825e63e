"""Every mode and depth that image files come in."""

import os
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


def png(packed: bytes, *, size=(4, 5), depth=8, color_type=2, interlaced=0, before: bytes = b"") -> bytes:
    """A PNG with valid checksums around whatever stands for its compressed rows."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, color_type, 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + before + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indexed_png_gives_its_indices_at_any_depth(save, bits):
    pixels = (np.arange(77) % min(2**bits, 200)).astype(np.uint8).reshape(7, 11)
    file = save("label.png", indexed(pixels, 2**bits), bits=bits)
    assert torch.equal(read_label(file), torch.from_numpy(pixels)[None])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_is_not_stretched(tmp_path, bits):
    pixels = np.arange(8, dtype=np.uint8) % 2**bits
    packed = np.packbits(np.unpackbits(pixels[:, None], axis=1)[:, -bits:].ravel()).tobytes()
    file = tmp_path / "label.png"
    file.write_bytes(png(zlib.compress(b"\0" + packed), size=(1, 8), depth=bits, color_type=0))
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


ROWS = (b"\0" + bytes(range(15))) * 4  # of 4 x 5 pixels, RGB
PACKED = zlib.compress(ROWS)

# PNG whose chunks are whole and whose rows are not: torchvision alone ends the process on most of them.
BROKEN_ROWS = {
    "cut short": (png(PACKED[:-6]), "rows of 64 bytes were expected, and it holds others"),
    "no zlib": (png(b"\x12\x34 nonsense"), "incorrect header check"),
    "bad blocks": (png(PACKED[:2] + b"\xff" * 20), "invalid block type"),
    "wrong sum": (png(PACKED[:-4] + b"abcd"), "incorrect data check"),
    "too few rows": (png(zlib.compress(ROWS[:-1])), "rows of 64 bytes were expected"),
    "too many rows": (png(zlib.compress(ROWS + bytes(10_000_000))), "rows of 64 bytes were expected"),
    "empty": (png(b""), "rows of 64 bytes were expected"),
    "no such filter": (png(zlib.compress(ROWS[:16] + b"\5" + ROWS[17:])), "a row's filter is unknown"),
    "interlaced, too few rows": (png(PACKED[:-1], interlaced=1), "rows of 68 bytes were expected"),
    "no such depth": (png(PACKED, depth=3), "its header is none"),
    "no such colour type": (png(PACKED, color_type=5), "its header is none"),
    "no width": (png(PACKED, size=(4, 0)), "its header is none"),
    "short header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"12345") + chunk(b"IEND", b""), "its header is none"),
    "no header": (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "its header is none"),
    "no palette": (png(zlib.compress((b"\0" + bytes(5)) * 4), color_type=3), "do not decode"),
}


@pytest.mark.parametrize(("data", "text"), BROKEN_ROWS.values(), ids=BROKEN_ROWS)
@pytest.mark.parametrize("read", [read_image, read_label])
def test_png_with_valid_checksums_and_bad_rows_is_an_error(tmp_path, data, text, read):
    file = tmp_path / "a.png"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: expected a whole ") and text in str(caught.value)


def test_chunks_that_a_picture_does_not_need_are_not_decoded(tmp_path):
    bomb = chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(bytes(10_000_000)))
    broken = chunk(b"iCCP", b"name\0\0no zlib") + chunk(b"tRNS", b"?") + chunk(b"ABCD", b"critical, unknown")
    file = tmp_path / "a.png"
    file.write_bytes(png(PACKED, before=bomb + broken))
    assert torch.equal(read_image(file)[:, 2], torch.arange(15, dtype=torch.uint8).reshape(5, 3).T)


def test_interlaced_png_gives_its_pixels(tmp_path):
    pixels = np.arange(9 * 11, dtype=np.uint8).reshape(9, 11)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx])
    file = tmp_path / "a.png"
    file.write_bytes(png(zlib.compress(rows), size=(9, 11), color_type=0, interlaced=1))
    assert torch.equal(read_label(file)[0], torch.from_numpy(pixels))


@pytest.mark.parametrize("size", [(900_000, 900_000), (2**31, 2**31), (8193, 16384)])
def test_png_that_claims_a_huge_size_is_refused_before_memory_is_taken(tmp_path, size):
    file = tmp_path / "bomb.png"
    file.write_bytes(png(b"", size=size))
    with pytest.raises(DataError, match=f"expected at most 134217728 pixels, found {size[0]} x {size[1]}"):
        read_image(file)


def jpeg(save, rgb, **options: object) -> tuple[Path, bytes]:
    file = save("a.jpg", rgb, **options)
    return file, file.read_bytes()


@pytest.mark.parametrize("before", [b"", b"\xff\xfe\0\x0b\xff\xc0\0\x11\x08\0\1\0\1", b"garbage", b"\xff\xff"])
def test_jpeg_that_claims_a_huge_size_is_refused_before_memory_is_taken(save, rgb, before):
    file, data = jpeg(save, rgb)
    frame = data.index(b"\xff\xc0")
    file.write_bytes(data[:frame] + before + data[frame : frame + 5] + b"\xff\xdc" * 2 + data[frame + 9 :])
    with pytest.raises(DataError, match="expected at most 134217728 pixels, found 65500 x 65500"):
        read_image(file)


def test_jpeg_that_keeps_a_decoder_busy_with_scans_is_refused(save, rgb):
    file, data = jpeg(save, rgb, progressive=True)
    scan = data.rindex(b"\xff\xda")
    file.write_bytes(data[:scan] + data[scan:-2] * 101 + data[-2:])
    with pytest.raises(DataError, match="expected a JPEG of at most 100 scans, found more"):
        read_image(file)


def test_format_that_is_not_among_the_suffixes_is_not_decoded(save, rgb):
    file = save("a.gif", rgb[..., 0])
    with pytest.raises(DataError, match="Unsupported image file"):
        read_image(file.rename(file.with_suffix(".png")))


def test_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected a file, found a pipe or a device"):
        read_image(tmp_path / "a.png")


def test_label_in_a_lossy_format_is_refused(save, ids):
    with pytest.raises(DataError, match="expected a PNG label, found another format"):
        read_label(save("label.jpg", ids))
