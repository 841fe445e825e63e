"""What stands in the street, stamped one sprite after the other from the far end to the near one."""

from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from dalib.data.diorama import figures, vehicles
from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field
from dalib.data.diorama.scene import Thing
from dalib.data.diorama.sprite import TEXELS, Part, Sprite
from dalib.data.diorama.view import View, as_colour

_NEAREST = 3.0  # metres; what is nearer is not drawn
_LEAST = 3.0  # pixels; what is less high is not drawn
_FAR = 40.0  # metres; what is farther throws no shadow that one would see

_DRAWERS: dict[str, Callable[[], Sprite]] = {
    "car_back": vehicles.car_back,
    "car_front": vehicles.car_front,
    "car_side": vehicles.car_side,
    "truck_back": vehicles.truck_back,
    "truck_front": vehicles.truck_front,
    "truck_side": vehicles.truck_side,
    "bus_back": vehicles.bus_back,
    "bus_front": vehicles.bus_front,
    "bus_side": vehicles.bus_side,
    "tram_front": vehicles.tram_front,
    "tram_side": vehicles.tram_side,
    "bicycle": figures.bicycle,
    "motorcycle": figures.motorcycle,
    "cyclist": figures.cyclist,
    "motorcyclist": figures.motorcyclist,
    "post": figures.post,
    **{f"person_{i}": partial(figures.person, i) for i in range(3)},
    **{f"tree_{i}": partial(figures.tree, i) for i in range(4)},
    **{f"light_{i}": partial(figures.traffic_light, i) for i in range(3)},
    **{f"sign_{i}": partial(figures.traffic_sign, i) for i in range(4)},
}


@cache
def sprite(name: str) -> Sprite:
    return _DRAWERS[name]()


def paint_things(view: View, things: Iterable[Thing]) -> None:
    """Paint things, the farthest first, each with its shadow on the ground."""
    for thing in things:
        if thing.z >= _NEAREST and thing.height * view.focal > _LEAST * thing.z:
            colours = _colours(view, thing)
            if thing.base == 0 and thing.z < _FAR:
                _shadow(view, thing)
            if thing.length:
                _flank(view, thing, colours)
            _face(view, thing, colours)


def _colours(view: View, thing: Thing) -> Field:
    """Colour of each part of one thing, (3, number of parts)."""
    look = view.look
    table = look.part_colours.copy()
    table[Part.PAINT] = view.pick(_paints(view, thing.sprite))
    table[Part.TRIM] = view.pick(look.clothes)
    table[Part.CYCLE] = view.draw.choice(look.paints)
    table[Part.SKIN] = view.draw.choice(look.skins)
    return view.veil(table.T, np.float32(thing.z))


def _paints(view: View, name: str) -> tuple[tuple[float, float, float], ...]:
    kind = name.split("_")[0]
    look = view.look
    by_kind = {"tram": look.trams, "tree": look.leaves, "car": look.paints, "truck": look.trucks, "bus": look.buses}
    return by_kind.get(kind, look.clothes)


def _face(view: View, thing: Thing, colours: Field) -> None:
    """The end that faces the camera, an upright rectangle at the thing's distance."""
    left, right = view.column(thing.x - thing.width / 2, thing.z), view.column(thing.x + thing.width / 2, thing.z)
    top, bottom = view.row(thing.base + thing.height, thing.z), view.row(thing.base, thing.z)
    rows, columns = _pixels(top, bottom, view.label.shape[0]), _pixels(left, right, view.label.shape[1])
    if not (len(rows) and len(columns)):
        return
    down = _texels((rows + np.float32(0.5) - np.float32(top)) / np.float32(bottom - top))
    across = _texels((columns + np.float32(0.5) - np.float32(left)) / np.float32(right - left))
    if thing.flip:
        across = TEXELS - 1 - across
    _stamp(view, sprite(thing.sprite), rows, columns, np.ix_(down, across), colours)


def _flank(view: View, thing: Thing, colours: Field) -> None:
    """The long side of a vehicle that the camera sees, on a plane along the street."""
    x = abs(thing.x) - thing.width / 2
    if x <= 0:
        return
    x = x if thing.x > 0 else -x
    ends = sorted((view.column(x, thing.z), view.column(x, thing.z + thing.length)))
    columns = _pixels(*ends, view.label.shape[1])
    rows = _pixels(view.row(thing.height, thing.z), view.row(0, thing.z), view.label.shape[0])
    if not (len(rows) and len(columns)):
        return
    z = view.focal * np.float32(x) / (columns + np.float32(0.5) - np.float32(view.vanishing))
    z = z.clip(thing.z, thing.z + thing.length)
    across = _texels((z - np.float32(thing.z)) / np.float32(thing.length))
    if thing.nose_near:
        across = TEXELS - 1 - across
    y = view.height - (rows[:, None] + np.float32(0.5) - np.float32(view.horizon)) * (z / np.float32(view.focal))
    inside = (y >= 0) & (y < thing.height)
    down = _texels(1 - y / np.float32(thing.height))
    shaded = colours * np.float32(view.look.lit[0 if x < 0 else 1])
    _stamp(view, sprite(thing.side), rows, columns, (down, across), shaded, inside)


def _pixels(start: float, stop: float, limit: int) -> NDArray[np.intp]:
    """Pixels whose centre lies between two edges, at least one, within the picture."""
    first = round(start)
    return np.arange(max(first, 0), min(max(round(stop), first + 1), limit))


def _texels(share: Field) -> NDArray[np.intp]:
    return (share * TEXELS).astype(np.intp).clip(0, TEXELS - 1)


def _stamp(
    view: View,
    shape: Sprite,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    texels: tuple[NDArray[np.intp], NDArray[np.intp]],
    colours: Field,
    inside: NDArray[np.bool_] | bool = True,
) -> None:
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    parts = shape.parts[texels]
    seen = (parts != Part.NONE) & inside
    surface = colours.take(parts, 1)
    surface *= shape.shade[texels]
    np.copyto(view.image[:, *window], surface, where=seen)
    np.copyto(view.label[window], shape.labels.take(parts), where=seen)


def _shadow(view: View, thing: Thing) -> None:
    """Shade on the ground beneath, an oval as wide and as long as the thing."""
    half = thing.length / 2 + 0.25 * thing.width
    middle = thing.z + thing.length / 2
    near, far, reach = max(middle - half, _NEAREST), middle + half, 0.65 * thing.width
    left = min(view.column(thing.x - reach, near), view.column(thing.x - reach, far))
    right = max(view.column(thing.x + reach, near), view.column(thing.x + reach, far))
    rows = _pixels(view.row(0, far), view.row(0, near), view.label.shape[0])
    columns = _pixels(left, right, view.label.shape[1])
    if not (len(rows) and len(columns)):
        return
    z = np.float32(view.focal * view.height) / (rows[:, None] + np.float32(0.5 - view.horizon))
    x = (columns + np.float32(0.5 - view.vanishing)) * (z / np.float32(view.focal))
    oval = ((x - np.float32(thing.x)) / np.float32(reach)) ** 2 + ((z - np.float32(middle)) / np.float32(half)) ** 2
    edge = np.float32(view.look.shadow_edge + 0.01)
    shade = np.float32(view.look.shadow) * ((1 - oval * oval) / edge).clip(0, 1)
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    view.image[:, *window] *= 1 - shade


def paint_hood(view: View) -> None:
    """The own car's bonnet at the lower edge, which belongs to no class."""
    height, width = view.label.shape
    first = int(0.88 * height)
    top = 0.9 + 0.32 * (view.columns / np.float32(width) - np.float32(0.5)) ** 2
    depth = view.rows[first:] / np.float32(height) - top
    shine = 0.1 + 2.5 * depth.clip(0, 0.1)
    np.copyto(view.image[:, first:], as_colour(view.look.haze[0]) * shine, where=depth > 0)
    view.label[first:][depth > 0] = Label.IGNORE
