"""The parameters that differ between the two domains: the layout of streets and their appearance."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dalib.data.diorama.sprite import Part

Range = tuple[float, float]
Colour = tuple[float, float, float]


def grey(value: float) -> Colour:
    return value, value, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Parameters of a street's layout.

    Lengths are in metres, ``horizon`` and ``focal`` in image heights, ``storeys`` a range; ``*_odds`` and ``traffic``
    are probabilities, ``people`` and ``trees`` means of exponential distributions per side.
    """

    camera_height: Range
    horizon: Range
    focal: Range
    lanes: tuple[int, ...]
    lane_width: float
    sidewalk: Range
    verge: Range
    verge_odds: float
    storeys: tuple[int, int]
    built_odds: float
    parked_odds: float
    traffic: float
    people: float
    trees: float
    hood_odds: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours in [0, 1] and strengths of texture, light and haze.

    Fields that need a word:
        grain: strength of the noise on surfaces. variation: strength of random deviations from a palette's colours.
        haze: its colour, and the distance in metres at which 63 % of the light is haze.
        lit: brightness of the left and right side of the street. daylight: range of the whole image's brightness.
        camera: whether to simulate a camera (blur, noise, chroma subsampling ...).
    """

    road: Colour
    marking: Colour
    kerb: Colour
    sidewalk: Colour
    terrain: Colour
    zenith: tuple[Colour, ...]
    skyline: tuple[Colour, ...]
    cloud: Colour
    cloud_edge: float
    facades: tuple[Colour, ...]
    walls: tuple[Colour, ...]
    fence: Colour
    window: Colour
    leaves: tuple[Colour, ...]
    paints: tuple[Colour, ...]
    trucks: tuple[Colour, ...]
    buses: tuple[Colour, ...]
    trams: tuple[Colour, ...]
    clothes: tuple[Colour, ...]
    vests: tuple[Colour, ...]
    skins: tuple[Colour, ...]
    parts: dict[Part, Colour]
    grain: float
    variation: float
    shadow: float
    shadow_edge: float
    haze: tuple[Colour, float]
    lit: Range
    daylight: Range
    camera: bool

    @cached_property
    def part_colours(self) -> NDArray[np.float32]:
        """``parts`` as a table, (3, number of parts); black for parts whose colour belongs to the instance."""
        return np.array([self.parts.get(part, (0, 0, 0)) for part in Part], np.float32).T

    def tint(self, palette: tuple[Colour, ...], number: int) -> Colour:
        """Return a palette's colour with a small deviation, both chosen by ``number``, 16 random bits."""
        red, green, blue = palette[number % len(palette)]
        light = 1 + self.variation * (number % 41 - 20) / 10
        warmth = self.variation * (number % 31 - 15) / 45
        return red * light + warmth, green * light, blue * light - warmth


@dataclass(frozen=True, slots=True)
class Domain:
    """Layout and appearance of one domain."""

    habits: Habits
    look: Look


SOURCE = Domain(
    Habits(
        camera_height=(1.6, 2.3),
        horizon=(0.37, 0.46),
        focal=(0.95, 1.15),
        lanes=(2, 3, 3),
        lane_width=3.5,
        sidewalk=(2.5, 4.5),
        verge=(2.0, 5.0),
        verge_odds=0.5,
        storeys=(3, 12),
        built_odds=0.45,
        parked_odds=0.5,
        traffic=0.6,
        people=2.5,
        trees=2.5,
        hood_odds=0.0,
    ),
    Look(
        road=(0.38, 0.38, 0.41),
        marking=(0.95, 0.95, 0.92),
        kerb=grey(0.76),
        sidewalk=(0.66, 0.62, 0.58),
        terrain=(0.48, 0.62, 0.3),
        zenith=((0.25, 0.52, 0.95), (0.34, 0.6, 0.96), (0.5, 0.68, 0.92)),
        skyline=((0.72, 0.86, 1.0), (0.84, 0.9, 0.97)),
        cloud=grey(1.0),
        cloud_edge=0.08,
        facades=(
            (0.82, 0.52, 0.38),
            (0.88, 0.76, 0.54),
            (0.6, 0.64, 0.74),
            (0.72, 0.4, 0.34),
            (0.88, 0.84, 0.76),
            (0.55, 0.66, 0.62),
        ),
        walls=((0.72, 0.66, 0.6), (0.66, 0.42, 0.35)),
        fence=(0.28, 0.31, 0.34),
        window=(0.28, 0.42, 0.56),
        leaves=((0.26, 0.58, 0.2), (0.34, 0.64, 0.22), (0.18, 0.46, 0.2)),
        paints=(
            (0.8, 0.12, 0.12),
            (0.12, 0.3, 0.75),
            (0.93, 0.93, 0.93),
            (0.1, 0.52, 0.46),
            (0.92, 0.5, 0.12),
            (0.15, 0.15, 0.18),
            (0.62, 0.64, 0.67),
            (0.3, 0.32, 0.36),
        ),
        trucks=((0.93, 0.94, 0.95), (0.35, 0.6, 0.9), (0.4, 0.75, 0.45)),
        buses=((0.98, 0.8, 0.15), (0.95, 0.66, 0.1)),
        trams=((0.85, 0.16, 0.16), (0.75, 0.1, 0.2)),
        clothes=((0.85, 0.22, 0.3), (0.22, 0.4, 0.8), (0.9, 0.9, 0.86), (0.2, 0.6, 0.4), (0.2, 0.2, 0.28)),
        vests=((0.95, 0.9, 0.1), (1.0, 0.45, 0.1)),
        skins=((0.92, 0.74, 0.62), (0.75, 0.52, 0.38), (0.5, 0.33, 0.24)),
        parts={
            Part.GLASS: (0.26, 0.42, 0.55),
            Part.TYRE: grey(0.12),
            Part.HAIR: (0.3, 0.18, 0.1),
            Part.TAIL_LAMP: (0.95, 0.1, 0.1),
            Part.HEAD_LAMP: (1.0, 0.98, 0.85),
            Part.METAL: grey(0.46),
            Part.BARK: (0.45, 0.3, 0.18),
            Part.WHITE: grey(0.97),
            Part.RED: (0.95, 0.12, 0.12),
            Part.AMBER: (1.0, 0.7, 0.1),
            Part.GREEN: (0.1, 0.85, 0.35),
            Part.BLUE: (0.1, 0.35, 0.9),
            Part.YELLOW: (1.0, 0.85, 0.1),
            Part.BLACK: grey(0.1),
        },
        grain=0.07,
        variation=0.06,
        shadow=0.42,
        shadow_edge=0.0,
        haze=((0.78, 0.88, 1.0), 350.0),
        lit=(1.08, 0.8),
        daylight=(0.8, 1.08),
        camera=False,
    ),
)

TARGET = Domain(
    Habits(
        camera_height=(1.3, 1.7),
        horizon=(0.42, 0.5),
        focal=(1.05, 1.25),
        lanes=(2, 2, 3),
        lane_width=3.2,
        sidewalk=(2.0, 3.5),
        verge=(1.5, 4.0),
        verge_odds=0.4,
        storeys=(2, 7),
        built_odds=0.5,
        parked_odds=0.6,
        traffic=0.65,
        people=3.0,
        trees=3.0,
        hood_odds=0.7,
    ),
    Look(
        road=(0.42, 0.41, 0.41),
        marking=(0.78, 0.77, 0.75),
        kerb=(0.64, 0.63, 0.61),
        sidewalk=(0.57, 0.54, 0.52),
        terrain=(0.42, 0.47, 0.26),
        zenith=((0.66, 0.74, 0.84), (0.8, 0.83, 0.87), (0.52, 0.66, 0.84), (0.86, 0.85, 0.83)),
        skyline=((0.88, 0.91, 0.94), (0.94, 0.92, 0.88)),
        cloud=(0.97, 0.97, 0.97),
        cloud_edge=0.6,
        facades=(
            (0.62, 0.5, 0.42),
            (0.68, 0.62, 0.5),
            (0.5, 0.5, 0.53),
            (0.56, 0.38, 0.33),
            (0.72, 0.69, 0.63),
            (0.47, 0.46, 0.43),
        ),
        walls=((0.54, 0.5, 0.46), (0.5, 0.37, 0.32)),
        fence=(0.25, 0.27, 0.27),
        window=(0.22, 0.27, 0.32),
        leaves=((0.26, 0.38, 0.18), (0.34, 0.42, 0.19), (0.19, 0.3, 0.17)),
        paints=(
            (0.1, 0.1, 0.11),
            (0.24, 0.25, 0.28),
            (0.58, 0.59, 0.61),
            (0.82, 0.82, 0.82),
            (0.16, 0.26, 0.5),
            (0.56, 0.14, 0.13),
        ),
        trucks=((0.8, 0.8, 0.79), (0.32, 0.44, 0.58), (0.36, 0.48, 0.36)),
        buses=((0.76, 0.62, 0.2), (0.74, 0.54, 0.18)),
        trams=((0.58, 0.16, 0.15), (0.5, 0.12, 0.16)),
        clothes=((0.12, 0.12, 0.14), (0.22, 0.27, 0.42), (0.36, 0.3, 0.26), (0.54, 0.18, 0.2), (0.66, 0.64, 0.6)),
        vests=((0.78, 0.76, 0.22), (0.8, 0.42, 0.16)),
        skins=((0.76, 0.6, 0.5), (0.58, 0.41, 0.31), (0.38, 0.27, 0.21)),
        parts={
            Part.GLASS: (0.16, 0.2, 0.24),
            Part.TYRE: grey(0.08),
            Part.HAIR: (0.16, 0.12, 0.1),
            Part.TAIL_LAMP: (0.66, 0.12, 0.1),
            Part.HEAD_LAMP: (0.85, 0.85, 0.82),
            Part.METAL: grey(0.36),
            Part.BARK: (0.24, 0.21, 0.19),
            Part.WHITE: grey(0.82),
            Part.RED: (0.66, 0.14, 0.13),
            Part.AMBER: (0.8, 0.55, 0.15),
            Part.GREEN: (0.15, 0.6, 0.4),
            Part.BLUE: (0.14, 0.26, 0.5),
            Part.YELLOW: (0.78, 0.65, 0.16),
            Part.BLACK: grey(0.09),
        },
        grain=0.2,
        variation=0.1,
        shadow=0.45,
        shadow_edge=0.8,
        haze=((0.84, 0.87, 0.9), 200.0),
        lit=(1.1, 0.76),
        daylight=(0.8, 1.1),
        camera=True,
    ),
)
