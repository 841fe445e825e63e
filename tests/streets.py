"""A small data set on disk, its recipe, and ways to break it."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Break = Callable[[Path], object]
SIZE = (12, 16)

RECIPE = """\
model: {use: tiny}
data:
  source: {use: folder, root: ROOT, split: train}
  target: {use: folder, root: ROOT, split: train}
  eval: {use: folder, root: ROOT, split: val}
  batch_size: 2
strategies: [{use: supervised}]
optimizer: {use: sgd, lr: 1e-2}
train: {steps: 2, log_every: 1}
plugins: [tests.tiny_plugin]
"""

PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
LABEL = (np.arange(SIZE[0] * SIZE[1], dtype=np.uint8) % 19).reshape(SIZE)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def make_streets(folder: Path) -> Path:
    """Make a whole data set: three images to train on, one to evaluate, labels of Cityscapes' train ids."""
    root = folder / "streets"
    for name in ("train/a", "train/b", "train/c", "val/d"):
        save(root / "images" / f"{name}.png", PHOTO)
        save(root / "labels" / f"{name}.png", LABEL)
    return root


def write_recipe(root: Path, text: str = RECIPE) -> Path:
    path = root.parent / "recipe.yaml"
    path.write_text(text.replace("ROOT", f"'{root}'"), encoding="utf-8")
    return path


def image(pixels: np.ndarray | Image.Image, name: str = "train/a.png", **options: object) -> Break:
    return lambda root: save(root / "images" / name, pixels, **options)


def label(pixels: np.ndarray | Image.Image, name: str = "train/a.png") -> Break:
    return lambda root: save(root / "labels" / name, pixels)


def remove(name: str) -> Break:
    return lambda root: (root / name).unlink()


def content(name: str, data: bytes) -> Break:
    return lambda root: (root / name).write_bytes(data)


def cut(name: str) -> Break:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-30])


def link(name: str, to: str) -> Break:
    return lambda root: (root / name).symlink_to(root / to)


def emptied(root: Path) -> None:
    for file in (root / "images" / "train").iterdir():
        file.unlink()


def jpeg_cut(root: Path) -> None:
    save(root / "images" / "train" / "a.jpg", PHOTO)
    (root / "images" / "train" / "a.png").unlink()
    cut("images/train/a.jpg")(root)


def folder_for_a_label(root: Path) -> None:
    (root / "labels" / "train" / "a.png").unlink()
    (root / "labels" / "train" / "a.png").mkdir()


def huge(root: Path) -> None:
    file = root / "images" / "train" / "a.png"
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", 900_000, 900_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    file.write_bytes(data)


def label_map(text: str) -> Break:
    return lambda root: (root / "map.yaml").write_text(text)


def lists(**texts: str) -> Break:
    return lambda root: [(root / f"{name}.txt").write_text(text) for name, text in texts.items()]
