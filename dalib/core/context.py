"""The context of the ``setup`` hook: facts about the run, critics and the teacher."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dalib.core.critic import Critic, MakeOptimizer
from dalib.core.precision import Precision
from dalib.core.teacher import BatchNormMode
from dalib.errors import StackError
from dalib.losses import SegmentationLossFunction


@dataclass
class TeacherSettings:
    """Settings that strategies asked of the shared teacher; ``wanted_by`` says who asked for each first."""

    asked: bool = False
    decay: float | None = None
    batch_norm: BatchNormMode | None = None
    wanted_by: dict[str, str] = field(default_factory=dict)

    def ask(self, strategy: str, setting: str, value: Any) -> None:
        """Set one setting; StackError if another strategy has set a different value."""
        if value is None:
            return
        current = getattr(self, setting)
        if current is not None and current != value:
            raise StackError(
                f"strategies {self.wanted_by[setting]!r} and {strategy!r} want different teachers: {setting} "
                f"{current!r} and {value!r}. An engine has one teacher; give both one value, or leave one unset."
            )
        setattr(self, setting, value)
        self.wanted_by.setdefault(setting, strategy)


@dataclass
class SetupContext:
    """One strategy's view of the engine during ``setup``; keep what its methods return, not the context.

    Fields:
        model: the student, (B, 3, H, W) in [0, 1] -> logits (B, K, H, W).
        num_classes: K. classes: their names. device: where tensors live.
        loss: the run's segmentation loss, for strategies that override some of its options.
    """

    strategy: str
    model: nn.Module
    num_classes: int
    classes: tuple[str, ...]
    device: torch.device
    loss: SegmentationLossFunction
    _precision: Precision
    _critics: dict[str, Critic]
    _teacher: TeacherSettings

    def critic(self, name: str, module: nn.Module, make_optimizer: MakeOptimizer) -> Critic:
        """Add a critic; the engine moves, trains and checkpoints it, with the run's learning-rate schedule."""
        key = f"{self.strategy}/{name}"
        if key in self._critics:
            raise StackError(f"strategy {self.strategy!r} makes two critics named {name!r}; give each its own name.")
        module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._critics[key] = Critic(module, make_optimizer, self._precision)
        return self._critics[key]

    def teacher(self, decay: float | None = None, batch_norm: BatchNormMode | None = None) -> None:
        """Ask for the EMA teacher; None takes what another strategy set, else the default (0.99, "train")."""
        self._teacher.asked = True
        self._teacher.ask(self.strategy, "decay", decay)
        self._teacher.ask(self.strategy, "batch_norm", batch_norm)
