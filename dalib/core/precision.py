"""Numeric precision of a run: autocast for forwards and one gradient scaler for all optimisers."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

from dalib.errors import RecipeError

PrecisionName = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast in bf16 or fp16, or nothing in fp32; the scaler acts in fp16 alone, whose gradients underflow."""

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        if name not in get_args(PrecisionName):
            raise RecipeError(f"precision: expected fp32, bf16 or fp16, got {name!r}.")
        self.name = name
        self._device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which a module's forward runs."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_DTYPES[self.name])
