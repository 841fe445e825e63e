"""Numeric precision of a run: autocast for forwards and one gradient scaler for all optimisers."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from dalib.errors import RecipeError

PrecisionName = Literal["fp32", "bf16", "fp16"]
SMALLEST_SCALE = 2.0**-14  # of fp16's scaler, which starts at 2**16 and halves whenever a gradient overflows
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast in bf16 and fp16, none in fp32; the gradient scaler is for fp16 only, whose gradients underflow."""

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

    def scale(self) -> Tensor | None:
        """Return the loss scale, a 0-d tensor on the device; None unless the precision is fp16."""
        one = torch.ones((), device=self._device)
        return self.scaler.scale(one) if self.scaler.is_enabled() else None

    def overflow(self, optimizers: Iterable[torch.optim.Optimizer]) -> Tensor:
        """Return a 0-d float32 tensor, 1 if unscaling found non-finite gradients in any of the optimisers, else 0."""
        unscaled = optimizers if self.scaler.is_enabled() else ()
        found = [flag for each in unscaled for flag in self.scaler._found_inf_per_device(each).values()]
        return torch.stack(found).amax() if found else torch.zeros((), device=self._device)

    def update(self, fault: Tensor) -> None:
        """Update the loss scale once per step; not where ``fault`` is 1: a bad loss says nothing about the scale."""
        if self.scaler.is_enabled():
            state = [each for each in (self.scaler._scale, self.scaler._growth_tracker) if each is not None]
            before = [each.clone() for each in state]
            self.scaler.update()
            for now, kept in zip(state, before, strict=True):
                now.copy_(torch.where(fault.bool(), kept, now))
