"""The image being painted, its labels, and the projection from metres to pixels."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dalib.data.diorama.domain import Look
from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field
from dalib.data.diorama.scene import Camera


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A rectangle of a view, written in place: image (3, h, w), label (h, w) and coordinates of pixel centres."""

    image: Field
    label: NDArray[np.uint8]
    rows: Field  # (h, 1)
    columns: Field  # (w,)


class View:
    """An image (3, H, W) in [0, 1] and its labels (H, W), seen by a pinhole camera.

    A point (x, y, z) maps to column ``vanishing + focal * x / z`` and row ``horizon + focal * (height - y) / z``.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, look: Look, draw: random.Random) -> None:
        rows, columns = size
        self.look = look
        self.draw = draw
        self.height = camera.height
        self.focal = camera.focal * rows
        self.horizon = camera.horizon * rows
        self.vanishing = camera.vanishing * columns
        self._haze = as_colour(look.haze[0], 1)
        self.image: Field = np.zeros((3, rows, columns), np.float32)
        self.label = np.full((rows, columns), Label.SKY, np.uint8)
        self.rows: Field = np.arange(rows, dtype=np.float32)[:, None] + 0.5
        self.columns: Field = np.arange(columns, dtype=np.float32) + 0.5

    def column(self, x: float, z: float) -> float:
        return self.vanishing + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (self.height - y) / z

    def window(self, left: float, top: float, right: float, bottom: float) -> Window | None:
        """Return the pixels between four edges, at least 1x1; None outside the image."""
        height, width = self.label.shape
        first_row, first_column = round(top), round(left)
        rows = slice(max(first_row, 0), min(max(round(bottom), first_row + 1), height))
        columns = slice(max(first_column, 0), min(max(round(right), first_column + 1), width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        return Window(self.image[:, rows, columns], self.label[rows, columns], self.rows[rows], self.columns[columns])

    def veil(self, colours: Field, z: Field | float) -> Field:
        """Blend colours (3, ...) at distance ``z`` with haze."""
        distance = self.look.haze[1]
        clear = math.exp(-z / distance) if isinstance(z, float) else np.exp(z * (-1 / distance))
        haze = self._haze if colours.ndim == 2 else self._haze[..., None]
        veiled: Field = (colours - haze) * clear + haze
        return veiled


def as_colour(colour: Sequence[float], dimensions: int = 2) -> Field:
    """Return a colour as an array (3, 1, ...) that broadcasts over ``dimensions`` image axes."""
    return np.array(colour, np.float32).reshape(3, *[1] * dimensions)
