"""A simulated camera: exposure, white balance, blur, vignette, noise and chroma subsampling."""

import math
import random

import numpy as np
import torch
from torch import Tensor

from dalib.data.diorama.noise import SIDE, Field, look_up, noise_tile
from dalib.data.diorama.view import as_colour


def develop(image: Field) -> Tensor:
    """Convert an image (3, H, W) in [0, 1] to uint8 (3, H, W)."""
    levels = (image.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
    return torch.from_numpy(levels)


def photograph(image: Field, draw: random.Random) -> Tensor:
    """Convert an image (3, H, W) in [0, 1] to what a small car camera would store, uint8 (3, H, W)."""
    image = _blur(_coarse_colour(_expose(image, draw)), draw.uniform(0.35, 0.65))
    image *= _vignette(image, draw.uniform(0.05, 0.25))
    image += _noise(image, draw)
    return develop(image)


def _expose(image: Field, draw: random.Random) -> Field:
    """Apply white balance, a tone curve, and stray light."""
    balance = as_colour([draw.gauss(mean, 0.03) for mean in (1.03, 1.0, 0.97)])
    image = (image * balance).clip(0, 1)
    veil, contrast, curve = draw.uniform(0.01, 0.06), draw.uniform(0.84, 1.0), draw.uniform(-0.25, 0.1)
    exposed: Field = veil + image * (contrast * (1 + curve) - (contrast * curve) * image)
    return exposed


def _coarse_colour(image: Field) -> Field:
    """Subsample colour by 2 in both directions, as JPEG does; brightness keeps its resolution."""
    rows, columns = image.shape[1:]
    luma = image.mean(0)
    colour = (image - luma)[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    coarse: Field = luma + colour[:, :rows, :columns]
    return coarse


def _blur(image: Field, sigma: float) -> Field:
    """Approximate a Gaussian of ``sigma`` pixels at 128 rows by three-tap passes of variance 2 * weight * reach^2."""
    reach = max(1, round(image.shape[1] / 128))
    passes = math.ceil(sigma**2 / 0.5)
    weight = sigma**2 / passes / 2
    for _ in range(passes):
        for axis in (1, 2):
            image = _smooth(image, weight, reach, axis)
    return image


def _smooth(image: Field, weight: float, reach: int, axis: int) -> Field:
    smooth: Field = image * (1 - 2 * weight)
    out, shares = smooth.swapaxes(1, axis), image.swapaxes(1, axis) * weight
    out[:, reach:] += shares[:, :-reach]
    out[:, :-reach] += shares[:, reach:]
    out[:, :reach] += shares[:, :reach]
    out[:, -reach:] += shares[:, -reach:]
    return smooth


def _vignette(image: Field, strength: float) -> Field:
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape[1:])
    return 1 - strength / 2 * (rows[:, None] ** 2 + columns**2)


def _noise(image: Field, draw: random.Random) -> Field:
    rows, columns = (np.arange(n) + draw.randrange(SIDE) for n in image.shape[1:])
    return look_up(noise_tile(0.0), rows[:, None], columns) * draw.uniform(0.004, 0.014)
