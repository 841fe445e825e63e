"""Optimisers and learning-rate schedules that a recipe can name."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dalib.core.modules import MakeOptimizer
from dalib.errors import CheckpointError, RecipeError, StackError
from dalib.options import Count, NotNegative, Positive, Whole

Schedule = Callable[[int], float]
Beta = Annotated[float, Field(ge=0, lt=1)]


def sgd(
    *, lr: Positive, momentum: NotNegative = 0.9, weight_decay: NotNegative = 5e-4, nesterov: bool = False
) -> MakeOptimizer:
    """Return a factory of SGD; momentum and weight decay default to AdaptSegNet's."""
    if nesterov and not momentum:
        raise RecipeError("sgd: nesterov: expected a momentum above 0 with it, got 0.")
    return partial(SGD, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def adam(*, lr: Positive, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NotNegative = 0.0) -> MakeOptimizer:
    """Return a factory of Adam."""
    return partial(Adam, lr=lr, betas=betas, weight_decay=weight_decay)


def adamw(*, lr: Positive, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NotNegative = 0.01) -> MakeOptimizer:
    """Return a factory of AdamW; betas and weight decay default to DAFormer's."""
    return partial(AdamW, lr=lr, betas=betas, weight_decay=weight_decay)


def poly(*, steps: Count, power: NotNegative = 0.9, warmup: Whole = 0) -> Schedule:
    """Return polynomial decay, (1 - t / steps) ** power, times a linear warm-up over the first ``warmup`` steps."""

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

    A group's ``lr_scale`` multiplies its learning rate, such as DeepLabV2's 10 for its heads.

    Raises:
        StackError: there are no parameters; one is listed twice, so updated twice per step, as in the code of
            AdaptSegNet, ADVENT, FDA and DACS; or a trainable one is not listed, so never updated.
    """
    if next(network.parameters(), None) is None:
        raise StackError(f"{type(network).__name__} has no parameters; give a network that can learn.")
    make = getattr(network, "parameter_groups", None)
    if make is None:
        return network.parameters()
    groups = [{**group, "params": _listed(group["params"])} for group in make()]  # params may be an iterator
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


def fuse(optimizer: Optimizer) -> None:
    """Switch torch's SGD, Adam and AdamW to their fused form, which reads the flag of ``step_unless`` on the device.

    Other classes stay as they are, and so do groups with ``fused`` or ``foreach`` set, or with dampening. Momentum
    buffers start at 0, which gives the same updates: fused SGD would leave them uninitialised when the first step is
    skipped, and fail for a parameter whose first gradient comes later.
    """
    for group in optimizer.param_groups if type(optimizer) in _FUSED_CLASSES else ():
        if group.get("dampening"):
            continue
        if group["fused"] is None and group["foreach"] is None:
            group["fused"] = True
        for parameter in group["params"] if group["fused"] and group.get("momentum") else ():
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state of an optimiser of the same class, from any device and any form (fused or not).

    Raises:
        CheckpointError: a tensor has not its parameter's shape; a fused optimiser would read and write out of bounds.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, of_parameter in state["state"].items() if type(optimizer) in _FUSED_CLASSES else ():
        for key, value in of_parameter.items():
            if key != "step" and isinstance(value, Tensor) and value.shape != parameters[index].shape:
                raise CheckpointError(
                    f"the optimiser's {key} of parameter {index} has shape {tuple(value.shape)} in the checkpoint; "
                    f"expected {tuple(parameters[index].shape)}, as the parameter."
                )
    own = [{name: group[name] for name in _IMPLEMENTATION_OPTIONS if name in group} for group in optimizer.param_groups]
    groups = [{**group, **form} for group, form in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    fuse(optimizer)


def step_unless(flag: Tensor, optimizer: Optimizer) -> None:
    """Step the optimiser unless ``flag``, a 0-d float32 tensor that is 0 or 1, is 1.

    A fused optimiser reads the flag on the device; for any other the host reads it, which synchronises with a GPU.
    """
    if _is_fused(optimizer):
        optimizer.found_inf = flag  # type: ignore[attr-defined]
        optimizer.step()
    elif not flag:
        optimizer.step()


_FUSED_CLASSES = (SGD, Adam, AdamW)
# Of this device, not of a checkpoint.
_IMPLEMENTATION_OPTIONS = ("fused", "foreach", "capturable", "differentiable")


def _is_fused(optimizer: Optimizer) -> bool:
    heeding = (group["fused"] and not group.get("dampening") for group in optimizer.param_groups)
    return type(optimizer) in _FUSED_CLASSES and all(heeding)


def _and_others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _listed(parameters: nn.Parameter | Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameters] if isinstance(parameters, nn.Parameter) else list(parameters)
