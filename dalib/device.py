"""The choice of a device, and the name of its hardware."""

import platform
from pathlib import Path

import torch

from dalib.errors import RecipeError


def choose_device(name: torch.device | str | None) -> torch.device:
    """Return the device of that name; for None the GPU if there is one, else the CPU.

    Raises:
        RecipeError: the name is no device, or a GPU that does not exist.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"there is no device {str(name)!r}; say cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"device {str(device)!r} is not there: torch sees {torch.cuda.device_count()} GPUs. "
            "Leave the device out to take what there is, or say cpu."
        )
    return device


def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())
