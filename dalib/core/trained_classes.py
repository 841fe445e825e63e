"""Whether a segmentation loss trains: on the classes that occur in the labels, and by what the network gives."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dalib.core.ramp import END, value_at
from dalib.core.strategy import Strategy
from dalib.errors import DataError, StackError
from dalib.labels import IGNORE
from dalib.losses import LOCAL, SegmentationLoss, SegmentationLossFunction
from dalib.losses.regions import RegionLoss
from dalib.models.outputs import gives_probabilities
from dalib.models.wrapper import unwrap

_SIDE = 32  # of the trial's square label, in which every class occurs, 255 at most


def check_logits(model: nn.Module, loss: SegmentationLossFunction) -> None:
    """Raise StackError where the network gives probabilities to a loss of logits; one of one's own may take them."""
    if isinstance(loss, SegmentationLoss | RegionLoss) and gives_probabilities(unwrap(model)):
        raise StackError(
            "the network's logits lie in [0, 1] and sum to 1 over the classes, as probabilities do; the loss takes the "
            "softmax once more, which leaves it hardly a gradient. Let the network return what its softmax is given."
        )


def may_leave_classes(strategies: Iterable[Strategy], loss: SegmentationLossFunction) -> bool:
    """Return whether a loss may train on some classes alone: one with weights of 0, or one of one's own."""
    for strategy in strategies:
        of = strategy.segmentation_loss(loss)
        plain = isinstance(of, RegionLoss) or (isinstance(of, SegmentationLoss) and all(of.class_weights or (1,)))
        if not plain:
            return True
    return False


def check_trained_classes(
    strategies: Iterable[Strategy],
    loss: SegmentationLossFunction,
    classes: tuple[str, ...],
    pixels: Mapping[str, Tensor],
) -> None:
    """Raise DataError where a strategy's segmentation loss of a stream has no gradient on any class that it holds.

    Args:
        loss: the run's segmentation loss. pixels: (256,) labelled pixels by train id of the streams looked at.
    """
    for fault in untrained(strategies, loss, classes, pixels).values():
        raise DataError(fault)


def untrained(
    strategies: Iterable[Strategy],
    loss: SegmentationLossFunction,
    classes: tuple[str, ...],
    pixels: Mapping[str, Tensor],
) -> dict[str, str]:
    """Return what ``check_trained_classes`` raises, by stream."""
    return {
        stream: f"{fault} the {stream} ({', '.join(classes[i] for i in present[:10])}), so it would train nothing; "
        "give these classes a weight above 0, or check what the loss ignores."
        for strategy, stream in _supervising(strategies, pixels)
        if (present := pixels[stream][:IGNORE].nonzero().flatten().tolist()) and present[-1] < len(classes)
        if (fault := _fault(strategy, loss, present, len(classes)))
    }


def _supervising(strategies: Iterable[Strategy], streams: Iterable[str]) -> Iterator[tuple[Strategy, str]]:
    """Yield the strategies that take the segmentation loss of a stream's own labels, with the stream."""
    for strategy in (strategy for strategy in strategies if hasattr(strategy, "loss")):
        for stream in streams:
            reads = strategy.outputs is None or f"{stream}.logits" in strategy.outputs
            if reads and f"{stream}.label" in strategy.requires and any(value_at(strategy.weight, i) for i in (0, END)):
                yield strategy, stream


def _fault(strategy: Strategy, run: SegmentationLossFunction, present: list[int], num_classes: int) -> str:
    """Return the start of a message where the loss is flat in even logits and in others; "" where it is not."""
    label = torch.tensor(present)[torch.arange(_SIDE * _SIDE) % len(present)].view(1, _SIDE, _SIDE)
    shape = 1, num_classes, _SIDE, _SIDE
    generator = torch.Generator().manual_seed(0)
    weighted = False
    for logits in (torch.zeros(shape), torch.randn(shape, generator=generator)):
        try:
            loss = strategy.segmentation_loss(run)
            weighted = getattr(loss, "class_weights", None) is not None
            value = loss({"logits": logits.requires_grad_()}, label, None, across=LOCAL)
            gradient = torch.autograd.grad(value, logits, allow_unused=True)[0] if value.requires_grad else None
        except Exception:  # a loss that takes other outputs, too, or a mistake that the first step tells
            return ""
        if gradient is not None and gradient.any():
            return ""
    what = "class_weights of its loss are 0 for every" if weighted else "segmentation loss has no gradient on any"
    return f"strategy {strategy.name!r}: the {what} class that occurs in the labels of"
