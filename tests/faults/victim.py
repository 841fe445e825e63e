"""A run that is killed: what it trains, and the places where it strikes itself down."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import kornia.augmentation  # noqa: F401  (all that a run imports, so that a fork of this process imports nothing)
import torch

import dalib.runs.run
from dalib import Engine, make_recipe, run
from dalib.discovery import default_registry
from dalib_plugins.adversarial import DISCRIMINATORS, OutputDiscriminator

RECIPE: dict[str, Any] = {
    "model": {"use": "tiny", "dropout": 0.2},
    "data": {
        "source": {"use": "diorama", "domain": "source", "size": [32, 64], "length": 5},
        "target": {"use": "diorama", "domain": "target", "size": [32, 64], "length": 3},
        "eval": {"use": "diorama", "domain": "target", "split": "val", "size": [32, 64], "length": 2},
        "batch_size": 2,
    },
    "strategies": [
        {"use": "augment", "streams": ["source", "target"], "flip": 0.5, "color_jitter": [0.5, 0.5, 0.5, 0.05]},
        {"use": "fda", "beta": [0.05, 0.1]},
        {"use": "supervised"},
        {"use": "adversarial", "weight": 0.001},
        {"use": "dacs", "threshold": 0.3},
    ],
    "train": {"steps": 8, "log_every": 1, "checkpoint_every": 2, "eval_every": 3, "keep_every": 4},
    "evaluate": {"model": "teacher"},
    "plugins": ["tests.tiny_plugin"],
}


@dataclass(frozen=True)
class Strike:
    """SIGKILL at the n-th ``operation`` on a file of this name: before it, or after; a ``write`` ends half-way."""

    operation: str
    file: str = ""
    nth: int = 1
    after: bool = False

    def __str__(self) -> str:
        where = f"{self.operation} {self.nth} {self.file}".rstrip()
        return where if self.operation == "write" else f"{'after' if self.after else 'before'} {where}"


def train(folder: Path, resume: bool, workers: int, strike: Strike | None) -> None:
    """Run the recipe to its end, or to where it is struck."""
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers; a server's child inherits its own
    torch.set_num_threads(1)
    DISCRIMINATORS["adaptsegnet"] = partial(OutputDiscriminator, channels=4)
    if strike is not None:
        arm(strike)
    run(make_recipe({**RECIPE, "data": {**RECIPE["data"], "workers": workers}}), folder, resume=resume)


def arm(strike: Strike) -> None:
    """Wrap the operation of a strike."""
    if strike.operation == "write":
        opened = Path.open
        Path.open = lambda path, *mode, **options: _Struck(opened(path, *mode, **options), path, strike)  # type: ignore
        _Struck.count = 0
        return
    owner, name, file_of = _OPERATIONS[strike.operation]
    setattr(owner, name, _struck(getattr(owner, name), strike, file_of))


def _struck(function: Callable[..., Any], strike: Strike, file_of: Callable[..., str]) -> Callable[..., Any]:
    count = 0

    def wrapper(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        concerned = _destination(file_of(*arguments)) == strike.file
        count += concerned
        if concerned and count == strike.nth and not strike.after:
            _die()
        result = function(*arguments, **options)
        if concerned and count == strike.nth:
            _die()
        return result

    return wrapper


class _Struck:
    """A file whose n-th write, over all files of the strike's name, ends half-way."""

    count = 0

    def __init__(self, file: Any, path: Path, strike: Strike) -> None:
        self._file = file
        self._concerned = _destination(path.name) == strike.file
        self._strike = strike

    def write(self, data: bytes) -> int:
        _Struck.count += self._concerned
        if self._concerned and _Struck.count == self._strike.nth:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            _die()
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Struck":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _destination(name: str) -> str:
    """Return the name of the file that a temporary one will replace."""
    return name[1:].rsplit(".", 2)[0] if name.endswith(".tmp") else name


def _open_name(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


_OPERATIONS: dict[str, tuple[Any, str, Callable[..., str]]] = {
    "fsync": (os, "fsync", _open_name),
    "rename": (Path, "replace", lambda path, target: Path(target).name),
    "build": (dalib.runs.run, "build_engine", lambda *_: ""),
    "predict": (Engine, "predict", lambda *_: ""),
    "evaluate": (Engine, "evaluate", lambda *_: ""),
}

default_registry().names("strategy")  # imports the plugins
