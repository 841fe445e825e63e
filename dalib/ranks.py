"""The processes of one job, its ranks: which one this is, and what all of them compute together.

torchrun starts them; ``torch.distributed`` is what connects them. Where it does not run, there is one rank, number 0.
Every rank has to make the same calls in the same order. A call that fails, because another rank is dead or does not
come in time, raises RankError.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dalib.errors import RankError
from dalib.watch import Watch

T = TypeVar("T")

watch: Watch | None = None  # of the job that the command line has joined
_alone = False


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if _running() else 0


def world() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if _running() else 1


def warn_of_copies() -> None:
    """Warn, once per job, where torchrun has started several processes that nobody has connected."""
    if dist.is_initialized() or not dist.is_torchelastic_launched() or int(os.environ["RANK"]):
        return
    if (started := int(os.environ["WORLD_SIZE"])) > 1:
        warnings.warn(
            f"torchrun has started {started} processes, and each of them trains alone: call "
            "torch.distributed.init_process_group(...) before the engine is made.",
            stacklevel=3,
        )


@contextmanager
def alone() -> Iterator[None]:
    """Let this rank act without the others in the body, as if it were the only one."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


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
    with _collective():
        dist.all_gather(parts, values)
    return torch.stack(parts)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace float tensors by their means over the ranks, in place, by one reduction per type."""
    if world() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        of_type = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in of_type])
        with _collective():
            dist.all_reduce(flat)
        means = torch.split(flat.div_(world()), [tensor.numel() for tensor in of_type])
        torch._foreach_copy_(of_type, [mean.view(each.shape) for mean, each in zip(means, of_type, strict=True)])


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0, in place."""
    for tensor in tensors if world() > 1 else ():
        held = tensor.detach().contiguous()
        with _collective():
            dist.broadcast(held, src=0)
        tensor.detach().copy_(held)


def gathered_objects(value: T) -> list[T]:
    """Return what each rank gives, in the ranks' order; it is pickled, so not for every step."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    with _collective():
        dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """Return what rank 0 gives, on all ranks; it is pickled, so not for every step."""
    held: list[Any] = [value]
    if world() > 1:
        with _collective():
            dist.broadcast_object_list(held, src=0)
    return cast(T, held[0])


def lost() -> RankError | None:
    """Return an error that names the ranks that are dead or stopped, as far as the job is watched; None if none is."""
    return watch.lost() if watch else None


def restarted() -> bool:
    """Return whether torchrun has started this job again, after it had begun its work."""
    return watch is not None and watch.restarted


def begun() -> None:
    """Note that the job has begun its work."""
    if watch and rank() == 0:
        watch.begun()


def stepped(step: int) -> None:
    """Note the number of the last complete step, for the message when this rank is lost."""
    if watch:
        watch.stepped(step)


def signalled() -> None:
    """Note that a signal asks this process to end."""
    if watch:
        watch.signalled()


class Alike:
    """Whether all ranks hold the same bytes, known at once; it needs no device."""

    def __init__(self) -> None:
        self._group = _of_cpus()

    def __call__(self, own: bytes) -> bool:
        """Return whether these bytes are the same on all ranks."""
        if world() == 1:
            return True
        digest = int.from_bytes(blake2b(own, digest_size=7).digest())
        extremes = torch.tensor([digest, -digest])
        with _collective():
            dist.all_reduce(extremes, dist.ReduceOp.MAX, self._group)
        greatest, least = extremes.tolist()
        return bool(greatest == -least)


class Soon:
    """The maximum over the ranks of a small number each step, known a step later, so that none waits for another.

    It needs no device: the ranks' own group of gloo connects their CPUs.
    """

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None
        self._group = _of_cpus()

    def greatest(self, value: int, *, last: bool = False) -> int:
        """Return the maximum of what the ranks gave one call ago, 0 at first; in the ``last`` call, of this one too."""
        if world() == 1:
            return value
        known = self._arrived()
        own = torch.tensor(value)
        with _collective():
            self._pending = (dist.all_reduce(own, dist.ReduceOp.MAX, self._group, async_op=True), own)
        return max(known, self._arrived()) if last else known

    def _arrived(self) -> int:
        if self._pending is None:
            return 0
        work, value = self._pending
        self._pending = None
        with _collective():
            work.wait()
        return int(value)


class _Total(torch.autograd.Function):
    """The sum over the ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _reduced(values, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _reduced(gradients[0], dist.ReduceOp.SUM)


def _of_cpus() -> Any:
    """Return a group of all ranks by gloo, None for one rank."""
    if world() == 1:
        return None
    with _collective():
        return dist.new_group(backend="gloo", timeout=watch.timeout if watch else None)


def _reduced(values: Tensor, how: Any) -> Tensor:
    reduced = values.detach().clone(memory_format=torch.contiguous_format)
    with _collective():
        dist.all_reduce(reduced, how)
    return reduced


@contextmanager
def _collective() -> Iterator[None]:
    if watch:
        watch.called()
    try:
        yield
    except RuntimeError as error:  # of torch.distributed, as which gloo raises whatever has happened
        unknown = RankError(f"another rank has ended, or does not answer: {error}")
        raise (watch and watch.lost(error)) or unknown from error


def _running() -> bool:
    return dist.is_available() and dist.is_initialized() and not _alone
