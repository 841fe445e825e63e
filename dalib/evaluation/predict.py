"""Predictions for image files, written as pictures to look at and as label maps."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dalib.data.decode import read_image, resize_image
from dalib.data.files import existing_folder, find_images
from dalib.data.palette import blend
from dalib.data.reframe import Resize
from dalib.errors import DataError
from dalib.evaluation.evaluate import inference, model_device
from dalib.evaluation.panels import with_legend, write_jpeg, write_png
from dalib.evaluation.protocols import Protocol, Size, get_protocol, sliding
from dalib.files import write_atomically
from dalib.hooks import Predict
from dalib.labels import Color

logger = logging.getLogger("dalib")

LARGE = 1024 * 2048  # pixels; a network sees more of them in windows, since its memory grows with them
WINDOW, STRIDE = (1024, 1024), (768, 768)
SQUEEZED = 2.0  # at most so much is an image's shape changed
FEW = 5  # images that a message names


@dataclass(frozen=True)
class Predictions:
    """What was written, and why the others were not: messages by image."""

    blends: list[Path] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)


def predict_images(
    model: nn.Module,
    inputs: Path | Sequence[Path],
    out: Path,
    palette: Sequence[Color],
    classes: Sequence[str],
    device: torch.device | str | None = None,
    *,
    predict: Predict | None = None,
    size: Size | None = None,
    resize: Resize = "squeeze",
    protocol: str | Protocol = "full",
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Write for every image NAME, at its own size, ``NAME_blend.jpg`` with a legend and ``labels/NAME.png``.

    The label holds train ids as grey values; ``classes.json`` says which class and colour each id is. Folders are
    searched with their subfolders, which are repeated under ``out``; of several inputs, each folder has one of its
    name there. Images of one name get their suffix into it, as ``a_png`` and ``a_jpg``, or stand in their folder's
    name. An image that is given twice is predicted once, and one that cannot be read is left out.

    Args:
        model: maps images (B, 3, H, W) in [0, 1] to logits (B, K, H, W).
        inputs: images, or folders of them.
        out: the folder to write to; it may lie in an input, whose search leaves it out.
        palette: (red, green, blue) in 0..255 of each class.
        classes: name of each class.
        device: the model is moved there; None: the model's own.
        predict: maps images to logits in place of the model.
        size, resize: of the images that the model was scored on; see ``shaped``. None: images keep their own size.
        protocol: how the model was scored: its input size and windows. Where it has no windows, images of more than
            1024 x 2048 pixels (or ``size``, if it is larger) are seen in overlapping windows of 1024 x 1024.
        progress: called with (images done, images in all) after every image.

    Raises:
        DataError: an input that is missing, no image that can be read, or two images that no name tells apart, such as
            ``x/one/a.png`` and ``y/one/a.png``.
    """
    outputs = _outputs([inputs] if isinstance(inputs, Path) else inputs, out)
    protocol = get_protocol(protocol)
    device = model_device(model) if device is None else torch.device(device)
    predict = predict or model.to(device)
    done = Predictions()
    with inference(model.to(device)):
        for number, (source, name) in enumerate(outputs.items(), start=1):
            try:
                image = read_image(source)
            except DataError as error:
                done.skipped[source] = str(error)
            else:
                if not done.blends:
                    _write_legend(out, palette, classes)
                label = _label(predict, image, size, resize, protocol, device)
                done.blends.append(out / f"{name}_blend.jpg")
                write_jpeg(done.blends[-1], _picture(image, label, palette, classes))
                write_png(out / "labels" / f"{name}.png", label[None])
            if progress:
                progress(number, len(outputs))
    if not done.blends:
        raise DataError(next(iter(done.skipped.values())))
    return done


def shaped(own: Size, size: Size, resize: Resize = "squeeze") -> Size:
    """Return the (H, W) that an image of size ``own`` is seen at by a network that expects ``size``.

    Images that were fitted or cropped for training keep their shape and have the same scale. Those that were squeezed
    into it are again, unless their shape would change by more than 2: a portrait for a network that was trained on
    landscapes keeps its shape, at as many pixels.
    """
    factors = size[0] / own[0], size[1] / own[1]
    if resize == "squeeze" and max(factors) <= SQUEEZED * min(factors):
        return size
    factor = {"squeeze": math.sqrt(math.prod(factors)), "fit": min(factors), "crop": max(factors)}[resize]
    return max(1, round(factor * own[0])), max(1, round(factor * own[1]))


def _label(
    predict: Predict, image: Tensor, size: Size | None, resize: Resize, protocol: Protocol, device: torch.device
) -> Tensor:
    """Return train ids (H, W) uint8 on the CPU for an image, uint8 (3, H, W)."""
    own = (image.shape[1], image.shape[2])
    if size is not None:
        image = resize_image(image, shaped(own, size, resize))
    if protocol.input_size is not None:
        protocol = replace(protocol, input_size=shaped(own, protocol.input_size))
    seen = protocol.resize_image(image[None].to(device).float() / 255)
    if protocol.window is None and seen[0, 0].numel() > max(LARGE, math.prod(size or ())):
        predict = sliding(predict, WINDOW, STRIDE)
    return _best_class(protocol.predictor(predict)(seen), own, protocol).cpu()


def _best_class(logits: Tensor, size: Size, protocol: Protocol) -> Tensor:
    """Return the argmax of the resized logits, uint8 (H, W); a class at a time, as 19 of 12 megapixels take 1 GB."""
    best = torch.full(size, -math.inf, device=logits.device)
    label = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    for i in range(logits.shape[1]):
        scores = protocol.resize_logits(logits[:, i : i + 1], size)[0, 0]
        label.masked_fill_(scores > best, i)
        best = torch.maximum(best, scores)
    return label


def _picture(image: Tensor, label: Tensor, palette: Sequence[Color], classes: Sequence[str]) -> Tensor:
    shares = torch.bincount(label.flatten(), minlength=len(classes)) / label.numel()
    entries = {
        f"{classes[i]} {f'{100 * share:.0f}' if share >= 0.01 else '<1'} %": palette[i]
        for share, i in sorted(zip(shares.tolist(), range(len(classes)), strict=True), reverse=True)
        if share
    }
    return with_legend(blend(image, label, palette), entries)


def _write_legend(out: Path, palette: Sequence[Color], classes: Sequence[str]) -> None:
    legend = [{"id": i, "name": name, "color": palette[i]} for i, name in enumerate(classes)]
    write_atomically(out / "classes.json", json.dumps(legend, indent=1).encode())


def _outputs(inputs: Sequence[Path], out: Path) -> dict[Path, str]:
    """Map each image to the name of its files below ``out``; faults in names are found before any work."""
    labels, ours = out / "labels", out / "classes.json"
    if labels.is_dir() and any(labels.iterdir()) and not ours.is_file():
        raise DataError(f"{labels} holds files that are no predictions, which could be replaced; name another folder.")
    found: dict[Path, tuple[Path, list[str]]] = {}  # by absolute path: the image, and names for it in order of choice
    twice: dict[Path, None] = {}
    for given in inputs:
        alone = given.is_file()
        prefix = _folder(given) if len(inputs) > 1 and not alone else ""
        for image in [given] if alone else _images(given, out).values():
            stem = image.stem if alone else image.relative_to(given).with_suffix("").as_posix()
            kind = image.suffix.replace(".", "_")
            within = [prefix, _folder(image.parent)] if alone else [prefix]
            names = [f"{folder}{stem}{end}" for folder in within for end in ("", kind)]
            first, _ = found.setdefault(image.parent.resolve() / image.name, (image, names))
            if first is not image:
                twice[first] = None
    if twice:
        some = ", ".join(map(str, list(twice)[:FEW])) + (", ..." if len(twice) > FEW else "")
        logger.warning("given more than once, predicted once: %s", some)
    return _names(dict(found.values()))


def _names(choices: Mapping[Path, Sequence[str]]) -> dict[Path, str]:
    """Return for each image the first of its names that no other has; DataError if none is left."""
    left = {image: list(options) for image, options in choices.items()}
    for _ in range(max(map(len, left.values()), default=0)):
        times = Counter(options[0] for options in left.values())
        for options in left.values():
            if times[options[0]] > 1 and len(options) > 1:
                options.pop(0)
    names = {image: options[0] for image, options in left.items()}
    images = {name: image for image, name in names.items()}  # of two with one name the later
    if shared := next((image for image, name in names.items() if images[name] is not image), None):
        name = names[shared]
        raise DataError(
            f"{images[name]}: its files would be named {name}, as those of {shared} are; predict one of them into "
            "another folder."
        )
    return names


def _folder(path: Path) -> str:
    """Return the name of a folder with a slash, "" for the root."""
    name = path.resolve().name
    return f"{name}/" if name else ""


def _images(folder: Path, out: Path) -> dict[str, Path]:
    inside = out.resolve()
    if folder.resolve() == inside:
        raise DataError(f"{out}: predictions would lie among their own inputs; name another folder.")

    def key(name: str) -> str | None:
        return None if (folder / name).resolve().is_relative_to(inside) else name

    return find_images(existing_folder(folder, "an image or a folder of images", "the path"), key, twins=True)
