"""The progress display of a run: a progress bar on a terminal, plain lines elsewhere."""

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET = ("seconds", "lr")  # in the metrics, but not shown


class Display:
    """The progress of one run, in steps."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        self.console = console
        self._steps = steps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=steps, completed=done, terms="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a logged step."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name not in QUIET)
        if self.console.is_terminal:
            self._progress.update(self._task, terms=text)
        else:
            self.console.print(f"step {step}/{self._steps}  {text}", soft_wrap=True, highlight=False)
