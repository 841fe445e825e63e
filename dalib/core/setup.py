"""The strategies' ``setup``: what they ask for, and what they may not make by themselves."""

from collections.abc import Collection
from typing import Any

from torch import nn

from dalib.core.context import SetupContext, TeacherSettings
from dalib.core.stack import Stack
from dalib.core.strategy import Strategy
from dalib.core.teacher import Teacher
from dalib.errors import StackError
from dalib.models.wrapper import SegmentationModel, unwrap
from dalib.randomness import seeded


def set_up(stack: Stack, **facts: Any) -> Teacher | None:
    """Call each strategy's ``setup``, and return the teacher if one asked for it.

    Args:
        facts: those of ``SetupContext``, ``_modules`` and ``_taps`` among them, which the strategies fill.
    """
    model, device, seed = facts["model"], facts["device"], facts["seed"]
    settings = TeacherSettings()
    for strategy in stack.implementing("setup"):
        ctx = SetupContext(strategy=strategy.name, _teacher=settings, **facts)
        before = _names(model)
        with seeded(device, seed, "setup", strategy.name):
            stack.call("setup", strategy, ctx=ctx)
        _refuse_own_modules(strategy, model, before)
    inner = unwrap(model)
    if facts["purpose"] == "train" and isinstance(inner, SegmentationModel):
        for path in facts["_taps"]:
            inner.tap(path)
    if not settings.asked:
        return None
    averaged = [(m.module, m.averaged) for m in facts["_modules"].values() if m.averaged is not None]
    return Teacher(model, settings.decay, settings.batch_norm, settings.start, averaged)


def _names(model: nn.Module) -> set[str]:
    """Return the names of the model's modules and parameters."""
    return {name for name, _ in (*model.named_modules(), *model.named_parameters())}


def _refuse_own_modules(strategy: Strategy, model: nn.Module, before: Collection[str]) -> None:
    """Refuse what a strategy made without ``ctx.module``: it would not be trained, saved or averaged as it should.

    Args:
        before: the model's names before the strategy's ``setup``.
    """
    advice = "a module of its own comes from ctx.module(...), so that it is trained, saved and averaged."
    if hung := sorted(_names(model).difference(before)):
        raise StackError(f"strategy {strategy.name!r} adds {hung[0]!r} to the model; {advice}")
    models = {id(parameter) for parameter in model.parameters()}
    for name, value in vars(strategy).items():
        if isinstance(value, nn.Module) and not value.training:
            continue  # it is used as it is
        for parameter in value.parameters() if isinstance(value, nn.Module) else [value]:
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad and id(parameter) not in models:
                raise StackError(
                    f"strategy {strategy.name!r} keeps its own trainable {name!r}; {advice} One that is never "
                    "trained goes into eval mode, .eval()."
                )
