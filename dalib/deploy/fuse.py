"""Fusing of a model for inference: the same logits from fewer operations."""

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dalib.models.wrapper import network_of, training_heads

Model = TypeVar("Model", bound=nn.Module)

PROBE = (1, 3, 96, 96)  # traced to see which layer feeds which; Inception needs at least 75 pixels


def fuse(model: Model) -> Model:
    """Return a copy of ``model`` for inference, with the same logits up to rounding; the original stays as it is.

    Folds BatchNorms into the convolutions before them, drops training-only heads (``training_heads`` of the network
    and of those in it), and calls the network's ``reorder()``, if any, to put commuting operations into their cheaper
    order. The copy is in eval mode, has no gradients, and is not for training.

    Args:
        model: wrapped or bare; maps images (B, 3, H, W) to logits.
    """
    fused = deepcopy(model).eval()
    network = network_of(fused)
    for path in training_heads(network):
        parent, _, head = path.rpartition(".")
        setattr(network.get_submodule(parent), head, None)
    fold_batch_norm(network)
    if callable(reorder := getattr(network, "reorder", None)) and not getattr(network, "is_fused", False):
        reorder()
    network.is_fused = True  # type: ignore[assignment]
    return fused.requires_grad_(False)


def fold_batch_norm(model: nn.Module) -> None:
    """Fold, in place, each BatchNorm that is the only reader of a convolution's output; the others stay.

    The pairs are found by tracing a forward of a small image, so that networks need not declare them.
    """
    trace = _Trace(model)
    reference = next(model.parameters(), torch.empty(0))
    with torch.no_grad(), trace:
        trace.output = model(torch.zeros(PROBE, device=reference.device, dtype=reference.dtype))
    names = {module: name for name, module in model.named_modules()}
    for conv, norm in trace.pairs():
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's BatchNorm has dropout and activation as children, called in this order; they stay.
        model.set_submodule(names[norm], nn.Sequential(*norm.children()))
    model.requires_grad_(False)


def _is_known(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Tell whether a module is torch's or timm's BatchNorm; other subclasses may compute something else."""
    from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct

    return type(module) in (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)


class _Trace(TorchDispatchMode):
    """Records which convolution made each tensor, which BatchNorm read it, and how often each tensor was read.

    A layer is recognised by the weight that the operator reads, so that a layer which computes its weight first, such
    as a weight-standardised convolution, is left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        modules = list(model.modules())
        self._convolutions = {id(m.weight): m for m in modules if isinstance(m, nn.Conv2d)}
        self._norms = {id(m.running_mean): m for m in modules if _is_known(m) and m.running_mean is not None}
        self._made: dict[int, nn.Conv2d] = {}
        self._normed: list[tuple[int, Any]] = []
        self._reads: Counter[int] = Counter()
        self.output: Any = None  # the model's, whose tensors the caller reads too
        self._alive: list[Any] = []  # keeps tensors alive, since ids are reused afterwards

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self._alive.append((args, result))
        read = [id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._reads.update(read)
        for tensor in read:
            if tensor in self._convolutions:
                self._made[id(result)] = self._convolutions[tensor]
            if tensor in self._norms:
                self._normed.append((read[0], self._norms[tensor]))
        return result

    def pairs(self) -> list[tuple[nn.Conv2d, Any]]:
        """Return each convolution and the BatchNorm to fold into it."""
        self._reads.update(id(leaf) for leaf in tree_leaves(self.output))
        found = [(made, self._made[made], norm) for made, norm in self._normed if made in self._made]
        return [(conv, norm) for made, conv, norm in found if self._once(made, conv.weight, norm.running_mean)]

    def _once(self, made: int, *tensors: Tensor) -> bool:
        return all(self._reads[i] == 1 for i in (made, *map(id, tensors)))
