"""Scoring a network on a labelled data set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from dalib.data.dataset import SegmentationDataset, classes_of, read_item
from dalib.errors import DataError
from dalib.evaluation.metrics import ConfusionMatrix
from dalib.evaluation.protocols import Protocol, get_protocol
from dalib.evaluation.result import Result, class_ids
from dalib.hooks import Predict


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    protocol: str | Protocol = "full",
    classes: Sequence[str | int] | str | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    predict: Predict | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Return the confusion matrix and IoU of ``model`` on ``dataset``.

    The model runs in eval mode; afterwards each of its modules is back in its own mode.

    Args:
        model: maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W).
        dataset: items are an image, uint8 (3, H, W), and its label, uint8 (H, W), 255 = ignore.
        protocol: a name of ``dalib.evaluation.protocols.PROTOCOLS`` or a protocol of one's own.
        classes: what the mean is over: names or ids, "synthia16", "synthia13", or None for every class present.
        batch_size: largest number of consecutive items per batch; a batch has items of one size.
        device: the model is moved there; None: the model's own.
        predict: maps images to logits in place of the model, such as a sliding window around it.
        limit: the number of leading items to score; None: all.
        progress: called with (images done, images in all) after every batch.

    Raises:
        DataError: an unknown protocol or class, an empty data set, or a label outside the network's classes.
    """
    protocol = get_protocol(protocol)
    names = classes_of(dataset)
    counted = class_ids(classes, names)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    device = model_device(model) if device is None else torch.device(device)
    predict = protocol.predictor(predict or model.to(device))
    matrix, done = ConfusionMatrix(len(names), device), 0
    with inference(model.to(device)):
        for image, label in _batches(dataset, total, batch_size):
            matrix.update(*_score(protocol, predict, image.to(device), label.to(device), len(names)))
            done += len(image)
            if progress:
                progress(done, total)
    if not done:
        raise DataError("the data set to evaluate on is empty; expected at least one labelled image.")
    return Result(
        confusion=matrix.compute(),
        classes=names,
        counted=counted,
        protocol=protocol.name,
        images=done,
        epsilon=protocol.epsilon,
    )


@contextmanager
def inference(*models: nn.Module) -> Iterator[None]:
    """Run the body in eval mode without gradients; then restore each module's own mode, frozen ones' included."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU for a model without any."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


def _score(
    protocol: Protocol, predict: Predict, image: Tensor, label: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    logits = predict(protocol.resize_image(image.float() / 255))
    if logits.shape[1] != num_classes:
        raise DataError(
            f"the network gives {logits.shape[1]} classes, the data set has {num_classes}; "
            "evaluate on data with the classes that it was trained on."
        )
    label = protocol.resize_label(label)
    return protocol.resize_logits(logits, (label.shape[-2], label.shape[-1])).argmax(1), label


def _batches(dataset: SegmentationDataset, total: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield stacked images and labels in order; a batch ends early where the next item has another size."""
    held: list[tuple[Tensor, Tensor]] = []
    for i in range(total):
        read = read_item(dataset, i)
        item = read.image, read.filled_label
        if held and (len(held) == batch_size or [t.shape for t in item] != [t.shape for t in held[0]]):
            yield _stack(held)
            held = []
        held.append(item)
    if held:
        yield _stack(held)


def _stack(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in items]), torch.stack([label for _, label in items])
