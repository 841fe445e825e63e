"""Optimisers and learning-rate schedules that a recipe can name."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dalib.core.modules import MakeOptimizer
from dalib.errors import CheckpointError, RecipeError, StackError, suggest
from dalib.hooks import hookimpl
from dalib.models.wrapper import outermost
from dalib.options import Count, Momentum, NotNegative, OptionGroup, Positive, Whole

if TYPE_CHECKING:
    from dalib.registry import Registry

Schedule = Callable[[int], float]


def sgd(
    *, lr: Positive, momentum: NotNegative = 0.9, weight_decay: NotNegative = 5e-4, nesterov: bool = False
) -> MakeOptimizer:
    """Return a factory of SGD; momentum and weight decay default to AdaptSegNet's."""
    if nesterov and not momentum:
        raise RecipeError("sgd: nesterov: expected a momentum above 0 with it, got 0.")
    return partial(SGD, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def adam(
    *, lr: Positive, betas: tuple[Momentum, Momentum] = (0.9, 0.999), weight_decay: NotNegative = 0.0
) -> MakeOptimizer:
    """Return a factory of Adam."""
    return partial(Adam, lr=lr, betas=betas, weight_decay=weight_decay)


def adamw(
    *, lr: Positive, betas: tuple[Momentum, Momentum] = (0.9, 0.999), weight_decay: NotNegative = 0.01
) -> MakeOptimizer:
    """Return a factory of AdamW; betas and weight decay default to DAFormer's."""
    return partial(AdamW, lr=lr, betas=betas, weight_decay=weight_decay)


def poly(*, steps: Count, power: NotNegative = 0.9, warmup: Whole = 0) -> Schedule:
    """Return polynomial decay, (1 - t / steps) ** power, times a linear warm-up over the first ``warmup`` steps."""

    def factor(step: int) -> float:
        return _rise(step, warmup) * math.pow(max(1 - step / steps, 0.0), power)

    return factor


def constant(*, steps: Count) -> Schedule:
    """Return 1 for every step."""
    return lambda step: 1.0


def cosine(*, steps: Count, warmup: Whole = 0) -> Schedule:
    """Return a linear warm-up, then half a cosine from 1 to 0 (Loshchilov & Hutter 2017, without restarts)."""

    def factor(step: int) -> float:
        progress = min(max(step - warmup, 0) / max(steps - warmup, 1), 1.0)
        return _rise(step, warmup) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def step(*, steps: Count, milestones: list[Count], gamma: Positive = 0.1) -> Schedule:
    """Return 1, multiplied by ``gamma`` after each of ``milestones`` steps."""
    return lambda step: math.pow(gamma, sum(step >= milestone for milestone in milestones))


def _rise(step: int, warmup: int) -> float:
    return min((step + 1) / (warmup + 1), 1.0)


@hookimpl
def dalib_register(registry: "Registry") -> None:
    """Register the optimisers and schedules that a recipe can name."""
    for optimizer in (sgd, adam, adamw):
        registry.optimizer(optimizer.__name__, optimizer)
    for schedule in (poly, cosine, step, constant):
        registry.schedule(schedule.__name__, schedule)


class ParameterGroups(OptionGroup):
    """Options that every ``optimizer:`` of a recipe has.

    Options:
        groups: factor on the learning rate by the prefix of parameters' names, such as ``{backbone: 0.1}``; of several
            that a name begins with, the longest counts.
        no_decay: what has no weight decay: ``norm``, the parameters of normalisation layers, and ``bias``, all biases.
    """

    groups: dict[str, Positive] = field(default_factory=dict)
    no_decay: list[Literal["norm", "bias"]] = field(default_factory=list)

    def split(self, parameters: Any, network: nn.Module) -> Any:
        """Return an optimiser's ``parameters``, or groups of them, split by what they are in the network.

        A group's own ``lr_scale`` is multiplied by its factor. What is not in the network stays as it is.

        Raises:
            RecipeError: no parameter's name begins with one of the prefixes.
        """
        names = {parameter: name for name, parameter in network.named_parameters()}
        for prefix in self.groups:
            _check_prefix(prefix, names.values())
        if not self.groups and not self.no_decay:
            return parameters
        plain = set(_undecayed(network, self.no_decay))
        split: dict[tuple[int, float, bool], dict[str, Any]] = {}
        for index, group in enumerate(_as_groups(parameters)):
            for parameter in group["params"]:
                factor = self._factor(names.get(parameter, ""))
                own = {"lr_scale": group.get("lr_scale", 1.0) * factor, "params": []}
                own |= {"weight_decay": 0.0} if parameter in plain else {}
                split.setdefault((index, factor, parameter in plain), group | own)["params"].append(parameter)
        return list(split.values())

    def _factor(self, name: str) -> float:
        fitting = [prefix for prefix in self.groups if _begins(name, prefix)]
        return self.groups[max(fitting)] if fitting else 1.0  # of prefixes of one name the longest is the greatest


def _begins(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")


def _check_prefix(prefix: str, names: Collection[str]) -> None:
    if not any(_begins(name, prefix) for name in names):
        depth = prefix.count(".") + 1
        known = {".".join(name.split(".")[:depth]) for name in names}
        raise RecipeError(
            f"optimizer.groups: no parameter of the network has a name that begins with {prefix!r}."
            f"{suggest(prefix, known)}"
        )


def _undecayed(network: nn.Module, kinds: Collection[str]) -> Iterator[nn.Parameter]:
    """Yield the parameters of norms, told by the word in their class's name, as in LayerNorm2d, and biases."""
    for module in network.modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if ("norm" in kinds and is_norm) or ("bias" in kinds and name.endswith("bias")):
                yield parameter


def _as_groups(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    listed = list(parameters)
    groups = listed if listed and isinstance(listed[0], Mapping) else [{"params": listed}]
    return [{**group, "params": _listed(group["params"])} for group in groups]  # params may be an iterator


def parameters_of(network: nn.Module) -> Any:
    """Return what an optimiser takes: the network's own ``parameter_groups()``, else all parameters.

    A group's ``lr_scale`` multiplies its learning rate, such as DeepLabV2's 10 for its heads. Of a network inside
    another, whose own has no such method, the groups are taken, too. Frozen parameters are left out, unless all are.

    Raises:
        StackError: there are no parameters; one is listed twice, so updated twice per step, as in the code of
            AdaptSegNet, ADVENT, FDA and DACS; or a trainable one is not listed, so never updated.
    """
    if next(network.parameters(), None) is None:
        raise StackError(f"{type(network).__name__} has no parameters; give a network that can learn.")
    trains = any(parameter.requires_grad for parameter in network.parameters())
    grouping: list[Any] = outermost(network, "parameter_groups")
    if not grouping:
        return [parameter for parameter in network.parameters() if parameter.requires_grad or not trains]
    inside = {parameter for module in grouping for parameter in module.parameters()}
    rest = [parameter for parameter in network.parameters() if parameter not in inside]
    groups = [{"params": rest}] if rest else []
    groups += [group for module in grouping for group in _as_groups(module.parameter_groups())]
    of = " and ".join(type(module).__name__ for module in grouping)
    names = {parameter: name for name, parameter in network.named_parameters()}
    seen: set[nn.Parameter] = set()
    for parameter in (p for group in groups for p in group["params"]):
        if parameter in seen:
            raise StackError(
                f"parameter_groups of {of} name {names.get(parameter, 'a parameter')!r} "
                "twice; it would be updated twice a step. Put each parameter into one group."
            )
        seen.add(parameter)
    if left := [name for parameter, name in names.items() if parameter.requires_grad and parameter not in seen]:
        raise StackError(
            f"parameter_groups of {of} leave out {left[0]!r}{_and_others(left)}, "
            "which would never be updated. Put each parameter into one group, or freeze it with requires_grad_(False)."
        )
    kept = [group | {"params": [p for p in group["params"] if p.requires_grad or not trains]} for group in groups]
    return [group for group in kept if group["params"]]


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
