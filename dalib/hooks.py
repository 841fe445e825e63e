"""The pluggy markers of hooks, and the type of a prediction function."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])

PROJECT = "dalib"
hookspec = pluggy.HookspecMarker(PROJECT)
_mark = pluggy.HookimplMarker(PROJECT)

Predict = Callable[["Tensor"], "Tensor"]
"""Maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W)."""


def hookimpl(function: F) -> F:
    """Mark a method of a strategy as an implementation of the hook that it is named after.

    The order of a stack is the order of the user's list, so pluggy's ordering and wrapper options do not exist here.
    """
    return _mark(function)
