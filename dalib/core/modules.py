"""Modules that strategies bring: trained with the model, trained against it, or frozen."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dalib.core.precision import Precision
from dalib.errors import StackError

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Trains = Literal["loss", "critic_loss"] | None


class OwnedModule:
    """A strategy's module, which the engine moves, trains and saves; it is called like the module.

    Its parameters receive gradients in the hook that trains it; elsewhere gradients pass through it to its inputs.

    Attributes:
        owner: the strategy's name. name: with the strategy's, such as ``"adversarial/logits"``.
        trains: the hook whose terms train it; None: none, it is a frozen reference in eval mode.
        optimizer: its own; None: it is frozen, or the model's optimiser trains it.
        parameters: those that are trained.
        averaged: its teacher's copy, an EMA like the teacher; None without one.
    """

    def __init__(
        self,
        owner: str,
        name: str,
        module: nn.Module | None,
        precision: Precision,
        trains: Trains,
        make_optimizer: MakeOptimizer | None,
        averaged: bool,
    ) -> None:
        self.owner = owner
        self.name = name
        self.trains = trains
        self._module, self._precision = module, precision
        if trains is None and module is not None:
            module.requires_grad_(False).eval()
        self.parameters = [p for p in module.parameters() if p.requires_grad] if module is not None else []
        self.averaged = copy.deepcopy(module).requires_grad_(False) if averaged and module is not None else None
        self.optimizer = made_by(make_optimizer, self.parameters, f"module {name!r}") if make_optimizer else None
        self._print = None if trains or module is None else _fingerprint(module)
        if trains == "critic_loss":
            self.learn(False)

    @property
    def module(self) -> nn.Module:
        """The module; StackError for a frozen reference outside training, which is not made there."""
        if self._module is None:
            raise StackError(f"the frozen module {self.name!r} exists in training alone (ctx.purpose == 'train').")
        return self._module

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Apply the module under the run's precision."""
        with self._precision.autocast():
            return self.module(*inputs, **options)

    def teacher(self, *inputs: Any, **options: Any) -> Any:
        """Apply the teacher's copy under the run's precision, without gradients."""
        if self.averaged is None:
            raise StackError(f"module {self.name!r} has no teacher's copy; make it with ctx.module(averaged=True).")
        with torch.no_grad(), self._precision.autocast():
            return self.averaged(*inputs, **options)

    def module_parameters(self) -> Iterable[nn.Parameter]:
        """Return all its parameters; none where it was not made."""
        return () if self._module is None else self._module.parameters()

    def learn(self, learns: bool) -> None:
        """Let gradients into a critic's parameters, or keep them out."""
        for parameter in self.parameters:
            parameter.requires_grad_(learns)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of module, optimiser and teacher's copy; a fingerprint alone for a frozen reference.

        Raises:
            StackError: the frozen reference has changed since it was made.
        """
        if self.trains is None:
            if self._module is not None and _fingerprint(self._module) != self._print:
                raise StackError(f"the frozen module {self.name!r} has changed since it was made; leave it as it is.")
            return {"fingerprint": self._print}
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "teacher": self.averaged.state_dict() if self.averaged is not None else None,
        }

    def load_weights(self, state: Mapping[str, Any]) -> None:
        """Restore module and teacher's copy, not the optimiser."""
        if self.trains is not None:
            self.module.load_state_dict(state["module"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["teacher"])


def _fingerprint(module: nn.Module) -> str:
    """Return a hash of the weights."""
    digest = hashlib.blake2b(digest_size=16)
    for key, tensor in module.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def made_by(make: MakeOptimizer, parameters: Any, whose: str) -> torch.optim.Optimizer:
    """Return the optimiser that ``make`` makes; StackError, which names ``whose``, unless it makes one."""
    ready = isinstance(make, torch.optim.Optimizer)
    optimizer = None if ready else make(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        found = f"an {type(make).__name__} that is made" if ready else f"one that makes {optimizer!r:.60}"
        raise StackError(
            f"{whose}: expected optimizer= as a function that makes an optimiser from parameters, such as "
            f"functools.partial(torch.optim.SGD, lr=0.01), got {found}."
        )
    return optimizer


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


Critic = OwnedModule
"""A module that is trained against the model, in ``critic_loss``."""
