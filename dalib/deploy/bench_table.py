"""The table that `dalib bench` prints."""

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from dalib.deploy.bench import Row

HEADINGS = ("M param-\neters", "G mult.-\nadds", "median\nms", "p95\nms", "CPU\nms", "images\n/s", "peak\nMiB")


def bench_table(rows: Sequence[Row]) -> Table:
    """Return rows of one size and one machine, which the title names, as a table 80 characters wide."""
    first = rows[0]
    threads = "1 CPU thread" if first.threads == 1 else f"{first.threads} CPU threads"
    table = Table(
        title=f"{first.size[0]}x{first.size[1]} (HxW), one image, random weights if not said\n"
        f"{first.hardware}, {threads}, torch {first.torch}",
        caption="Parameters: all, and those of inference. CPU ms: processor time of a forward.",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("network", overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for model, group in groupby(rows, key=lambda row: row.model):
        table.add_section()
        table.add_row(f"[bold]{escape(model)}[/]")
        for row in group:
            table.add_row(row.variant.replace("+", " + "), *_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.parameters / 1e6:.1f}, {row.inference_parameters / 1e6:.1f}",
        f"{row.macs / 1e9:.2f}",
        f"{row.median_ms:.1f}",
        f"{row.p95_ms:.1f}",
        f"{row.processor_ms:.1f}",
        f"{row.images_per_second:.1f}",
        "" if row.peak_memory is None else f"{row.peak_memory / 2**20:.0f}",
    )
