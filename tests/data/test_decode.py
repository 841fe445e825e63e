"""Every mode and depth that image files come in."""

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalib.data.decode import image_size, read_image, read_label, resize_image, resize_label
from dalib.errors import DataError
from tests.png import chunk, deep_png, png


def indexed(pixels: np.ndarray, colors: int) -> Image.Image:
    image = Image.fromarray(pixels)
    palette = Image.new("P", image.size)
    palette.frombytes(image.tobytes())
    palette.putpalette([value for i in range(colors) for value in (255 - i, 2 * i % 256, 7)])
    return palette


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
    assert read_label(file).dtype == torch.uint8 and read_label(file)[0, 0].tolist() == pixels.tolist()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_labels_keep_sixteen_bits(tmp_path, channels):
    pixels = (np.arange(24 * channels).reshape(4, 6, channels) * 601) % 65536
    label = read_label(deep_png(tmp_path / "label.png", pixels))
    assert label.dtype == torch.uint16
    assert np.array_equal(label.permute(1, 2, 0).int(), pixels)


def test_label_of_sixteen_bits_in_colour_names_the_extra_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    file = deep_png(tmp_path / "label.png", np.ones((4, 6, 3), int))
    with pytest.raises(DataError, match=r"label\.png: .* found several channels of 16 bits.*'dalib-seg\[png16\]'"):
        read_label(file)
    assert read_label(deep_png(file, np.full((4, 6, 1), 300))).unique().tolist() == [300]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_of_twelve_bits_in_sixteen_are_told_once_per_folder(channels, tmp_path, caplog):
    values = np.linspace(0, 4095, 24 * channels).astype(int).reshape(4, 6, channels)
    for name, pixels in {"a": values, "b": values, "c/d": values}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        read_image(deep_png(tmp_path / f"{name}.png", pixels))
    told = [message for message in caplog.messages if "values are all below 4096" in message]
    assert [message.partition(":")[0] for message in told] == [str(tmp_path), str(tmp_path / "c")]


@pytest.mark.parametrize("greatest", [0, 4096, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_values_of_sixteen_bits_are_not_told(greatest, channels, tmp_path, caplog):
    read_image(deep_png(tmp_path / "a.png", np.full((4, 6, channels), greatest)))
    assert not caplog.messages


def test_dark_pictures_of_eight_bits_are_not_told(save, rgb, tmp_path, caplog):
    read_image(save("a.png", rgb // 32)), read_image(save("b.tif", rgb // 32)), read_image(save("c.jpg", rgb // 32))
    assert not caplog.messages


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_sixteen_bits_come_out_as_eight(tmp_path, channels):
    values = np.arange(65536).reshape(256, 256)
    image = read_image(deep_png(tmp_path / "deep.png", np.stack([values] * channels, -1)))
    assert image.shape == (3, 256, 256) and image.dtype == torch.uint8
    expected = (values + 128) // 257 if channels == 1 else values // 256
    assert all(np.array_equal(channel, expected) for channel in image)


def test_images_of_every_mode_come_out_as_rgb(save, rgb):
    image, expected = Image.fromarray(rgb), torch.from_numpy(rgb).permute(2, 0, 1)
    grey = expected[:1].expand(3, -1, -1)
    assert torch.equal(read_image(save("rgb.png", rgb)), expected)
    assert torch.equal(read_image(save("see-through.png", rgb, transparency=tuple(rgb[0, 0].tolist()))), expected)
    assert torch.equal(read_image(save("rgba.png", image.convert("RGBA"))), expected)
    assert torch.equal(read_image(save("grey.png", rgb[..., 0])), grey)
    assert torch.equal(read_image(save("grey and alpha.png", Image.fromarray(rgb[..., 0]).convert("LA"))), grey)
    assert read_image(save("black and white.png", Image.fromarray(rgb[..., 0] > 99))).unique().tolist() == [0, 255]
    assert torch.equal(read_image(save("one.png", rgb[:1, :1])), expected[:, :1, :1])
    assert torch.equal(read_image(save("lossless.webp", rgb, lossless=True)), expected)
    colors = indexed(rgb[..., 0] % 5, 5)
    for transparency in ({}, {"transparency": 2}, {"transparency": bytes(range(5))}):
        file = save("indexed.png", colors, **transparency)
        assert np.array_equal(read_image(file).permute(1, 2, 0), colors.convert("RGB"))
        assert np.array_equal(read_label(file)[0], rgb[..., 0] % 5)


def test_labels_keep_their_channels(save, rgb):
    for mode, channels in (("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)):
        assert read_label(save("label.png", Image.fromarray(rgb).convert(mode))).shape == (channels, 6, 8)


def test_cmyk_jpeg_keeps_its_colours(save):
    flat = np.full((16, 16, 3), (200, 90, 30), dtype=np.uint8)
    image = read_image(save("cmyk.jpg", Image.fromarray(flat).convert("CMYK"), quality=98))
    assert (image.float().mean((1, 2)) - torch.tensor([200.0, 90, 30])).abs().max() < 3


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_and_bitmaps_come_out_as_they_were_saved(save, rgb, compression):
    expected = torch.from_numpy(rgb).permute(2, 0, 1)
    assert torch.equal(read_image(save("a.tif", rgb, compression=compression)), expected)
    assert torch.equal(read_image(save("a.bmp", rgb)), expected)
    upright = read_image(save("turned.tif", rgb, tiffinfo={0x0112: 6}, compression=compression))
    assert torch.equal(upright, expected.rot90(-1, (1, 2)))


def test_tiff_of_sixteen_bits_comes_out_as_eight_and_of_more_is_refused(save):
    deep = np.arange(48).reshape(6, 8) * 1365
    image = read_image(save("a.tif", deep.astype(np.uint16)))
    assert np.array_equal(image[0], (deep + 128) // 257)
    for kind in (np.int32, np.float32):
        with pytest.raises(DataError, match="32 bits a pixel, whose range is not known"):
            read_image(save("a.tif", deep.astype(kind)))


def test_a_painted_label_is_read_in_the_colours_of_its_palette(save, rgb):
    image = indexed(rgb[..., 0] % 5, 5)
    file = save("label.png", image)
    assert np.array_equal(read_label(file, painted=True).permute(1, 2, 0), image.convert("RGB"))
    assert read_label(file).shape == (1, 6, 8)
    assert torch.equal(read_label(save("label.png", rgb), painted=True), torch.from_numpy(rgb).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_photographs_come_out_upright_and_labels_as_they_are_stored(save, suffix):
    exif, flat = Image.Exif(), np.zeros((16, 32, 3), np.uint8)
    exif[0x0112], exif[0x0132], flat[:, 16:] = 6, "2020:01:01", 255  # turned by 90 degrees; the right half is white
    file = save(f"phone.{suffix}", flat, exif=exif)
    upright = read_image(file)
    assert upright.shape == (3, 32, 16) and upright[:, :16].max() < 9 and upright[:, 16:].min() > 246
    if suffix == "png":
        assert read_label(file).shape == (3, 16, 32)


def test_exif_with_an_odd_tag_does_not_keep_a_photograph_from_being_read(save, rgb):
    exif = Image.Exif()
    exif[0x0112], exif[0x0128] = 6, 2
    file = save("phone.jpg", rgb, exif=exif)
    short, text = b"\x01\x28\0\x03", b"\x01\x28\0\x02"  # the unit of the resolution, said to be a text
    stored = file.read_bytes()
    assert stored.count(short) == 1
    file.write_bytes(stored.replace(short, text))
    assert read_image(file).shape == (3, 8, 6)


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_image_size_reads_the_upright_height_and_width(save, rgb, suffix):
    assert image_size(save(f"a.{suffix}", rgb)) == (6, 8)
    if suffix != "bmp":
        exif = Image.Exif()
        exif[0x0112] = 6
        file = save(f"a.{suffix}", rgb, exif=exif)
        assert image_size(file) == (8, 6) == tuple(read_image(file).shape[1:])


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
    "truncated png": (
        lambda save, rgb: damaged(save("a.png", rgb), slice(0, -30)),
        "do not decode (Truncated File Read)",
    ),
    "damaged png": (lambda save, rgb: damaged(save("a.png", rgb), flip=True), "checksum in b'IDAT'"),
    "signature alone": (lambda save, rgb: damaged(save("a.png", rgb), slice(0, 8)), "found 8 bytes that do not decode"),
    "truncated jpeg": (lambda save, rgb: damaged(save("a.jpg", rgb), slice(0, -40)), "image file is truncated"),
    "truncated webp": (lambda save, rgb: damaged(save("a.webp", rgb), slice(0, -20)), "do not decode"),
    "other format": (lambda save, rgb: save("a.gif", rgb), "(no header of these formats); replace the file"),
    "renamed": (
        lambda save, rgb: save("a.gif", rgb[..., 0]).rename(save("a.png", rgb)),
        "(no header of these formats); replace the file",
    ),
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


def test_no_flipped_bit_gives_wrong_pixels(save):
    """Pillow alone skips the checksums of the rows: of these files it decodes some to other pixels."""
    whole = np.random.default_rng(0).integers(0, 8, (24, 32, 3), dtype=np.uint8)
    file, draw = save("a.png", whole), np.random.default_rng(1)
    stored, wrong, unread = file.read_bytes(), 0, 0
    for place, bit in zip(draw.integers(8, len(stored), 200), draw.integers(0, 8, 200), strict=True):
        changed = bytearray(stored)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        try:
            wrong += not np.array_equal(read_image(file).permute(1, 2, 0), whole)
        except DataError:
            unread += 1
    assert wrong == 0 and unread > 150


ROWS = (b"\0" + bytes(range(15))) * 4  # of 4 x 5 pixels, RGB
PACKED = zlib.compress(ROWS)
BROKEN_ROWS = {
    "cut short": png(PACKED[:-6]),
    "no zlib": png(b"\x12\x34 nonsense"),
    "wrong sum": png(PACKED[:-4] + b"abcd"),
    "too few rows": png(zlib.compress(ROWS[:-1])),
    "no such filter": png(zlib.compress(ROWS[:16] + b"\5" + ROWS[17:])),
    "no such depth": png(PACKED, depth=3),
    "no header": b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
    "cut short, 16 bits": png(zlib.compress(ROWS[:-1]), size=(2, 5), depth=16),
}


@pytest.mark.parametrize("data", BROKEN_ROWS.values(), ids=BROKEN_ROWS)
@pytest.mark.parametrize("read", [read_image, read_label])
def test_png_with_valid_checksums_and_bad_rows_is_an_error(tmp_path, data, read):
    file = tmp_path / "a.png"
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: expected a whole ") and "do not decode (" in str(caught.value)


@pytest.mark.parametrize("limit", [30, 20])  # Pillow warns above its limit, and raises above twice that
def test_picture_beyond_pillows_limit_is_refused_with_its_size(save, rgb, monkeypatch, limit):
    file = save("a.png", rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (read_image, read_label, image_size):
        with pytest.raises(DataError, match=r"a\.png: Image size \(48 pixels\) exceeds limit of .*; scale it down"):
            read(file)


def test_png_that_claims_a_huge_size_is_refused_before_memory_is_taken(tmp_path):
    file = tmp_path / "bomb.png"
    file.write_bytes(png(b"", size=(2**31 - 1, 2**31 - 1)))
    with pytest.raises(DataError, match="exceeds limit of"):
        read_image(file)


def jpeg(save, rgb, **options: object) -> tuple[Path, bytes]:
    file = save("a.jpg", rgb, **options)
    return file, file.read_bytes()


def test_jpeg_that_claims_a_huge_size_is_refused_before_memory_is_taken(save, rgb):
    file, data = jpeg(save, rgb)
    frame = data.index(b"\xff\xc0")
    file.write_bytes(data[: frame + 5] + b"\xff\xdc" * 2 + data[frame + 9 :])
    with pytest.raises(DataError, match=r"Image size \(4290250000 pixels\) exceeds limit of"):
        read_image(file)


def test_jpeg_that_keeps_a_decoder_busy_with_scans_is_refused(save, rgb):
    file, data = jpeg(save, rgb, progressive=True)
    scan = data.rindex(b"\xff\xda")
    file.write_bytes(data[:scan] + data[scan:-2] * 101 + data[-2:])
    with pytest.raises(DataError, match=r"do not decode \(more than 100 scans\); replace the file"):
        read_image(file)


def test_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected a file, found a pipe or a device"):
        read_image(tmp_path / "a.png")


def test_label_in_a_lossy_format_is_refused(save, ids):
    with pytest.raises(DataError, match="expected a PNG label, found another format"):
        read_label(save("label.jpg", ids))
