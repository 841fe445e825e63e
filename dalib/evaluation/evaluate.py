"""Scoring a network on a data set; what has no labels is judged by label-free measures."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from dalib.data.dataset import SegmentationDataset, own_classes, same_classes
from dalib.errors import DalibError, DataError
from dalib.evaluation.chunks import share_of_chunks
from dalib.evaluation.label_free import LabelFreeSums
from dalib.evaluation.metrics import ConfusionMatrix, best_class
from dalib.evaluation.pixel_sample import PixelSample
from dalib.evaluation.protocols import Protocol, get_protocol
from dalib.evaluation.result import Result, class_ids
from dalib.evaluation.validators import Evidence
from dalib.hooks import Predict
from dalib.labels import CITYSCAPES_CLASSES, default_classes
from dalib.ranks import gathered_objects, rank, world


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    protocol: str | Protocol = "full",
    classes: Sequence[str | int] | str | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    predict: Predict | None = None,
    other: Predict | None = None,
    limit: int | None = None,
    needs: Collection[str] = (),
    workers: int = 0,
    in_order: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Return the confusion matrix and IoU of ``model`` on ``dataset``, label-free measures of images without labels.

    The model runs in eval mode; afterwards each of its modules is back in its own mode. Of several ranks each scores a
    share of the images, and all of them return the result that one alone would.

    Args:
        model: maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W).
        dataset: items are an image, uint8 (3, H, W), and its label, uint8 (H, W), 255 = ignore; or an image alone, with
            the label None or one of 255 everywhere. Without any label the result's ``miou`` is None.
        protocol: a name of ``dalib.evaluation.protocols.PROTOCOLS`` or a protocol of one's own.
        classes: what the mean is over: names or ids, "synthia16", "synthia13", or None for all. A class without a pixel
            in the labels never counts; the result's table names it.
        names: the names of the network's classes, which a labelled data set has to share, in their order; None: those
            that the data set names, else numbers, or Cityscapes' 19.
        batch_size: largest number of consecutive items per batch; a batch has items of one size, all with labels or
            all without, and none that goes beyond a multiple of ``batch_size`` items.
        device: the model is moved there; None: the model's own.
        predict: maps images to logits in place of the model, such as a sliding window around it.
        other: likewise for another network, such as the teacher: on images without labels, its agreement is measured.
        limit: the number of leading items to score; None: all.
        needs: what of the result's ``evidence`` is gathered, of images with labels, too: any of "measures", "sample"
            and "agreement", as validators declare it.
        workers: processes that read the images, on each rank; 0 reads in this one.
        in_order: of several ranks the first scores all images, in their order, for a ``predict`` that adapts to what it
            has seen.
        progress: called on rank 0 with (images done on all ranks, images in all) after every ``batch_size`` of its own.

    Raises:
        DataError: an unknown protocol or class, an empty data set, an item of another form, types or shapes, a label
            outside the network's classes, a labelled data set of other classes, or a worker process that was killed;
            what goes wrong on one rank is raised on all.
    """
    protocol = get_protocol(protocol)
    own = own_classes(dataset)
    names = _names(model, names, own)
    counted = class_ids(classes, names)
    length = len(dataset) if limit is None else min(limit, len(dataset))
    if not length:
        raise DataError("the data set to evaluate on is empty; expected at least one image.")
    device = model_device(model) if device is None else torch.device(device)
    predict = protocol.predictor(predict or model.to(device))
    other = other and protocol.predictor(other)
    matrix = ConfusionMatrix(len(names), device)
    label_free = LabelFreeSums(len(names), device, other is not None)
    labelled = LabelFreeSums(len(names), device, other is not None and "agreement" in needs)
    sample = PixelSample(length) if "sample" in needs else None
    with (
        _raised_on_all_ranks(),
        inference(model.to(device)),
        share_of_chunks(dataset, length, batch_size, workers, device, in_order=in_order) as chunks,
    ):
        for number, chunk in enumerate(chunks, start=1):
            first = (rank() + (number - 1) * world()) * batch_size
            for batch, label in chunk:
                image = protocol.resize_image(batch.to(device, non_blocking=True).float().div_(255))
                logits = _checked(predict(image), len(names))
                sums, scored_size = label_free, (batch.shape[-2], batch.shape[-1])
                if label is not None:
                    same_classes({"the network": names, "the data set": own or names})
                    truth = protocol.resize_label(label.to(device, non_blocking=True))
                    sums, scored_size = labelled, (truth.shape[-2], truth.shape[-1])
                scored = protocol.resize_logits(logits, scored_size)
                if label is not None:
                    matrix.update(best_class(scored), truth)
                if label is None or "measures" in needs:
                    others = protocol.resize_logits(other(image), scored_size) if other and sums.compared else None
                    sums.update(scored, others)
                if sample:
                    sample.update(first, scored)
                first += len(batch)
            if progress and rank() == 0:
                progress(min(number * batch_size * (1 if in_order else world()), length), length)
    matrix.add_ranks()
    label_free.add_ranks()
    labelled.add_ranks()
    evidence = Evidence(
        measures=(labelled + label_free).compute() if "measures" in needs else None,
        sample=sample.gather() if sample else None,
    )
    return Result(
        confusion=matrix.compute(),
        classes=names,
        counted=counted,
        protocol=protocol.name,
        images=length,
        epsilon=protocol.epsilon,
        label_free=label_free.compute(),
        evidence=evidence,
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


@contextmanager
def _raised_on_all_ranks() -> Iterator[None]:
    """Run the body; what one rank cannot do is raised on all of them, so that none waits for another's share."""
    error: DalibError | None = None
    try:
        yield
    except DalibError as caught:
        error = caught
    try:
        messages = [said for said in gathered_objects(None if error is None else str(error)) if said is not None]
    except DalibError as lost:  # a rank has ended, or is still busy with its share after the timeout
        raise error or lost from None
    if error and str(error) == messages[0]:
        raise error
    if messages:
        raise DataError(messages[0])


def _names(model: nn.Module, names: Sequence[str] | None, own: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the network's classes; of a data set that may have others, as its labels may not be read."""
    count = int(getattr(model, "num_classes", len(names or own or CITYSCAPES_CLASSES)))
    return next((tuple(known) for known in (names, own) if known and len(known) == count), default_classes(count))


def _checked(logits: Tensor, num_classes: int) -> Tensor:
    if logits.shape[1] != num_classes:
        raise DataError(
            f"the network gives {logits.shape[1]} classes, the data set has {num_classes}; "
            "evaluate on data with the classes that it was trained on."
        )
    return logits
