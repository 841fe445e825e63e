"""Sprites of cars, trucks, buses and trams from behind, from the front and from the side (nose to the right)."""

from collections.abc import Sequence

from dalib.data.diorama.labels import Label
from dalib.data.diorama.sprite import Part, Sprite


def car_back() -> Sprite:
    s = Sprite(Label.CAR)
    for x in (0.05, 0.75):
        s.box(x, 0.8, x + 0.2, 1.0, Part.TYRE)
    s.polygon([(0.14, 0.45), (0.23, 0.04), (0.77, 0.04), (0.86, 0.45)], Part.PAINT)
    s.polygon([(0.0, 0.5), (0.1, 0.42), (0.9, 0.42), (1.0, 0.5), (0.98, 0.9), (0.02, 0.9)], Part.PAINT)
    s.polygon([(0.2, 0.42), (0.27, 0.1), (0.73, 0.1), (0.8, 0.42)], Part.GLASS)
    s.box(0.03, 0.5, 0.2, 0.62, Part.TAIL_LAMP)
    s.box(0.8, 0.5, 0.97, 0.62, Part.TAIL_LAMP)
    s.box(0.36, 0.58, 0.64, 0.69, Part.WHITE)
    s.box(0.03, 0.76, 0.97, 0.88, Part.PAINT, 0.7)
    s.light(1.1, 0.8)
    return s


def car_front() -> Sprite:
    s = Sprite(Label.CAR)
    for x in (0.05, 0.75):
        s.box(x, 0.8, x + 0.2, 1.0, Part.TYRE)
    s.polygon([(0.14, 0.48), (0.23, 0.04), (0.77, 0.04), (0.86, 0.48)], Part.PAINT)
    s.polygon([(0.0, 0.56), (0.1, 0.46), (0.9, 0.46), (1.0, 0.56), (0.98, 0.9), (0.02, 0.9)], Part.PAINT)
    s.polygon([(0.18, 0.46), (0.26, 0.1), (0.74, 0.1), (0.82, 0.46)], Part.GLASS)
    s.ellipse(0.14, 0.62, 0.1, 0.06, Part.HEAD_LAMP)
    s.ellipse(0.86, 0.62, 0.1, 0.06, Part.HEAD_LAMP)
    s.box(0.28, 0.6, 0.72, 0.72, Part.BLACK)
    s.box(0.38, 0.76, 0.62, 0.85, Part.WHITE)
    s.light(1.1, 0.8)
    return s


def car_side() -> Sprite:
    s = Sprite(Label.CAR)
    s.polygon([(0.02, 0.5), (0.06, 0.12), (0.14, 0.04), (0.52, 0.04), (0.7, 0.42), (0.2, 0.6)], Part.PAINT)
    s.polygon([(0.0, 0.42), (0.7, 0.4), (0.95, 0.5), (1.0, 0.62), (0.99, 0.86), (0.01, 0.86)], Part.PAINT)
    s.polygon([(0.09, 0.4), (0.11, 0.13), (0.32, 0.11), (0.32, 0.4)], Part.GLASS)
    s.polygon([(0.36, 0.4), (0.36, 0.11), (0.5, 0.11), (0.64, 0.4)], Part.GLASS)
    s.box(0.0, 0.48, 0.04, 0.6, Part.TAIL_LAMP)
    s.box(0.95, 0.52, 0.99, 0.62, Part.HEAD_LAMP)
    s.box(0.02, 0.76, 0.98, 0.86, Part.PAINT, 0.65)
    s.light(1.1, 0.85)
    return _wheels(s, (0.2, 0.8), 0.085, 0.21)


def _wheels(sprite: Sprite, centres: Sequence[float], radius_x: float, radius_y: float) -> Sprite:
    for x in centres:
        sprite.ellipse(x, 1 - radius_y, radius_x, radius_y, Part.TYRE)
        sprite.ellipse(x, 1 - radius_y, radius_x * 0.5, radius_y * 0.5, Part.METAL)
    return sprite


def truck_back() -> Sprite:
    s = Sprite(Label.TRUCK)
    s.box(0.06, 0.82, 0.26, 1.0, Part.TYRE)
    s.box(0.74, 0.82, 0.94, 1.0, Part.TYRE)
    s.box(0.0, 0.0, 1.0, 0.84, Part.PAINT)
    s.box(0.485, 0.03, 0.515, 0.8, Part.PAINT, 0.6)
    for x in (0.38, 0.6):
        s.box(x, 0.06, x + 0.02, 0.78, Part.METAL)
    s.box(0.0, 0.8, 1.0, 0.88, Part.BLACK)
    s.box(0.02, 0.81, 0.16, 0.87, Part.TAIL_LAMP)
    s.box(0.84, 0.81, 0.98, 0.87, Part.TAIL_LAMP)
    return s


def truck_front() -> Sprite:
    s = Sprite(Label.TRUCK)
    s.box(0.04, 0.82, 0.24, 1.0, Part.TYRE)
    s.box(0.76, 0.82, 0.96, 1.0, Part.TYRE)
    s.box(0.0, 0.0, 1.0, 0.8, Part.PAINT, 0.8)
    s.box(0.02, 0.2, 0.98, 0.92, Part.TRIM)
    s.box(0.08, 0.28, 0.92, 0.54, Part.GLASS)
    s.box(0.24, 0.62, 0.76, 0.8, Part.BLACK)
    s.box(0.05, 0.8, 0.22, 0.88, Part.HEAD_LAMP)
    s.box(0.78, 0.8, 0.95, 0.88, Part.HEAD_LAMP)
    return s


def truck_side() -> Sprite:
    s = Sprite(Label.TRUCK)
    s.box(0.0, 0.78, 0.98, 0.86, Part.BLACK)
    s.box(0.0, 0.0, 0.74, 0.8, Part.PAINT)
    for x in (0.24, 0.49):
        s.box(x, 0.0, x + 0.012, 0.8, Part.PAINT, 0.75)
    s.polygon([(0.77, 0.2), (0.93, 0.2), (1.0, 0.55), (1.0, 0.86), (0.77, 0.86)], Part.TRIM)
    s.polygon([(0.84, 0.27), (0.92, 0.27), (0.96, 0.52), (0.84, 0.52)], Part.GLASS)
    return _wheels(s, (0.12, 0.26, 0.86), 0.065, 0.14)


def bus_back() -> Sprite:
    s = Sprite(Label.BUS)
    s.box(0.08, 0.86, 0.26, 1.0, Part.TYRE)
    s.box(0.74, 0.86, 0.92, 1.0, Part.TYRE)
    s.polygon([(0.0, 0.08), (0.08, 0.0), (0.92, 0.0), (1.0, 0.08), (1.0, 0.94), (0.0, 0.94)], Part.PAINT)
    s.box(0.1, 0.14, 0.9, 0.46, Part.GLASS)
    s.box(0.0, 0.56, 1.0, 0.64, Part.TRIM)
    s.box(0.2, 0.7, 0.8, 0.84, Part.PAINT, 0.6)
    for x in (0.03, 0.87):
        s.box(x, 0.66, x + 0.1, 0.84, Part.TAIL_LAMP)
    return s


def bus_front() -> Sprite:
    s = Sprite(Label.BUS)
    s.box(0.08, 0.86, 0.26, 1.0, Part.TYRE)
    s.box(0.74, 0.86, 0.92, 1.0, Part.TYRE)
    s.polygon([(0.0, 0.08), (0.08, 0.0), (0.92, 0.0), (1.0, 0.08), (1.0, 0.94), (0.0, 0.94)], Part.PAINT)
    s.box(0.16, 0.04, 0.84, 0.14, Part.BLACK)
    s.box(0.26, 0.06, 0.66, 0.12, Part.AMBER)
    s.box(0.05, 0.2, 0.95, 0.62, Part.GLASS)
    s.box(0.0, 0.68, 1.0, 0.74, Part.TRIM)
    for x in (0.05, 0.79):
        s.box(x, 0.78, x + 0.16, 0.87, Part.HEAD_LAMP)
    return s


def bus_side() -> Sprite:
    s = Sprite(Label.BUS)
    s.polygon([(0.0, 0.04), (0.02, 0.0), (0.98, 0.0), (1.0, 0.06), (1.0, 0.93), (0.0, 0.93)], Part.PAINT)
    for i in range(6):
        s.box(0.03 + i * 0.135, 0.14, 0.145 + i * 0.135, 0.48, Part.GLASS)
    for x in (0.5, 0.86):
        s.box(x, 0.14, x + 0.1, 0.9, Part.GLASS, 0.8)
    s.box(0.0, 0.58, 1.0, 0.65, Part.TRIM)
    return _wheels(s, (0.2, 0.76), 0.05, 0.16)


def tram_front() -> Sprite:
    s = Sprite(Label.TRAIN)
    s.polygon([(0.0, 0.5), (0.12, 0.06), (0.88, 0.06), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)], Part.PAINT)
    s.box(0.3, 0.0, 0.7, 0.07, Part.METAL)
    s.polygon([(0.08, 0.52), (0.18, 0.18), (0.82, 0.18), (0.92, 0.52)], Part.GLASS)
    s.box(0.3, 0.09, 0.7, 0.16, Part.BLACK)
    s.polygon([(0.02, 0.6), (0.98, 0.6), (0.97, 0.74), (0.03, 0.74)], Part.TRIM)
    for x in (0.2, 0.5, 0.8):
        s.ellipse(x, 0.82, 0.06, 0.035, Part.HEAD_LAMP)
    return s


def tram_side() -> Sprite:
    s = Sprite(Label.TRAIN)
    s.box(0.1, 0.0, 0.3, 0.08, Part.METAL)
    s.box(0.62, 0.0, 0.8, 0.08, Part.METAL)
    s.polygon([(0.0, 0.5), (0.02, 0.08), (0.98, 0.08), (1.0, 0.5), (0.99, 0.98), (0.01, 0.98)], Part.PAINT)
    s.box(0.02, 0.2, 0.98, 0.52, Part.GLASS)
    s.box(0.0, 0.6, 1.0, 0.74, Part.TRIM)
    for x in (0.325, 0.655):
        s.box(x, 0.08, x + 0.02, 0.98, Part.BLACK)
    for x in (0.16, 0.46, 0.78):
        s.box(x, 0.16, x + 0.07, 0.9, Part.TRIM, 0.8)
    return s
