"""Activation checkpointing: blocks of a network keep their input, and are computed again where backward needs more."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from dalib.errors import StackError
from dalib.models.wrapper import network_of

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Place = tuple[dict[str, Any], str, Tensor]  # a module's own tensors, the name of one of them, and that one


def checkpoint_activations(model: nn.Module) -> None:
    """Let the blocks of a network recompute in backward what they do not keep (Chen et al. 2016, "sublinear memory").

    Losses, gradients, buffers and draws stay as they are; names of weights, too. See ``blocks`` for what is a block.

    Raises:
        StackError: the network has no repeated blocks, or is compiled.
    """
    network = network_of(model)
    if hasattr(model, "_orig_mod"):
        raise StackError("checkpoint_activations does not go with torch.compile; leave one of the two out.")
    found = blocks(network)
    if not found:
        raise StackError(
            f"checkpoint_activations: {type(network).__name__} has no repeated blocks to recompute: modules of at "
            "least two convolutions or linear layers, several in one nn.Sequential, nn.ModuleList or nn.ModuleDict."
        )
    for block in found:
        block.forward = partial(_recomputed, block)  # type: ignore[method-assign]


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network is cut into; none where it has no list of repeated ones.

    A list is repeated if two of its modules have two convolutions or linear layers each. Its modules are blocks, unless
    they hold such a list themselves; so are the other modules of several layers beside one, such as stem and heads.
    """
    children = list(module.children())
    inner = [blocks(child) for child in children]
    repeated = isinstance(module, _LISTS) and sum(_weights(child) > 1 for child in children) > 1
    if not repeated and not any(inner):
        return []
    whole = [[child] if any(child.children()) and _weights(child) else [] for child in children]
    return [block for found, alone in zip(inner, whole, strict=True) for block in found or alone]


def _weights(module: nn.Module) -> int:
    return sum(parameter.dim() > 1 for parameter in module.parameters())


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # Apart from the lists they came in, which may grow, they are kept by autograd, which knows changes in place.
    inputs, form = tree_flatten((args, kwargs))
    parameters = [place for module in block.modules() for place in _places(module._parameters)]
    buffers = [(own, name, b.clone()) for module in block.modules() for own, name, b in _places(module._buffers)]

    def run(*given: Any) -> Any:
        args, kwargs = tree_unflatten(given[: len(inputs)], form)
        return forward(*args, **kwargs)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _as_it_was(parameters, buffers)

    versions = [value._version for value in inputs if isinstance(value, Tensor)]
    kept = [parameter for _, _, parameter in parameters]
    # To its end, since hooks after the last tensor that is needed put a BatchNorm's mode back.
    output = checkpoint(run, *inputs, *kept, use_reentrant=False, early_stop=False, context_fn=contexts)
    if [value._version for value in inputs if isinstance(value, Tensor)] != versions:
        raise StackError(
            f"checkpoint_activations: {type(block).__name__} changes its input in place, so it cannot be computed "
            "again; give its first layer inplace=False, or leave the option out."
        )
    return output


def _places(own: dict[str, Any]) -> list[Place]:
    return [(own, name, tensor) for name, tensor in own.items() if tensor is not None]


@contextmanager
def _as_it_was(parameters: list[Place], buffers: list[Place]) -> Iterator[None]:
    """Give modules the tensors that they had, buffers as copies, so that a running mean does not move again."""
    held = [*parameters, *((own, name, buffer.clone()) for own, name, buffer in buffers)]
    present = [(own, name, own[name]) for own, name, _ in held]
    for own, name, tensor in held:
        own[name] = tensor
    try:
        yield
    finally:
        for own, name, tensor in present:
            own[name] = tensor
