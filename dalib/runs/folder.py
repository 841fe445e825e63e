"""A run's folder and its files."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalib.core import checkpoint
from dalib.errors import CheckpointError, DalibError
from dalib.files import append_line, checkpoints_of, remove_temporaries, write_json, write_text

logger = logging.getLogger("dalib")


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's recipe, environment, metrics, results, checkpoints and panels, and work on these files."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def panels(self) -> Path:
        return self.path / "panels"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the last, to resume from if the last is damaged."""
        return self.last.with_name("previous.pt")

    @property
    def best(self) -> Path:
        return self.last.with_name("best.pt")

    def kept(self, step: int) -> Path:
        """Return the path of a step's permanent checkpoint, see ``train.keep_every``."""
        return self.last.with_name(f"step_{step:06d}.pt")

    @property
    def checkpoints(self) -> list[Path]:
        """Those that a run can resume from, newest first; ``best.pt`` is not among them."""
        return checkpoints_of(self.path)

    def start(self, recipe: str, environment: Mapping[str, Any], *, again: bool = False) -> None:
        """Start a run at step 0; DalibError if the folder already holds one, unless it starts ``again``."""
        if self.recipe.exists() and not again:
            raise DalibError(
                f"{self.path} already holds a run. Go on with it by --resume, or choose another folder with --out."
            )
        self.clean()
        self.rewind(0)
        write_json(self.environment, environment)
        write_text(self.recipe, recipe)  # last, since a folder with a recipe is a run

    def newest(self) -> dict[str, Any] | None:
        """Read the newest undamaged checkpoint, None if there is none; damaged ones are renamed with a warning.

        Raises:
            CheckpointError: all are damaged.
        """
        damaged: dict[Path, CheckpointError] = {}
        for path in self.checkpoints:
            try:
                state = checkpoint.read(path)
            except CheckpointError as error:
                damaged[path] = error
                continue
            for bad, reason in damaged.items():
                aside = bad.replace(bad.with_name(f"{bad.name}.damaged"))
                logger.warning("%s Set aside as %s; %s, of step %s, is whole.", reason, aside, path, state["step"])
            return state
        if damaged:
            raise next(iter(damaged.values()))
        return None

    def clean(self) -> None:
        """Remove the temporary files of a killed process."""
        for folder in (self.path, self.last.parent, self.panels):
            remove_temporaries(folder)

    def discard(self) -> None:
        """Delete what ``start`` wrote."""
        self.recipe.unlink(missing_ok=True)
        self.environment.unlink(missing_ok=True)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to the metrics."""
        append_line(self.metrics, json.dumps(metrics))

    def log_score(self, step: int, figures: Mapping[str, float]) -> None:
        """Put the figures of the evaluation after the last step into that step's line, in place of earlier ones."""
        text = self.metrics.read_text() if self.metrics.exists() else ""
        above, _, last = text.rstrip("\n").rpartition("\n")
        if _logged_step(last) != step:
            above, last = text.rstrip("\n"), json.dumps({"step": step})
        lines = [*([above] if above else []), json.dumps(json.loads(last) | figures)]
        write_text(self.metrics, "".join(f"{line}\n" for line in lines))

    def rewind(self, step: int) -> None:
        """Drop the metrics after ``step``, which a resumed run logs again, and an incomplete line."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.metrics.read_text().splitlines() if _logged_step(line) <= step]
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
