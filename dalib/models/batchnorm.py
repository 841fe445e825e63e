"""BatchNorm for inputs with a single value per channel, as after global pooling with a batch of one; over ranks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dalib import ranks
from dalib.errors import StackError


def guard_batch_norm(network: nn.Module) -> None:
    """Let every BatchNorm of ``network`` use its running statistics when it sees one value per channel in training.

    One value has no variance. The running statistics are then used and not updated; this depends on the shape alone.
    """
    for module in network.modules():
        guarded = _borrow in module._forward_pre_hooks.values()
        if isinstance(module, _BatchNorm) and module.track_running_stats and not guarded:
            module.register_forward_pre_hook(_borrow)
            module.register_forward_hook(_give_back)


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with every BatchNorm replaced by torch's SyncBatchNorm, whose statistics are of all ranks.

    With one rank, or where all are of that class, it is the network as it is.

    Raises:
        StackError: the device is a CPU, which that class does not support.
    """
    plain = (isinstance(each, _BatchNorm) and not isinstance(each, nn.SyncBatchNorm) for each in network.modules())
    if ranks.world() == 1 or not any(plain):
        return network
    if device.type == "cpu":
        raise StackError(
            "sync_batch_norm is torch's SyncBatchNorm, which needs GPUs, and the ranks are on CPUs; leave it out, or "
            "take a larger batch per rank."
        )
    from timm.layers import convert_sync_batchnorm  # keeps the activation of timm's BatchNormAct2d, unlike torch's

    network = convert_sync_batchnorm(network)
    guard_batch_norm(network)
    return network


# Hooks rather than a class of our own, so that subclasses (timm's BatchNormAct2d) keep their type and their activation.
def _borrow(module: Any, args: tuple[Tensor, ...]) -> None:
    shared = ranks.world() if isinstance(module, nn.SyncBatchNorm) else 1
    if module.training and args[0].numel() * shared == args[0].shape[1]:
        module.training = False
        module.borrowed = True


def _give_back(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
    if getattr(module, "borrowed", False):
        module.training = True
        module.borrowed = False
