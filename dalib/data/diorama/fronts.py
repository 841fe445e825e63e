"""What lines the street: buildings, walls, fences and hedges as upright planes, a distance and a height per column."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dalib.data.diorama.labels import Label
from dalib.data.diorama.noise import Field, look_up, noise_tile
from dalib.data.diorama.scene import REACH, Front, Scene, Segment
from dalib.data.diorama.view import View, as_colour

_LABELS = np.array([Label.SKY, Label.BUILDING, Label.WALL, Label.FENCE, Label.VEGETATION], np.uint8)
_DEPTH = 14.0  # metres from a building's front to its back
_STOREY = 3.2


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """The upright plane that each column of the picture meets; all fields (W,), lengths in metres.

    ``along`` runs along the plane, ``pitch`` is the distance of its windows or posts, ``step`` the metres of a pixel.
    """

    z: Field
    along: Field
    step: Field
    height: Field
    front: NDArray[np.intp]
    colour: Field  # (3, W)
    pitch: Field

    def columns(self, which: slice) -> "Planes":
        return Planes(*(getattr(self, field.name)[..., which] for field in dataclasses.fields(self)))


def paint_skyline(view: View) -> None:
    """Far roofs and trees where the street ends."""
    draw = view.draw
    blocks = 24
    table = [
        Segment(0, draw.choice((Front.BUILDING, Front.HEDGE)), draw.uniform(5, 22), draw.randrange(1000), 3.0)
        for _ in range(blocks)
    ]
    x = (view.columns - view.vanishing) * (REACH / view.focal)
    index = (view.columns * (blocks / len(view.columns))).astype(np.intp)
    z = np.full_like(x, REACH)
    paint_planes(view, _planes(view, table, index, z, x, z / view.focal))


class Fronts:
    """Both sides of a street, as the columns of a view see them."""

    def __init__(self, view: View, scene: Scene) -> None:
        self.view = view
        offset = np.abs(view.columns - view.vanishing).clip(0.5)
        left = view.columns < view.vanishing
        distance = np.where(left, scene.left.front, scene.right.front).astype(np.float32)
        self.slope = offset / view.focal
        self.z: Field = (distance / self.slope).clip(0, REACH)
        self.distance = distance
        self.step = self.z**2 / (view.focal * distance)
        self.segments = (*scene.left.segments, *scene.right.segments)
        at = [
            np.searchsorted([s.start for s in side.segments], self.z, "right") - 1 for side in (scene.left, scene.right)
        ]
        last = np.where(left, len(scene.left.segments), len(self.segments)) - 1
        self.index = np.where(left, at[0], at[1] + len(scene.left.segments))
        self.next = np.minimum(self.index + 1, last)
        self.open = self.z >= REACH

    def paint_gables(self) -> None:
        """The walls of buildings that face the camera, behind gaps and over lower neighbours."""
        z = np.array([segment.start for segment in self.segments], np.float32)[self.next]
        x = self.slope * z
        planes = _planes(self.view, self.segments, self.next, z.clip(1), x, z / self.view.focal)
        seen = (planes.front == Front.BUILDING) & (x < self.distance + _DEPTH) & (z > self.z) & ~self.open
        paint_planes(self.view, dataclasses.replace(planes, height=planes.height * seen))

    def paint(self) -> None:
        planes = _planes(self.view, self.segments, self.index, self.z, self.z, self.step)
        bright = np.where(self.view.columns < self.view.vanishing, *self.view.look.lit).astype(np.float32)
        colour = planes.colour * bright
        paint_planes(self.view, dataclasses.replace(planes, colour=colour, height=planes.height * ~self.open))


def _planes(
    view: View,
    segments: tuple[Segment, ...] | list[Segment],
    index: NDArray[np.intp],
    z: Field,
    along: Field,
    step: Field,
) -> Planes:
    look = view.look
    palettes = {
        Front.OPEN: look.facades,
        Front.BUILDING: look.facades,
        Front.WALL: look.walls,
        Front.FENCE: (look.fence,),
        Front.HEDGE: look.leaves,
    }
    colours = [palettes[s.front][s.colour % len(palettes[s.front])] for s in segments]
    light = [1 + look.variation * ((s.colour * 7 % 21) / 7 - 1.5) for s in segments]
    tints = np.array(colours, np.float32) * np.array(light, np.float32)[:, None]
    return Planes(
        z,
        along,
        step,
        np.array([s.height for s in segments], np.float32)[index],
        np.array([s.front for s in segments], np.intp)[index],
        tints.T[:, index],
        np.array([s.pitch for s in segments], np.float32)[index],
    )


def paint_planes(view: View, planes: Planes) -> None:
    """Paint each column's plane from the ground to its height over what is there."""
    edges = np.flatnonzero(np.diff(planes.height > 0, prepend=False, append=False))
    for start, stop in edges.reshape(-1, 2):
        _paint_run(view, planes.columns(slice(start, stop)), slice(start, stop))


def _paint_run(view: View, planes: Planes, columns: slice) -> None:
    top = view.horizon - ((1.2 * planes.height - view.height) / planes.z).max() * view.focal
    bottom = view.horizon + view.height / planes.z.min() * view.focal
    rows = slice(max(int(top), 0), max(int(bottom) + 1, 0))
    y = np.float32(view.height) - (view.rows[rows] - np.float32(view.horizon)) * (planes.z / np.float32(view.focal))
    leafy = planes.front == Front.HEDGE
    fringe = look_up(noise_tile(0.5), np.zeros_like(planes.z), planes.along * 8 + view.columns[columns] * leafy)
    covered = (y >= 0) & (y < planes.height * (1 + 0.12 * fringe * leafy))
    surface = _surface(view, planes, y)
    np.copyto(view.image[:, rows, columns], surface, where=covered & ~_holes(planes, y))
    np.copyto(view.label[rows, columns], _LABELS[planes.front], where=covered)


def _surface(view: View, planes: Planes, y: Field) -> Field:
    building, wall, hedge = (planes.front == kind for kind in (Front.BUILDING, Front.WALL, Front.HEDGE))
    grain = look_up(noise_tile(1.0), y * 14, planes.along * 14 + planes.pitch * 50)
    rough = np.float32(0.4 * view.look.grain) + hedge * np.float32(0.12)
    shade = 1 + grain * rough
    shade[building & (y > planes.height - 0.6)] *= 0.72
    if wall.any():
        shade[wall & ((y % 0.6 < 0.1) | (y > planes.height - 0.25))] *= 0.82
    panes = _panes(planes, y)
    colour, window = (view.veil(c, planes.z)[:, None] for c in (planes.colour, as_colour(view.look.window, 1)))
    return colour * (shade * (1 - panes)) + window * panes


def _panes(planes: Planes, y: Field) -> Field:
    """Share of window in each pixel: rows of windows over a glazed ground floor; smooth where too small to see."""
    across = planes.along / planes.pitch % 1
    sharp = (planes.pitch / planes.step / 2 - 1).clip(0, 1) * np.float32(0.5)
    glazed = (planes.front == Front.BUILDING) * np.float32(0.9)
    column = glazed * (0.5 + sharp * np.where((across > 0.25) & (across < 0.75), 1, -1)).astype(np.float32)
    shop = glazed * (0.5 + sharp * np.where((across > 0.1) & (across < 0.9), 1, -1)).astype(np.float32)
    storey = y / np.float32(_STOREY) % 1
    upper = (storey > 0.3) & (storey < 0.78) & (y > _STOREY) & (y < planes.height - 1)
    return upper * column + ((y > 0.5) & (y < 2.6)) * shop


def _holes(planes: Planes, y: Field) -> NDArray[np.bool_]:
    """Where one looks through a fence: between its posts and rails; the label covers the holes."""
    gap = (planes.along / planes.pitch * 6 % 1 > 0.45) & (planes.step < 0.25)
    between = (y < planes.height - 0.25) & (y > 0.25)
    return between & gap & (planes.front == Front.FENCE)
