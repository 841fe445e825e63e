"""Horizontal bars as inline SVG: pure functions from numbers to text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dalib.runs.report.svg import hint, line, rectangle, svg, text

LABELS, FIGURES, NOTES = 122, 82, 50  # widths, in the chart's own units: left of the bars, right of them, far right
ROW = 26


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row.

    Fields:
        label: left of the bar.
        value: length in [0, 1]; None draws no bar.
        before: length of a thinner bar under it; None draws none.
        figure, note: right of the bars; ``tone`` is the style of the note, "gain", "loss" or "tick".
        color: CSS colour of the bar.
        swatch: CSS colour of a square before the label; empty draws none.
        faint: set the row back.
    """

    label: str
    value: float | None
    before: float | None = None
    figure: str = ""
    note: str = ""
    tone: str = "tick"
    color: str = "var(--accent)"
    swatch: str = ""
    faint: bool = False


def bar_chart(bars: Sequence[Bar], *, label: str, width: int, percent_axis: bool = False) -> str:
    """Return the rows under each other, over grid lines every 25 % if ``percent_axis``.

    Args:
        bars: from top to bottom.
        label: what the chart shows, in words.
        width: in the chart's own units, which are pixels at its natural size.
        percent_axis: whether the full length of a bar means 100 %.
    """
    top, span = 24 if percent_axis else 2, width - LABELS - FIGURES - NOTES
    height = top + ROW * len(bars)
    shapes = list(_grid(top, height, span)) if percent_axis else []
    shapes += (_row(bar, top + i * ROW, span) for i, bar in enumerate(bars))
    return svg(width, height, label, shapes)


def _grid(top: float, height: float, span: float) -> Iterator[str]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = LABELS + share * span
        yield line(x, top - 4, x, height, "grid")
        yield text(x, top - 9, f"{share:.0%}", "tick", "middle")


def _row(bar: Bar, top: float, span: float) -> str:
    base, right = top + 17, LABELS + span + FIGURES
    shapes = [text(20 if bar.swatch else 0, base, bar.label, "label"), text(right, base, bar.figure, "figure", "end")]
    shapes.append(text(right + NOTES, base, bar.note, bar.tone, "end"))
    if bar.swatch:
        shapes.append(rectangle(0, top + 7, 11, 11, bar.swatch))
    if bar.value is not None:
        y, height = (4, 11) if bar.before is not None else (6, 14)
        shapes.append(rectangle(LABELS, top + y, bar.value * span, height, bar.color))
    if bar.before is not None:
        shapes.append(rectangle(LABELS, top + 17, bar.before * span, 4, "var(--before)"))
    row = hint("".join(shapes), " ".join(part for part in (bar.label, bar.figure, bar.note) if part))
    return f'<g class="faint">{row}</g>' if bar.faint else row
