"""Horizontal bars as HTML, whose text keeps its size on a narrow screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


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


def bar_chart(bars: Sequence[Bar], *, label: str) -> str:
    """Return the rows under each other as a list; ``label`` is what a screen reader says of it."""
    return f'<ul class="bars" aria-label="{escape(label)}">{"".join(map(_row, bars))}</ul>'


def _row(bar: Bar) -> str:
    swatch = f'<i style="background:{escape(bar.swatch)}"></i>' if bar.swatch else ""
    lengths = ((bar.value, escape(bar.color)), (bar.before, "var(--before)"))
    track = "".join(f'<b style="width:{length:.2%};background:{c}"></b>' for length, c in lengths if length is not None)
    faint = ' class="faint"' if bar.faint else ""
    return (
        f"<li{faint}><span>{swatch}{escape(bar.label)}</span><div>{track}</div>"
        f'<strong>{escape(bar.figure)}</strong><small class="{bar.tone}">{escape(bar.note)}</small></li>'
    )
