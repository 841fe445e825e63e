"""What a camera does to light: exposure, white balance, blur, vignette, noise and coarse colour."""

import math

import numpy as np
import torch
from torch import Tensor

from dalib.data.diorama.noise import Field


def develop(image: Field) -> Tensor:
    """Return the picture (3, H, W) in [0, 1] as it is, uint8 (3, H, W)."""
    levels = (image.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
    return torch.from_numpy(levels)


def photograph(image: Field, generator: np.random.Generator) -> Tensor:
    """Return the picture (3, H, W) in [0, 1] as a small car camera would store it, uint8 (3, H, W)."""
    image = _blur(_coarse_colour(_expose(image, generator)), generator.uniform(0.35, 0.65))
    image *= _vignette(image, generator.uniform(0.1, 0.3))
    image += _noise(image, generator)
    return develop(image)


def _expose(image: Field, generator: np.random.Generator) -> Field:
    """White balance, a tone curve, and the veil of stray light."""
    balance = generator.normal((1.03, 1.0, 0.97), 0.03).astype(np.float32)
    image = (image * balance[:, None, None]).clip(0, 1)
    curve, contrast, veil = generator.uniform((-0.3, 0.8, 0.02), (0.1, 1.0, 0.08)).astype(np.float32)
    return veil + contrast * image * (1 + curve * (1 - image))


def _coarse_colour(image: Field) -> Field:
    """Keep colour for every other pixel alone, as compressed pictures do; brightness stays."""
    rows, columns = image.shape[1:]
    luma = image.mean(0)
    colour = (image - luma)[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    return luma + colour[:, :rows, :columns]


def _blur(image: Field, sigma: float) -> Field:
    """Blur by a Gaussian of ``sigma`` pixels at 128 rows: passes of three taps, each of variance 2 * weight * reach^2."""
    reach = max(1, round(image.shape[1] / 128))
    passes = math.ceil(sigma**2 / 0.5)
    weight = np.float32(sigma**2 / passes / 2)
    for _ in range(passes):
        for axis in (1, 2):
            image = _smooth(image, weight, reach, axis)
    return image


def _smooth(image: Field, weight: np.float32, reach: int, axis: int) -> Field:
    smooth: Field = image * (1 - 2 * weight)
    out, shares = smooth.swapaxes(1, axis), image.swapaxes(1, axis) * weight
    out[:, reach:] += shares[:, :-reach]
    out[:, :-reach] += shares[:, reach:]
    out[:, :reach] += shares[:, :reach]
    out[:, -reach:] += shares[:, -reach:]
    return smooth


def _vignette(image: Field, strength: float) -> Field:
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape[1:])
    return 1 - np.float32(strength / 2) * (rows[:, None] ** 2 + columns**2)


def _noise(image: Field, generator: np.random.Generator) -> Field:
    luminance = generator.standard_normal(image.shape[1:], np.float32)
    return luminance * np.float32(generator.uniform(0.004, 0.014))
