"""The files of a run."""

import json
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dalib.errors import CheckpointError, DalibError
from dalib.files import write_text
from dalib.yaml_text import parse_yaml

PACKAGES = ("dalib-seg", "torch", "torchvision", "kornia", "timm", "pluggy", "pydantic")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its recipe, environment, metrics, results, checkpoints, panels and report."""

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
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    def start(self, recipe: str, environment: Mapping[str, Any]) -> None:
        """Begin a new run here; a folder that holds one already is refused."""
        if self.recipe.exists():
            raise DalibError(
                f"{self.path} already holds a run. Go on with it by --resume, or choose another folder with --out."
            )
        try:
            write_json(self.environment, environment)
            write_text(self.recipe, recipe)  # last, for it makes the folder a run's
        except OSError as error:
            reason = error.strerror or error
            raise DalibError(f"{self.path} cannot hold a run: {reason}. Choose another folder with --out.") from error

    def discard(self) -> None:
        """Take back what ``start`` wrote."""
        self.recipe.unlink()
        self.environment.unlink()
        with suppress(OSError):  # what else lies there is not ours
            self.path.rmdir()

    def check_recipe(self, recipe: str) -> None:
        """Refuse to go on with another recipe than the run's: half its steps would be of one, half of the other.

        What decides no step may differ: how long to train, how often to log, save and evaluate, workers, device.
        """
        if not self.recipe.exists():  # a checkpoint alone, brought from elsewhere; it is checked by its own names
            return
        was, now = (_flat(parse_yaml(text), "") for text in (self.recipe.read_text(encoding="utf-8"), recipe))
        different = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in _FREE]
        if different:
            key = different[0]
            raise DalibError(
                f"the run in {self.path} has {key} = {was.get(key)!r}, this recipe has {now.get(key)!r}. Resume with "
                f"the run's own recipe ({self.recipe}), or start a new run with --out."
            )

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which a resumed run will log again, and a line cut short."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.metrics.read_text().splitlines() if _logged_step(line) <= step]
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))


# What a resumed run may change; ``train.steps`` changes the schedule from there on.
_FREE = {
    *("train.steps", "train.log_every", "train.checkpoint_every", "train.eval_every", "train.device"),
    "train.on_non_finite",
    *("data.workers", "data.on_bad_item", "data.max_bad_items", "evaluate.limit", "evaluate.batch_size"),
}


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of a recipe by dotted path."""
    if isinstance(value, dict):
        children = {f"{path}.{key}" if path else str(key): child for key, child in value.items()}
    elif isinstance(value, list):
        children = {f"{path}.{index}": child for index, child in enumerate(value)}
    else:
        return {path: value}
    return {leaf: v for key, child in children.items() for leaf, v in _flat(child, key).items()}


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a run folder or a path to a checkpoint means."""
    if path.is_dir():
        last = RunFolder(path).last
        if not last.exists():
            raise CheckpointError(f"{path} has no checkpoint; expected {last}. Has the run written one yet?")
        return last
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a run folder or a checkpoint.")
    return path


def environment_of(device: torch.device) -> dict[str, Any]:
    """Return what a figure needs beside it: versions and hardware."""
    processor = platform.processor() or platform.machine()
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "command": " ".join(["dalib", *sys.argv[1:]]),
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
