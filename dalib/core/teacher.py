"""The teacher: an exponential moving average (EMA) of the student."""

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dalib.core.ramp import Ramp, value_at
from dalib.models.freezing import at_rest

BatchNormMode = Literal["train", "eval"]

DEFAULT_DECAY = 0.99
DEFAULT_BATCH_NORM: BatchNormMode = "train"


class Teacher:
    """The EMA copy of the student: theta' = a theta' + (1 - a) theta with a = min(1 - 1/(t + 1), decay) after step t.

    t counts from ``start``; until then the teacher equals the student. A decay of 1 leaves the teacher as it is.
    ``batch_norm="train"`` is what DACS and its successors do: the teacher normalises with the statistics of its own
    batch, keeps running statistics of its own for evaluation, and only parameters are averaged. With ``"eval"`` it uses
    running statistics, averaged like the parameters; so does what is frozen in the student, in eval mode and without
    gradient. Dropout and stochastic depth are off in both.

    Args:
        others: pairs of a strategy's module and its teacher's copy, averaged likewise.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float | Ramp | None = None,
        batch_norm: BatchNormMode | None = None,
        start: int | None = None,
        others: Sequence[tuple[nn.Module, nn.Module]] = (),
    ) -> None:
        self.decay = DEFAULT_DECAY if decay is None else decay
        self.batch_norm = batch_norm or DEFAULT_BATCH_NORM
        self.start = start or 0
        self.module = copy.deepcopy(student)
        self._at_rest = {inner for module in at_rest(self.module) for inner in module.modules()}
        self.module.requires_grad_(False)
        self._others = others
        self.train_mode()

    def train_mode(self) -> None:
        """Set the mode in which pseudo-labels are made."""
        for copied in (self.module, *(copied for _, copied in self._others)):
            copied.eval()
            for module in copied.modules() if self.batch_norm == "train" else ():
                if isinstance(module, _BatchNorm) and module not in self._at_rest:
                    module.train()

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, unless: Tensor) -> None:
        """Average the student in after optimiser step ``step`` (from 0), unless ``unless``, a 0-d tensor, is 1."""
        towards = self._towards(step)
        mine: list[Tensor] = []
        theirs: list[Tensor] = []
        for original, copied in ((student, self.module), *self._others):
            mine += copied.parameters()
            theirs += original.parameters()
            for own, its in zip(copied.buffers(), original.buffers(), strict=True) if self._averages_buffers else ():
                if own.is_floating_point():
                    mine.append(own)
                    theirs.append(its)
                else:
                    own.copy_(its)
        weights = {dtype: towards * (1 - unless).to(dtype) for dtype in {tensor.dtype for tensor in mine}}
        torch._foreach_lerp_(mine, theirs, [weights[tensor.dtype] for tensor in mine])

    @property
    def _averages_buffers(self) -> bool:
        return self.batch_norm == "eval"

    def _towards(self, step: int) -> float:
        """Return 1 - a."""
        if step < self.start:
            return 1.0
        decay = value_at(self.decay, step)
        return 0.0 if decay == 1 else 1 - min(1 - 1 / (step - self.start + 1), decay)
