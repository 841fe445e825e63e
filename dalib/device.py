"""Which device a run uses."""

import torch

from dalib.errors import RecipeError


def choose_device(name: torch.device | str | None) -> torch.device:
    """Return the device of that name; without one, the GPU where there is one.

    Raises:
        RecipeError: a GPU is asked for that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"device {str(device)!r} is not there: torch sees {torch.cuda.device_count()} GPUs. "
            "Leave train.device out to take what there is, or say cpu."
        )
    return device
