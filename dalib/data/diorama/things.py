"""Vehicles, people, trees and posts, painted as sprites from far to near."""

import math
from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from dalib.data.diorama import figures, vehicles
from dalib.data.diorama.domain import Colour, Look
from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field
from dalib.data.diorama.scene import Thing
from dalib.data.diorama.sprite import TEXELS, Part, Sprite
from dalib.data.diorama.view import View, Window, as_colour

_NEAREST = 3.0  # metres; nearer things are not drawn
_LEAST = 3.0  # pixels; lower things are not drawn
_FAR = 40.0  # metres; shadows of farther things are too small to see

# Parts with a colour per instance; plain ints, since enumeration members took 2 % of the rendering time.
_PAINT, _TRIM, _CYCLE, _SKIN = (int(part) for part in (Part.PAINT, Part.TRIM, Part.CYCLE, Part.SKIN))

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

_PALETTES = {
    "tree": "leaves",
    "car": "paints",
    "truck": "trucks",
    "bus": "buses",
    "tram": "trams",
    "cyclist": "vests",
    "motorcyclist": "vests",
}


@cache
def sprite(name: str) -> Sprite:
    return _DRAWERS[name]()


def paint_things(view: View, things: Iterable[Thing]) -> None:
    """Paint things, which come farthest first, each with its shadow on the ground."""
    for thing in things:
        if thing.z >= _NEAREST and thing.height * view.focal > _LEAST * thing.z:
            colours = _colours(view, thing)
            if thing.base == 0 and thing.z < _FAR:
                _shadow(view, thing)
            if thing.length:
                _flank(view, thing, colours)
            _face(view, thing, colours)


def _colours(view: View, thing: Thing) -> Field:
    """Return the colour of each part of one thing, (3, number of parts)."""
    look = view.look
    table = look.part_colours.copy()
    table[:, _PAINT] = look.tint(_paints(look, thing.sprite), thing.tint)
    table[:, _TRIM] = look.tint(look.clothes, thing.tint // 3)
    table[:, _CYCLE] = look.tint(look.paints, thing.tint // 5)
    table[:, _SKIN] = look.tint(look.skins, thing.tint // 7)
    return view.veil(table, thing.z)


def _paints(look: Look, name: str) -> tuple[Colour, ...]:
    palette: tuple[Colour, ...] = getattr(look, _PALETTES.get(name.split("_")[0], "clothes"))
    return palette


def _face(view: View, thing: Thing, colours: Field) -> None:
    """Paint the side that faces the camera, a vertical rectangle at the thing's distance."""
    left, right = view.column(thing.x - thing.width / 2, thing.z), view.column(thing.x + thing.width / 2, thing.z)
    top, bottom = view.row(thing.base + thing.height, thing.z), view.row(thing.base, thing.z)
    window = view.window(left, top, right, bottom)
    if window is None:
        return
    if thing.flip:
        left, right = right, left
    down = _texels((window.rows - top) / (bottom - top))
    across = _texels((window.columns - left) / (right - left))
    _stamp(window, sprite(thing.sprite), down, across, colours)


def _flank(view: View, thing: Thing, colours: Field) -> None:
    """Paint the visible long side of a vehicle, on a plane along the street."""
    x = math.copysign(abs(thing.x) - thing.width / 2, thing.x)
    left, right = sorted((view.column(x, thing.z), view.column(x, thing.z + thing.length)))
    window = view.window(left, view.row(thing.height, thing.z), right, view.row(0, thing.z))
    if x * thing.x <= 0 or window is None:
        return
    z = (view.focal * x / (window.columns - view.vanishing)).clip(thing.z, thing.z + thing.length)
    along = (z - thing.z) / thing.length
    across = _texels(1 - along if thing.nose_near else along)
    y = view.height - (window.rows - view.horizon) * (z / view.focal)
    inside = (y >= 0) & (y < thing.height)
    lit = colours * view.look.lit[0 if x < 0 else 1]
    _stamp(window, sprite(thing.side), _texels(1 - y / thing.height), across, lit, inside)


def _texels(share: Field) -> NDArray[np.intp]:
    return np.minimum(np.maximum(share * TEXELS, 0), TEXELS - 1).astype(np.intp)


def _stamp(
    window: Window,
    shape: Sprite,
    down: NDArray[np.intp],
    across: NDArray[np.intp],
    colours: Field,
    inside: NDArray[np.bool_] | None = None,
) -> None:
    """Copy the texels (``down``, ``across``) into the window where they are ``inside`` and not transparent."""
    texels = down * TEXELS + across
    parts = shape.parts.take(texels)
    seen = parts.view(bool)  # part 0 is transparent
    if inside is not None:
        seen = seen & inside
    surface = colours.take(parts, 1)
    surface *= shape.shade.take(texels)
    np.copyto(window.image, surface, where=seen)
    np.copyto(window.label, shape.labels.take(parts), where=seen)


def _shadow(view: View, thing: Thing) -> None:
    """Darken an oval on the ground beneath a thing."""
    half = thing.length / 2 + 0.25 * thing.width
    middle = thing.z + thing.length / 2
    near, far, reach = max(middle - half, _NEAREST), middle + half, 0.65 * thing.width
    left = min(view.column(thing.x - reach, near), view.column(thing.x - reach, far))
    right = max(view.column(thing.x + reach, near), view.column(thing.x + reach, far))
    window = view.window(left, view.row(0, far), right, view.row(0, near))
    if window is None:
        return
    z = view.focal * view.height / (window.rows - view.horizon)
    x = (window.columns - view.vanishing) * (z / (view.focal * reach)) - thing.x / reach
    oval = x * x + ((z - middle) / half) ** 2
    depth = (1 - oval * oval) * (1 / (view.look.shadow_edge + 0.01))
    np.multiply(window.image, 1 - view.look.shadow * np.minimum(np.maximum(depth, 0), 1), out=window.image)


def paint_hood(view: View) -> None:
    """Paint the ego vehicle's hood at the lower edge, labelled ignore."""
    height, width = view.label.shape
    first = int(0.88 * height)
    top = 0.9 + 0.32 * (view.columns / width - 0.5) ** 2
    depth = view.rows[first:] / height - top
    shine = 0.1 + 2.5 * depth.clip(0, 0.1)
    np.copyto(view.image[:, first:], as_colour(view.look.haze[0]) * shine, where=depth > 0)
    view.label[first:][depth > 0] = Label.IGNORE
