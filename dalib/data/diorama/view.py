"""The picture under way: image, labels and the perspective that places metres in pixels."""

import random

import numpy as np

from dalib.data.diorama.domain import Colour, Look
from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field
from dalib.data.diorama.scene import Camera


class View:
    """An image (H, W, 3) in [0, 1] and its labels (H, W), with the pinhole camera that looks at the scene.

    A point (x, y, z) falls on column ``vanishing + focal * x / z`` and row ``horizon + focal * (height - y) / z``.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, look: Look, draw: random.Random) -> None:
        rows, columns = size
        self.look = look
        self.draw = draw
        self.height = camera.height
        self.focal = camera.focal * rows
        self.horizon = camera.horizon * rows
        self.vanishing = camera.vanishing * columns
        self.image: Field = np.zeros((rows, columns, 3), np.float32)
        self.label = np.full((rows, columns), Label.SKY, np.uint8)
        self.rows: Field = np.arange(rows, dtype=np.float32)[:, None] + 0.5
        self.columns: Field = np.arange(columns, dtype=np.float32) + 0.5

    def column(self, x: float, z: float) -> float:
        return self.vanishing + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (self.height - y) / z

    def pick(self, palette: tuple[Colour, ...]) -> Colour:
        """Draw a colour from a palette and let it stray."""
        return self.stray(self.draw.choice(palette))

    def stray(self, colour: Colour) -> Colour:
        light = self.draw.gauss(1.0, self.look.variation)
        red, green, blue = (c * light + self.draw.gauss(0, self.look.variation / 4) for c in colour)
        return red, green, blue

    def haze(self, z: Field) -> Field:
        """Share of haze at distance ``z``, in [0, 1)."""
        return 1 - np.exp(-z / np.float32(self.look.haze[1]))
