"""The software versions and the hardware of a run, recorded beside its results."""

import platform
import shlex
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dalib import ranks
from dalib.device import hardware_name

PACKAGES = ("dalib-seg", "torch", "torchvision", "kornia", "timm", "pluggy", "pydantic")


def environment_of(device: torch.device) -> dict[str, Any]:
    """Return the versions, the hardware and the command of this process, for ``environment.json``."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "hardware": hardware_name(device),
        "threads": torch.get_num_threads(),
        "ranks": ranks.world(),
        "packages": {name: _version(name) for name in PACKAGES},
        "command": shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]),
        "started": datetime.now().astimezone().isoformat(" ", "seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
