"""Detection, on a CPU, of what would make the host wait for a GPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten

OPERATORS = (aten._local_scalar_dense, aten.nonzero, aten._unique, aten._unique2, aten.masked_select, aten.equal)
METHODS = ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__")


class WaitError(AssertionError):
    """Something would have waited for the device."""


@contextmanager
def refusing_waits(*device_tensors: Tensor) -> Iterator[None]:
    """Raise WaitError where the body reads a tensor that a GPU would hold.

    Those are ``device_tensors``, whatever is computed from them, and all others but Kornia's own draws, which it makes
    on the host.
    """
    operators = _Operators(device_tensors)
    with _Methods(operators), operators:
        yield


class _Operators(TorchDispatchMode):
    def __init__(self, device_tensors: tuple[Tensor, ...]) -> None:
        super().__init__()
        self._on_device = WeakTensorKeyDictionary()
        for tensor in device_tensors:
            self._on_device[tensor] = True

    def check(self, what: str, tensors: list[Any]) -> None:
        known = any(isinstance(tensor, Tensor) and tensor in self._on_device for tensor in tensors)
        if known or not _called_by_kornia():
            raise WaitError(f"{what} waits for the device")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        mask = function.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            tensor.dtype == torch.bool for tensor in tree_leaves(args[1]) if isinstance(tensor, Tensor)
        )
        if mask or function.overloadpacket in OPERATORS:
            self.check(str(function), tensors)
        result = function(*args, **(kwargs or {}))
        if any(tensor in self._on_device for tensor in tensors):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._on_device[leaf] = True
        return result


class _Methods(TorchFunctionMode):
    """Copies from a CPU to a CPU are no operators."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        to_host = name == "to" and any(str(leaf) == "cpu" for leaf in tree_leaves((args[1:], kwargs or {})))
        if args and isinstance(args[0], Tensor) and (name in METHODS or to_host):
            self._operators.check(f"Tensor.{name}", [args[0]])
        return function(*args, **(kwargs or {}))


def _called_by_kornia() -> bool:
    """Whether the innermost frame outside torch and this file is one of Kornia's."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and name.partition(".")[0] not in ("torch", "contextlib"):
            return bool(name.startswith("kornia"))
        frame = frame.f_back
    return False
