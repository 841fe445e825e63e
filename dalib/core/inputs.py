"""Checks of what a step is given and of what strategies write: types and shapes at once, ranges on the device."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dalib.data.batch import Batch, Stream
from dalib.errors import DalibError, DataError, StackError
from dalib.labels import IGNORE

LARGEST = torch.finfo(torch.float32).max
TOLERANCE = 1e-3  # by which interpolation, FFT and half precision take an image out of [0, 1]


class Inputs:
    """The streams of one step, as given and as strategies wrote them.

    Labels beyond the classes become 255 (ignored), since a GPU's loss would end the process on them; the step's flag,
    computed from ``outside``, then keeps it from changing anything.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._names: list[tuple[str, str]] = []  # "stream.field" and the strategy that wrote it; "" as given
        self._limits: list[tuple[float, float]] = []
        self._found: list[Tensor] = []  # two per name, 0-d on the device: the least and the greatest value

    def given(self, batch: Batch) -> Batch:
        """Watch the ranges of a batch on the device, and return it."""
        for name, stream in batch.items():
            self._watch(batch, name, stream, dict.fromkeys(("image", "label", "weight"), ""))
        return batch

    def written(self, batch: Batch) -> None:
        """Check the forms of what strategies wrote, and watch its ranges."""
        for name, writers in batch.writers.items():
            stream = batch[name]
            if fault := form_fault(stream):
                raise StackError(f"{_listed(writers)} wrote the stream {name!r} wrongly: {fault}")
            self._watch(batch, name, stream, writers)

    def listed(self) -> list[str]:
        """Return the watched fields, for messages, in their order."""
        return [f"{entry} as {strategy or 'the data'} gave it" for entry, strategy in self._names]

    @property
    def found(self) -> Tensor:
        """The least and the greatest value of each watched field, float32 (N, 2) on the device."""
        return torch.stack([value.float() for value in self._found]).view(-1, 2)

    def outside(self, found: Tensor) -> Tensor:
        """Return which fields have values beyond their range, (N,) bool; an image's NaN is not: the loss terms tell."""
        limits = _on_device(tuple(self._limits), found.device)
        return (found[:, 0] < limits[:, 0]) | (found[:, 1] > limits[:, 1])

    def fault(self, found: Tensor) -> DalibError | None:
        """Return the error of the first field beyond its range, by its values on the host; None without any."""
        beyond = self.outside(found).tolist()
        if not any(beyond):
            return None
        position = beyond.index(True)
        entry, strategy = self._names[position]
        least, greatest = found[position].tolist()
        if entry.endswith(".image"):
            expected, advice = "values in [0, 1]", "A model normalises by itself; "
            if greatest > 2 and least > -TOLERANCE:
                advice = "Divide 0..255 by 255." if not strategy else f"{advice}give images / 255."
            else:
                advice += "clamp what noise pushes out." if strategy else "give images as they were before Normalize."
        elif entry.endswith(".weight"):
            expected, advice = "finite values of at least 0", "A pixel that must not count has the weight 0."
        else:
            expected, advice = f"train ids in 0..{self._num_classes - 1}, or 255", "Map the stored ids to train ids."
        by = f", which strategy {strategy!r} wrote" if strategy else " of the batch"
        lowest = "NaN" if entry.endswith(".weight") and least == -torch.inf else f"{least:g}"
        message = f"{entry}{by}: expected {expected}; found {lowest}..{greatest:g}. {advice}"
        return StackError(message) if strategy else DataError(message)

    def _watch(self, batch: Batch, name: str, stream: Stream, writers: Mapping[str, str]) -> None:
        if "image" in writers:
            self._add((f"{name}.image", writers["image"]), (-TOLERANCE, 1 + TOLERANCE), stream.image)
        if "label" in writers and stream.label is not None:
            ids = stream.label.masked_fill(stream.label == IGNORE, 0)
            self._add((f"{name}.label", writers["label"]), (0, self._num_classes - 1), ids)
            known = ids == ids.clamp(0, self._num_classes - 1)
            batch.settle(name, label=torch.where(known, stream.label, IGNORE))
        if "weight" in writers and stream.weight is not None:
            weight = stream.weight.masked_fill(stream.weight.isnan(), -torch.inf)
            self._add((f"{name}.weight", writers["weight"]), (0, LARGEST), weight)

    def _add(self, name: tuple[str, str], limits: tuple[float, float], values: Tensor) -> None:
        self._names.append(name)
        self._limits.append(limits)
        self._found += values.aminmax()


@cache
def _on_device(limits: tuple[tuple[float, float], ...], device: torch.device) -> Tensor:
    """Return a constant (N, 2), copied to the device only once, since each copy synchronises."""
    return torch.tensor(limits, dtype=torch.float32, device=device).view(-1, 2)


def check_images(images: Any) -> None:
    """Raise DataError unless these are images to predict, uint8 (B, 3, H, W)."""
    if isinstance(images, Tensor) and images.dtype == torch.uint8 and images.dim() == 4 and images.shape[1] == 3:
        return
    advice = ""
    if isinstance(images, Tensor) and images.is_floating_point():
        advice = " Give values in 0..255: (images * 255).round().to(torch.uint8)."
    raise DataError(f"predict: expected images uint8 (B, 3, H, W), found {_described(images)}.{advice}")


def check_forms(batches: Sequence[Batch]) -> None:
    """Raise DataError unless these are batches, at least one, whose streams have the right types and shapes."""
    if not batches or not all(isinstance(batch, Batch) and len(batch) for batch in batches):
        raise DataError(
            'a step takes batches, Batch({"source": Stream(image, label), ...}), one per micro-batch; found '
            f"{', '.join(map(_described, batches)) or 'none'}."
        )
    for batch in batches:
        for name, stream in batch.items():
            if fault := form_fault(stream):
                raise DataError(f"the batch's stream {name!r}: {fault}")


def form_fault(stream: Stream) -> str:
    """Return what is wrong with the types and shapes of a stream; "" for nothing."""
    if not isinstance(stream, Stream):
        return f"expected a Stream, found {_described(stream)}."
    image: Any = stream.image
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.dtype == torch.float64:
        advice = " Give image.float() / 255." if getattr(image, "dtype", None) == torch.uint8 else ""
        return f"expected an image float32 (B, 3, H, W) in [0, 1], found {_described(image)}.{advice}"
    if image.dim() != 4 or image.shape[1] != 3 or not image.numel():
        return f"expected an image float32 (B, 3, H, W) in [0, 1], found {_described(image)}."
    whole = (len(image), *image.shape[2:])
    for name, values in stream.fields().items():
        shape = {"image": tuple(image.shape), "index": whole[:1]}.get(name, whole)
        kind = {"label": "int64 ", "weight": "float "}.get(name, "")
        typed = isinstance(values, Tensor) and (
            values.dtype == torch.int64 if name == "label" else name != "weight" or values.is_floating_point()
        )
        if not typed or tuple(values.shape) != shape:
            return f"expected the {name} as {kind}{shape}, like its image, found {_described(values)}."
    return ""


def _described(values: Any) -> str:
    if isinstance(values, Tensor):
        return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
    return "None" if values is None else f"{type(values).__module__}.{type(values).__name__}"


def _listed(writers: Mapping[str, str]) -> str:
    names = dict.fromkeys(writers.values())
    return f"strategy {next(iter(names))!r}" if len(names) == 1 else f"one of the strategies {', '.join(names)}"
