"""Cost of one forward of a module besides time: multiply-adds and peak memory."""

import weakref
from collections.abc import Mapping
from copy import deepcopy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten

Shape = tuple[int, ...]


def count_macs(module: nn.Module, shape: Shape) -> int:
    """Count the multiply-adds of a forward of ``module`` on an input of this shape, by fvcore's convention.

    That is one per product in convolutions, matrix products and attention, two per element of a BatchNorm's input, and
    four per element of a bilinear interpolation's output. Activations, sums and pooling count 0. The forward runs on
    the meta device, so it computes shapes only.
    """
    on_meta = deepcopy(module).to("meta").eval()
    extra = {
        aten._native_batch_norm_legit_no_training: _batch_norm,
        aten.upsample_bilinear2d: _bilinear,
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=extra) as counter:
        on_meta(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops()) // 2


def peak_memory(module: nn.Module, x: Tensor) -> int:
    """Return the peak memory, in bytes, of parameters, buffers and the tensors of a forward.

    On a CUDA device this is its allocator's count, operators' workspaces included; elsewhere it counts the tensors
    that PyTorch's operators return, so not the buffers inside compiled code.
    """
    device = x.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        with torch.inference_mode():
            module(x)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    with torch.no_grad(), _LiveTensors() as live:
        module(x)
    return int(weights + live.peak)


# FlopCounterMode's formulas count a multiply-add as two operations.
def _batch_norm(x: Shape, *others: Any, **unused: Any) -> int:
    return 2 * 2 * prod(x)


def _bilinear(x: Shape, *others: Any, out_shape: Shape, **unused: Any) -> int:
    return 2 * 4 * prod(out_shape)


class _LiveTensors(TorchDispatchMode):
    """Tracks the bytes, now and at the peak, of live storages that operators allocated."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._known.add(tensor.untyped_storage())
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size
