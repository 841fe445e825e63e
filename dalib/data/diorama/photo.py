"""What a camera does to light: exposure, white balance, blur, vignette, noise and compression."""

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from dalib.data.diorama.noise import Field


def develop(image: Field) -> Tensor:
    """Return the picture (3, H, W) in [0, 1] as it is, uint8 (3, H, W)."""
    levels = (image.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
    return torch.from_numpy(levels)


def photograph(image: Field, generator: np.random.Generator) -> Tensor:
    """Return the picture (3, H, W) in [0, 1] as a small car camera would store it, uint8 (3, H, W)."""
    scale = max(1.0, image.shape[1] / 128)
    image = _expose(image, generator)
    image = _blur(image, generator.uniform(0.45, 0.85) * scale)
    image *= _vignette(image, generator.uniform(0.15, 0.4))
    image += _noise(image, generator)
    quality = int(generator.integers(55, 85))
    return decode_jpeg(encode_jpeg(develop(image), quality))


def _expose(image: Field, generator: np.random.Generator) -> Field:
    """White balance and exposure, a tone curve, and the veil of stray light."""
    balance = generator.normal((1.03, 1.0, 0.97), 0.04) * generator.uniform(0.75, 1.15)
    image = (image * balance.astype(np.float32)[:, None, None]).clip(0, 1)
    curve, contrast, veil = generator.uniform((-0.3, 0.75, 0.02), (0.1, 1.0, 0.1)).astype(np.float32)
    return veil + contrast * image * (1 + curve * (1 - image))


def _blur(image: Field, sigma: float) -> Field:
    """Gaussian blur as repeated three-tap passes, each of variance 2 * weight."""
    passes = math.ceil(sigma**2 / 0.5)
    weight = np.float32(sigma**2 / passes / 2)
    for _ in range(passes):
        for axis in (1, 2):
            image = _smooth(image, weight, axis)
    return image


def _smooth(image: Field, weight: np.float32, axis: int) -> Field:
    smooth: Field = image * (1 - 2 * weight)
    out, shares = smooth.swapaxes(1, axis), image.swapaxes(1, axis) * weight
    out[:, 1:] += shares[:, :-1]
    out[:, :-1] += shares[:, 1:]
    out[:, 0] += shares[:, 0]
    out[:, -1] += shares[:, -1]
    return smooth


def _vignette(image: Field, strength: float) -> Field:
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape[1:])
    return 1 - np.float32(strength / 2) * (rows[:, None] ** 2 + columns**2)


def _noise(image: Field, generator: np.random.Generator) -> Field:
    luminance = generator.standard_normal(image.shape[1:], np.float32)
    return luminance * np.float32(generator.uniform(0.006, 0.022))
