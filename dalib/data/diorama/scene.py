"""Random street layouts: the camera, the ground's bands, the fronts along both sides, and vehicles, people and objects.

World coordinates in metres: x to the right of the camera, y up from the ground, z ahead of the camera.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from dalib.data.diorama.domain import Habits

REACH = 150.0  # where the street ends


class Front(IntEnum):
    """What stands along the back of a sidewalk."""

    OPEN = 0
    BUILDING = 1
    WALL = 2
    FENCE = 3
    HEDGE = 4


@dataclass(frozen=True, slots=True)
class Camera:
    """Height above the ground in metres; horizon and focal length in image heights; vanishing point in image widths."""

    height: float
    horizon: float
    focal: float
    vanishing: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one side, from ``start`` to the next segment's, in metres."""

    start: float
    front: Front
    height: float
    tint: int  # 16 random bits that choose its colour
    pitch: float  # metres between windows or posts


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the street; distances from the camera in metres, increasing outwards."""

    kerb: float
    verge: float
    front: float
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object at (x, base, z), drawn as a sprite that faces the camera; vehicles are boxes with a second sprite.

    ``length`` is a box's, 0 for flat objects. ``side`` is the sprite of the flank, mirrored if ``nose_near``.
    """

    sprite: str
    tint: int  # 16 random bits that choose its colours
    x: float
    z: float
    width: float
    height: float
    base: float = 0.0
    flip: bool = False
    side: str = ""
    length: float = 0.0
    nose_near: bool = False
    beyond: bool = False  # behind the fronts


@dataclass(frozen=True, slots=True)
class Scene:
    camera: Camera
    left: Side
    right: Side
    lanes: tuple[float, ...]  # x of each lane's left edge
    lane_width: float
    rails: float | None  # x of a tram track
    crossing: float | None  # z of a zebra crossing
    things: tuple[Thing, ...]
    hood: bool


def draw_scene(draw: random.Random, habits: Habits) -> Scene:
    """Draw a random street."""
    camera = Camera(
        draw.uniform(*habits.camera_height),
        draw.uniform(*habits.horizon),
        draw.uniform(*habits.focal),
        draw.uniform(0.38, 0.62),
    )
    count = draw.choice(habits.lanes)
    own = draw.randrange(count // 2, count)
    first = -(own + 0.5) * habits.lane_width + draw.uniform(-0.4, 0.4)
    lanes = tuple(first + i * habits.lane_width for i in range(count))
    left = _side(draw, habits, -first)
    right = _side(draw, habits, lanes[-1] + habits.lane_width)
    tram = draw.random() < 0.22
    things = [
        *_traffic(draw, habits, lanes, own, tram),
        *_roadside(draw, habits, left, -1),
        *_roadside(draw, habits, right, 1),
    ]
    return Scene(
        camera,
        left,
        right,
        lanes,
        habits.lane_width,
        rails=_middle(lanes[0], habits) if tram else None,
        crossing=draw.uniform(7, 30) if draw.random() < 0.25 else None,
        things=tuple(sorted(things, key=lambda thing: -thing.z)),
        hood=draw.random() < habits.hood_odds,
    )


def _middle(lane: float, habits: Habits) -> float:
    return lane + habits.lane_width / 2


def _side(draw: random.Random, habits: Habits, road: float) -> Side:
    parking = 2.3 if draw.random() < habits.parked_odds else 0.0
    kerb = road + parking
    verge = kerb + draw.uniform(*habits.sidewalk)
    front = verge + (draw.uniform(*habits.verge) if draw.random() < habits.verge_odds else 0.0)
    return Side(kerb, verge, front, tuple(_segments(draw, habits)))


def _segments(draw: random.Random, habits: Habits) -> Iterator[Segment]:
    z = 0.0
    while z < REACH:
        if draw.random() < habits.built_odds:
            front, length, height = Front.BUILDING, draw.uniform(8, 22), draw.randint(*habits.storeys) * 3.2 + 1
        else:
            front = draw.choice((Front.WALL, Front.WALL, Front.FENCE, Front.FENCE, Front.HEDGE, Front.OPEN))
            length, height = draw.uniform(7, 20), draw.uniform(1.5, 3.0)
        yield Segment(z, front, 0.0 if front is Front.OPEN else height, draw.getrandbits(16), draw.uniform(2.2, 3.6))
        z += length


# (width, height, length) in metres.
_VEHICLES = {
    "car": (1.85, 1.5, 4.3),
    "truck": (2.5, 3.4, 8.5),
    "bus": (2.55, 3.2, 11.5),
    "tram": (2.5, 3.5, 22.0),
}
_CYCLES = {
    "bicycle": (1.75, 1.1),
    "motorcycle": (2.1, 1.25),
    "cyclist": (1.65, 1.85),
    "motorcyclist": (1.95, 1.8),
}


def _vehicle(draw: random.Random, kind: str, x: float, z: float, oncoming: bool) -> Thing:
    width, height, length = _VEHICLES[kind]
    size = draw.uniform(0.92, 1.1)
    end = "tram_front" if kind == "tram" else f"{kind}_{'front' if oncoming else 'back'}"
    return Thing(
        end,
        draw.getrandbits(16),
        x,
        z,
        width * size,
        height * size * draw.uniform(0.94, 1.08),
        side=f"{kind}_side",
        length=length,
        nose_near=oncoming,
    )


def _traffic(draw: random.Random, habits: Habits, lanes: tuple[float, ...], own: int, tram: bool) -> Iterator[Thing]:
    for i, lane in enumerate(lanes):
        x = _middle(lane, habits) + draw.uniform(-0.3, 0.3)
        oncoming = i < len(lanes) // 2
        z = draw.uniform(5, 16) + (4 if i == own else 0)
        if tram and i == 0:
            yield _vehicle(draw, "tram", x, z, oncoming)
            continue
        while z < 50:
            kind = draw.choices(("car", "truck", "bus", "cyclist", "motorcyclist"), (4, 1.4, 1.4, 2, 2))[0]
            if draw.random() < habits.traffic:
                mounted = kind in ("cyclist", "motorcyclist")
                yield _cycle(draw, kind, x, z) if mounted else _vehicle(draw, kind, x, z, oncoming)
            z += draw.uniform(9, 24)


def _cycle(draw: random.Random, kind: str, x: float, z: float) -> Thing:
    """A bicycle or a motorcycle, ridden or parked."""
    width, height = _CYCLES[kind]
    size = draw.uniform(1.1, 1.3)
    return Thing(kind, draw.getrandbits(16), x, z, width * size, height * size, flip=draw.random() < 0.5)


def _roadside(draw: random.Random, habits: Habits, side: Side, sign: int) -> Iterator[Thing]:
    """Yield parked vehicles, people, posts and trees of one side; ``sign`` is -1 on the left and 1 on the right."""
    yield from _parked(draw, habits, side, sign)
    yield from _people(draw, habits, side, sign)
    yield from _furniture(draw, side, sign)
    yield from _greenery(draw, habits, side, sign)


def _parked(draw: random.Random, habits: Habits, side: Side, sign: int) -> Iterator[Thing]:
    z = draw.uniform(5, 14)
    while z < 40:
        if draw.random() < habits.parked_odds:
            kind = draw.choices(("car", "truck", "bus"), (7, 1, 1))[0]
            yield _vehicle(draw, kind, sign * (side.kerb - 1.2), z, draw.random() < 0.5)
            z += _VEHICLES[kind][2]
        z += draw.uniform(1.5, 9)
    for _ in range(draw.choices((0, 1, 2), (3, 4, 3))[0]):
        kind = draw.choice(("bicycle", "motorcycle", "cyclist", "motorcyclist"))
        x = sign * (side.kerb + draw.uniform(-1.0, 1.2))
        yield _cycle(draw, kind, x, _near(draw, x))


def _near(draw: random.Random, x: float) -> float:
    """Draw a distance z at which ``x`` is in view, more often short than long."""
    return max(5.0, 1.1 * abs(x)) + min(draw.expovariate(1 / 5), 30)


def _people(draw: random.Random, habits: Habits, side: Side, sign: int) -> Iterator[Thing]:
    for _ in range(min(int(draw.expovariate(1 / habits.people)), 8)):
        x = sign * draw.uniform(side.kerb + 0.3, side.verge - 0.3)
        height = draw.uniform(1.7, 2.1)
        flip, pose = draw.random() < 0.5, draw.randrange(3)
        yield Thing(f"person_{pose}", draw.getrandbits(16), x, _near(draw, x), height * 0.5, height, flip=flip)


def _furniture(draw: random.Random, side: Side, sign: int) -> Iterator[Thing]:
    """Lamp posts, and posts that carry lights or signs."""
    x = sign * (side.kerb + 0.45)
    z, spacing = draw.uniform(5, 18), draw.uniform(14, 24)
    while z < 60:
        yield _post(x, z, draw.uniform(6, 8))
        z += spacing
    for _ in range(draw.choices((0, 1, 2, 3), (2, 4, 3, 1))[0]):
        z, height = _near(draw, x), draw.uniform(2.6, 3.6)
        yield _post(x, z, height)
        if draw.random() < 0.5:
            yield Thing(f"light_{draw.randrange(3)}", 0, x, z - 0.1, 0.6, 1.6, height - 0.5)
        else:
            size = draw.uniform(1.1, 1.4)
            yield Thing(f"sign_{draw.randrange(4)}", 0, x, z - 0.1, size, size, height - size)


def _post(x: float, z: float, height: float) -> Thing:
    return Thing("post", 0, x, z, 0.28, height)


def _greenery(draw: random.Random, habits: Habits, side: Side, sign: int) -> Iterator[Thing]:
    for _ in range(int(draw.expovariate(1 / habits.trees))):
        crown = draw.randrange(4)
        beyond = draw.random() < 0.4
        x = side.front + draw.uniform(2, 6) if beyond else draw.uniform(side.verge, side.front) - 0.5
        height = draw.uniform(1.2, 2.0) if crown == 3 else draw.uniform(4.5, 9.5)
        width = height * (0.8, 0.45, 0.6, 1.3)[crown]
        z, flip = draw.uniform(7, 60), draw.random() < 0.5
        yield Thing(f"tree_{crown}", draw.getrandbits(16), sign * x, z, width, height, flip=flip, beyond=beyond)
