"""Parts of a network that do not train: frozen by path, and kept in eval mode."""

from collections.abc import Iterator, Sequence

from torch import nn

from dalib.errors import StackError, suggest


def freeze(network: nn.Module, paths: Sequence[str]) -> None:
    """Freeze modules of a network: eval mode, in which BatchNorm's statistics stay, and no gradient.

    Args:
        paths: such as ``"backbone"`` or ``"backbone.layer1"``, as ``named_modules`` gives them.

    Raises:
        StackError: there is no such module, or nothing is left to train.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    for path in paths:
        if path not in modules or not path:
            depth = path.count(".") + 1
            known = [name for name in modules if name and name.count(".") < depth]
            raise StackError(f"freeze: {type(network).__name__} has no module {path!r}.{suggest(path, known)}")
        modules[path].requires_grad_(False).eval()
    if paths and not any(parameter.requires_grad for parameter in network.parameters()):
        raise StackError(f"freeze: {', '.join(paths)} is all of the network; leave something to train.")


def at_rest(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that training leaves in eval mode: those in it whose parameters all require no gradient."""
    for module in network.modules():
        if not module.training and _frozen(module):
            yield module


def _frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
