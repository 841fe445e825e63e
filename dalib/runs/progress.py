"""What a run shows of its progress: a bar and the terms on a terminal, plain lines elsewhere."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from dalib.prose import wrapped

QUIET = ("seconds", "lr")  # in the metrics, but not shown
STOPPING = "stopping after this step"
STDERR = 2  # its file descriptor
FIGURE = len("1.234e-05")  # the longest of four digits

Best = tuple[float, int]


def tell(console: Console, text: str, style: str | None = None, indent: str = "") -> None:
    """Print sentences: broken between words on a terminal, as they are elsewhere; a path is never cut."""
    text = wrapped(text, console.width, indent) if console.is_terminal else text
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


class Display:
    """The progress of one run in steps: a line for the bar, and below it the terms and scores.

    Args:
        batch_size: images per step, for the rate.
        best: the highest mIoU before a resume, and its step.
    """

    def __init__(self, console: Console, steps: int, done: int, batch_size: int, best: Best = (-1.0, 0)) -> None:
        self.console = console
        self._steps = steps
        self._doing, self._stopping = "training", False
        self._terms: list[str] = []
        self._scores: dict[str, str] = {}
        self._best = best
        self._progress = _bar(console)
        self._task = self._progress.add_task(self._doing, total=steps, completed=done, images=batch_size)
        self._live = Live(console=console, get_renderable=self._render) if console.is_terminal else None

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def step(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a logged step; those of ``eval/`` stay until the next evaluation."""
        shown = {name: self._shown(name, value, step) for name, value in metrics.items() if name not in QUIET}
        self._scores |= {name: text for name, text in shown.items() if name.startswith("eval/")}
        if self._live is None:
            self.console.print(
                f"step {step}/{self._steps}  {'  '.join(shown.values())}", soft_wrap=True, highlight=False
            )
        elif terms := [text for name, text in shown.items() if name not in (*self._scores, "images_per_second")]:
            self._terms = terms

    def evaluating(self, done: int, total: int) -> None:
        """Say how far an evaluation between two steps is, in images."""
        self._doing = "training" if done == total else f"evaluating {done}/{total}"

    def stopping(self) -> None:
        """Say that the run stops; from any thread."""
        self._stopping = True
        if self._live is None:
            os.write(STDERR, f"{STOPPING}\n".encode())
        else:
            self._live.refresh()

    def _shown(self, name: str, value: float, step: int) -> str:
        if name != "eval/miou":
            return f"{name} {value:.4g}"
        best, since = self._best
        if value > best:
            self._best = (value, step)
            return f"{name} {100 * value:.1f} % (best so far)"
        return f"{name} {100 * value:.1f} % (best {100 * best:.1f} % at step {since})"

    def _render(self) -> Group:
        self._progress.update(self._task, description=STOPPING if self._stopping else self._doing)
        texts = [text.ljust(len(text.split()[0]) + 1 + FIGURE) for text in (*self._terms, *self._scores.values())]
        return Group(self._progress, Columns([Text(text) for text in texts], (0, 2)))  # columns that do not jump


class ImagesPerSecond(ProgressColumn):
    """The speed of a task times its field ``images``, those per step."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing where it is not known yet."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * task.fields['images']:.1f} images/s")


@contextmanager
def image_bar(console: Console, doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of images on a terminal while the body calls what is yielded with (images done, images in all)."""
    progress = _bar(console)
    with progress:
        task = progress.add_task(doing, total=None, images=1)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        ImagesPerSecond(),
        console=console,
        expand=True,
        transient=True,
        disable=not console.is_terminal,
    )
