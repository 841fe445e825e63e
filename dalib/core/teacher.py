"""The teacher: an exponential moving average (EMA) of the student."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormMode = Literal["train", "eval"]

DEFAULT_DECAY = 0.99
DEFAULT_BATCH_NORM: BatchNormMode = "train"


class Teacher:
    """The EMA copy of the student: theta' = a theta' + (1 - a) theta with a = min(1 - 1/(t + 1), decay) after step t.

    ``batch_norm="train"`` is what DACS and its successors do: the teacher normalises with the statistics of its own
    batch, keeps running statistics of its own for evaluation, and only parameters are averaged. With ``"eval"`` it uses
    running statistics, averaged like the parameters. Dropout and stochastic depth are off in both.
    """

    def __init__(self, student: nn.Module, decay: float | None, batch_norm: BatchNormMode | None) -> None:
        self.decay = DEFAULT_DECAY if decay is None else decay
        self.batch_norm = batch_norm or DEFAULT_BATCH_NORM
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.train_mode()

    def train_mode(self) -> None:
        """Set the mode in which pseudo-labels are made."""
        self.module.eval()
        if self.batch_norm == "train":
            for module in self.module.modules():
                if isinstance(module, _BatchNorm):
                    module.train()

    @torch.no_grad()
    def update(self, student: nn.Module, step: int, unless: Tensor) -> None:
        """Average the student in after optimiser step ``step`` (from 0), unless ``unless``, a 0-d tensor, is 1."""
        towards = 1 - min(1 - 1 / (step + 1), self.decay)
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if self.batch_norm == "eval":
            for own, its in zip(self.module.buffers(), student.buffers(), strict=True):
                if own.is_floating_point():
                    mine.append(own)
                    theirs.append(its)
                else:
                    own.copy_(its)
        weights = {dtype: towards * (1 - unless).to(dtype) for dtype in {tensor.dtype for tensor in mine}}
        torch._foreach_lerp_(mine, theirs, [weights[tensor.dtype] for tensor in mine])
