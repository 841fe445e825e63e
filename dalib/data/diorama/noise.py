"""Tiles of noise, made once: surfaces look them up by their own coordinates, so that grain follows perspective."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

SIDE = 256

Field = NDArray[np.float32]


@cache
def noise_tile(roughness: float) -> Field:
    """Return a periodic (SIDE, SIDE) field of mean 0 and standard deviation 1, amplitude falling as frequency^-roughness."""
    white = np.random.default_rng(0).standard_normal((SIDE, SIDE))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    frequency[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(white) * frequency**-roughness).real
    return (field / field.std()).astype(np.float32)


def look_up(tile: Field, row: Field, column: Field) -> Field:
    """Nearest texel at (row, column), in texels, periodic."""
    return tile[row.astype(np.int32) & (SIDE - 1), column.astype(np.int32) & (SIDE - 1)]
