"""Small pieces of SVG that the charts share, coloured by the style sheet of the page."""

import math
from collections.abc import Iterable
from html import escape


def svg(width: float, height: float, label: str, shapes: Iterable[str]) -> str:
    """Return an inline picture that scales with the page; ``label`` is what a screen reader says."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg>'


def text(x: float, y: float, content: str, style: str, anchor: str = "start") -> str:
    """Return a line of text, escaped."""
    return f'<text class="{style}" x="{x:.5g}" y="{y:.5g}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a straight line."""
    return f'<line class="{style}" x1="{x1:.5g}" y1="{y1:.5g}" x2="{x2:.5g}" y2="{y2:.5g}"/>'


def rectangle(x: float, y: float, width: float, height: float, fill: str, radius: float = 2) -> str:
    """Return a filled rectangle; ``fill`` is a CSS colour."""
    place = f'x="{x:.5g}" y="{y:.5g}" width="{width:.5g}" height="{height:.5g}" rx="{radius}"'
    return f'<rect {place} style="fill:{escape(fill)}"/>'


def path(points: Iterable[tuple[float, float]], style: str, color: str) -> str:
    """Return a line through the points, interrupted wherever one is not finite."""
    commands, pen = "", "M"
    for x, y in points:
        if math.isfinite(y):
            commands += f"{pen}{x:.5g} {y:.5g}"
        pen = "L" if math.isfinite(y) else "M"
    return f'<path class="{style}" d="{commands}" style="stroke:{escape(color)}"/>'


def hint(shape: str, content: str) -> str:
    """Return the shape with ``content`` as its tooltip."""
    return f"<g><title>{escape(content)}</title>{shape}</g>"
