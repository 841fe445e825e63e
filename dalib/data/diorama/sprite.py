"""Sprites: small maps of parts that are drawn once and painted at any size and in any colours."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dalib.data.diorama.labels import Label

TEXELS = 96

Point = tuple[float, float]


class Part(IntEnum):
    """The material of a texel; NONE is transparent, and PAINT, TRIM, SKIN and CYCLE have colours of the instance."""

    NONE = 0
    PAINT = 1
    TRIM = 2
    GLASS = 3
    TYRE = 4
    SKIN = 5
    HAIR = 6
    TAIL_LAMP = 7
    HEAD_LAMP = 8
    METAL = 9
    BARK = 10
    WHITE = 11
    RED = 12
    AMBER = 13
    GREEN = 14
    BLUE = 15
    YELLOW = 16
    BLACK = 17
    CYCLE = 18


@dataclass(eq=False)
class Sprite:
    """Parts and shading on a grid of TEXELS x TEXELS over the unit square, x to the right and y down.

    ``label`` is the class of every part but those in ``exceptions``.
    """

    label: Label
    exceptions: dict[Part, Label] = field(default_factory=dict)
    parts: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((TEXELS, TEXELS), np.uint8))
    shade: NDArray[np.float32] = field(default_factory=lambda: np.ones((TEXELS, TEXELS), np.float32))

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """Class of each part, (number of parts,)."""
        return np.array([self.exceptions.get(part, self.label) for part in Part], np.uint8)

    def box(self, left: float, top: float, right: float, bottom: float, part: Part, shade: float = 1.0) -> None:
        self._fill((left <= _X) & (right > _X) & (top <= _Y) & (bottom > _Y), part, shade)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, part: Part, shade: float = 1.0) -> None:
        self._fill(((_X - x) / radius_x) ** 2 + ((_Y - y) / radius_y) ** 2 < 1, part, shade)

    def polygon(self, points: Sequence[Point], part: Part, shade: float = 1.0) -> None:
        """Fill a polygon by the even-odd rule."""
        inside = np.zeros_like(_X, bool)
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if y0 != y1:
                inside ^= ((y0 > _Y) != (y1 > _Y)) & (x0 + (_Y - y0) / (y1 - y0) * (x1 - x0) > _X)
        self._fill(inside, part, shade)

    def line(self, start: Point, end: Point, width: float, part: Part, shade: float = 1.0) -> None:
        (x0, y0), (x1, y1) = start, end
        along = ((_X - x0) * (x1 - x0) + (_Y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        along = along.clip(0, 1)
        distance = np.hypot(_X - x0 - along * (x1 - x0), _Y - y0 - along * (y1 - y0))
        self._fill(distance < width / 2, part, shade)

    def light(self, top: float, bottom: float) -> None:
        """Shade everything by a vertical gradient."""
        self.shade *= top + (bottom - top) * _Y

    def _fill(self, where: NDArray[np.bool_], part: Part, shade: float) -> None:
        self.parts[where] = part
        self.shade[where] = shade


_Y, _X = np.mgrid[0:TEXELS, 0:TEXELS].astype(np.float32) / TEXELS + 0.5 / TEXELS
