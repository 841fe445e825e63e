"""What a segmentation loss is: a function of tensors, and the reductions by which it sees the whole batch."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from dalib import ranks
from dalib.errors import StackError


class Local:
    """Reductions over the whole batch, where one process holds all of it; see ``Ranks`` for several."""

    def mean(self, values: Tensor, valid: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Return sum(weight * values * valid) / sum(valid) in float32; 0, and still in the graph, when none is valid.

        Over several ranks it is this one's part of that mean: the mean of the parts over the ranks is the mean of the
        batch, as the mean of their gradients, which the engine takes, is its gradient. Weights stay out of the
        denominator: dividing by them would cancel a confidence that is the same for every pixel, as DACS's is.

        Args:
            values: of any shape and float type. valid: bool; None: all are. weight: float >= 0. All of one shape.
        """
        valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
        for name, other in (("valid", valid), ("weight", weight)):
            if (
                other is not None and other.shape != values.shape
            ):  # broadcast, the mean would be several times too large
                raise StackError(
                    f"mean: {name} must have the shape of the values, {tuple(values.shape)}, got {tuple(other.shape)}; "
                    "use expand_as, or a mean over channels first."
                )
        values = values.float().masked_fill(~valid, 0.0)
        if weight is not None:
            values = values * weight
        return values.sum() / self._per_rank(valid.sum())

    def sum(self, x: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
        """Return the sum over the dimensions ``dim``, by default all, and over the whole batch."""
        return x.sum(dim)

    def kth(self, values: Tensor, k: int) -> Tensor:
        """Return the k-th largest of all values (k >= 1), or the smallest if there are fewer."""
        return values.flatten().topk(min(k, values.numel()), sorted=True).values[-1]

    def _per_rank(self, count: Tensor) -> Tensor:
        """Return the mean over the ranks of a count, but no less than 1 for all of them together."""
        return count.clamp(min=1)


LOCAL = Local()


class Ranks(Local):
    """Reductions over the batch of which each rank holds a part of one size; every rank has to make the same calls."""

    def sum(self, x: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
        """Return the sum over the dimensions ``dim``, by default all, and over the ranks, with gradient."""
        return ranks.total(x.sum(dim))

    def kth(self, values: Tensor, k: int) -> Tensor:
        """Return the k-th largest of all ranks' values (k >= 1), or the smallest if there are fewer."""
        greatest = values.flatten().topk(min(k, values.numel())).values
        return super().kth(ranks.gathered(greatest), k)

    def _per_rank(self, count: Tensor) -> Tensor:
        return ranks.total(count).clamp(min=1) / ranks.world()


def whole_batch() -> Local:
    """Return the reductions over the batch of all ranks."""
    return Ranks() if ranks.world() > 1 else LOCAL


class SegmentationLossFunction(Protocol):
    """The signature of a segmentation loss: a recipe's ``loss:`` or a network's own ``segmentation_loss``."""

    def __call__(
        self, outputs: Mapping[str, Tensor], label: Tensor, weight: Tensor | None = None, *, across: Local = LOCAL
    ) -> Tensor:
        """Return the loss of one stream, a scalar; exactly 0, and still in the graph, where no pixel is valid.

        Args:
            outputs: the network's outputs in training, see ``SegmentationModel.forward``.
            label: (B, H, W) int64 train ids, 255 = ignore.
            weight: (B, H, W) float >= 0, the weight of each pixel.
            across: means, sums and order statistics over the whole batch.
        """
        ...


def with_auxiliary(
    main: Tensor, term: Callable[[Tensor], Tensor], outputs: Mapping[str, Tensor], auxiliary: float
) -> Tensor:
    """Return ``main`` plus ``auxiliary`` times the term of each auxiliary head's logits."""
    for name, logits in outputs.items():
        if name.startswith("aux.") and auxiliary:
            main = main + auxiliary * term(logits)
    return main
