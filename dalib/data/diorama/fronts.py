"""Buildings, walls, fences and hedges along the street, as vertical planes with a distance and height per column."""

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
_BLOCKS = 24  # of the skyline


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """The vertical plane that each image column hits; fields are (W,) unless noted, lengths in metres.

    ``along`` is the position along the plane, ``pitch`` the spacing of windows or posts, ``step`` the width of a pixel.
    """

    z: Field
    along: Field
    step: Field
    height: Field
    front: NDArray[np.intp]
    colour: Field  # (3, W)
    pitch: Field

    def columns(self, which: slice) -> "Planes":
        z, along, step, height = (field[which] for field in (self.z, self.along, self.step, self.height))
        return Planes(z, along, step, height, self.front[which], self.colour[:, which], self.pitch[which])


def paint_skyline(view: View) -> None:
    """Far roofs and trees where the street ends."""
    draw = view.draw
    fronts = [draw.choice((Front.BUILDING, Front.HEDGE)) for _ in range(_BLOCKS)]
    blocks = Row(view, [Segment(0, front, draw.uniform(5, 22), draw.getrandbits(16), 3.0) for front in fronts])
    x = (view.columns - view.vanishing) * (REACH / view.focal)
    index = (view.columns * (_BLOCKS / len(view.columns))).astype(np.intp)
    z = np.full_like(x, REACH)
    paint_planes(view, blocks.planes(index, z, x, z / view.focal))


class Fronts:
    """The planes of both sides of a street, by column of the view."""

    def __init__(self, view: View, scene: Scene) -> None:
        self.view = view
        left = view.columns < view.vanishing
        sides = scene.left.segments, scene.right.segments
        self.distance = np.where(left, np.float32(scene.left.front), np.float32(scene.right.front))
        self.slope = np.abs(view.columns - view.vanishing).clip(0.5) / view.focal
        self.z: Field = (self.distance / self.slope).clip(0, REACH)
        self.starts = np.array([segment.start for side in sides for segment in side], np.float32)
        self.row = Row(view, [segment for side in sides for segment in side])
        split = len(sides[0])
        starts = self.starts[:split], self.starts[split:]
        at = [np.searchsorted(start, self.z, "right") - 1 for start in starts]
        self.index = np.where(left, at[0], at[1] + split)
        self.next = np.minimum(self.index + 1, np.where(left, split, len(self.starts)) - 1)

    def paint_gables(self) -> None:
        """Paint the end walls of buildings, which show behind gaps and above lower neighbours."""
        z = self.starts[self.next]
        x = self.slope * z
        planes = self.row.planes(self.next, z.clip(1), x, z / self.view.focal)
        seen = (planes.front == Front.BUILDING) & (x < self.distance + _DEPTH) & (z > self.z)
        paint_planes(self.view, dataclasses.replace(planes, height=planes.height * seen))

    def paint(self) -> None:
        step = self.z**2 / (self.view.focal * self.distance)
        planes = self.row.planes(self.index, self.z, self.z, step)
        bright, dim = self.view.look.lit
        light = np.where(self.view.columns < self.view.vanishing, np.float32(bright), np.float32(dim))
        height = planes.height * (self.z < REACH)
        paint_planes(self.view, dataclasses.replace(planes, colour=planes.colour * light, height=height))


class Row:
    """Colours, heights and kinds of segments as arrays, to be indexed by column."""

    def __init__(self, view: View, segments: list[Segment]) -> None:
        look = view.look
        palettes = {
            Front.OPEN: look.facades,
            Front.BUILDING: look.facades,
            Front.WALL: look.walls,
            Front.FENCE: (look.fence,),
            Front.HEDGE: look.leaves,
        }
        self.colours = np.array([look.tint(palettes[s.front], s.tint) for s in segments], np.float32).T
        self.heights = np.array([s.height for s in segments], np.float32)
        self.fronts = np.array([s.front for s in segments], np.intp)
        self.pitches = np.array([s.pitch for s in segments], np.float32)

    def planes(self, index: NDArray[np.intp], z: Field, along: Field, step: Field) -> Planes:
        """Return the planes of columns that hit the segments ``index``."""
        colour = self.colours.take(index, 1)
        return Planes(z, along, step, self.heights[index], self.fronts[index], colour, self.pitches[index])


def paint_planes(view: View, planes: Planes) -> None:
    """Paint each column's plane, from the ground to its height, over the image so far."""
    edges = np.flatnonzero(np.diff(planes.height > 0, prepend=False, append=False))
    for start, stop in edges.reshape(-1, 2).tolist():
        _paint_run(view, planes.columns(slice(start, stop)), start, stop)


def _paint_run(view: View, planes: Planes, start: int, stop: int) -> None:
    top = ((1.3 * planes.height - view.height) / planes.z).max()
    bottom = view.height / planes.z.min()
    window = view.window(start, view.horizon - view.focal * top, stop, view.horizon + view.focal * bottom)
    if window is None:
        return
    y = view.height - (window.rows - view.horizon) * (planes.z / view.focal)
    leafy = planes.front == Front.HEDGE
    fringe = look_up(noise_tile(0.5), np.zeros_like(planes.z), planes.along * 8 + window.columns * leafy)
    covered = (y >= 0) & (y < planes.height * (1 + 0.12 * fringe * leafy))
    np.copyto(window.image, _surface(view, planes, y), where=covered & ~_holes(planes, y))
    np.copyto(window.label, _LABELS[planes.front], where=covered)


def _surface(view: View, planes: Planes, y: Field) -> Field:
    wall, hedge = planes.front == Front.WALL, planes.front == Front.HEDGE
    glazed: NDArray[np.bool_] = planes.front == Front.BUILDING
    grain = look_up(noise_tile(1.0), y * 14, planes.along * 14 + planes.pitch * 50)
    shade = 1 + grain * (0.4 * view.look.grain + hedge * np.float32(0.12))
    shade[glazed & (y > planes.height - 0.6)] *= 0.72
    if wall.any():
        shade[wall & ((y % 0.6 < 0.1) | (y > planes.height - 0.25))] *= 0.82
    surface: Field
    colour = view.veil(planes.colour, planes.z)[:, None]
    if not glazed.any():
        surface = colour * shade
        return surface
    panes = _panes(planes, glazed, y)
    window = view.veil(as_colour(view.look.window, 1), planes.z)[:, None]
    surface = colour * (shade * (1 - panes))
    surface += window * panes
    return surface


def _panes(planes: Planes, glazed: NDArray[np.bool_], y: Field) -> Field:
    """Return the share of window in each pixel, averaged where windows are smaller than pixels."""
    across = np.abs(planes.along / planes.pitch % 1 - 0.5)
    sharp = (planes.pitch / planes.step / 2 - 1).clip(0, 1) * np.float32(0.45)
    column: Field = glazed * (0.45 + sharp * np.where(across < 0.25, np.float32(1), np.float32(-1)))
    shop: Field = glazed * (0.45 + sharp * np.where(across < 0.4, np.float32(1), np.float32(-1)))
    storey = y / _STOREY
    storey -= np.floor(storey)
    upper: NDArray[np.bool_] = (storey > 0.3) & (storey < 0.78) & (y > _STOREY) & (y < planes.height - 1)
    panes: Field = upper * column + ((y > 0.5) & (y < 2.6)) * shop
    return panes


def _holes(planes: Planes, y: Field) -> NDArray[np.bool_]:
    """Return the see-through pixels of fences, between posts and rails; they are labelled fence all the same."""
    fence = planes.front == Front.FENCE
    if not fence.any():
        return np.zeros_like(y, bool)
    gap = (planes.along / planes.pitch * 6 % 1 > 0.45) & (planes.step < 0.25)
    between = (y < planes.height - 0.25) & (y > 0.25)
    holes: NDArray[np.bool_] = between & (gap & fence)
    return holes
