"""BatchNorm layers whose statistics follow the images that they see, as adaptation at test time has it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dalib import StackError

Statistics = Callable[[Tensor], tuple[Tensor | None, Tensor | None]]
"""Maps a layer's input (B, C, ...) to the mean and variance (C,) to normalise it by; None: by those of the input."""


def batch_norms(model: nn.Module, strategy: str) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a model that have running statistics; StackError if there are none."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not norms:
        raise StackError(
            f"strategy {strategy!r} adapts the running statistics of BatchNorm, and this network has none; drop it."
        )
    return norms


def follow(model: nn.Module, strategy: str, statistics: Callable[[Tensor, Tensor], Statistics]) -> list[_BatchNorm]:
    """Let BatchNorm layers of a model in eval mode normalise each input by statistics that depend on it; return them.

    An input with one value per channel, as after global pooling of one image, has no variance and is normalised by the
    layer's own statistics.

    Args:
        strategy: its name, for messages.
        statistics: makes those of a layer from its own running mean and variance (C,).
    """
    norms = batch_norms(model, strategy)
    for norm in norms:
        norm.register_forward_pre_hook(_Following(norm, statistics))
    return norms


class _Following:
    """A hook that gives a layer its statistics before each forward; in eval mode the layer uses them as they are."""

    def __init__(self, norm: _BatchNorm, statistics: Callable[[Tensor, Tensor], Statistics]) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        self._own = norm.running_mean, norm.running_var
        self._of = statistics(*self._own)

    def __call__(self, norm: Any, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        norm.running_mean, norm.running_var = self._own if x.numel() == x.shape[1] else self._of(x)
