"""The picture under way: image, labels and the perspective that places metres in pixels."""

import random

import numpy as np

from dalib.data.diorama.domain import Colour, Look
from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field
from dalib.data.diorama.scene import Camera


class View:
    """An image (3, H, W) in [0, 1] and its labels (H, W), with the pinhole camera that looks at the scene.

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
        self.image: Field = np.zeros((3, rows, columns), np.float32)
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
        spread = self.look.variation
        light = 1 + self.draw.uniform(-2, 2) * spread
        warmth = self.draw.uniform(-1, 1) * spread / 3
        red, green, blue = colour
        return red * light + warmth, green * light, blue * light - warmth

    def veil(self, colours: Field, z: Field) -> Field:
        """Blend colours (3, ...) at distance ``z`` with the haze before them."""
        colour, distance = self.look.haze
        clear = np.exp(-z / np.float32(distance))
        return colours * clear + as_colour(colour, colours.ndim - 1) * (1 - clear)


def as_colour(colour: Colour, dimensions: int = 2) -> Field:
    """A colour as an array (3, 1, ...) that broadcasts over an image with so many dimensions."""
    return np.array(colour, np.float32).reshape(3, *[1] * dimensions)
