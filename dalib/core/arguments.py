"""Checks of what people give to an engine, by habit from other libraries too."""

from collections.abc import Mapping, Sequence
from inspect import signature
from numbers import Number

from torch import nn

from dalib.core.optim import Schedule
from dalib.data.dataset import SegmentationDataset, own_classes, same_classes
from dalib.errors import DalibError, DataError, StackError
from dalib.losses import SegmentationLossFunction
from dalib.models.activation_checkpointing import keeps_activations
from dalib.models.outputs import TRIAL_SIZE, training_outputs
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
    if inner is not model and not keeps_activations(inner):
        raise StackError("Engine: activation checkpointing does not go with torch.compile; leave one of the two out.")


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
    """Raise StackError where a loss has class weights, or an adjustment of logits, but not one per class."""
    for option in ("class_weights", "logit_adjustment"):
        values = getattr(loss, option, None)
        if values is not None and len(values) != num_classes:
            raise StackError(f"{option} of the loss: expected {num_classes} values, one per class, got {len(values)}.")


def check_classes(
    datasets: Mapping[str, SegmentationDataset], num_classes: int, known: Sequence[str] | None
) -> tuple[str, ...] | None:
    """Return the names of the classes: those ``known``, else those that a data set names; None where none does.

    Raises:
        DataError: the classes of data sets, by stream, are not the network's or not one another's; the target's do not
            count, since its labels are not read.
    """
    named = {name: own_classes(dataset) for name, dataset in datasets.items() if name != "target"}
    present = {f"the {name} data set": classes for name, classes in named.items() if classes}
    for name, classes in present.items():
        if len(classes) != num_classes:
            raise DataError(
                f"{name} has {len(classes)} classes ({', '.join(classes[:3])} ...) and the network {num_classes}; "
                f"create the model with num_classes={len(classes)}."
            )
    same_classes(({"the engine": tuple(known)} if known else {}) | present)
    return tuple(known) if known else next(iter(present.values()), None)


def check_sizes(model: nn.Module, sizes: Mapping[str, tuple[int, int] | None]) -> None:
    """Raise StackError where the network cannot take a stream's images, (H, W), because they are too small for it."""
    for stream, size in sizes.items():
        if size is None or min(size) >= min(TRIAL_SIZE):
            continue
        try:
            training_outputs(model, size)
        except DalibError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise StackError(
                f"the network cannot take images of {size[0]}x{size[1]} (H x W), as the stream {stream!r} has them in "
                f"the end: {reason} Give data.*.size, or a crop, a larger size."
            ) from error
