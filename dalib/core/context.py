"""The context of the ``setup`` hook: facts about the run; modules, the teacher and taps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from dalib.core.modules import MakeOptimizer, OwnedModule, Trains
from dalib.core.precision import Precision
from dalib.core.ramp import END, Ramp, value_at
from dalib.core.teacher import BatchNormMode
from dalib.errors import StackError
from dalib.losses import SegmentationLossFunction
from dalib.models.batchnorm import synchronised
from dalib.models.outputs import tap

Purpose = Literal["train", "plan", "evaluate"]


@dataclass
class TeacherSettings:
    """Settings that strategies asked of the shared teacher; ``wanted_by`` says who asked for each first."""

    asked: bool = False
    decay: float | Ramp | None = None
    batch_norm: BatchNormMode | None = None
    start: int | None = None
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
        num_classes: K. classes: their names. device: where tensors live; the meta device in a plan.
        loss: the run's segmentation loss, for strategies that override some of its options.
        purpose: what the engine is built for; ``"evaluate"`` includes prediction and export.
        steps: optimiser steps of the whole run; None where they are not known yet. seed: the run's.
    """

    strategy: str
    model: nn.Module
    num_classes: int
    classes: tuple[str, ...]
    device: torch.device
    loss: SegmentationLossFunction
    purpose: Purpose
    steps: int | None
    seed: int
    _sync_batch_norm: bool
    _precision: Precision
    _modules: dict[str, OwnedModule]
    _teacher: TeacherSettings
    _taps: dict[str, int]

    def module(
        self,
        name: str,
        make: Callable[[], nn.Module],
        *,
        optimizer: MakeOptimizer | None = None,
        trains: Trains = "loss",
        averaged: bool = False,
    ) -> OwnedModule:
        """Add a module; the engine moves, trains and checkpoints it, with the run's learning-rate schedule.

        Args:
            name: unique in this strategy. make: makes the module.
            optimizer: makes its optimiser from its parameters; default: the model's optimiser trains it.
            trains: ``"loss"``: with the model, such as a projection head; ``"critic_loss"``: against it; None: never, a
                frozen reference, which is made for training alone and of which a checkpoint holds a fingerprint.
            averaged: keep a teacher's copy, ``handle.teacher(x)``.

        Raises:
            StackError: the name is taken, or the arguments exclude one another.
        """
        key = f"{self.strategy}/{name}"
        if key in self._modules:
            raise StackError(f"strategy {self.strategy!r} makes two modules named {name!r}; give each its own name.")
        if trains not in ("loss", "critic_loss", None):
            raise StackError(f"module {key!r}: expected trains to be 'loss', 'critic_loss' or None, got {trains!r}.")
        if trains == "critic_loss" and optimizer is None:
            raise StackError(f"module {key!r} trains in critic_loss, so it needs an optimiser: give optimizer=.")
        if trains is None and (optimizer or averaged):
            raise StackError(f"module {key!r} is frozen (trains=None): give neither optimizer= nor averaged=True.")
        if isinstance(make, nn.Module):
            raise StackError(
                f"module {key!r}: ctx.module takes a function that makes the module, such as "
                f"`lambda: {type(make).__name__}(...)`, so that it is made only where it is needed; it got the module."
            )
        module = make() if trains is not None or self.purpose == "train" else None
        if module is not None:
            if not isinstance(module, nn.Module):
                raise StackError(f"module {key!r}: make() must return an nn.Module; it returned {module!r:.80}.")
            self._check_parameters(key, module)
            module = synchronised(module, self.device) if self._sync_batch_norm and trains else module
            flat = all(parameter.dim() <= 4 for parameter in module.parameters())
            module.to(self.device, **({"memory_format": torch.channels_last} if flat else {}))  # type: ignore[call-overload]
        self._teacher.asked |= averaged
        self._modules[key] = OwnedModule(
            self.strategy, key, module, self._precision, trains=trains, make_optimizer=optimizer, averaged=averaged
        )
        return self._modules[key]

    def _check_parameters(self, key: str, module: nn.Module) -> None:
        """Refuse parameters that the model or another module has: they would be frozen or updated twice."""
        owners = {"the model": self.model} | {f"module {name!r}": other for name, other in self._modules.items()}
        mine = {id(parameter) for parameter in module.parameters()}
        for owner, other in owners.items():
            theirs = other.module_parameters() if isinstance(other, OwnedModule) else other.parameters()
            if not mine.isdisjoint(map(id, theirs)):
                raise StackError(
                    f"module {key!r} shares parameters with {owner}; make a copy of it, copy.deepcopy(...)."
                )

    def critic(self, name: str, module: nn.Module, make_optimizer: MakeOptimizer) -> OwnedModule:
        """Add a module that ``critic_loss`` trains against the model; short for ``module``."""
        return self.module(name, lambda: module, optimizer=make_optimizer, trains="critic_loss")

    def teacher(
        self,
        decay: float | Ramp | None = None,
        batch_norm: BatchNormMode | None = None,
        start: int | None = None,
    ) -> None:
        """Ask for the EMA teacher; None takes what another strategy set, else the default (0.99, "train", 0).

        Args:
            decay: limit of the EMA's decay in 0..1, or a ramp; 1 keeps the teacher as it is.
            start: optimiser step of the first average; before it the teacher equals the student.
        """
        self._teacher.asked = True
        if decay is not None and not all(0 <= value_at(decay, step) <= 1 for step in (0, END)):
            raise StackError(f"strategy {self.strategy!r}: expected a teacher's decay in 0..1, got {decay!r}.")
        if batch_norm not in ("train", "eval", None):
            raise StackError(f"strategy {self.strategy!r}: expected batch_norm 'train' or 'eval', got {batch_norm!r}.")
        if start is not None and start < 0:
            raise StackError(f"strategy {self.strategy!r}: expected a teacher's start of at least 0, got {start}.")
        self._teacher.ask(self.strategy, "decay", decay)
        self._teacher.ask(self.strategy, "batch_norm", batch_norm)
        self._teacher.ask(self.strategy, "start", start)

    def tap(self, path: str) -> int:
        """Make a layer's output readable as ``step.output(stream, path)``, and return its number of channels.

        Args:
            path: of a module in the network, such as ``"backbone.layer4"``, as ``named_modules`` gives it.

        Raises:
            StackError: there is no such layer, or its output cannot be read: a forward calls it not exactly once, it
                is no tensor, or later layers change it in place.
        """
        if path not in self._taps:
            self._taps[path] = tap(self.model, path)
        return self._taps[path]
