"""Copies of tensors that can be put back by a flag on their device, without waiting for it."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Kept:
    """A copy of tensors as they are now, of any types; what is put back is put back to the bit."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._pairs = [(live, [torch.empty_like(bits) for bits in live]) for live in _bits(tensors)]
        for live, copies in self._pairs:
            torch._foreach_copy_(copies, live)

    def put_back(self) -> None:
        """Give the tensors the values that they had."""
        for live, copies in self._pairs:
            torch._foreach_copy_(live, copies)

    def put_back_where(self, undo: Tensor) -> None:
        """Do so where ``undo``, a bool of no dimensions on the tensors' device, holds; once.

        In integers: live + undo * (copy - live) is exact in them, and NaN * 0, which is NaN, does not occur.
        """
        for live, copies in self._pairs:
            torch._foreach_sub_(copies, live)
            torch._foreach_mul_(copies, undo.to(live[0].dtype))
            torch._foreach_add_(live, copies)


def zero_where(undo: Tensor, tensors: Iterable[Tensor]) -> None:
    """Make the tensors 0 where ``undo``, a bool of no dimensions on their device, holds."""
    for live in _bits(tensors):
        torch._foreach_mul_(live, (~undo).to(live[0].dtype))


def _bits(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return the tensors as integers, those of one width together: a kernel then takes them all."""
    groups: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        integer = _INTEGERS[tensor.element_size()]
        groups[integer].append(tensor.detach().view(integer))
    return list(groups.values())
