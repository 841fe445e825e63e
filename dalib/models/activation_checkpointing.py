"""Activation checkpointing: blocks of a network keep their input alone, and backward computes the rest again."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from dalib.errors import StackError
from dalib.models.wrapper import network_of

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Place = tuple[dict[str, Any], str, Tensor]  # a module's parameters or buffers, the name of one, and that one


def checkpoint_activations(model: nn.Module) -> None:
    """Let a network's blocks compute their activations again in backward instead of keeping them (Chen et al. 2016).

    Losses, gradients, buffers and random draws are the same as without; ``blocks`` says what a block is. Blocks in eval
    mode, and forwards without a gradient, are as ever.

    Raises:
        StackError: the network has no repeated blocks.
    """
    found = blocks(network_of(model))
    if not found:
        raise StackError(
            f"checkpoint_activations: {type(network_of(model)).__name__} has no repeated blocks, modules of two or "
            "more convolutions or linear layers that stand together in an nn.Sequential, nn.ModuleList or "
            "nn.ModuleDict; put them into one, or leave the option out."
        )
    for block in found:
        block.forward = partial(_forward, block, block.forward)


def keeps_activations(model: nn.Module) -> bool:
    """Return whether no block of a model computes its activations again."""
    return not any(getattr(vars(module).get("forward"), "func", None) is _forward for module in model.modules())


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network is cut into: as coarse as leaves every repeated one a block of its own.

    Repeated blocks stand together in a list (``nn.Sequential``, ``nn.ModuleList``, ``nn.ModuleDict``) and have two or
    more convolutions or linear layers each. Beside such lists, stems and heads of several layers are blocks as a whole.
    """
    children = list(module.children())
    inner = [blocks(child) for child in children]
    repeated = isinstance(module, _LISTS) and sum(_weights(child) > 1 for child in children) > 1
    if not repeated and not any(inner):
        return []
    whole = [[child] if any(child.children()) and _weights(child) else [] for child in children]
    return [block for below, itself in zip(inner, whole, strict=True) for block in below or itself]


def _weights(module: nn.Module) -> int:
    return sum(parameter.dim() > 1 for parameter in module.parameters())


def _forward(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    inputs, form = tree_flatten((args, kwargs))  # lists among them may grow later, as DenseNet's do
    versions = [value._version for value in inputs if isinstance(value, Tensor)]
    parameters = [place for module in block.modules() for place in _places(module._parameters)]
    buffers = [(own, name, b.clone()) for module in block.modules() for own, name, b in _places(module._buffers)]

    def run(*tensors: Any) -> Any:
        args, kwargs = tree_unflatten(tensors[: len(inputs)], form)
        return forward(*args, **kwargs)

    output = checkpoint(
        run,
        *inputs,
        *(parameter for _, _, parameter in parameters),  # so that autograd sees it where they change before backward
        use_reentrant=False,
        early_stop=False,  # hooks after the last tensor that is needed put a BatchNorm's mode back
        context_fn=lambda: (nullcontext(), _AsBefore(parameters, buffers)),
    )
    if versions != [value._version for value in inputs if isinstance(value, Tensor)]:
        raise StackError(
            f"checkpoint_activations: {type(block).__name__} changes its input in place, so it cannot be computed "
            "again; give its first layer inplace=False, or leave the option out."
        )
    return output


def _places(own: dict[str, Any]) -> list[Place]:
    return [(own, name, tensor) for name, tensor in own.items() if tensor is not None]


class _AsBefore:
    """Give a block the tensors that its forward had, buffers as copies, so that running statistics move only once."""

    def __init__(self, parameters: list[Place], buffers: list[Place]) -> None:
        self._parameters = parameters
        self._buffers = buffers

    def __enter__(self) -> None:  # once for each backward through the block
        given = [*self._parameters, *((own, name, buffer.clone()) for own, name, buffer in self._buffers)]
        self._present = [(own, name, own[name]) for own, name, _ in given]
        _set(given)

    def __exit__(self, *error: object) -> None:
        _set(self._present)


def _set(places: list[Place]) -> None:
    for own, name, tensor in places:
        own[name] = tensor
