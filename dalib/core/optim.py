"""Optimisers and learning-rate schedules that a recipe can name."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from dalib.core.critic import MakeOptimizer
from dalib.errors import RecipeError, StackError
from dalib.options import Count, NotNegative, Positive, Whole

Schedule = Callable[[int], float]
Beta = Annotated[float, Field(ge=0, lt=1)]


def sgd(
    *, lr: Positive, momentum: NotNegative = 0.9, weight_decay: NotNegative = 5e-4, nesterov: bool = False
) -> MakeOptimizer:
    """Return a maker of SGD; the defaults are the field's."""
    if nesterov and not momentum:
        raise RecipeError("sgd: nesterov: expected a momentum above 0 with it, got 0.")
    make = _maker(torch.optim.SGD, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def make_with_momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Begin with a momentum of 0, which is the same; torch's fused SGD leaves the memory for it as found when
        fp16's scaler skips the first step, and fails for a parameter whose first gradient comes later.
        """
        optimizer = make(parameters)
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if momentum):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    return make_with_momentum


def adam(*, lr: Positive, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NotNegative = 0.0) -> MakeOptimizer:
    """Return a maker of Adam."""
    return _maker(torch.optim.Adam, lr=lr, betas=betas, weight_decay=weight_decay)


def adamw(*, lr: Positive, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NotNegative = 0.01) -> MakeOptimizer:
    """Return a maker of AdamW; the defaults are DAFormer's but for the rate."""
    return _maker(torch.optim.AdamW, lr=lr, betas=betas, weight_decay=weight_decay)


def poly(*, steps: Count, power: NotNegative = 0.9, warmup: Whole = 0) -> Schedule:
    """Return (1 - t / steps) ** power after a linear rise over the first ``warmup`` steps."""

    def factor(step: int) -> float:
        rise = min((step + 1) / (warmup + 1), 1.0)
        return rise * math.pow(max(1 - step / steps, 0.0), power)

    return factor


def constant(*, steps: Count) -> Schedule:
    """Return 1 for every step."""
    return lambda step: 1.0


OPTIMIZERS: dict[str, Callable[..., MakeOptimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
SCHEDULES: dict[str, Callable[..., Schedule]] = {"poly": poly, "constant": constant}


def parameters_of(network: nn.Module) -> Any:
    """Return what an optimiser takes: the network's own ``parameter_groups()``, else all parameters.

    A group's ``lr_scale`` multiplies the learning rate, as DeepLabV2's ten for its heads.

    Raises:
        StackError: there are no parameters; one stands twice, and would be updated twice a step, as in the code of
            AdaptSegNet, ADVENT, FDA and DACS; or one that requires gradients stands nowhere, and would never be
            updated.
    """
    if next(network.parameters(), None) is None:
        raise StackError(f"{type(network).__name__} has no parameters; give a network that can learn.")
    make = getattr(network, "parameter_groups", None)
    if make is None:
        return network.parameters()
    groups = [{**group, "params": _listed(group["params"])} for group in make()]  # which may be iterators
    names = {parameter: name for name, parameter in network.named_parameters()}
    seen: set[nn.Parameter] = set()
    for parameter in (p for group in groups for p in group["params"]):
        if parameter in seen:
            raise StackError(
                f"parameter_groups of {type(network).__name__} name {names.get(parameter, 'a parameter')!r} "
                "twice; it would be updated twice a step. Put each parameter into one group."
            )
        seen.add(parameter)
    if left := [name for parameter, name in names.items() if parameter.requires_grad and parameter not in seen]:
        raise StackError(
            f"parameter_groups of {type(network).__name__} leave out {left[0]!r}{_and_others(left)}, "
            "which would never be updated. Put each parameter into one group, or freeze it with requires_grad_(False)."
        )
    return groups


def _and_others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _listed(parameters: nn.Parameter | Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameters] if isinstance(parameters, nn.Parameter) else list(parameters)


def _maker(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> MakeOptimizer:
    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return kind(parameters, **options, fused=True)  # one pass over the memory instead of eight

    return make
