"""The processes of one job, its ranks: which one this is, and what all of them compute together.

torchrun starts them; ``torch.distributed`` is what connects them. Where it does not run, there is one rank, number 0.
Every rank has to make the same calls in the same order.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if _running() else 0


def world() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if _running() else 1


def total(values: Tensor) -> Tensor:
    """Return the sum over the ranks, of any shape, equal on all of them; gradients flow to each rank's values."""
    return cast(Tensor, _Total.apply(values)) if world() > 1 else values


def greatest(values: Tensor) -> Tensor:
    """Return the maximum over the ranks of each value, of any shape, without gradient."""
    return _reduced(values, dist.ReduceOp.MAX) if world() > 1 else values.detach()


def gathered(values: Tensor) -> Tensor:
    """Return the values of all ranks, (ranks, ...), without gradient; they have one shape on all of them."""
    values = values.detach().contiguous()
    if world() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace float tensors by their means over the ranks, in place, by one reduction per type."""
    if world() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        of_type = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in of_type])
        dist.all_reduce(flat)
        means = torch.split(flat / world(), [tensor.numel() for tensor in of_type])
        torch._foreach_copy_(of_type, [mean.view(each.shape) for mean, each in zip(means, of_type, strict=True)])


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0, in place."""
    for tensor in tensors if world() > 1 else ():
        held = tensor.detach().contiguous()
        dist.broadcast(held, src=0)
        tensor.detach().copy_(held)


def gathered_objects(value: T) -> list[T]:
    """Return what each rank gives, in the ranks' order; it is pickled, so not for every step."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """Return what rank 0 gives, on all ranks; it is pickled, so not for every step."""
    held: list[Any] = [value]
    if world() > 1:
        dist.broadcast_object_list(held, src=0)
    return cast(T, held[0])


class _Total(torch.autograd.Function):
    """The sum over the ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _reduced(values, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _reduced(gradients[0], dist.ReduceOp.SUM)


def _reduced(values: Tensor, how: Any) -> Tensor:
    reduced = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(reduced, how)
    return reduced


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()
