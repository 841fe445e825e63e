"""Checks of what people give to an engine, by habit from other libraries too."""

from inspect import signature
from numbers import Number

from torch import nn

from dalib.core.optim import Schedule
from dalib.errors import StackError
from dalib.losses import SegmentationLossFunction
from dalib.models.wrapper import unwrap

RATES = (
    "The engine sets each rate in every step, to initial_lr times the schedule's factor, so that a resumed run has the "
    "same. Give Engine(schedule=f), a function of the optimiser step 0, 1, ... such as the one of torch's "
    "LambdaLR; a rate changes once and for all by param_groups[i]['initial_lr']."
)


def check_model(model: nn.Module) -> None:
    """Raise StackError unless it is a segmentation model on one device."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise StackError(f"Engine: a {type(model).__name__}; an engine trains on one device: give model.module.")
    inner = unwrap(model) if isinstance(model, nn.Module) else None
    if inner is None or not hasattr(inner, "num_classes") or "outputs" not in signature(inner.forward).parameters:
        raise StackError(
            f"Engine: expected a model of create_model or wrap_model, got a {type(model).__name__}. A network of your "
            "own, which gives logits of each class, is wrapped by dalib.wrap_model(network, num_classes)."
        )


def check_schedule(schedule: Schedule | None) -> None:
    """Raise StackError unless it is a function from step to factor; None is none."""
    if schedule is None:
        return
    cause = None
    try:
        factor: object = schedule(0)
    except Exception as error:  # such as a function from optimiser to scheduler, or a scheduler, which is no function
        factor, cause = None, error
    if not isinstance(factor, Number):
        raise StackError(f"Engine: schedule= is no function from step to factor. {RATES}") from cause


def check_class_weights(loss: SegmentationLossFunction, num_classes: int) -> None:
    """Raise StackError where a loss has other class weights than one per class."""
    weights = getattr(loss, "class_weights", None)
    if weights is not None and len(weights) != num_classes:
        raise StackError(
            f"class_weights of the loss: expected {num_classes} values, one per class, got {len(weights)}."
        )
