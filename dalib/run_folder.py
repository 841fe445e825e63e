"""The files of a run."""

import json
import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from dalib import checkpoint
from dalib.errors import CheckpointError, DalibError
from dalib.files import append_line, remove_temporaries, write_text
from dalib.yaml_text import parse_yaml, read_yaml

logger = logging.getLogger("dalib")

LOCK_PATIENCE = 10.0  # seconds; workers of a process that was killed hold its lock until they notice, after some five

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
    def previous(self) -> Path:
        """The last but one, to go on from where the last is damaged."""
        return self.last.with_name("previous.pt")

    @property
    def best(self) -> Path:
        return self.last.with_name("best.pt")

    def kept(self, step: int) -> Path:
        """Return where the checkpoint of a step goes that is kept for good."""
        return self.last.with_name(f"step_{step:06d}.pt")

    @property
    def checkpoints(self) -> list[Path]:
        """Those that a run can go on from, the newest first; ``best.pt`` is not among them."""
        kept = sorted(self.last.parent.glob("step_*.pt"), key=lambda path: (len(path.name), path.name), reverse=True)
        return [path for path in (self.last, self.previous, *kept) if path.exists()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes from training in it; the lock ends with the process.

        Raises:
            DalibError: another process trains there, or the folder cannot be made or written to.
        """
        lock = FileLock(self.path / ".lock", timeout=LOCK_PATIENCE)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise DalibError(
                f"{self.path} is in use: another process trains there. Wait for it or end it, or choose another folder "
                "with --out."
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise DalibError(f"{self.path} cannot hold a run: {reason}. Choose another folder with --out.") from error
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):  # it goes where nothing has been written to it
                self.path.rmdir()

    def start(self, recipe: str, environment: Mapping[str, Any], *, again: bool = False) -> None:
        """Begin a run here at step 0; a folder that holds one already is refused unless it is begun ``again``."""
        if self.recipe.exists() and not again:
            raise DalibError(
                f"{self.path} already holds a run. Go on with it by --resume, or choose another folder with --out."
            )
        self.clean()
        self.rewind(0)
        write_json(self.environment, environment)
        write_text(self.recipe, recipe)  # last, for it makes the folder a run's

    def newest(self) -> dict[str, Any] | None:
        """Read the newest whole checkpoint; a damaged one is named and set aside, and the one before it taken.

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
        """Remove what a process that was killed has left half-written."""
        for folder in (self.path, self.last.parent, self.panels):
            remove_temporaries(folder)

    def discard(self) -> None:
        """Take back what ``start`` wrote."""
        self.recipe.unlink()
        self.environment.unlink()

    def check_recipe(self, recipe: str) -> None:
        """Refuse to go on with another recipe than the run's: half its steps would be of one, half of the other.

        What decides no step may differ: how long to train, how often to log, save and evaluate, workers, device.
        """
        if not self.recipe.exists():  # a checkpoint alone, brought from elsewhere; it is checked by its own names
            return
        was, now = (_flat(value, "") for value in (read_yaml(self.recipe), parse_yaml(recipe)))
        different = [key for key in {**was, **now} if was.get(key) != now.get(key) and key not in _FREE]
        if different:
            key = different[0]
            raise DalibError(
                f"the run in {self.path} has {key} = {was.get(key)!r}, this recipe has {now.get(key)!r}. Resume with "
                f"the run's own recipe ({self.recipe}), or start a new run with --out."
            )

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to the metrics."""
        append_line(self.metrics, json.dumps(metrics))

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after ``step``, which a resumed run will log again, and a line cut short."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.metrics.read_text().splitlines() if _logged_step(line) <= step]
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))


# What a resumed run may change; ``train.steps`` changes the schedule from there on.
_FREE = {
    *("train.steps", "train.log_every", "train.checkpoint_every", "train.keep_every", "train.eval_every"),
    *("train.device", "train.on_non_finite", "data.workers", "data.on_bad_item", "data.max_bad_items"),
    *("evaluate.limit", "evaluate.batch_size"),
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
    """Return the checkpoint that a run folder (its newest) or a path to a checkpoint means."""
    if path.is_dir():
        folder = RunFolder(path)
        if not folder.checkpoints:
            raise CheckpointError(f"{path} has no checkpoint; expected {folder.last}. Has the run written one yet?")
        return folder.checkpoints[0]
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
