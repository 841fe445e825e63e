"""What differs between the two domains, as data: how streets are laid out and what they look like."""

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
    """How streets are laid out. Lengths in metres; ``horizon`` and ``focal`` in image heights; the rest are odds."""

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
        grain: how strongly noise modulates a surface. variation: how far a colour strays from its palette.
        haze: (colour, distance in metres at which 63 % of the light is haze). lit: brightness of the two street sides.
        camera: the photograph's faults (blur, noise, compression ...) are applied.
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
    trams: tuple[Colour, ...]
    clothes: tuple[Colour, ...]
    skins: tuple[Colour, ...]
    parts: dict[Part, Colour]
    grain: float
    variation: float
    shadow: float
    shadow_edge: float
    haze: tuple[Colour, float]
    lit: Range
    camera: bool

    @cached_property
    def part_colours(self) -> NDArray[np.float32]:
        """``parts`` as a table, (number of parts, 3); black where an instance has its own colour."""
        return np.array([self.parts.get(part, (0, 0, 0)) for part in Part], np.float32)


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of street and the look of its pictures."""

    habits: Habits
    look: Look


SOURCE = Domain(
    Habits(
        camera_height=(1.7, 2.5),
        horizon=(0.36, 0.46),
        focal=(0.8, 1.05),
        lanes=(2, 3, 4),
        lane_width=3.6,
        sidewalk=(2.5, 5.0),
        verge=(2.0, 6.0),
        verge_odds=0.5,
        storeys=(3, 14),
        built_odds=0.5,
        parked_odds=0.45,
        traffic=0.5,
        people=2.5,
        trees=2.5,
        hood_odds=0.0,
    ),
    Look(
        road=(0.36, 0.36, 0.4),
        marking=(0.97, 0.97, 0.93),
        kerb=grey(0.8),
        sidewalk=(0.7, 0.66, 0.62),
        terrain=(0.5, 0.68, 0.3),
        zenith=((0.22, 0.5, 0.95), (0.3, 0.58, 0.98), (0.18, 0.42, 0.85)),
        skyline=((0.72, 0.88, 1.0), (0.8, 0.9, 1.0)),
        cloud=grey(1.0),
        cloud_edge=0.08,
        facades=(
            (0.85, 0.5, 0.36),
            (0.9, 0.76, 0.5),
            (0.62, 0.66, 0.78),
            (0.78, 0.38, 0.33),
            (0.92, 0.88, 0.8),
            (0.55, 0.7, 0.66),
        ),
        walls=((0.75, 0.68, 0.6), (0.72, 0.42, 0.34)),
        fence=(0.28, 0.32, 0.36),
        window=(0.3, 0.48, 0.66),
        leaves=((0.24, 0.62, 0.18), (0.34, 0.7, 0.2), (0.16, 0.5, 0.2)),
        paints=(
            (0.85, 0.1, 0.1),
            (0.1, 0.3, 0.8),
            (0.95, 0.8, 0.1),
            (0.95, 0.95, 0.95),
            (0.1, 0.6, 0.5),
            (0.95, 0.5, 0.1),
            (0.15, 0.15, 0.18),
        ),
        trams=((0.95, 0.8, 0.2), (0.9, 0.3, 0.2)),
        clothes=(
            (0.9, 0.2, 0.3),
            (0.2, 0.4, 0.9),
            (0.95, 0.95, 0.9),
            (0.2, 0.7, 0.4),
            (0.6, 0.3, 0.7),
            (0.2, 0.2, 0.3),
        ),
        skins=((0.95, 0.76, 0.62), (0.75, 0.52, 0.38), (0.5, 0.33, 0.24)),
        parts={
            Part.GLASS: (0.35, 0.55, 0.7),
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
        grain=0.06,
        variation=0.04,
        shadow=0.45,
        shadow_edge=0.0,
        haze=((0.78, 0.88, 1.0), 400.0),
        lit=(1.08, 0.78),
        camera=False,
    ),
)

TARGET = Domain(
    Habits(
        camera_height=(1.2, 1.6),
        horizon=(0.42, 0.52),
        focal=(0.95, 1.2),
        lanes=(1, 2, 2),
        lane_width=3.1,
        sidewalk=(1.8, 3.5),
        verge=(1.5, 4.0),
        verge_odds=0.35,
        storeys=(2, 6),
        built_odds=0.55,
        parked_odds=0.7,
        traffic=0.6,
        people=3.5,
        trees=3.0,
        hood_odds=0.7,
    ),
    Look(
        road=(0.4, 0.39, 0.38),
        marking=(0.72, 0.71, 0.68),
        kerb=(0.56, 0.55, 0.53),
        sidewalk=(0.5, 0.47, 0.46),
        terrain=(0.4, 0.41, 0.24),
        zenith=((0.74, 0.78, 0.84), (0.86, 0.87, 0.88), (0.6, 0.7, 0.82), (0.92, 0.88, 0.82)),
        skyline=((0.92, 0.93, 0.94), (0.96, 0.93, 0.86)),
        cloud=(0.97, 0.97, 0.97),
        cloud_edge=0.6,
        facades=(
            (0.52, 0.46, 0.4),
            (0.6, 0.56, 0.48),
            (0.46, 0.45, 0.45),
            (0.48, 0.36, 0.31),
            (0.66, 0.63, 0.58),
            (0.4, 0.36, 0.33),
        ),
        walls=((0.45, 0.42, 0.39), (0.44, 0.33, 0.29)),
        fence=(0.24, 0.26, 0.25),
        window=(0.2, 0.22, 0.25),
        leaves=((0.22, 0.29, 0.15), (0.3, 0.33, 0.16), (0.17, 0.24, 0.15), (0.38, 0.33, 0.16)),
        paints=(
            (0.08, 0.08, 0.09),
            (0.16, 0.17, 0.19),
            (0.55, 0.56, 0.58),
            (0.8, 0.8, 0.8),
            (0.12, 0.16, 0.28),
            (0.35, 0.08, 0.08),
            (0.3, 0.31, 0.32),
        ),
        trams=((0.6, 0.55, 0.4), (0.5, 0.14, 0.12)),
        clothes=((0.1, 0.1, 0.12), (0.2, 0.22, 0.3), (0.32, 0.28, 0.24), (0.45, 0.14, 0.14), (0.6, 0.58, 0.55)),
        skins=((0.72, 0.56, 0.47), (0.55, 0.38, 0.29), (0.36, 0.25, 0.2)),
        parts={
            Part.GLASS: (0.13, 0.15, 0.17),
            Part.TYRE: grey(0.08),
            Part.HAIR: (0.16, 0.12, 0.1),
            Part.TAIL_LAMP: (0.55, 0.1, 0.09),
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
        grain=0.3,
        variation=0.1,
        shadow=0.5,
        shadow_edge=1.0,
        haze=((0.86, 0.87, 0.88), 140.0),
        lit=(1.12, 0.72),
        camera=True,
    ),
)
