"""Modules that are trained against the model, such as domain discriminators."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dalib.core.precision import Precision

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Critic:
    """A module with its own optimiser; frozen in ``loss`` (gradients pass through it), trainable in ``critic_loss``."""

    def __init__(self, module: nn.Module, make_optimizer: MakeOptimizer, precision: Precision) -> None:
        self.module = module
        self.optimizer = make_optimizer(module.parameters())
        self._precision = precision
        self.freeze()

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the module under the run's precision."""
        with self._precision.autocast():
            output: Tensor = self.module(x)
        return output

    def freeze(self) -> None:
        """Keep gradients out of the critic's own parameters."""
        self.module.requires_grad_(False)

    def unfreeze(self) -> None:
        """Let the critic's parameters receive gradients."""
        self.module.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Return the module's and the optimiser's state."""
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
