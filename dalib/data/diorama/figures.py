"""Sprites of people, cycles, trees, traffic lights, signs and posts."""

import random

from dalib.data.diorama.labels import Label
from dalib.data.diorama.sprite import Part, Point, Sprite


def person(pose: int) -> Sprite:
    s = Sprite(Label.PERSON)
    stride, swing = ((0.06, 0.06), (0.2, 0.2), (0.3, 0.12))[pose]
    s.line((0.46, 0.52), (0.5 - stride, 0.96), 0.15, Part.TRIM, 0.8)
    s.line((0.54, 0.52), (0.5 + stride, 0.96), 0.15, Part.TRIM)
    s.line((0.32, 0.24), (0.28 - swing / 2, 0.54), 0.1, Part.PAINT, 0.85)
    s.line((0.68, 0.24), (0.72 + swing / 2, 0.54), 0.1, Part.PAINT, 0.85)
    s.polygon([(0.26, 0.2), (0.42, 0.15), (0.58, 0.15), (0.74, 0.2), (0.68, 0.56), (0.32, 0.56)], Part.PAINT)
    s.ellipse(0.5, 0.085, 0.15, 0.08, Part.HAIR)
    s.ellipse(0.5, 0.1, 0.12, 0.065, Part.SKIN)
    return s


def bicycle() -> Sprite:
    s = Sprite(Label.BICYCLE)
    _cycle(s, top=0.0)
    return s


def _cycle(s: Sprite, top: float) -> None:
    def y(value: float) -> float:
        return top + value * (1 - top)

    for x in (0.23, 0.77):
        s.ellipse(x, y(0.65), 0.22, 0.35 * (1 - top), Part.TYRE)
        s.ellipse(x, y(0.65), 0.155, 0.25 * (1 - top), Part.METAL, 0.75)
    for start, end in (
        ((0.23, 0.65), (0.4, 0.25)),
        ((0.4, 0.25), (0.5, 0.68)),
        ((0.4, 0.28), (0.68, 0.25)),
        ((0.5, 0.68), (0.68, 0.25)),
        ((0.77, 0.65), (0.66, 0.1)),
        ((0.23, 0.65), (0.5, 0.68)),
    ):
        s.line((start[0], y(start[1])), (end[0], y(end[1])), 0.06, Part.CYCLE)
    s.line((0.6, y(0.08)), (0.74, y(0.05)), 0.06, Part.BLACK)
    s.line((0.32, y(0.18)), (0.48, y(0.18)), 0.07, Part.BLACK)


def motorcycle() -> Sprite:
    s = Sprite(Label.MOTORCYCLE)
    _motorcycle(s, top=0.0)
    return s


def _motorcycle(s: Sprite, top: float) -> None:
    def y(value: float) -> float:
        return top + value * (1 - top)

    for x in (0.2, 0.8):
        s.ellipse(x, y(0.68), 0.19, 0.32 * (1 - top), Part.TYRE)
        s.ellipse(x, y(0.68), 0.09, 0.15 * (1 - top), Part.METAL)
    s.polygon([(0.02, y(0.3)), (0.5, y(0.38)), (0.78, y(0.2)), (0.74, y(0.66)), (0.3, y(0.72))], Part.CYCLE)
    s.box(0.32, y(0.6), 0.64, y(0.85), Part.METAL, 0.6)
    s.line((0.04, y(0.28)), (0.46, y(0.34)), 0.1, Part.BLACK)
    s.line((0.8, y(0.66)), (0.68, y(0.06)), 0.07, Part.METAL)
    s.line((0.6, y(0.06)), (0.74, y(0.02)), 0.06, Part.BLACK)
    s.ellipse(0.78, y(0.22), 0.07, 0.08, Part.HEAD_LAMP)


_MOUNTED = (Part.TYRE, Part.METAL, Part.CYCLE, Part.BLACK, Part.HEAD_LAMP)


def cyclist() -> Sprite:
    s = Sprite(Label.RIDER, dict.fromkeys(_MOUNTED, Label.BICYCLE))
    _cycle(s, top=0.46)
    _rider(s, seat=0.55, foot=(0.52, 0.86), leg=0.1)
    return s


def motorcyclist() -> Sprite:
    s = Sprite(Label.RIDER, dict.fromkeys(_MOUNTED, Label.MOTORCYCLE))
    _motorcycle(s, top=0.4)
    _rider(s, seat=0.54, foot=(0.5, 0.84), leg=0.14)
    s.ellipse(0.5, 0.09, 0.12, 0.085, Part.PAINT, 1.2)
    return s


def _rider(s: Sprite, seat: float, foot: Point, leg: float) -> None:
    s.line((0.36, seat), (0.58, seat + 0.08), leg, Part.TRIM)
    s.line((0.58, seat + 0.08), foot, leg, Part.TRIM)
    s.polygon([(0.28, seat), (0.38, 0.17), (0.56, 0.17), (0.5, seat + 0.02)], Part.PAINT)
    s.line((0.48, 0.22), (0.66, 0.5), 0.08, Part.PAINT, 0.85)
    s.ellipse(0.5, 0.085, 0.1, 0.08, Part.HAIR)
    s.ellipse(0.53, 0.1, 0.075, 0.06, Part.SKIN)


def tree(crown: int) -> Sprite:
    """A tree whose ``crown`` of many ellipses is round (0), tall (1), a fir (2) or a bush (3)."""
    s = Sprite(Label.VEGETATION)
    width, top, bottom = ((0.5, 0.0, 0.66), (0.3, 0.0, 0.8), (0.42, 0.0, 0.85), (0.5, 0.05, 1.0))[crown]
    s.polygon([(0.47, 0.4), (0.53, 0.4), (0.55, 1.0), (0.45, 1.0)], Part.BARK)
    draw = random.Random(crown)
    for _ in range(140):
        height = draw.random()
        reach = (1 - height) if crown == 2 else 2 * (max(height - height**2, 0.0)) ** 0.5
        x = 0.5 + draw.uniform(-1, 1) * max(reach * width - 0.08, 0.0)
        y = bottom - 0.07 - height * (bottom - top - 0.14)
        s.ellipse(x, y, 0.09, 0.075, Part.PAINT, 0.55 + 0.5 * height + draw.uniform(-0.12, 0.16))
    return s


def traffic_light(lit: int) -> Sprite:
    s = Sprite(Label.TRAFFIC_LIGHT)
    s.box(0.08, 0.0, 0.92, 1.0, Part.BLACK)
    for i, (part, y) in enumerate(((Part.RED, 0.19), (Part.AMBER, 0.5), (Part.GREEN, 0.81))):
        s.ellipse(0.5, y, 0.3, 0.12, part, 1.2 if i == lit else 0.35)
    return s


def traffic_sign(kind: int) -> Sprite:
    s = Sprite(Label.TRAFFIC_SIGN)
    if kind == 0:
        s.ellipse(0.5, 0.5, 0.5, 0.5, Part.RED)
        s.ellipse(0.5, 0.5, 0.34, 0.34, Part.WHITE)
        s.box(0.36, 0.36, 0.64, 0.64, Part.BLACK)
    elif kind == 1:
        s.polygon([(0.5, 0.0), (1.0, 0.95), (0.0, 0.95)], Part.RED)
        s.polygon([(0.5, 0.28), (0.8, 0.83), (0.2, 0.83)], Part.WHITE)
    elif kind == 2:
        s.box(0.0, 0.05, 1.0, 0.95, Part.BLUE)
        s.polygon([(0.5, 0.2), (0.8, 0.6), (0.2, 0.6)], Part.WHITE)
        s.box(0.42, 0.55, 0.58, 0.82, Part.WHITE)
    else:
        s.polygon([(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)], Part.WHITE)
        s.polygon([(0.5, 0.14), (0.86, 0.5), (0.5, 0.86), (0.14, 0.5)], Part.YELLOW)
    return s


def post() -> Sprite:
    s = Sprite(Label.POLE)
    s.box(0.0, 0.0, 1.0, 1.0, Part.METAL)
    s.box(0.6, 0.0, 1.0, 1.0, Part.METAL, 0.75)
    return s
