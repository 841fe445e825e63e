"""What a camera does to light: exposure, white balance, blur, vignette, noise and compression."""

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from dalib.data.diorama.noise import Field


def develop(image: Field) -> Tensor:
    """Return the picture (H, W, 3) in [0, 1] as it is, uint8 (3, H, W)."""
    levels = (image.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
    return torch.from_numpy(levels).permute(2, 0, 1).contiguous()


def photograph(image: Field, generator: np.random.Generator) -> Tensor:
    """Return the picture (H, W, 3) in [0, 1] as a small car camera would store it, uint8 (3, H, W)."""
    scale = max(1.0, len(image) / 128)
    image = _expose(image, generator)
    image = _blur(image, generator.uniform(0.45, 0.85) * scale)
    image *= _vignette(image, generator.uniform(0.15, 0.4))
    image += _noise(image, generator)
    quality = int(generator.integers(55, 85))
    return decode_jpeg(encode_jpeg(develop(image), quality))


def _expose(image: Field, generator: np.random.Generator) -> Field:
    balance = generator.normal((1.03, 1.0, 0.96), 0.05).astype(np.float32)
    exposure, contrast = generator.uniform(0.75, 1.15), generator.uniform(0.75, 1.0)
    image = (image * balance * np.float32(exposure)).clip(0, 1) ** np.float32(generator.uniform(0.9, 1.25))
    veil = np.float32(generator.uniform(0.02, 0.1))
    return veil + image * np.float32(contrast)


def _blur(image: Field, sigma: float) -> Field:
    """Gaussian blur as repeated three-tap passes, each of variance 2 * weight."""
    passes = math.ceil(sigma**2 / 0.5)
    weight = np.float32(sigma**2 / passes / 2)
    for _ in range(passes):
        for axis in (0, 1):
            lines = np.moveaxis(image, axis, 0)
            out = lines * (1 - 2 * weight)
            out[1:] += weight * lines[:-1]
            out[:-1] += weight * lines[1:]
            out[0] += weight * lines[0]
            out[-1] += weight * lines[-1]
            image = np.moveaxis(out, 0, axis)
    return image


def _vignette(image: Field, strength: float) -> Field:
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape[:2])
    return (1 - np.float32(strength / 2) * (rows[:, None, None] ** 2 + columns[:, None] ** 2)).astype(np.float32)


def _noise(image: Field, generator: np.random.Generator) -> Field:
    luminance = generator.standard_normal(image.shape[:2], np.float32)[..., None]
    return luminance * np.float32(generator.uniform(0.008, 0.03))
