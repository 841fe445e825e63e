"""Cached noise textures, which surfaces sample in their own coordinates, so that grain follows perspective."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 256

Field = NDArray[np.floating[Any]]


@cache
def noise_tile(roughness: float) -> Field:
    """Return a periodic (SIDE, SIDE) field of mean 0 and deviation 1; its amplitude falls as frequency^-roughness."""
    white = np.random.default_rng(0).standard_normal((SIDE, SIDE))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(white) * frequency**-roughness).real
    tile: Field = (field / field.std()).astype(np.float32)
    return tile


def look_up(tile: Field, row: NDArray[Any], column: NDArray[Any]) -> Field:
    """Return the nearest texel at (row, column), in texels; the tile repeats."""
    texel = (row.astype(np.int32) & (SIDE - 1)) * SIDE + (column.astype(np.int32) & (SIDE - 1))
    return tile.take(texel)
