"""Tiny datasets on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """``save("images/a.png", array, **PIL options)`` writes an image below tmp_path and returns its path."""

    def write(name: str, pixels: np.ndarray | Image.Image, **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(path, **options)
        return path

    return write


@pytest.fixture
def rgb() -> np.ndarray:
    """A random image, (H, W) = (6, 8)."""
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def ids() -> np.ndarray:
    """A label of Cityscapes' train ids 0..18 and 255, (H, W) = (6, 8)."""
    label = (np.arange(48, dtype=np.uint8) % 19).reshape(6, 8)
    label[0, 0] = 255
    return label
