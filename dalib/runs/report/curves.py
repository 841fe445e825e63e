"""Learning curves as inline SVG: pure functions from numbers to text."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dalib.runs.report.run_files import Series
from dalib.runs.report.svg import hint, line, path, svg, text

WIDTH, HEIGHT = 340, 170  # in the chart's own units, which are pixels at its natural size
LEFT, RIGHT, TOP, BOTTOM = 42, 8, 8, 24  # margins; the left one is wider where its figures are
CHARACTER, SPACE = 6.5, 10  # width of a figure's digit, and of what is beside it
POINTS = 240  # drawn per curve: more than the pixels of a card can show
DOTS = 40  # most points that are marked with dots
HINTS = 60  # columns of a chart that have a tooltip


@dataclass(frozen=True)
class Frame:
    """Maps steps and values to the coordinates of a chart."""

    steps: tuple[int, int]
    ticks: list[float]

    @property
    def left(self) -> float:
        return max(LEFT, SPACE + CHARACTER * max(map(len, tick_labels(self.ticks))))

    @property
    def width(self) -> float:
        return WIDTH - self.left - RIGHT

    def x(self, step: float) -> float:
        first, last = self.steps
        return self.left + (step - first) / max(last - first, 1) * self.width

    def y(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def points(self, series: Series) -> list[tuple[float, float]]:
        return [(self.x(step), self.y(value)) for step, value in series]


def line_chart(series: Series, *, color: str, label: str, smooth: bool) -> str:
    """Return a curve over steps.

    Args:
        series: (step, value), at least one; a value that is not finite interrupts the line.
        color: CSS colour.
        label: what the chart shows, in words.
        smooth: draw the running mean over faint raw values; else the values alone, the few of a short curve as dots.
    """
    finite = [value for _, value in series if math.isfinite(value)]
    ticks = nice_ticks(min(finite, default=0.0), max(finite, default=1.0))
    frame = Frame((series[0][0], series[-1][0]), ticks)
    shapes = list(_axes(frame))
    if smooth and len(finite) > 2:
        shapes.append(path(frame.points(thin(series)), "raw", color))
        shapes.append(path(frame.points(thin(running_mean(series))), "curve", color))
    else:
        shapes.append(path(frame.points(thin(series)), "curve", color))
        dots = frame.points(series) if len(series) <= DOTS else []
        shapes += (_dot(x, y, color) for x, y in dots if math.isfinite(y))
    shapes += _hints(frame, series)
    return svg(WIDTH, HEIGHT, label, shapes)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers, 1, 2, 2.5 or 5 times a power of ten apart, at most ``count`` or so that enclose both."""
    if low == high == 0:
        high = 1.0
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    spacing = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power * count >= (high - low) * (1 - 1e-9))
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [i * spacing for i in range(first, last + 1)]


def running_mean(series: Series) -> Series:
    """Return the exponential mean with a half-life of a fortieth of the curve, unbiased at its start; nan stays nan."""
    keep = 0.5 ** (40 / max(len(series), 40))
    total = weight = 0.0
    smoothed: Series = []
    for step, value in series:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        smoothed.append((step, total / weight if math.isfinite(value) else math.nan))
    return smoothed


def thin(series: Series, points: int = POINTS) -> Series:
    """Return at most ``points`` evenly chosen points, the first and the last among them."""
    if len(series) <= points:
        return series
    return [series[round(i * (len(series) - 1) / (points - 1))] for i in range(points)]


def short(value: float, digits: int = 3) -> str:
    """Return a number in a few digits: thousands as k, millions as M, small ones as 2.5e-4."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{unit}"
    if 1e-12 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"


def tick_labels(ticks: list[float]) -> list[str]:
    """Return the ticks in as many digits as tell them apart."""
    labels = [[short(tick, digits) for tick in ticks] for digits in range(3, 8)]
    return next((each for each in labels if len({*each}) == len(ticks)), labels[-1])


def _axes(frame: Frame) -> Iterator[str]:
    for tick, label in zip(frame.ticks, tick_labels(frame.ticks), strict=True):
        y = frame.y(tick)
        yield line(frame.left, y, WIDTH - RIGHT, y, "grid")
        yield text(frame.left - 7, y + 3.5, label, "tick", "end")
    first, last = frame.steps
    for step in {first, (first + last) // 2, last}:
        anchor = "end" if step == last > first else "start" if step == first else "middle"
        yield text(frame.x(step), HEIGHT - 6, short(step), "tick", anchor)


def _dot(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x:.5g}" cy="{y:.5g}" r="3" style="fill:{color}"/>'


def _hints(frame: Frame, series: Series) -> Iterator[str]:
    chosen = thin(series, HINTS)
    width = frame.width / len(chosen)
    for step, value in chosen:
        place = f'x="{frame.x(step) - width / 2:.5g}" width="{width:.5g}" y="{TOP}" height="{HEIGHT - TOP - BOTTOM}"'
        yield hint(f'<rect class="hover" {place}/>', f"step {step}: {value:.4g}")
